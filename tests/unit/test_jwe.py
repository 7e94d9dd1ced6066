"""Encrypted files: what others wrote is opened, what we write others open, and what breaks a rule is refused."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jwe as joserfc
from joserfc.jwk import ECKey
from jwcrypto import jwe as jwcrypto
from jwcrypto.jwk import JWK

from margo_oci.errors import FormatError
from margo_oci.jwe import (
    PLAIN_LIMIT_BYTES,
    RECIPIENT_COUNT_LIMIT,
    PrivateKey,
    add_recipients,
    derived,
    parse_envelope,
    seal,
    unseal,
)
from margo_oci.jwk import Recipient, base64url, from_base64url, from_jwk, read_recipient, thumbprint, to_jwk
from tests.unit.chains import certify, leaf, root
from tests.unit.scenes import changed, key

ALGORITHMS = ["ECDH-ES+A256KW", "A256GCM"]
REGISTRY = joserfc.JWERegistry(algorithms=ALGORITHMS, verify_all_recipients=False)
SECRET = b"pa$$ word"
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


def private(name: str) -> PrivateKey:
    """A device's key; the same name is the same key."""
    found = key(name).key
    assert isinstance(found, PrivateKey)
    return found


def recipient(name: str) -> Recipient:
    """The device."""
    return Recipient(f"{name}.crt", private(name).public_key())


def sealed(*names: str) -> bytes:
    """The secret, for these devices."""
    return seal(SECRET, [recipient(name) for name in names or ["edge-17"]])


def opened(data: bytes, name: str = "edge-17") -> bytes | None:
    return unseal(data, [private(name)], what="db.jwe")


def refused(data: bytes, name: str = "edge-17") -> str:
    with pytest.raises(FormatError) as error:
        opened(data, name)
    assert SECRET.decode() not in str(error.value)
    return str(error.value)


def protected(**header: Any) -> str:
    return base64url(json.dumps(header).encode())


def test_every_recipient_opens_it_and_nobody_else() -> None:
    data = sealed("edge-17", "edge-18")
    assert [opened(data, name) for name in ("edge-17", "edge-18", "edge-19")] == [SECRET, SECRET, None]
    assert SECRET not in data
    assert sealed() != sealed()


def test_who_is_named_twice_is_one_recipient() -> None:
    assert len(parse_envelope(sealed("edge-17", "edge-17"), what="x").kids) == 1


def test_14_11_a_recipient_is_added_and_the_content_stays_as_it_is() -> None:
    before = sealed("edge-17", "ops")
    after = add_recipients(before, [private("ops")], [recipient("edge-19"), recipient("edge-17")], what="db.jwe")
    assert opened(after, "edge-19") == SECRET
    kids = parse_envelope(after, what="x").kids
    assert kids == [recipient(name).kid for name in ("edge-17", "ops", "edge-19")]
    old, new = json.loads(before), json.loads(after)
    assert {name: new[name] for name in ("protected", "iv", "ciphertext", "tag")} == {
        name: old[name] for name in ("protected", "iv", "ciphertext", "tag")
    }
    assert new["recipients"][:2] == old["recipients"]
    assert json.loads(add_recipients(after, [private("ops")], [recipient("ops")], what="x")) == new


def test_14_11_only_who_can_open_it_lets_others_in() -> None:
    with pytest.raises(FormatError, match=r"db.jwe: encrypted for .*, and for no key given with --identity"):
        add_recipients(sealed(), [private("stranger")], [recipient("edge-19")], what="db.jwe")
    spoiled = changed(sealed(), ["tag"], base64url(b"0" * 16))
    with pytest.raises(FormatError, match="was changed after it was encrypted"):
        add_recipients(spoiled, [private("edge-17")], [recipient("edge-19")], what="db.jwe")


def test_14_11_a_wrong_kid_is_a_hint_and_no_more() -> None:
    data = changed(sealed("edge-17", "edge-18"), ["recipients", 0, "header", "kid"], recipient("edge-18").kid)
    assert [opened(data, "edge-17"), opened(data, "edge-18")] == [SECRET, SECRET]


def test_a_key_is_derived_as_in_the_example_of_the_standard() -> None:
    """RFC 7518, appendix C."""
    shared = bytes.fromhex("9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4")
    assert base64url(derived(shared, "A128GCM", 16, b"Alice", b"Bob")) == "VqqN6vgjbSBcIijNcacQGg"


def test_joserfc_and_jwcrypto_open_what_we_write() -> None:
    data = add_recipients(sealed("edge-17"), [private("edge-17")], [recipient("edge-18")], what="x")
    for name in ("edge-17", "edge-18"):
        found = joserfc.decrypt_json(json.loads(data), ECKey.import_key(private(name)), registry=REGISTRY)
        assert found.plaintext == SECRET
        other = jwcrypto.JWE()
        other.allowed_algs = ALGORITHMS
        other.deserialize(data.decode(), JWK.from_pyca(private(name)))
        assert other.payload == SECRET


@pytest.mark.parametrize("shared", [{"enc": "A256GCM", "alg": "ECDH-ES+A256KW"}, {"enc": "A256GCM"}])
@pytest.mark.parametrize("names", [["edge-17"], ["edge-18", "edge-17"]])
def test_we_open_what_joserfc_and_jwcrypto_write(shared: dict[str, str], names: Sequence[str]) -> None:
    own = None if "alg" in shared else {"alg": "ECDH-ES+A256KW"}
    one = joserfc.GeneralJSONEncryption(dict(shared), SECRET)
    other = jwcrypto.JWE(SECRET, json.dumps(shared))  # with blanks in its protected header
    other.allowed_algs = ALGORITHMS
    for name in names:
        one.add_recipient(dict(own) if own else None, ECKey.import_key(private(name).public_key()))
        other.add_recipient(JWK.from_pyca(private(name).public_key()), json.dumps(own) if own else None)
    for data in (json.dumps(joserfc.encrypt_json(one, None, registry=REGISTRY)), other.serialize()):
        assert opened(data.encode()) == SECRET
        more = add_recipients(data.encode(), [private("edge-17")], [recipient("edge-19")], what="x")
        assert opened(more, "edge-19") == SECRET


def test_the_flattened_form_of_others_is_read() -> None:
    one = joserfc.FlattenedJSONEncryption({"enc": "A256GCM", "alg": "ECDH-ES+A256KW"}, SECRET, aad=b"about it")
    one.add_recipient(None, ECKey.import_key(private("edge-17").public_key()))
    data = json.dumps(joserfc.encrypt_json(one, None, registry=REGISTRY)).encode()
    assert opened(data) == SECRET
    assert "was changed" in refused(changed(data, ["aad"], base64url(b"about others")))
    spread = changed(data, ["unprotected"], {"epk": json.loads(data)["header"]["epk"]})
    assert "header 'epk' stands twice" in refused(spread)
    shared = changed(spread, ["header"], {})
    assert opened(shared) == SECRET
    with pytest.raises(FormatError, match="made for one recipient alone: encrypt the plain file again"):
        add_recipients(shared, [private("edge-17")], [recipient("edge-19")], what="db.jwe")


FIRST: tuple[str | int, ...] = ("recipients", 0)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("protected",), protected(enc="A256GCM", zip="DEF"), "header zip is not accepted"),
        (("protected",), protected(enc="A256GCM", crit=["exp"]), "header crit is not accepted"),
        (("unprotected",), {"crit": []}, "header crit is not accepted"),
        (("protected",), protected(enc="A128GCM"), "enc: A256GCM is expected"),
        (("protected",), protected(), "enc: A256GCM is expected"),
        (("protected",), base64url(b"[]"), "protected"),
        (("protected",), ..., "protected: base64url"),
        (("unprotected",), {"alg": "ECDH-ES+A256KW"}, "header 'alg' stands twice"),
        (("unprotected",), [], "unprotected: an object"),
        (("header",), {}, "general and flattened at once"),
        (("recipients",), [], "0 recipients"),
        (("recipients",), {}, "a list of objects"),
        ((*FIRST, "header", "alg"), "ECDH-ES", "alg: ECDH-ES\\+A256KW is expected, got 'ECDH-ES'"),
        ((*FIRST, "header", "alg"), "RSA-OAEP-256", "alg: "),
        ((*FIRST, "header", "alg"), "dir", "alg: "),
        ((*FIRST, "header", "alg"), ..., "alg: .* got None"),
        ((*FIRST, "header", "kid"), "x" * 300, "kid: at most 255"),
        ((*FIRST, "header", "kid"), "a\x1b[2J", "kid: "),
        ((*FIRST, "header", "apu"), "A" * 400, "apu: at most 256"),
        ((*FIRST, "header", "epk"), None, "epk: a JWK with kty EC"),
        ((*FIRST, "header", "epk", "crv"), "P-384", "epk: a JWK with kty EC"),
        ((*FIRST, "header", "epk", "d"), "AAAA", "private key"),
        ((*FIRST, "header", "epk", "x"), base64url(bytes(32)), "not on the curve"),
        ((*FIRST, "header", "epk", "x"), "AAAA", "32 bytes are expected"),
        ((*FIRST, "encrypted_key"), base64url(bytes(48)), "40 bytes are expected, got 48"),
        ((*FIRST, "encrypted_key"), ..., "encrypted_key: base64url"),
        (("iv",), base64url(bytes(16)), "iv: 12 bytes"),
        (("tag",), base64url(bytes(12)), "tag: 16 bytes"),
        (("tag",), base64url(bytes(16)), "was changed"),
        (("ciphertext",), "AAAA", "was changed"),
        (("ciphertext",), "AA==", "without padding"),
        (("ciphertext",), "AB", "bits that mean nothing"),
        (("ciphertext",), "A", "whole number of bytes"),
        (("ciphertext",), 7, "base64url"),
    ],
)  # fmt: skip
def test_14_9_what_breaks_a_rule_is_refused(path: tuple[str | int, ...], value: Any, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        opened(changed(sealed(), path, value))


def test_14_9_truncated_ones_are_refused_wherever_they_end() -> None:
    data = sealed()
    for length in range(0, len(data) - 2, 37):
        refused(data[:length])


def test_14_10_recipients_and_sizes_are_bounded() -> None:
    raw = json.loads(sealed())
    raw["recipients"] *= 1000
    assert "1000 recipients: 1 to 64" in refused(json.dumps(raw).encode())
    many = [Recipient(str(n), ec.derive_private_key(n + 1, ec.SECP256R1()).public_key()) for n in range(65)]
    assert len(parse_envelope(seal(b"x", many[:RECIPIENT_COUNT_LIMIT]), what="x").kids) == RECIPIENT_COUNT_LIMIT
    for recipients in ([], many):
        with pytest.raises(FormatError, match="1 to 64 are expected"):
            seal(b"x", recipients)
    with pytest.raises(FormatError, match="at most 1048576 are encrypted"):
        seal(bytes(PLAIN_LIMIT_BYTES + 1), many[:1])
    longest = seal(bytes(PLAIN_LIMIT_BYTES), many[:64])
    assert len(unseal(longest, [ec.derive_private_key(1, ec.SECP256R1())], what="x") or b"") == PLAIN_LIMIT_BYTES
    longer = changed(sealed(), ["ciphertext"], base64url(bytes(PLAIN_LIMIT_BYTES + 1)))
    assert "ciphertext: 1048577 bytes" in refused(longer)
    assert "2097152" in refused(b'{"a":"' + b"x" * 2**21 + b'"}')


def public_pem(name: str) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private(name).public_key().public_bytes(serialization.Encoding.PEM, form)


def test_a_public_key_and_a_jwk_name_a_recipient() -> None:
    expected = recipient("edge-17").kid
    document = json.dumps({**to_jwk(private("edge-17").public_key()), "kid": "edge", "use": "enc"}).encode()
    for data in (public_pem("edge-17"), document):
        assert read_recipient(data, name="x", now=NOW).kid == expected
    assert JWK.from_pyca(private("edge-17")).thumbprint() == expected
    assert ECKey.import_key(private("edge-17")).thumbprint() == expected


def test_of_several_certificates_one_is_the_recipient_only_if_the_others_vouch_for_it() -> None:
    device, other = leaf("P-256"), certify("edge-18", root())
    at = device.certificate.not_valid_before_utc
    chained = read_recipient(device.pem + root().pem, name="edge-17.pem", now=at)
    assert chained.kid == read_recipient(device.pem, name="edge-17.pem", now=at).kid
    for data in (device.pem + other.pem, public_pem("edge-17") + public_pem("edge-18")):
        with pytest.raises(FormatError, match="a file of its own for each device"):
            read_recipient(data, name="both.pem", now=at)


def rsa_pem() -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return rsa.generate_private_key(65537, 2048).public_key().public_bytes(serialization.Encoding.PEM, form)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"-----BEGIN PRIVATE KEY-----", "this is a private key"),
        (b"rubbish", "a certificate or a public key in PEM, or a JWK"),
        (b"-----BEGIN CERTIFICATE-----\nrubbish", "not a usable X.509 certificate"),
        (b'{"kty":"RSA"}', "kty EC and crv P-256"),
        (b'{"kty":"EC","crv":"P-256","use":"sig"}', "a key for encryption is expected"),
        (rsa_pem(), "RSA included"),
    ],
)
def test_another_kind_of_key_is_refused_by_name(data: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read_recipient(data, name="edge-17.crt", now=NOW)


def test_a_thumbprint_is_what_the_standard_says_of_a_key() -> None:
    """RFC 7517, appendix A.1, first key; its thumbprint by two other tools."""
    raw = {
        "kty": "EC", "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }  # fmt: skip
    assert thumbprint(from_jwk(raw, at="x")) == JWK(**raw).thumbprint()
    assert from_base64url(base64.urlsafe_b64encode(b"abc").decode(), at="x") == b"abc"
