"""cosign's own file for a private key: scrypt and NaCl's secretbox around PKCS#8, in PEM.

Sources: sigstore/sigstore pkg/cryptoutils, go-securesystemslib encrypted. The cipher is PyNaCl's: XSalsa20 is not in
`cryptography`, and ciphers are not ours to write. Only who has such a file needs it (extra `cli`).
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from margo_oci.content import parse_json
from margo_oci.errors import FormatError

FILE_LIMIT_BYTES = 64 * 1024
# The cost that cosign takes, and nothing else: a file must not decide how much memory we use (128 MiB at most).
COSTS = ({"N": 2**15, "r": 8, "p": 1}, {"N": 2**16, "r": 8, "p": 1}, {"N": 2**17, "r": 8, "p": 1})
_STANDARD = COSTS[1]
_PEM = re.compile(
    rb"\s*+-----BEGIN ENCRYPTED (SIGSTORE|COSIGN) PRIVATE KEY-----\s([A-Za-z0-9+/=\s]++)"  # each byte is tried once
    rb"-----END ENCRYPTED \1 PRIVATE KEY-----\s*"
)


def open_sealed(data: bytes, password: bytes, *, name: str) -> bytes:
    """Return the PKCS#8 DER key in cosign's file. Raises FormatError, also for a wrong password."""
    found = _PEM.fullmatch(data) if len(data) <= FILE_LIMIT_BYTES else None
    if not found:
        raise FormatError(f"{name}: this is not a whole cosign private key file")
    raw = parse_json(_base64(found[2].translate(None, b" \t\r\n").decode(), name), what=name)
    kdf, cipher = _part(raw, "kdf", name), _part(raw, "cipher", name)
    if kdf.get("name") != "scrypt" or cipher.get("name") != "nacl/secretbox":
        raise FormatError(f"{name}: scrypt and nacl/secretbox are expected, as cosign writes them")
    cost = next((known for known in COSTS if known == kdf.get("params")), None)
    if cost is None:
        raise FormatError(f"{name}: scrypt with {kdf.get('params')!r:.80}: not a cost that cosign knows")
    key = _derive(password, _base64(kdf.get("salt"), name), cost)  # ours: 32768.0 is equal, and no whole number
    return _unboxed(_base64(raw.get("ciphertext"), name), key, _base64(cipher.get("nonce"), name), name)


def seal(pkcs8: bytes, password: bytes) -> bytes:
    """Return cosign's file around a PKCS#8 DER key. An empty password is allowed, as cosign allows it."""
    nacl = _nacl()
    salt, nonce = nacl.utils.random(32), nacl.utils.random(24)
    boxed = nacl.bindings.crypto_secretbox(pkcs8, nonce, _derive(password, salt, _STANDARD))
    return sealed_pem(salt, nonce, boxed)


def sealed_pem(salt: bytes, nonce: bytes, boxed: bytes) -> bytes:
    """Return the file's text, in the order that cosign writes its fields."""
    fields = {
        "kdf": {"name": "scrypt", "params": _STANDARD, "salt": base64.b64encode(salt).decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(boxed).decode(),
    }
    body = base64.b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    kind = "ENCRYPTED SIGSTORE PRIVATE KEY"
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n".encode()


def _derive(password: bytes, salt: bytes, cost: Mapping[str, int]) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost["N"], r=cost["r"], p=cost["p"]).derive(password)


def _unboxed(boxed: bytes, key: bytes, nonce: bytes, name: str) -> bytes:
    nacl = _nacl()
    try:
        return bytes(nacl.bindings.crypto_secretbox_open(boxed, nonce, key))
    except (nacl.exceptions.CryptoError, ValueError):
        raise FormatError(f"{name}: the password is wrong, or the file was changed") from None


def _nacl() -> Any:
    try:
        import nacl.bindings
        import nacl.exceptions
        import nacl.utils
    except ImportError:
        raise FormatError("a cosign private key file needs PyNaCl: pip install 'margo-oci[cli]'") from None
    return nacl


def _part(raw: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise FormatError(f"{name}: {key} is missing, this is not a cosign private key file")
    return value


def _base64(value: object, name: str) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise FormatError(f"{name}: base64 is expected in a cosign private key file") from None
