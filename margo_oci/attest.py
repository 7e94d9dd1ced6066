"""Attaching documents to what a registry has: as they are, or signed as attestations. Neither is ever a release."""

from collections.abc import Sequence
from dataclasses import dataclass

from margo_oci.attestation import BUNDLE_LIMIT_BYTES, DocumentType, attestation, check_document
from margo_oci.content import Descriptor
from margo_oci.cosign import PAYLOAD_TYPE, PREDICATE_TYPE, bundle, pae, parse_bundle, signature_manifest
from margo_oci.errors import FormatError, NotFound, TrustError
from margo_oci.keys import Signer, p256_only
from margo_oci.manifest import CREATED, TITLE, Manifest, kind_of
from margo_oci.reference import Reference
from margo_oci.signing import Attacher, timestamp
from margo_oci.transfer import referrers

SAME_LOOKED_AT = 32


@dataclass(frozen=True)
class Document:
    """A file that is to be attached; `title` is its name."""

    kind: DocumentType
    data: bytes
    title: str


@dataclass(frozen=True)
class Attachment:
    """What carries a document now, and whether that is new; `predicate_type` is "" if it is not signed."""

    digest: str
    made: bool
    predicate_type: str = ""


async def attach(attacher: Attacher, reference: Reference, subject: Descriptor, document: Document) -> Attachment:
    """Attach a document as it is, unless it is there. Raises FormatError, RegistryError."""
    check_document(document.kind, document.data, what=document.title)
    layer = Descriptor.of(document.data, document.kind.media_type, {TITLE: document.title})
    for manifest in await _like(attacher, reference, subject, document.kind.media_type):
        if [one.digest for one in manifest.layers] == [layer.digest]:
            return Attachment(manifest.digest, made=False)
    annotations = {CREATED: timestamp(attacher.now())}
    carrier = Manifest.build(document.kind.media_type, [layer], annotations, subject)
    await attacher.carry(reference, carrier, document.data)
    return Attachment(carrier.digest, made=True)


async def attest(
    attacher: Attacher, reference: Reference, subject: Descriptor, document: Document, signer: Signer
) -> Attachment:
    """Attach a document as what `signer` says of `subject`, unless this signer said just that already.

    Made is a Sigstore bundle, as by `cosign attest --key` (v3). Raises FormatError, RegistryError.
    """
    predicate_type, statement = attestation(
        document.kind, document.data, subject.digest, name=reference.name, what=document.title
    )
    p256_only(signer)
    for manifest in await _like(attacher, reference, subject, "sigstore-bundle"):
        said = manifest.annotations.get(PREDICATE_TYPE) == predicate_type
        if said and await _says(attacher, reference, manifest, statement, signer):
            return Attachment(manifest.digest, made=False, predicate_type=predicate_type)
    data = bundle(statement, signer.sign(pae(PAYLOAD_TYPE, statement)), hint=signer.public.hint)
    created = timestamp(attacher.now())
    carrier = signature_manifest(data, subject, created=created, predicate_type=predicate_type)
    await attacher.carry(reference, carrier, data)
    return Attachment(carrier.digest, made=True, predicate_type=predicate_type)


async def _like(attacher: Attacher, reference: Reference, subject: Descriptor, what: str) -> Sequence[Manifest]:
    """Return what refers to a subject and is of a type or a kind, as far as it can be read."""
    listed = await referrers(attacher.registry, reference, subject.digest)
    alike = [one for one in listed if what in (one.artifact_type, kind_of(one.artifact_type))]
    found: list[Manifest] = []
    for one in alike[:SAME_LOOKED_AT]:
        try:
            received = await attacher.registry.manifest(reference.at(one.digest))
            assert received is not None  # noqa: S101  (nothing was known before)
            found.append(Manifest.from_bytes(received.data, what=f"manifest {one.digest[:19]}"))
        except (FormatError, TrustError, NotFound):
            continue  # an unusable one does not stop ours
    return found


async def _says(attacher: Attacher, reference: Reference, manifest: Manifest, statement: bytes, signer: Signer) -> bool:
    """Tell whether a bundle has this very document and subject, signed by this signer."""
    try:
        [layer] = manifest.layers
        data = await attacher.registry.small_blob(reference, layer, limit_bytes=BUNDLE_LIMIT_BYTES)
        envelope = parse_bundle(data, limit_bytes=BUNDLE_LIMIT_BYTES)
    except (ValueError, FormatError, TrustError, NotFound):
        return False
    return envelope.payload == statement and signer.public.verifies(envelope.signature, envelope.signed)
