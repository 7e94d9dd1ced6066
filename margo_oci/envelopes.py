"""Envelopes of Notary signatures: JWS and COSE_Sign1, and the header that is signed in them.

Sources: Notary signature-envelope-jws (flattened JSON, RFC 7515) and signature-envelope-cose (RFC 9052).
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from margo_oci.cbor import Tagged, encode_cbor, parse_cbor
from margo_oci.content import SIGNATURE_LIMIT_BYTES, parse_json
from margo_oci.errors import FormatError

PAYLOAD_TYPE = "application/vnd.cncf.notary.payload.v1+json"
JWS = "application/jose+json"
COSE = "application/cose"
X509, SIGNING_AUTHORITY = "notary.x509", "notary.x509.signingAuthority"
ENVELOPE_LIMIT_BYTES = SIGNATURE_LIMIT_BYTES

SCHEME = "io.cncf.notary.signingScheme"
SIGNING_TIME = "io.cncf.notary.signingTime"
AUTHENTIC_TIME = "io.cncf.notary.authenticSigningTime"
EXPIRY = "io.cncf.notary.expiry"
_TIME_OF = {X509: SIGNING_TIME, SIGNING_AUTHORITY: AUTHENTIC_TIME}
_COSE_NAMES = {1: "alg", 2: "crit", 3: "cty"}
_COSE_ALGORITHMS = {-7: "ES256", -35: "ES384", -36: "ES512", -37: "PS256", -38: "PS384", -39: "PS512"}
_COSE_CHAIN = 33
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Envelope:
    """What an envelope holds before its signature is checked. Header and payload are still bytes."""

    media_type: str
    protected: bytes
    payload: bytes
    signature: bytes
    chain: Sequence[bytes]
    signed: bytes


@dataclass(frozen=True)
class Header:
    """The signed header, parsed: what the signer said of the signature."""

    algorithm: str
    scheme: str
    signing_time: datetime
    expiry: datetime | None


def parse_envelope(data: bytes, media_type: str) -> Envelope:
    """Parse an envelope before anything in it is trusted. Raises FormatError."""
    if media_type == JWS:
        return _parse_jws(data)
    if media_type == COSE:
        return _parse_cose(data)
    raise FormatError(f"signature: {media_type!r:.80}: {JWS} or {COSE} is expected")


def parse_header(envelope: Envelope) -> Header:
    """Parse the signed header; what is marked critical and not known is refused. Raises FormatError."""
    raw = _cose_header(envelope.protected) if envelope.media_type == COSE else _jws_header(envelope.protected)
    if raw.get("cty") != PAYLOAD_TYPE:
        raise FormatError(f"signature: content type {raw.get('cty')!r:.80}: {PAYLOAD_TYPE} is expected")
    scheme = raw.get(SCHEME)
    if not isinstance(scheme, str) or scheme not in _TIME_OF:
        raise FormatError(f"signature: signing scheme {scheme!r:.80}: one of {', '.join(_TIME_OF)} is expected")
    if len({SIGNING_TIME, AUTHENTIC_TIME} & raw.keys()) != 1:
        raise FormatError(f"signature: exactly one time is expected: {_TIME_OF[scheme]}")
    _check_critical(raw, scheme)
    times = _cose_time if envelope.media_type == COSE else _jws_time
    signing_time = times(raw.get(_TIME_OF[scheme]), _TIME_OF[scheme])
    expiry = times(raw[EXPIRY], EXPIRY) if EXPIRY in raw else None
    if expiry and expiry <= signing_time:
        raise FormatError("signature: it expires before it was made")
    return Header(str(raw.get("alg")), scheme, signing_time, expiry)


def _check_critical(raw: Mapping[str, Any], scheme: str) -> None:
    critical = raw.get("crit")
    if not isinstance(critical, list) or not all(isinstance(item, str | int) for item in critical):
        raise FormatError("signature: crit: a list is expected")
    must = {SCHEME} | {EXPIRY} & raw.keys() | ({AUTHENTIC_TIME} if scheme == SIGNING_AUTHORITY else set())
    if missing := sorted(must - set(critical)):
        raise FormatError(f"signature: crit: {missing[0]} is to stand there")
    if unknown := [item for item in critical if item not in (SCHEME, EXPIRY, AUTHENTIC_TIME)]:
        raise FormatError(f"signature: crit: {unknown[0]!r:.80} is critical, and not understood here")
    if len(set(critical)) != len(critical) or not set(critical) <= raw.keys():
        raise FormatError("signature: crit: each name stands once, and in the header")


def _parse_jws(data: bytes) -> Envelope:
    raw = parse_json(data, what="JWS", limit_bytes=ENVELOPE_LIMIT_BYTES)
    if raw.keys() != {"payload", "protected", "header", "signature"} or not isinstance(raw["header"], dict):
        raise FormatError("JWS: payload, protected, header and signature are expected, and nothing else")
    chain = raw["header"].get("x5c")
    if not isinstance(chain, list) or not chain:
        raise FormatError("JWS: header: x5c: a list of certificates is expected")
    protected, body = _from_base64url(raw["protected"], "protected"), _from_base64url(raw["payload"], "payload")
    if both := _jws_header(protected).keys() & raw["header"].keys():
        raise FormatError(f"JWS: {min(both)!r:.80} stands in the signed header and in the other")
    return Envelope(
        JWS,
        protected,
        body,
        _from_base64url(raw["signature"], "signature"),
        [_from_base64(der) for der in chain],
        f"{raw['protected']}.{raw['payload']}".encode(),
    )


def _parse_cose(data: bytes) -> Envelope:
    raw = parse_cbor(data, what="COSE", limit_bytes=ENVELOPE_LIMIT_BYTES)
    match raw:
        case Tagged(18, [bytes(protected), {33: [*chain]}, bytes(body), bytes(signature)]) if chain and all(
            isinstance(der, bytes) for der in chain
        ):
            signed = encode_cbor(["Signature1", protected, b"", body])
            return Envelope(COSE, protected, body, signature, chain, signed)
    raise FormatError("COSE: a tagged COSE_Sign1 with x5chain (33) as an array of certificates is expected")


def _jws_header(data: bytes) -> Mapping[str, Any]:
    return parse_json(data, what="JWS: protected", limit_bytes=ENVELOPE_LIMIT_BYTES)


def _cose_header(data: bytes) -> Mapping[str, Any]:
    raw = parse_cbor(data, what="COSE: protected", limit_bytes=ENVELOPE_LIMIT_BYTES)
    if not isinstance(raw, dict):
        raise FormatError("COSE: protected: a map is expected")
    algorithm = raw.get(1)
    named = {key: value for key, value in raw.items() if key not in _COSE_NAMES.values()}
    named |= {name: raw[label] for label, name in _COSE_NAMES.items() if label in raw}
    return named | {"alg": _COSE_ALGORITHMS.get(algorithm) if isinstance(algorithm, int) else None}


def _jws_time(value: object, name: str) -> datetime:
    try:
        if not isinstance(value, str) or not _RFC3339.fullmatch(value):
            raise ValueError
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise FormatError(f"signature: {name}: {value!r:.80}: a time as 2026-11-21T09:33:39Z is expected") from None


def _cose_time(value: object, name: str) -> datetime:
    match value:
        case Tagged(1, int(seconds)) if 0 <= seconds < 253402300800:  # the last second of the year 9999
            return datetime.fromtimestamp(seconds, UTC)
    raise FormatError(f"signature: {name}: whole seconds with tag 1 are expected")


def _from_base64url(value: object, name: str) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", value) or len(value) % 4 == 1:
        raise FormatError(f"JWS: {name}: base64url without padding is expected")
    data = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    if to_base64url(data) != value:  # bits beyond the last byte: the same bytes in another writing
        raise FormatError(f"JWS: {name}: base64url without padding is expected")
    return data


def _from_base64(value: object) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        data = base64.b64decode(value, validate=True)
        if base64.b64encode(data).decode() != value:
            raise ValueError
    except (ValueError, binascii.Error):
        raise FormatError("JWS: header: x5c: base64 is expected") from None
    return data


def jws_signed(protected: bytes, body: bytes) -> bytes:
    """Return the bytes that a JWS signs (RFC 7515, 5.1)."""
    return f"{to_base64url(protected)}.{to_base64url(body)}".encode()


def to_base64url(data: bytes) -> str:
    """Return base64 as JOSE writes it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
