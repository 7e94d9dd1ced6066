"""Key files: the one kind that is accepted, and what a person is told about every other."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.errors import FormatError
from margo_oci.keys import FileKey, PasswordNeeded, PublicKey, generate
from tests.unit.scenes import read_or_refused

PRIVATE, PUBLIC = generate(None)
LOCKED, _ = generate(b"secret")
Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

STRANGERS: dict[str, Callable[[], Private]] = {
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def pem(key: Private) -> tuple[bytes, bytes]:
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


@pytest.mark.parametrize("kind", STRANGERS)
def test_only_p_256_is_accepted(kind: str) -> None:
    private, public = pem(STRANGERS[kind]())
    message = "k: an ECDSA P-256 key is expected: the one kind every verifier accepts"
    with pytest.raises(FormatError, match=message):
        FileKey.from_pem(private, None, name="k")
    with pytest.raises(FormatError, match=message):
        PublicKey.from_pem(public, name="k")


def test_a_pair_fits_together() -> None:
    signer = FileKey.from_pem(PRIVATE, None, name="fleet.key")
    public = PublicKey.from_pem(PUBLIC, name="fleet.pub")
    assert public.verifies(signer.sign(b"data"), b"data")
    assert not public.verifies(signer.sign(b"data"), b"other")
    assert signer.public.der == public.der
    assert public.fingerprint.startswith("SHA256:")


def test_an_encrypted_key_opens_with_its_password() -> None:
    assert b"ENCRYPTED" in LOCKED
    assert FileKey.from_pem(LOCKED, b"secret", name="k").sign(b"data")


def test_an_encrypted_key_asks_for_its_password() -> None:
    with pytest.raises(PasswordNeeded, match="k: this key is encrypted: a password is needed"):
        FileKey.from_pem(LOCKED, None, name="k")


@pytest.mark.parametrize("password", [b"wrong", b"", b"\xff"])
def test_a_wrong_password_is_told(password: bytes) -> None:
    with pytest.raises(FormatError, match=r"k: (the password is wrong|this key is encrypted)"):
        FileKey.from_pem(LOCKED, password, name="k")


def test_a_password_that_is_not_needed_does_no_harm() -> None:
    assert FileKey.from_pem(PRIVATE, b"any", name="k").sign(b"data")


def test_the_two_files_of_a_pair_cannot_be_mistaken_for_each_other() -> None:
    for private in (PRIVATE, LOCKED):
        with pytest.raises(FormatError, match=r"k: this is a private key: a public key \(.pub\) is expected here"):
            PublicKey.from_pem(private, name="k")
    with pytest.raises(FormatError, match="k: this is not a PKCS#8 PEM private key"):
        FileKey.from_pem(PUBLIC, None, name="k")


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", PUBLIC[:60], b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
def test_what_is_no_key_is_told(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"k: not a PEM public key \(-----BEGIN PUBLIC KEY-----\)"):
        PublicKey.from_pem(data, name="k")
    with pytest.raises(FormatError, match="k: this is not a PKCS#8 PEM private key"):
        FileKey.from_pem(data, None, name="k")


def test_a_private_key_is_never_shown() -> None:
    signer = FileKey.from_pem(PRIVATE, None, name="fleet.key")
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    number = signer.key.private_numbers().private_value
    assert str(number) not in repr(signer)
    assert f"{number:x}" not in repr(signer)


def test_two_keys_are_never_the_same() -> None:
    assert generate(None)[1] != generate(None)[1]


@given(st.binary(max_size=200) | st.integers(0, len(PUBLIC) - 1).map(lambda at: PUBLIC[:at] + b"A" + PUBLIC[at + 1 :]))
def test_any_bytes_are_a_key_or_a_format_error(data: bytes) -> None:
    read_or_refused(lambda: PublicKey.from_pem(data, name="k"), "k: ")
    read_or_refused(lambda: FileKey.from_pem(data, None, name="k"), "k: ")
