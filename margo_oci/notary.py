"""Notary Project signatures: made as JWS, and read by what their certificates and the policy say.

Source: Notary signature-specification; the envelopes are the room `envelopes`. RFC 3161 timestamps are not looked at:
without one, a chain must be valid when it is checked. Nothing of a payload is read before its signature held.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from margo_oci import algorithms
from margo_oci.content import Descriptor, canonical_json, parse_json
from margo_oci.envelopes import (
    COSE,
    ENVELOPE_LIMIT_BYTES,
    EXPIRY,
    JWS,
    PAYLOAD_TYPE,
    SCHEME,
    SIGNING_AUTHORITY,
    SIGNING_TIME,
    X509,
    Envelope,
    Header,
    jws_signed,
    parse_envelope,
    parse_header,
    to_base64url,
)
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import PublicKey, Signer
from margo_oci.manifest import CREATED, Manifest
from margo_oci.trustpolicy import CHECKS, Authorities

if TYPE_CHECKING:
    from margo_oci.certificates import Chain

ARTIFACT_TYPE = "application/vnd.cncf.notary.signature"
THUMBPRINTS = "io.cncf.notary.x509chain.thumbprint#S256"
_RESERVED = "io.cncf.notary"


@dataclass(frozen=True)
class Signed:
    """A signature that counts: by whom, over which digest. `notes` are what the policy only logs.

    `name` is the certificate's, as names are compared.
    """

    signed_by: str
    name: str
    key: PublicKey
    digest: str
    signing_time: datetime
    expiry: datetime | None
    annotations: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def payload(subject: Descriptor, annotations: Mapping[str, str] | None = None) -> bytes:
    """Return the payload that names `subject`; `annotations` are the user's metadata."""
    target: dict[str, Any] = {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size}
    if annotations:
        target["annotations"] = dict(sorted(annotations.items()))
    return _json({"targetArtifact": target})


def protected_header(algorithm: str, signing_time: datetime, expiry: datetime | None = None) -> bytes:
    """Return the header that is signed, by the scheme `notary.x509`; times need a time zone."""
    header: dict[str, Any] = {"alg": algorithm, "crit": [SCHEME], "cty": PAYLOAD_TYPE, SCHEME: X509}
    header[SIGNING_TIME] = _time(signing_time)
    if expiry:
        header["crit"] = [SCHEME, EXPIRY]
        header[EXPIRY] = _time(expiry)
    return canonical_json(header)


def sign(
    subject: Descriptor,
    signer: Signer,
    chain: Sequence[bytes],
    *,
    now: datetime,
    expiry: datetime | None = None,
    annotations: Mapping[str, str] | None = None,
    agent: str = "margo-oci",
) -> bytes:
    """Return a JWS over `subject`, as `notation sign` makes it.

    `chain` is the signer's certificate and those above it up to the root, in DER. Raises FormatError when a
    verifier would refuse it: a chain that breaks a rule or is not valid `now`, or another key's.
    """
    parsed = check_chain(signer, chain, now=now)
    if expiry and expiry <= now:
        raise FormatError(f"expiry {_time(expiry)}: it is over already")
    if reserved := [key for key in annotations or () if key.startswith(_RESERVED)]:
        raise FormatError(f"annotation {reserved[0]}: names that begin with {_RESERVED} are Notary's own")
    body = payload(subject, annotations)
    header = protected_header(parsed.key.algorithm, now, expiry)
    signature = algorithms.side_by_side(parsed.key.algorithm, signer.sign(jws_signed(header, body)))
    return _json(
        {
            "payload": to_base64url(body),
            "protected": to_base64url(header),
            "header": {
                "x5c": [base64.b64encode(der).decode() for der in chain],
                "io.cncf.notary.signingAgent": agent,
            },
            "signature": to_base64url(signature),
        }
    )


def check_chain(signer: Signer, chain: Sequence[bytes], *, now: datetime) -> "Chain":
    """Return the chain (DER) if `signer` can sign with it. Raises FormatError as `sign` does."""
    from margo_oci.certificates import Chain

    parsed = Chain.parse(chain)
    parsed.check_times(now)
    if parsed.key.der != signer.public.der:
        raise FormatError(f"{signer.public.name}: the first certificate of the chain is for another key")
    return parsed


def signature_manifest(envelope: bytes, chain: Sequence[bytes], subject: Descriptor, *, created: str) -> Manifest:
    """Return the referrer that carries a JWS; `created` is RFC 3339."""
    annotations = {THUMBPRINTS: thumbprints(chain), CREATED: created}
    return Manifest.build(ARTIFACT_TYPE, [Descriptor.of(envelope, JWS)], annotations, subject)


def thumbprints(chain: Sequence[bytes]) -> str:
    """Return what a carrier says of the certificates (DER) it was signed with: their SHA-256, a JSON array as text."""
    return _json([hashlib.sha256(der).hexdigest() for der in chain]).decode()


def envelope_layer(manifest: Manifest) -> Descriptor:
    """Return the one layer of a carrier, the present or the old form (type in the config). Raises FormatError."""
    if manifest.artifact_type != ARTIFACT_TYPE and manifest.config.media_type != ARTIFACT_TYPE:
        raise FormatError(f"signature: {manifest.artifact_type!r:.80}: {ARTIFACT_TYPE} is expected")
    if len(manifest.layers) != 1 or manifest.layers[0].media_type not in (JWS, COSE):
        raise FormatError(f"signature: exactly one layer is expected, {JWS} or {COSE}")
    return manifest.layers[0]


def verify(data: bytes, media_type: str, subject: Descriptor, authorities: Authorities, *, now: datetime) -> Signed:
    """Return by whom `subject` was signed, if that counts by `authorities`; `now` has a time zone.

    Raises TrustError: malformed-signature, bad-certificate, wrong-key, expired-signature, revocation-unknown,
    moved-signature.
    """
    try:
        envelope = parse_envelope(data, media_type)
        chain, header = _check_signature(envelope)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{subject.digest}: {error}") from None
    at = f"{subject.digest}: signed by {chain.signer}"
    _check_trust(envelope, chain, header, authorities, at)
    notes = _check_times(chain, header, authorities, now, at)
    try:
        target = parse_payload(envelope.payload)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{at}: {error}") from None
    if (target.media_type, target.digest, target.size) != (subject.media_type, subject.digest, subject.size):
        raise TrustError(
            "moved-signature",
            f"{at}, but for {target.digest} ({target.media_type}, {target.size} bytes): moved here from there",
        )
    return Signed(
        f"{chain.signer} (trust policy {authorities.policy!r})",
        chain.name,
        chain.key,
        target.digest,
        header.signing_time,
        header.expiry,
        target.annotations,
        notes,
    )


def made_with(chain: Sequence[bytes], data: bytes, media_type: str, subject: Descriptor, *, now: datetime) -> bool:
    """Tell whether an envelope is a signature over `subject` that was made with just this chain (DER), and holds `now`.

    Whether one of the certificates was revoked is not asked.
    """
    actions = dict.fromkeys(CHECKS, "enforce") | {"revocation": "skip"}
    own = Authorities("own", {X509: frozenset(chain[:1])}, None, actions)
    try:
        verify(data, media_type, subject, own, now=now)
        return list(parse_envelope(data, media_type).chain) == list(chain)
    except TrustError:
        return False


def parse_payload(data: bytes) -> Descriptor:
    """Parse a payload. Call it only after its signature held. Raises FormatError."""
    raw = parse_json(data, what="payload", limit_bytes=ENVELOPE_LIMIT_BYTES)
    if raw.keys() != {"targetArtifact"} or not isinstance(raw["targetArtifact"], dict):
        raise FormatError("payload: targetArtifact and nothing else is expected")
    return Descriptor.from_dict(raw["targetArtifact"], at="payload: targetArtifact")


def _check_signature(envelope: Envelope) -> tuple["Chain", Header]:
    # Imported when there is a signature to check: only who trusts Notary pays for X.509.
    from margo_oci.certificates import Chain

    try:
        chain = Chain.parse(envelope.chain)
        key = chain.key
    except FormatError as error:
        raise TrustError("bad-certificate", str(error)) from None
    signature = algorithms.from_side_by_side(key.algorithm, envelope.signature, what="signature")
    verified_with = key.verified_with(signature, envelope.signed)
    if not verified_with:
        raise TrustError("malformed-signature", f"{key.name}: the signature is not by this certificate's key")
    header = parse_header(envelope)
    if header.algorithm != verified_with:
        raise FormatError(f"signature: algorithm {header.algorithm!r:.20}: it was made with {verified_with}")
    return chain, header


def _check_trust(envelope: Envelope, chain: "Chain", header: Header, authorities: Authorities, at: str) -> None:
    if not authorities.knows(header.scheme, envelope.chain):
        raise TrustError(
            "wrong-key",
            f"{at}: none of its certificates is in a trust store of policy {authorities.policy!r} for {header.scheme}",
        )
    if authorities.identities is None:
        return
    try:
        subject = chain.subject
    except FormatError as error:
        raise TrustError("bad-certificate", str(error)) from None
    if not authorities.accepts(subject):
        named = "; ".join(str(identity) for identity in authorities.identities)
        raise TrustError("wrong-key", f"{at}: policy {authorities.policy!r} trusts others: {named}")


def _check_times(chain: "Chain", header: Header, authorities: Authorities, now: datetime, at: str) -> Sequence[str]:
    found: list[tuple[str, str, str]] = []
    if header.expiry and header.expiry < now:
        found.append(("expiry", "expired-signature", f"{at}: it expired {_time(header.expiry)}"))
    try:
        chain.check_times(header.signing_time if header.scheme == SIGNING_AUTHORITY else now)
    except FormatError as error:
        found.append(("authenticTimestamp", "bad-certificate", f"{at}: {error}"))
    if authorities.actions["revocation"] != "skip" and (asked := chain.revocation_sources):
        words = (
            f"{at}: {asked[0]} names a place to ask whether it was revoked, and nobody is asked here: "
            'with "override": {"revocation": "skip"} in the trust policy it counts all the same'
        )
        found.append(("revocation", "revocation-unknown", words))
    for check, reason, words in found:
        if authorities.actions[check] == "enforce":
            raise TrustError(reason, words)
    return [words for _, _, words in found]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
