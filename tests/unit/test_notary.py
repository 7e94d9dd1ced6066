"""Notary signatures: ours byte by byte, those of others, and what is said of every one that does not count."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from margo_oci import notary
from margo_oci.cbor import Tagged
from margo_oci.certificates import read_certificates
from margo_oci.content import Descriptor
from margo_oci.envelopes import COSE, JWS, parse_envelope, parse_header
from margo_oci.errors import FormatError, TrustError
from margo_oci.manifest import Manifest
from margo_oci.notary import verify
from margo_oci.trustpolicy import Authorities
from margo_oci.truststore import read_trust_policy, read_trust_stores
from tests.unit import chains
from tests.unit.chains import EXPIRY, NOW, SCHEME, SUBJECT, TIME, authorities, certify, chain, leaf, root
from tests.unit.scenes import VECTORS, key

FILES = VECTORS / "notary"
VECTOR = Descriptor(
    media_type="application/vnd.oci.image.manifest.v1+json",
    digest="sha256:f3c6c4f404f8c5c7609ca8ed82616731b60aef444cb8ded2538aedb4ef0b9328",
    size=584,
)
NOTATIONS = Descriptor(
    media_type="application/vnd.docker.distribution.manifest.v2+json",
    digest="sha256:60043cf45eaebc4c0867fea485a039b598f52fd09fd5b07b0b2d2f88fad9d74e",
    size=528,
)
MADE = datetime(2026, 11, 21, 9, 33, 39, tzinfo=UTC)


def file(name: str) -> bytes:
    return (FILES / name).read_bytes()


def fleet() -> Authorities:
    policy = read_trust_policy(FILES / "policy")
    return policy.authorities("reg.example/fleet/edge-17", read_trust_stores(FILES / "policy", policy.stores))


@pytest.mark.parametrize(("name", "kind"), [("envelope.jws.json", JWS), ("envelope.cose", COSE)])
def test_the_vectors_hold_by_their_policy(name: str, kind: str) -> None:
    found = verify(file(name), kind, VECTOR, fleet(), now=MADE + timedelta(days=1))
    assert found.signed_by == "CN=Release Signer,O=example.org,ST=BW,C=DE (trust policy 'states')"
    assert (found.digest, found.annotations) == (VECTOR.digest, {"org.example.state.version": "42"})
    assert (found.signing_time, found.expiry) == (MADE, datetime(2036, 11, 21, 9, 33, 39, tzinfo=UTC))
    assert found.notes == []


def test_what_is_signed_has_fixed_bytes() -> None:
    assert notary.payload(VECTOR, {"org.example.state.version": "42"}) == file("payload.json")
    expiry = datetime(2036, 11, 21, 9, 33, 39, tzinfo=UTC)
    assert notary.protected_header("ES256", MADE, expiry) == file("protected.json")
    envelope = parse_envelope(file("envelope.jws.json"), JWS)
    assert (envelope.payload, envelope.protected) == (file("payload.json"), file("protected.json"))


def test_the_carrier_has_fixed_bytes() -> None:
    certificates = parse_envelope(file("envelope.jws.json"), JWS).chain
    assert certificates[:1] == read_certificates(file("leaf.crt"), name="leaf.crt")
    carrier = notary.signature_manifest(file("envelope.jws.json"), certificates, VECTOR, created="2026-11-21T09:33:39Z")
    assert carrier.data == file("manifest.json")
    assert Manifest.from_bytes(carrier.data, what="carrier") == carrier


@pytest.mark.parametrize(
    ("name", "store", "then"),
    [("notation-ca.jws.json", "ca:x", 2022), ("notation-signing-authority.jws.json", "signingAuthority:x", 2026)],
)
def test_what_notation_made_holds(name: str, store: str, then: int) -> None:
    data = file(name)
    anchor = parse_envelope(data, JWS).chain[-1]
    policy = authorities(anchor, trustStores=[store], trustedIdentities=["x509.subject: C=US, ST=WA, O=Notary"])
    found = verify(data, JWS, NOTATIONS, policy, now=datetime(then, 7, 30, 12, tzinfo=UTC))
    assert found.signed_by == "CN=Notation Test Root,O=Notary,L=Seattle,ST=WA,C=US (trust policy 'states')"


def test_what_notation_made_has_the_bytes_that_we_would_write() -> None:
    envelope = parse_envelope(file("notation-ca.jws.json"), JWS)
    made = datetime(2022, 7, 29, 15, 55, 10, tzinfo=timezone(timedelta(hours=-7)))
    assert notary.payload(NOTATIONS) == envelope.payload
    assert notary.protected_header("PS384", made, parse_header(envelope).expiry) == envelope.protected


def test_what_a_verifier_would_refuse_is_found_before_anything_is_signed() -> None:
    with pytest.raises(FormatError, match="fleet: the first certificate of the chain is for another key"):
        notary.sign(SUBJECT, key(), chain(), now=NOW)
    with pytest.raises(FormatError, match="and not at 2029-01-01"):
        notary.sign(SUBJECT, leaf().signer, chain(), now=datetime(2029, 1, 1, tzinfo=UTC))
    with pytest.raises(FormatError, match="expiry 2027-01-01T00:00:00Z: it is over already"):
        notary.sign(SUBJECT, leaf().signer, chain(), now=NOW, expiry=NOW)
    with pytest.raises(FormatError, match=r"annotation io.cncf.notary.x: names that begin with io.cncf.notary are"):
        notary.sign(SUBJECT, leaf().signer, chain(), now=NOW, annotations={"io.cncf.notary.x": ""})


def test_an_envelope_of_another_type_is_refused() -> None:
    with pytest.raises(TrustError, match="signature: 'text/plain': application/jose"):
        verify(b"{}", "text/plain", SUBJECT, authorities(), now=NOW)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"cty": "text/plain"}, "content type 'text/plain'"),
        ({SCHEME: "notary.x509.other"}, "signing scheme 'notary.x509.other'"),
        ({SCHEME: 7}, "signing scheme 7"),
        ({TIME: ...}, "exactly one time is expected: io.cncf.notary.signingTime"),
        ({chains.AUTHENTIC: "2026-01-01T00:00:00Z"}, "exactly one time is expected"),
        ({TIME: "2026-01-01"}, "a time as 2026-11-21T09:33:39Z is expected"),
        ({TIME: "2026-13-01T00:00:00Z"}, "a time as 2026-11-21T09:33:39Z is expected"),
        ({TIME: "0001-01-01T00:00:00+12:00"}, "a time as 2026-11-21T09:33:39Z is expected"),
        ({TIME: 1700000000}, "a time as 2026-11-21T09:33:39Z is expected"),
        ({EXPIRY: "2026-01-01T00:00:00Z", "crit": [SCHEME, EXPIRY]}, "it expires before it was made"),
        ({EXPIRY: "2026-01-01T00:00:00.5Z", "crit": [SCHEME, EXPIRY]}, "a time as"),
        ({"crit": [{}]}, "crit: a list is expected"),
        ({"alg": "none"}, "algorithm 'none': it was made with ES256"),
        ({"alg": ...}, "algorithm 'None': it was made with ES256"),
    ],
)
def test_a_header_that_is_not_just_so_is_refused(header: dict[str, Any], words: str) -> None:
    with pytest.raises(TrustError) as refused:
        verify(chains.jws(header=header), JWS, SUBJECT, authorities(), now=NOW)
    assert refused.value.reason == "malformed-signature"
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({3: "text/plain"}, "content type 'text/plain'"),
        ({3: 7}, "content type 7"),
        ({2: ...}, "crit: a list is expected"),
        ({2: [SCHEME, 99], 99: 1}, "crit: 99 is critical, and not understood here"),
        ({1: -37}, "algorithm 'PS256': it was made with ES256"),
        ({1: "ES256"}, "algorithm 'None': it was made with ES256"),
        ({1: ..., "alg": "ES256"}, "algorithm 'None': it was made with ES256"),
        ({TIME: Tagged(0, 5)}, "whole seconds with tag 1 are expected"),
        ({TIME: Tagged(1, 2**63)}, "whole seconds with tag 1 are expected"),
    ],
)
def test_a_cose_header_that_is_not_just_so_is_refused(header: dict[Any, Any], words: str) -> None:
    with pytest.raises(TrustError) as refused:
        verify(chains.cose(header=header), COSE, SUBJECT, authorities(), now=NOW)
    assert words in str(refused.value)


def test_what_is_signed_but_not_critical_may_be_there() -> None:
    assert verify(chains.jws(header={"more": 1}), JWS, SUBJECT, authorities(), now=NOW)
    assert verify(chains.cose(header={"more": 1}), COSE, SUBJECT, authorities(), now=NOW)
    assert verify(chains.jws(unsigned={"io.cncf.notary.timestampSignature": "x"}), JWS, SUBJECT, authorities(), now=NOW)


def test_a_signature_by_another_key_than_the_certificates_is_refused() -> None:
    stranger = certify("stranger", root())
    with pytest.raises(TrustError, match="the signature is not by this certificate's key") as refused:
        verify(chains.jws(stranger, chain()), JWS, SUBJECT, authorities(), now=NOW)
    assert refused.value.reason == "malformed-signature"


def test_a_signature_of_another_length_is_refused() -> None:
    raw = json.loads(chains.jws()) | {"signature": "AAAA"}
    with pytest.raises(TrustError, match="a signature of 64 bytes is expected for ES256, got 3"):
        verify(json.dumps(raw).encode(), JWS, SUBJECT, authorities(), now=NOW)


def test_a_signer_without_c_st_and_o_counts_only_where_anybody_does() -> None:
    nameless = certify("n", root(), subject=chains.common_names("one", "two"))
    with pytest.raises(TrustError, match="its name has CN twice") as refused:
        verify(chains.jws(nameless), JWS, SUBJECT, authorities(), now=NOW)
    assert refused.value.reason == "bad-certificate"
    assert verify(chains.jws(nameless), JWS, SUBJECT, authorities(trustedIdentities=["*"]), now=NOW)
