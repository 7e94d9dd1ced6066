"""Documents signed as TUF signs them: canonical JSON, keys, thresholds. Without I/O, and without a TUF library.

Sources: TUF 1.0.31 sections 4.1 to 4.3; canonical JSON as securesystemslib writes it (OLPC: only `"` and `\\` are
escaped); TAP 12 (key ids are names: nothing is concluded from them, and thresholds count keys).
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.freshness import parse_moment
from margo_oci.keys import PublicKey, Signer

SPEC_VERSION = "1.0.31"
KEY_COUNT_LIMIT = 64
SIGNATURE_COUNT_LIMIT = 64
VERSION_LIMIT = 2**53 - 1  # what every JSON reader takes as a whole number
PUBLIC_KEY_LIMIT = 8 * 1024
RSA_BITS = range(2048, 8193)
NAME = "x-name"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")
_SPEC_VERSION = re.compile(r"1\.[0-9]{1,9}(\.[0-9]{1,9})?")
_ECDSA = "ecdsa-sha2-nistp256"
PublicKeyTypes = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


def canonical(value: object) -> bytes:
    """Return the bytes that TUF signatures are over. Raises FormatError for numbers with a fraction."""
    return "".join(_pieces(value)).encode()


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    elif value is None or isinstance(value, bool):
        yield {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, int):
        yield str(value)
    elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
        yield "{" + ",".join("".join((*_pieces(name), ":", *_pieces(value[name]))) for name in sorted(value)) + "}"
    elif isinstance(value, list | tuple):
        yield "[" + ",".join("".join(_pieces(item)) for item in value) + "]"
    else:
        raise FormatError(
            f"{value!r:.80}: text, a number without a fraction, a list or a map is expected in what is signed"
        )


@dataclass(frozen=True)
class Key:
    """A public key of a root. `id` is what its signatures are listed under; `der` says which key it is."""

    id: str
    name: str
    der: bytes
    public: PublicKeyTypes

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether `signature` over `data` was made with this key."""
        try:
            if isinstance(self.public, ec.EllipticCurvePublicKey):
                self.public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
            elif isinstance(self.public, ed25519.Ed25519PublicKey):
                self.public.verify(signature, data)
            else:
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
                self.public.verify(signature, data, pss, hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    @property
    def label(self) -> str:
        """What messages call it: its name and the beginning of its id."""
        return f"{self.name} ({self.id[:12]})"


@dataclass(frozen=True)
class Quorum:
    """Which keys speak for a role, and how many of them must agree."""

    keys: Sequence[Key]
    threshold: int

    def signers(self, document: "Document") -> Sequence[Key]:
        """Return the keys that signed `document`, each once, whatever ids they are listed under (10.3)."""
        found: dict[bytes, Key] = {}
        for key in self.keys:
            signature = document.signatures.get(key.id)
            if key.der not in found and signature and key.verifies(signature, document.signed_bytes):
                found[key.der] = key
        return tuple(found.values())

    def key_of(self, public: PublicKey) -> Key | None:
        """Return the key that is `public` here; None if it has no part in this role."""
        return next((key for key in self.keys if key.der == public.der), None)

    @property
    def labels(self) -> str:
        """The keys, for messages."""
        return ", ".join(key.label for key in self.keys)


@dataclass(frozen=True)
class Document:
    """What a signed file holds before anybody checked it: what is signed, its bytes, signatures by key id."""

    signed: Mapping[str, Any]
    signed_bytes: bytes
    signatures: Mapping[str, bytes]

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str, limit_bytes: int) -> "Document":
        """Parse a signed file. Raises FormatError (10.1, 10.2)."""
        raw = parse_json(data, what=what, limit_bytes=limit_bytes)
        signed, listed = raw.get("signed"), raw.get("signatures")
        if not isinstance(signed, dict) or not isinstance(listed, list):
            raise FormatError(f"{what}: `signed` and `signatures` are expected: this is no TUF document")
        if len(listed) > SIGNATURE_COUNT_LIMIT:
            raise FormatError(f"{what}: {len(listed)} signatures, at most {SIGNATURE_COUNT_LIMIT} are read")
        try:
            signed_bytes = canonical(signed)
        except ValueError:  # a whole number of thousands of digits
            raise FormatError(f"{what}: a number is too long") from None
        return cls(signed, signed_bytes, dict(_signatures(listed, what)))


def _signatures(listed: Sequence[object], what: str) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    for entry in listed:
        keyid, sig = (entry.get("keyid"), entry.get("sig")) if isinstance(entry, dict) else (None, None)
        if not isinstance(keyid, str) or not isinstance(sig, str):
            raise FormatError(f"{what}: signatures: `keyid` and `sig` are expected, as text")
        if keyid in seen:
            raise FormatError(f"{what}: signatures: key id {keyid!r:.80} stands twice")
        seen.add(keyid)
        try:
            yield keyid, bytes.fromhex(sig)
        except ValueError:
            yield keyid, b""  # a placeholder of a ceremony that is not over: it counts for nothing


@dataclass(frozen=True)
class Header:
    """What every TUF document says of itself."""

    version: int
    expires: datetime

    @classmethod
    def of(cls, signed: Mapping[str, Any], kind: str, *, what: str) -> "Header":
        """Read the header of a document of `kind`; other fields are left alone. Raises FormatError (10.2)."""
        if signed.get("_type") != kind:
            raise FormatError(f"{what}: _type: {kind!r} is expected, got {signed.get('_type')!r:.80}")
        spec = signed.get("spec_version")
        if not isinstance(spec, str) or not _SPEC_VERSION.fullmatch(spec):
            raise FormatError(f"{what}: spec_version: 1.x is expected, got {spec!r:.80}")
        version = whole(signed.get("version"), VERSION_LIMIT, at=f"{what}: version")
        return cls(version, parse_moment(signed.get("expires"), at=f"{what}: expires"))


def whole(value: object, limit: int, *, at: str) -> int:
    """Return `value` if it is a whole number from 1 to `limit`. Raises FormatError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise FormatError(f"{at}: a whole number from 1 to {limit} is expected, got {value!r:.80}")
    return value


def parse_keys(raw: object, *, what: str) -> Mapping[str, Key]:
    """Return the keys of a root by id; kinds that are not known here are left out, and count for nothing (10.3)."""
    if not isinstance(raw, dict) or len(raw) > KEY_COUNT_LIMIT:
        raise FormatError(f"{what}: keys: a map of at most {KEY_COUNT_LIMIT} keys is expected")
    return {keyid: key for keyid, one in raw.items() if (key := _parse_key(keyid, one, at=f"{what}: keys.{keyid:.80}"))}


def _parse_key(keyid: str, raw: object, *, at: str) -> Key | None:
    keyval = raw.get("keyval") if isinstance(raw, dict) else None
    text = keyval.get("public") if isinstance(keyval, dict) else None
    if not isinstance(raw, dict) or not isinstance(text, str) or len(text) > PUBLIC_KEY_LIMIT:
        raise FormatError(f"{at}: keytype, scheme and keyval.public are expected")
    try:
        public = _load(raw.get("keytype"), raw.get("scheme"), text)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(f"{at}: not a usable {raw.get('scheme')!r:.80} key") from None
    if public is None:
        return None
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = raw.get(NAME)
    return Key(keyid, name if isinstance(name, str) and _NAME.fullmatch(name) else "key", der, public)


def _load(keytype: object, scheme: object, text: str) -> PublicKeyTypes | None:
    if (keytype, scheme) == ("ed25519", "ed25519"):
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    if (keytype, scheme) not in (("ecdsa", _ECDSA), (_ECDSA, _ECDSA), ("rsa", "rsassa-pss-sha256")):
        return None
    key = serialization.load_pem_public_key(text.encode())
    if keytype == "rsa" and isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
        return key
    if keytype != "rsa" and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError


def parse_quorum(raw: object, keys: Mapping[str, Key], *, at: str) -> Quorum:
    """Read a role. Raises FormatError, also when the keys known here can never reach its threshold (10.3)."""
    keyids = raw.get("keyids") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(keyids, list) or not all(isinstance(one, str) for one in keyids):
        raise FormatError(f"{at}: `keyids` and `threshold` are expected")
    if len(set(keyids)) != len(keyids):
        raise FormatError(f"{at}: a key id stands twice")
    quorum = Quorum(
        tuple(keys[one] for one in keyids if one in keys),
        whole(raw.get("threshold"), KEY_COUNT_LIMIT, at=f"{at}.threshold"),
    )
    if len({key.der for key in quorum.keys}) < quorum.threshold:
        raise FormatError(f"{at}: {quorum.threshold} keys must sign, and fewer are there that can be used")
    return quorum


def key_id(public: PublicKey) -> str:
    """Return the id that TUF tools give a P-256 key."""
    return hashlib.sha256(canonical(key_dict(public))).hexdigest()


def key_dict(public: PublicKey) -> dict[str, Any]:
    """Return a P-256 key as a root lists it, without its name."""
    lines = base64.encodebytes(public.der).decode().replace("\n", "")
    body = "\n".join(lines[i : i + 64] for i in range(0, len(lines), 64))
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
    return {"keytype": "ecdsa", "scheme": _ECDSA, "keyval": {"public": pem}}


def sign(signed: Mapping[str, Any], signers: Mapping[str, Signer]) -> bytes:
    """Return the signed file; `signers` by key id. Raises FormatError for what cannot be signed."""
    data = canonical(signed)
    signatures = [{"keyid": keyid, "sig": signer.sign(data).hex()} for keyid, signer in signers.items()]
    return canonical_json({"signatures": signatures, "signed": signed})
