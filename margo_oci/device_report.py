"""The report of a device as it lies in a registry: status, newest events, capabilities, and a signature over them.

The signature is a Sigstore bundle like that of a release, with a predicate type of its own: neither passes for the
other. It rides along in the same manifest, so that a report is replaced whole or not at all (format 11).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from margo_oci.content import SIGNATURE_LIMIT_BYTES, Descriptor, canonical_json
from margo_oci.cosign import BUNDLE_TYPE, PAYLOAD_TYPE, STATEMENT_TYPE, bundle, pae, parse_bundle, parse_statement
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import PublicKey, Signer, p256_only
from margo_oci.manifest import TITLE, Manifest, kind_of
from margo_oci.reference import TAG

ARTIFACT_TYPE = "application/vnd.org.margo.oci.device-status.v1+json"
STATUS_TYPE = ARTIFACT_TYPE
EVENTS_TYPE = "application/vnd.org.margo.oci.device-status.events.v1+jsonl"
CAPABILITIES_TYPE = "application/vnd.org.margo.oci.device-capabilities.v1+json"
DEVICE = "org.margo.oci.device"  # an annotation, so a hint and no more
PREDICATE_TYPE = "https://margo.org/oci/device-status/v1"
INLINED_AT_MOST_BYTES = 8 * 1024
REPORT_LIMIT_BYTES = 256 * 1024
_TITLES = {STATUS_TYPE: "device.json", EVENTS_TYPE: "events.jsonl", CAPABILITIES_TYPE: "capabilities.json"}


@dataclass(frozen=True)
class Contents:
    """The documents of a report, as bytes."""

    device: str
    status: bytes
    events: bytes
    capabilities: bytes


@dataclass(frozen=True)
class BuiltReport:
    """A report that is ready to be pushed: its manifest, and each layer with its bytes."""

    device: str
    manifest: Manifest
    blobs: Sequence[tuple[Descriptor, bytes]]


@dataclass(frozen=True)
class Layers:
    """The layers of a report; only the status is always there."""

    status: Descriptor
    events: Descriptor | None
    capabilities: Descriptor | None
    bundle: Descriptor | None

    @property
    def signed(self) -> frozenset[str]:
        """The digests that a signature must be over: all of them, and no other."""
        return frozenset(one.digest for one in (self.status, self.events, self.capabilities) if one)


def device_tag(device: str) -> str:
    """Return the tag of a device's report: its id, or what a tag can have of it and the beginning of its SHA-256."""
    if TAG.fullmatch(device):
        return device
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", device)[:100].lstrip(".-")
    return f"{plain or 'device'}-{hashlib.sha256(device.encode()).hexdigest()[:12]}"


def build_report(contents: Contents, signer: Signer, subject: Descriptor | None = None) -> BuiltReport:
    """Sign a report and build its manifest; with `subject` it is a referrer of what the device has applied."""
    documents = ((STATUS_TYPE, contents.status), (EVENTS_TYPE, contents.events),
                 (CAPABILITIES_TYPE, contents.capabilities))  # fmt: skip
    blobs = [(_layer(data, kind, _TITLES[kind]), data) for kind, data in documents if data]
    payload = statement([layer for layer, _ in blobs])
    signed = bundle(payload, p256_only(signer).sign(pae(PAYLOAD_TYPE, payload)), hint=signer.public.hint)
    blobs.append((_layer(signed, BUNDLE_TYPE, "bundle.json"), signed))
    manifest = Manifest.build(ARTIFACT_TYPE, [layer for layer, _ in blobs], {DEVICE: contents.device}, subject)
    return BuiltReport(contents.device, manifest, blobs)


def statement(layers: Sequence[Descriptor]) -> bytes:
    """Return what a device signs: that these documents, and no others, are its report."""
    subjects = [
        {"name": one.annotations[TITLE], "digest": {"sha256": one.digest.removeprefix("sha256:")}} for one in layers
    ]
    return canonical_json(
        {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE, "predicate": {}, "subject": subjects}
    )


def parse_report(manifest: Manifest) -> Layers:
    """Return the layers of a report; others are passed over. Raises FormatError."""
    what = f"report {manifest.digest[:19]}"
    if manifest.artifact_type != ARTIFACT_TYPE:
        raise FormatError(f"{what}: {ARTIFACT_TYPE} is expected, got {manifest.artifact_type!r:.80}")
    status = _one(manifest, STATUS_TYPE, what)
    if status is None:
        raise FormatError(f"{what}: a layer {STATUS_TYPE} is expected")
    bundles = [one for one in manifest.layers if kind_of(one.media_type) == "sigstore-bundle"]
    if len(bundles) > 1:
        raise FormatError(f"{what}: one signature is expected, got {len(bundles)}")
    return Layers(
        status,
        _one(manifest, EVENTS_TYPE, what),
        _one(manifest, CAPABILITIES_TYPE, what),
        bundles[0] if bundles else None,
    )


def check_signed(layers: Layers, bundle_data: bytes, key: PublicKey) -> None:
    """Check that `key` signed just these layers as a report.

    Raises TrustError `malformed-signature`, `wrong-key`, `not-a-status` or `moved-signature`.
    """
    what = f"report {layers.status.digest[:19]}"
    try:
        envelope = parse_bundle(bundle_data, limit_bytes=SIGNATURE_LIMIT_BYTES)
        if not key.verifies(envelope.signature, envelope.signed):
            raise TrustError("wrong-key", f"{what}: signed, but not with {key.name} ({key.fingerprint})")
        said = parse_statement(envelope.payload)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{what}: {error}") from None
    if said.predicate_type != PREDICATE_TYPE:
        raise TrustError("not-a-status", f"{what}: {key.name} signed {said.predicate_type!r:.100}, which is no report")
    if said.digests != layers.signed:
        raise TrustError("moved-signature", f"{what}: its signature is for other documents")


def _layer(data: bytes, media_type: str, title: str) -> Descriptor:
    return Descriptor.of(data, media_type, {TITLE: title}, inline=len(data) <= INLINED_AT_MOST_BYTES)


def _one(manifest: Manifest, media_type: str, what: str) -> Descriptor | None:
    found = [one for one in manifest.layers if one.media_type == media_type]
    if len(found) > 1:
        raise FormatError(f"{what}: one layer {media_type} is expected, got {len(found)}")
    return found[0] if found else None
