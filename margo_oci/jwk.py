"""P-256 keys as JOSE has them: whom a file is encrypted to, and by what name (RFC 7517, RFC 7638)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.keys import KEY_LIMIT_BYTES

if TYPE_CHECKING:
    from cryptography import x509

_SIZE_BYTES = 32  # of a coordinate
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Recipient:
    """Whom a file is encrypted to; `name` is what messages call it."""

    name: str
    key: ec.EllipticCurvePublicKey

    @property
    def kid(self) -> str:
        """The key's id: its thumbprint."""
        return thumbprint(self.key)


def read_recipient(data: bytes, *, name: str, now: datetime) -> Recipient:
    """Read an X.509 certificate (PEM), a public key (PEM) or a JWK. Raises FormatError, also if it has expired."""
    if b"PRIVATE KEY" in data:
        raise FormatError(f"{name}: this is a private key: a certificate or a public key is expected here")
    if data.lstrip().startswith(b"{"):
        return Recipient(name, _of_document(parse_json(data, what=name, limit_bytes=KEY_LIMIT_BYTES), name))
    if b"-----BEGIN CERTIFICATE-----" in data:
        return Recipient(name, _of_certificate(data[:KEY_LIMIT_BYTES], name, now))
    if data.count(b"-----BEGIN ") > 1:
        raise FormatError(f"{name}: several keys: name a file of its own for each device")
    try:
        key = serialization.load_pem_public_key(data[:KEY_LIMIT_BYTES])
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(f"{name}: a certificate or a public key in PEM, or a JWK, is expected") from None
    return Recipient(name, p256(key, name))


def _of_certificate(data: bytes, name: str, now: datetime) -> ec.EllipticCurvePublicKey:
    # Imported when one is met: what only reads keys holds no X.509.
    from cryptography import x509

    try:
        certificate, *others = x509.load_pem_x509_certificates(data)
        key, until = certificate.public_key(), certificate.not_valid_after_utc
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(f"{name}: not a usable X.509 certificate") from None
    if not all(_is_authority(one) for one in others):
        raise FormatError(f"{name}: {len(others) + 1} certificates: name a file of its own for each device")
    if until < now:
        raise FormatError(f"{name}: this certificate expired at {until:%Y-%m-%dT%H:%M:%SZ}: ask for a newer one")
    return p256(key, name)


def _is_authority(certificate: "x509.Certificate") -> bool:
    """Tell whether a certificate is one that signs others: a chain's, not another device's."""
    try:
        return any(getattr(one.value, "ca", False) for one in certificate.extensions)
    except ValueError:
        return False


def _of_document(raw: Mapping[str, Any], name: str) -> ec.EllipticCurvePublicKey:
    if raw.get("use", "enc") != "enc":
        raise FormatError(f"{name}: use: a key for encryption is expected, got {raw['use']!r:.80}")
    return from_jwk(raw, at=name)


def p256(key: object, name: str) -> ec.EllipticCurvePublicKey:
    """Return `key` if files can be encrypted to it. Raises FormatError."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError(f"{name}: an EC P-256 key is expected: files are encrypted to no other kind (RSA included)")
    return key


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the name of a key that every JOSE tool makes of it (RFC 7638)."""
    return base64url(hashlib.sha256(canonical_json(to_jwk(key))).digest())


def to_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Return a public key as a JWK, with what is needed and nothing else."""
    numbers = key.public_numbers()
    x, y = (base64url(one.to_bytes(_SIZE_BYTES, "big")) for one in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def from_jwk(raw: object, *, at: str) -> ec.EllipticCurvePublicKey:
    """Read a public JWK; the point is on the curve. Raises FormatError."""
    if not isinstance(raw, dict) or (raw.get("kty"), raw.get("crv")) != ("EC", "P-256"):
        raise FormatError(f"{at}: a JWK with kty EC and crv P-256 is expected")
    if "d" in raw:
        raise FormatError(f"{at}: this is a private key: a public one is expected")
    x, y = (from_base64url(raw.get(name), at=f"{at}.{name}", size_bytes=_SIZE_BYTES) for name in ("x", "y"))
    try:
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1())
        return numbers.public_key()
    except ValueError:
        raise FormatError(f"{at}: this point is not on the curve P-256") from None


def base64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: object, *, at: str, size_bytes: int | None = None) -> bytes:
    """Read it: no padding, no other characters, one spelling of each value. Raises FormatError."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise FormatError(f"{at}: base64url without padding is expected")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise FormatError(f"{at}: base64url of a whole number of bytes is expected") from None
    if base64url(data) != text:
        raise FormatError(f"{at}: base64url with bits that mean nothing")
    if size_bytes is not None and len(data) != size_bytes:
        raise FormatError(f"{at}: {size_bytes} bytes are expected, got {len(data)}")
    return data
