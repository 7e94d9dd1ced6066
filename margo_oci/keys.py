"""Key pairs: P-256 for cosign's formats, the one kind every verifier accepts; for Notary's also what X.509 uses."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from margo_oci import algorithms
from margo_oci.errors import FormatError

KEY_LIMIT_BYTES = 64 * 1024
COSIGN_KEYS = (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----")

Use = Literal["cosign", "notary"]  # what a key is for: P-256 only, or any kind that Notary knows


class Signer(Protocol):
    """Something that signs: a file's key, a KMS, a smart card. Its key decides the algorithm."""

    @property
    def public(self) -> "PublicKey":
        """The key that verifies."""

    def sign(self, data: bytes) -> bytes:
        """Return a signature over `data`: ASN.1 DER for ECDSA, RSASSA-PSS for RSA."""


@dataclass(frozen=True)
class PublicKey:
    """A key that a policy names; `name` is what messages call it."""

    name: str
    der: bytes

    @classmethod
    def from_pem(cls, data: bytes, *, name: str, use: Use = "cosign") -> "PublicKey":
        """Read a PKIX PEM public key. Raises FormatError."""
        if b"PRIVATE KEY" in data:
            raise FormatError(f"{name}: this is a private key: a public key (.pub) is expected here")
        try:
            key = serialization.load_pem_public_key(data[:KEY_LIMIT_BYTES])
        except (ValueError, UnsupportedAlgorithm):
            raise FormatError(f"{name}: not a PEM public key (-----BEGIN PUBLIC KEY-----)") from None
        return cls(name, _der(_checked(key, use, name)))

    @classmethod
    def of(cls, key: object, *, name: str) -> "PublicKey":
        """Take the public key of a certificate: any kind that Notary knows. Raises FormatError."""
        return cls(name, _der(_checked(key, "notary", name)))

    @property
    def algorithm(self) -> str:
        """What it signs with, such as `ES256`; cosign's formats take that one only."""
        return algorithms.algorithm_of(serialization.load_der_public_key(self.der), name=self.name)

    @property
    def hint(self) -> str:
        """What cosign writes beside a signature: base64 of the SHA-256 of the DER key."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    @property
    def fingerprint(self) -> str:
        """The key's short name for people: `SHA256:` and the first half of its digest in hex."""
        return "SHA256:" + hashlib.sha256(self.der).hexdigest()[:32]

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether `signature` over `data` was made with this key."""
        return bool(self.verified_with(signature, data))

    def verified_with(self, signature: bytes, data: bytes) -> str:
        """Return the algorithm in which `signature` over `data` was made with this key; "" if it was not."""
        return algorithms.verified_with(serialization.load_der_public_key(self.der), signature, data)


@dataclass(frozen=True)
class FileKey:
    """A `Signer` whose key was read from a file."""

    key: algorithms.PrivateKey
    name: str

    @classmethod
    def from_pem(cls, data: bytes, password: bytes | None, *, name: str, use: Use = "cosign") -> "FileKey":
        """Read a private key: PEM in PKCS#8 or SEC1, or cosign's encrypted file.

        Raises FormatError; PasswordNeeded if it is encrypted and there is no password (`b""` is one).
        """
        if data.lstrip().startswith(COSIGN_KEYS):
            return cls(_checked(_open_cosign_key(data, password, name), use, name), name)
        try:
            key = serialization.load_pem_private_key(data[:KEY_LIMIT_BYTES], password)
        except TypeError:  # how cryptography says: a password where none is needed, or none where one is
            if password is None:
                raise PasswordNeeded(f"{name}: this key is encrypted: a password is needed") from None
            return cls.from_pem(data, None, name=name, use=use)
        except (ValueError, UnsupportedAlgorithm) as error:
            wrong = "the password is wrong, or " if password is not None else ""
            raise FormatError(f"{name}: {wrong}this is not a PKCS#8 PEM private key") from error
        return cls(_checked(key, use, name), name)

    @property
    def public(self) -> PublicKey:
        """The key that verifies."""
        return PublicKey(self.name, _der(self.key.public_key()))

    def sign(self, data: bytes) -> bytes:
        """Return a signature over `data`: ASN.1 DER for ECDSA, RSASSA-PSS for RSA."""
        return algorithms.sign(self.key, data)


class PasswordNeeded(FormatError):  # noqa: N818  (what the caller does next: ask)
    """The key is encrypted and no password was given."""


def generate(password: bytes | None) -> tuple[bytes, bytes]:
    """Return a new key pair as PEM: PKCS#8 (encrypted when there is a password) and PKIX."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def generate_cosign(password: bytes) -> tuple[bytes, bytes]:
    """Return a new key pair as PEM: cosign's encrypted file (an empty password is allowed there) and PKIX."""
    from margo_oci.cosign_key import seal

    key = ec.generate_private_key(ec.SECP256R1())
    pkcs8 = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return seal(pkcs8, password), public


def p256_only(signer: Signer) -> Signer:
    """Return `signer` if cosign's formats take its key. Raises FormatError."""
    if signer.public.algorithm != "ES256":
        raise FormatError(f"{signer.public.name}: {_P256_EXPECTED}")
    return signer


_P256_EXPECTED = "an ECDSA P-256 key is expected: the one kind every verifier accepts"


def _open_cosign_key(data: bytes, password: bytes | None, name: str) -> object:
    # Imported when such a file is met: nobody else needs its cipher.
    from margo_oci.cosign_key import open_sealed

    if password is None:
        raise PasswordNeeded(f"{name}: this key is encrypted: a password is needed")
    try:
        return serialization.load_der_private_key(open_sealed(data, password, name=name), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FormatError(f"{name}: it opens, but what is in it is no PKCS#8 private key") from None


def _checked(key: object, use: Use, name: str) -> Any:
    if use == "notary":
        algorithms.algorithm_of(key, name=name)
    elif not isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1
    ):
        raise FormatError(f"{name}: {_P256_EXPECTED}")
    return key


def _der(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
