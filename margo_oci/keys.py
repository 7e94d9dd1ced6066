"""P-256 key pairs: the only key type that every verifier of OCI signatures accepts."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from margo_oci.errors import FormatError

KEY_LIMIT_BYTES = 64 * 1024


class Signer(Protocol):
    """Something that signs with ECDSA P-256 over SHA-256: a file's key, a KMS, a smart card."""

    @property
    def public(self) -> "PublicKey":
        """The key that verifies."""

    def sign(self, data: bytes) -> bytes:
        """Return an ASN.1 DER signature over `data`."""


@dataclass(frozen=True)
class PublicKey:
    """A key that a policy names; `name` is what messages call it."""

    name: str
    der: bytes

    @classmethod
    def from_pem(cls, data: bytes, *, name: str) -> "PublicKey":
        """Read a PKIX PEM public key. Raises FormatError."""
        if b"PRIVATE KEY" in data:
            raise FormatError(f"{name}: this is a private key: a public key (.pub) is expected here")
        try:
            key = serialization.load_pem_public_key(data[:KEY_LIMIT_BYTES])
        except (ValueError, UnsupportedAlgorithm):
            raise FormatError(f"{name}: not a PEM public key (-----BEGIN PUBLIC KEY-----)") from None
        return cls(name, _der(_p256(key, name)))

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
        key = serialization.load_der_public_key(self.der)
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  (from_pem saw to it)
        try:
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class FileKey:
    """A `Signer` whose key was read from a file."""

    key: ec.EllipticCurvePrivateKey
    name: str

    @classmethod
    def from_pem(cls, data: bytes, password: bytes | None, *, name: str) -> "FileKey":
        """Read a PKCS#8 PEM private key. Raises FormatError; PasswordNeeded if it is encrypted."""
        try:
            key = serialization.load_pem_private_key(data[:KEY_LIMIT_BYTES], password)
        except TypeError:  # how cryptography says: a password where none is needed, or none where one is
            if password is None:
                raise PasswordNeeded(f"{name}: this key is encrypted: a password is needed") from None
            return cls.from_pem(data, None, name=name)
        except (ValueError, UnsupportedAlgorithm) as error:
            wrong = "the password is wrong, or " if password is not None else ""
            raise FormatError(f"{name}: {wrong}this is not a PKCS#8 PEM private key") from error
        return cls(_p256(key, name), name)

    @property
    def public(self) -> PublicKey:
        """The key that verifies."""
        return PublicKey(self.name, _der(self.key.public_key()))

    def sign(self, data: bytes) -> bytes:
        """Return an ASN.1 DER signature over the SHA-256 of `data`."""
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


class PasswordNeeded(FormatError):  # noqa: N818  (what the caller does next: ask)
    """The key is encrypted and no password was given."""


def generate(password: bytes | None) -> tuple[bytes, bytes]:
    """Return a new key pair as PEM: PKCS#8 (encrypted when there is a password) and PKIX."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def _p256(key: object, name: str) -> Any:
    if not isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1
    ):
        raise FormatError(f"{name}: an ECDSA P-256 key is expected: the one kind every verifier accepts")
    return key


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
