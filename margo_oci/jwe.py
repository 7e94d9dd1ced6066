"""Encrypted files: JWE in JSON, ECDH-ES+A256KW to P-256 keys, A256GCM, and nothing else (format 14.9 to 14.11).

RFC 7516 (JWE) and RFC 7518, section 4.6 (the key agreement), on the primitives of `cryptography`. Why no JOSE library:
docs/decisions/0020-files-and-secrets.md.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.jwk import Recipient, base64url, from_base64url, from_jwk, thumbprint, to_jwk

ALGORITHM = "ECDH-ES+A256KW"
ENCRYPTION = "A256GCM"
RECIPIENT_COUNT_LIMIT = 64
PLAIN_LIMIT_BYTES = 1024 * 1024
ENVELOPE_LIMIT_BYTES = 2 * 1024 * 1024
_OF_ONE = ("epk", "kid", "apu", "apv")  # headers by which one recipient finds its key
_PARTY_LIMIT_BYTES = 256  # apu, apv
_KID_LIMIT_CHARS = 255
_KEY_BYTES, _WRAPPED_BYTES, _IV_BYTES, _TAG_BYTES = 32, 40, 12, 16

PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class _Wrapped:
    """The content's key, wrapped for one recipient."""

    kid: str
    epk: ec.EllipticCurvePublicKey
    party_u: bytes
    party_v: bytes
    key: bytes


@dataclass(frozen=True)
class Envelope:
    """A JWE that follows every rule, still closed."""

    raw: Mapping[str, Any]
    recipients: Sequence[_Wrapped]
    iv: bytes
    ciphertext: bytes
    tag: bytes

    @property
    def kids(self) -> Sequence[str]:
        """The ids of the keys that open it, as it says itself; "" where it says none."""
        return [one.kid for one in self.recipients]

    @property
    def associated(self) -> bytes:
        """What is authenticated besides the content (RFC 7516, section 5.1, step 14)."""
        parts = [self.raw["protected"], *([self.raw["aad"]] if "aad" in self.raw else [])]
        return ".".join(parts).encode()


def seal(plaintext: bytes, recipients: Sequence[Recipient]) -> bytes:
    """Encrypt to all `recipients`. Raises FormatError for too many of them, none, or too much to encrypt."""
    if len(plaintext) > PLAIN_LIMIT_BYTES:
        raise FormatError(f"{len(plaintext)} bytes: at most {PLAIN_LIMIT_BYTES} are encrypted")
    content_key = AESGCM.generate_key(256)
    protected = base64url(canonical_json({"enc": ENCRYPTION}))
    iv = AESGCM.generate_key(128)[:_IV_BYTES]
    sealed = AESGCM(content_key).encrypt(iv, plaintext, protected.encode())
    return _written({
        "protected": protected,
        "recipients": _wrapped_for(recipients, content_key, {"alg": ALGORITHM}),
        "iv": base64url(iv),
        "ciphertext": base64url(sealed[:-_TAG_BYTES]),
        "tag": base64url(sealed[-_TAG_BYTES:]),
    })  # fmt: skip


def unseal(data: bytes, keys: Sequence[PrivateKey], *, what: str) -> bytes | None:
    """Return what is encrypted; None if it is for none of `keys`. Raises FormatError for what breaks a rule."""
    envelope = parse_envelope(data, what=what)
    content_key = _content_key(envelope, keys)
    return None if content_key is None else _opened(envelope, content_key, what)


def add_recipients(data: bytes, keys: Sequence[PrivateKey], recipients: Sequence[Recipient], *, what: str) -> bytes:
    """Wrap the content's key for more `recipients`; the content stays as it is. Raises FormatError.

    Whoever is a recipient already is passed over.
    """
    envelope = parse_envelope(data, what=what)
    content_key = _content_key(envelope, keys)
    if content_key is None:
        raise FormatError(f"{what}: encrypted for {', '.join(envelope.kids)}, and for no key given with --identity")
    _opened(envelope, content_key, what)  # nobody is let in to what was changed
    shared = _shared(envelope.raw, what)
    if any(name in shared for name in _OF_ONE):
        raise FormatError(f"{what}: made for one recipient alone: encrypt the plain file again, for all of them")
    new = [one for one in recipients if one.kid not in envelope.kids]
    header = {} if "alg" in shared else {"alg": ALGORITHM}
    raw = {key: value for key, value in envelope.raw.items() if key not in ("header", "encrypted_key", "recipients")}
    listed = [*_listed(envelope.raw, what), *(_wrapped_for(new, content_key, header) if new else [])]
    _check_count(len(listed), what)
    return _written({**raw, "recipients": listed})


def looks_sealed(data: bytes) -> bool:
    """Tell whether something is meant as a JWE, readable or not: as JSON, or in the compact serialization."""
    return b'"ciphertext"' in data or (data.startswith(b"eyJ") and data.count(b".") == 4)


def parse_envelope(data: bytes, *, what: str) -> Envelope:
    """Check a JWE in the general or the flattened JSON serialization by every rule. Raises FormatError."""
    raw = parse_json(data, what=what, limit_bytes=ENVELOPE_LIMIT_BYTES)
    if "aad" in raw:
        from_base64url(raw["aad"], at=f"{what}: aad")
    shared, listed = _shared(raw, what), _listed(raw, what)
    if _protected(raw, what).get("enc") != ENCRYPTION:
        raise FormatError(f"{what}: protected: enc: {ENCRYPTION} is expected")
    _check_count(len(listed), what)
    ciphertext = from_base64url(raw.get("ciphertext"), at=f"{what}: ciphertext")
    if len(ciphertext) > PLAIN_LIMIT_BYTES:
        raise FormatError(f"{what}: ciphertext: {len(ciphertext)} bytes, at most {PLAIN_LIMIT_BYTES} are read")
    return Envelope(
        raw=raw,
        recipients=[_recipient(one, shared, f"{what}: recipients[{i}]") for i, one in enumerate(listed)],
        iv=from_base64url(raw.get("iv"), at=f"{what}: iv", size_bytes=_IV_BYTES),
        ciphertext=ciphertext,
        tag=from_base64url(raw.get("tag"), at=f"{what}: tag", size_bytes=_TAG_BYTES),
    )


def _check_count(count: int, what: str) -> None:
    if not 1 <= count <= RECIPIENT_COUNT_LIMIT:
        raise FormatError(f"{what}: {count} recipients: 1 to {RECIPIENT_COUNT_LIMIT} are expected")


def _written(raw: Mapping[str, Any]) -> bytes:
    """A recipient on lines of its own: so it is seen in Git who was let in."""
    return json.dumps(raw, indent=1).encode() + b"\n"


def _protected(raw: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    return parse_json(from_base64url(raw.get("protected"), at=f"{what}: protected"), what=f"{what}: protected")


def _shared(raw: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Return the headers that all recipients share."""
    return _joined(_protected(raw, what), _header(raw.get("unprotected"), f"{what}: unprotected"), what)


def _listed(raw: Mapping[str, Any], what: str) -> Sequence[Mapping[str, Any]]:
    """Return the recipients; the flattened serialization has one, at the top."""
    if "recipients" not in raw:
        return [{key: raw[key] for key in ("header", "encrypted_key") if key in raw}]
    listed = raw["recipients"]
    if "header" in raw or "encrypted_key" in raw:
        raise FormatError(f"{what}: general and flattened at once")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise FormatError(f"{what}: recipients: a list of objects is expected")
    return listed


def _header(raw: object, at: str) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise FormatError(f"{at}: an object is expected")
    return raw


def _joined(one: Mapping[str, Any], other: Mapping[str, Any], at: str) -> Mapping[str, Any]:
    """Join two headers, which have no name in common (RFC 7516, section 7.2.1)."""
    if twice := sorted(set(one) & set(other)):
        raise FormatError(f"{at}: header {twice[0]!r:.80} stands twice")
    for name in ("crit", "zip"):
        if name in one or name in other:
            raise FormatError(f"{at}: header {name} is not accepted")
    return {**one, **other}


def _recipient(raw: Mapping[str, Any], shared: Mapping[str, Any], at: str) -> _Wrapped:
    header = _joined(shared, _header(raw.get("header"), f"{at}.header"), at)
    if header.get("alg") != ALGORITHM:
        raise FormatError(f"{at}: alg: {ALGORITHM} is expected, got {header.get('alg')!r:.80}")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > _KID_LIMIT_CHARS or not kid.isprintable():
        raise FormatError(f"{at}: kid: at most {_KID_LIMIT_CHARS} printable characters are expected")
    return _Wrapped(
        kid=kid,
        epk=from_jwk(header.get("epk"), at=f"{at}: epk"),
        party_u=_party(header, "apu", at),
        party_v=_party(header, "apv", at),
        key=from_base64url(raw.get("encrypted_key"), at=f"{at}: encrypted_key", size_bytes=_WRAPPED_BYTES),
    )


def _party(header: Mapping[str, Any], name: str, at: str) -> bytes:
    data = from_base64url(header.get(name, ""), at=f"{at}: {name}")
    if len(data) > _PARTY_LIMIT_BYTES:
        raise FormatError(f"{at}: {name}: at most {_PARTY_LIMIT_BYTES} bytes are read")
    return data


def _wrapped_for(
    recipients: Sequence[Recipient], content_key: bytes, header: Mapping[str, str]
) -> list[dict[str, Any]]:
    different = {one.kid: one for one in recipients}
    _check_count(len(different), "encrypt")
    return [_wrapped(one, content_key, header) for one in different.values()]


def _wrapped(recipient: Recipient, content_key: bytes, header: Mapping[str, str]) -> dict[str, Any]:
    ephemeral = ec.generate_private_key(ec.SECP256R1())
    wrapping_key = _agreed(ephemeral, recipient.key, b"", b"")
    return {
        "header": {**header, "kid": recipient.kid, "epk": to_jwk(ephemeral.public_key())},
        "encrypted_key": base64url(aes_key_wrap(wrapping_key, content_key)),
    }


def _agreed(mine: PrivateKey, other: ec.EllipticCurvePublicKey, party_u: bytes, party_v: bytes) -> bytes:
    """Return the key that both sides derive."""
    return derived(mine.exchange(ec.ECDH(), other), ALGORITHM, _KEY_BYTES, party_u, party_v)


def derived(shared: bytes, algorithm: str, size_bytes: int, party_u: bytes, party_v: bytes) -> bytes:
    """Return the key that follows from a shared secret (RFC 7518, section 4.6.2)."""
    parts = b"".join(struct.pack(">I", len(one)) + one for one in (algorithm.encode(), party_u, party_v))
    return ConcatKDFHash(hashes.SHA256(), size_bytes, parts + struct.pack(">I", 8 * size_bytes)).derive(shared)


def _content_key(envelope: Envelope, keys: Sequence[PrivateKey]) -> bytes | None:
    """Return the content's key as one of `keys` unwraps it: where it says whose it is, that one first."""
    for key in keys:
        kid = thumbprint(key.public_key())
        for one in sorted(envelope.recipients, key=lambda one: one.kid != kid):
            try:
                found = aes_key_unwrap(_agreed(key, one.epk, one.party_u, one.party_v), one.key)
            except InvalidUnwrap:
                continue
            return found
    return None


def _opened(envelope: Envelope, content_key: bytes, what: str) -> bytes:
    try:
        return AESGCM(content_key).decrypt(envelope.iv, envelope.ciphertext + envelope.tag, envelope.associated)
    except InvalidTag:
        raise FormatError(f"{what}: its content or its header was changed after it was encrypted") from None
