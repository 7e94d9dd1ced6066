"""Which signature each kind of key makes and checks, by the names that JOSE, COSE and Notary give them.

The key decides, nothing beside the signature does (Notary signature-specification, "Algorithm Selection").
ECDSA signatures are ASN.1 DER here; formats that want `r` and `s` side by side convert at their border.
"""

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from margo_oci.errors import FormatError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
AnyKey = PrivateKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_LEAST_BITS = 3072
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSASSA_PSS = ("PS256", "PS384", "PS512")
_MODULI = {3072: "PS384", 4096: "PS512"}  # 2048 bits would be PS256: too short here
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_FIELD_BYTES = {"ES256": 32, "ES384": 48, "ES512": 66}


def algorithm_of(key: object, *, name: str) -> str:
    """Return the one algorithm that `key` signs with, such as `ES256` or `PS384`. Raises FormatError."""
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        if key.key_size not in _MODULI:
            raise FormatError(f"{name}: RSA with {key.key_size} bits: 3072 or 4096 are expected, less is not accepted")
        return _MODULI[key.key_size]
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    raise FormatError(f"{name}: an ECDSA key (P-256, P-384, P-521) or an RSA key (3072, 4096 bits) is expected")


def digest(algorithm: str, data: bytes) -> bytes:
    """Return the digest of `data` that `algorithm` signs."""
    return hashlib.new(f"sha{algorithm[2:]}", data).digest()


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Return a signature over `data`: ASN.1 DER for ECDSA, RSASSA-PSS for RSA."""
    hashing = _HASHES[algorithm_of(key, name="key")[2:]]
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PSS(padding.MGF1(hashing), padding.PSS.DIGEST_LENGTH), hashing)
    return key.sign(data, ec.ECDSA(hashing))


def accepted_of(key: object, *, name: str) -> Sequence[str]:
    """Return the algorithms in which a signature by this public key counts, the one it signs with first.

    RSA of 3072 bits and more counts with each hash of the PS family, though we, as notation, sign with one only.
    """
    first = algorithm_of(key, name=name)
    return (first, *(each for each in _RSASSA_PSS if each != first)) if first in _RSASSA_PSS else (first,)


def verified_with(key: object, signature: bytes, data: bytes) -> str:
    """Return the algorithm in which `signature` (as `sign` makes it) over `data` was made with this key; "" if none."""
    return next((each for each in accepted_of(key, name="key") if _holds(key, signature, data, each)), "")


def _holds(key: object, signature: bytes, data: bytes, algorithm: str) -> bool:
    hashing = _HASHES[algorithm[2:]]
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PSS(padding.MGF1(hashing), padding.PSS.DIGEST_LENGTH), hashing)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashing))
    except InvalidSignature:
        return False
    return True


def side_by_side(algorithm: str, signature: bytes) -> bytes:
    """Return a signature as JOSE and COSE carry it: ECDSA's `r` and `s` with fixed length, RSA as it is."""
    size = _FIELD_BYTES.get(algorithm)
    if size is None:
        return signature
    r, s = decode_dss_signature(signature)
    return r.to_bytes(size) + s.to_bytes(size)


def from_side_by_side(algorithm: str, signature: bytes, *, what: str) -> bytes:
    """Return what `side_by_side` was made from. Raises FormatError if the length is another."""
    size = _FIELD_BYTES.get(algorithm)
    if size is None:
        return signature
    if len(signature) != 2 * size:
        raise FormatError(f"{what}: a signature of {2 * size} bytes is expected for {algorithm}, got {len(signature)}")
    return encode_dss_signature(int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))
