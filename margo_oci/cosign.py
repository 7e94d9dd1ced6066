"""cosign v3 signatures: a DSSE envelope around an in-toto statement, in a Sigstore bundle v0.3.

Sources: DSSE v1 protocol.md (PAE), in-toto Statement v1, sigstore bundle v0.3, cosign v3 `sign`.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from margo_oci.content import SIGNATURE_LIMIT_BYTES, Descriptor, canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.keys import Signer, p256_only
from margo_oci.manifest import CREATED, Manifest

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"  # an annotation, so a hint and no more
RELEASE = "https://sigstore.dev/cosign/sign/v1"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Envelope:
    """What a bundle holds that matters before its signature is checked. The payload is still bytes."""

    payload: bytes
    payload_type: str
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over (DSSE v1, PAE)."""
        return pae(self.payload_type, self.payload)


@dataclass(frozen=True)
class Statement:
    """A statement whose signature held: which digests, and what is said of them."""

    predicate_type: str
    digests: frozenset[str]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def statement(digest: str, *, name: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """Return the in-toto statement that cosign v3 signs for `digest`; `name` is `host/repository`."""
    subject: dict[str, Any] = {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
    if annotations:
        subject["annotations"] = dict(annotations)
    return canonical_json({"_type": STATEMENT_TYPE, "predicateType": RELEASE, "predicate": {}, "subject": [subject]})


def sign(digest: str, signer: Signer, *, name: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """Return a Sigstore bundle over `digest`, as `cosign sign --key` makes it."""
    payload = statement(digest, name=name, annotations=annotations)
    return bundle(payload, p256_only(signer).sign(pae(PAYLOAD_TYPE, payload)), hint=signer.public.hint)


def bundle(payload: bytes, signature: bytes, *, hint: str) -> bytes:
    """Return the bundle's JSON. `tlogEntries` is empty: cosign leaves it out, sigstore-python needs it."""
    return canonical_json(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode()}],
            },
        }
    )


def signature_manifest(
    bundle_data: bytes, subject: Descriptor, *, created: str, predicate_type: str = RELEASE
) -> Manifest:
    """Return the referrer that carries a bundle, annotated as cosign v3 does; `created` is RFC 3339."""
    annotations = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        PREDICATE_TYPE: predicate_type,
        CREATED: created,
    }
    return Manifest.build(BUNDLE_TYPE, [Descriptor.of(bundle_data, BUNDLE_TYPE)], annotations, subject)


def parse_bundle(data: bytes, *, limit_bytes: int = SIGNATURE_LIMIT_BYTES) -> Envelope:
    """Parse a bundle before anything in it is trusted; unknown fields are refused, as cosign does.

    Raises FormatError.
    """
    raw = parse_json(data, what="bundle", limit_bytes=limit_bytes)
    if raw.get("mediaType") != BUNDLE_TYPE:
        raise FormatError(f"bundle: mediaType {raw.get('mediaType')!r:.80}: {BUNDLE_TYPE} is expected")
    _only(raw, {"mediaType", "verificationMaterial", "dsseEnvelope"}, "bundle")
    material = _object(raw, "verificationMaterial", "bundle")
    _only(
        material,
        {"publicKey", "tlogEntries", "timestampVerificationData"},
        "bundle: verificationMaterial",
    )
    if "publicKey" not in material:
        raise FormatError("bundle: verificationMaterial: a publicKey is expected")
    envelope = _object(raw, "dsseEnvelope", "bundle")
    _only(envelope, {"payload", "payloadType", "signatures"}, "bundle: dsseEnvelope")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise FormatError("bundle: dsseEnvelope: exactly one signature is expected")
    _only(signatures[0], {"sig", "keyid"}, "bundle: dsseEnvelope: signatures[0]")
    payload_type = envelope.get("payloadType")
    if payload_type != PAYLOAD_TYPE:
        raise FormatError(f"bundle: payloadType {payload_type!r:.80}: {PAYLOAD_TYPE} is expected")
    return Envelope(
        _base64(envelope.get("payload"), "bundle: payload"),
        payload_type,
        _base64(signatures[0].get("sig"), "bundle: sig"),
    )


def is_keyless(data: bytes) -> bool:
    """Tell whether a bundle says that a short-lived certificate signed it, and no key. Raises FormatError."""
    material = parse_json(data, what="bundle", limit_bytes=SIGNATURE_LIMIT_BYTES).get("verificationMaterial")
    if not isinstance(material, dict) or "publicKey" in material:
        return False
    return bool({"certificate", "x509CertificateChain"} & material.keys())


def parse_statement(payload: bytes) -> Statement:
    """Parse a payload. Call it only after its signature held. Raises FormatError."""
    raw = parse_json(payload, what="statement", limit_bytes=SIGNATURE_LIMIT_BYTES)
    if raw.get("_type") not in (STATEMENT_TYPE, "https://in-toto.io/Statement/v0.1"):
        raise FormatError(f"statement: _type {raw.get('_type')!r:.80} is unknown")
    subjects = raw.get("subject")
    if not isinstance(subjects, list) or not subjects:
        raise FormatError("statement: subject: a list with at least one entry is expected")
    return Statement(
        str(raw.get("predicateType", "")),
        frozenset(_subject_digest(subject) for subject in subjects),
    )


def _subject_digest(subject: object) -> str:
    digests = subject.get("digest") if isinstance(subject, dict) else None
    value = digests.get("sha256") if isinstance(digests, dict) else None
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise FormatError("statement: subject: a sha256 digest is expected")
    return f"sha256:{value}"


def _object(raw: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise FormatError(f"{what}: {key} is missing")
    return value


def _only(raw: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(raw) - known):
        raise FormatError(f"{what}: unknown field {unknown[0]!r:.80}")


def _base64(value: object, what: str) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        raise FormatError(f"{what}: base64 is expected") from None
