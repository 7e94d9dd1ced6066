"""The same documents as an artifact that Flux's OCIRepository takes, and Argo CD with one setting (format section 15).

Source: fluxcd/pkg/oci, client/push.go and client/meta.go: media types, annotations, and how a revision is written.
"""

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeGuard

from margo_oci.archive import Entry, pack
from margo_oci.content import Descriptor, canonical_json, digest_of
from margo_oci.desired_state import Origin
from margo_oci.errors import FormatError, NotFound
from margo_oci.keys import Signer
from margo_oci.manifest import CREATED, IMAGE_MANIFEST, REVISION, SOURCE, Manifest
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.signing import DEFAULT_FORMS, Attacher, Forms

if TYPE_CHECKING:
    from margo_oci.upload import Uploader

CONFIG_TYPE = "application/vnd.cncf.flux.config.v1+json"
CONTENT_TYPE = "application/vnd.cncf.flux.content.v1.tar+gzip"
_NO_TIME = "0001-01-01T00:00:00Z"


@dataclass(frozen=True)
class FluxArtifact:
    """A manifest with its one layer and its configuration."""

    manifest: Manifest
    layer: bytes
    config: bytes


@dataclass(frozen=True)
class FluxRelease:
    """What was published for Flux, or is there already."""

    reference: Reference
    digest: str
    changed: bool


def build_flux(
    reference: Reference, documents: Mapping[str, bytes], origin: Origin, *, rev: str = "", created: str = ""
) -> FluxArtifact:
    """Pack documents by file name, for `reference`: the same input gives the same bytes (format 15.1 to 15.3).

    `rev` is what was asked for where the documents come from a commit, such as a branch.
    """
    layer = pack({name: Entry(name, data) for name, data in documents.items()})
    config = _config(digest_of(gzip.decompress(layer)))
    raw = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor.of(config, CONFIG_TYPE).to_dict(),
        "layers": [Descriptor.of(layer, CONTENT_TYPE).to_dict()],
        "annotations": dict(_annotations(reference, layer, origin, rev, created)),
    }
    return FluxArtifact(Manifest.from_bytes(canonical_json(raw), what="flux"), layer, config)


def _annotations(reference: Reference, layer: bytes, origin: Origin, rev: str, created: str) -> Mapping[str, str]:
    """Return where the content comes from: a commit as Flux writes it, else this repository (format 15.3)."""
    if origin.revision:
        kind = "sha1" if len(origin.revision) == 40 else "sha256"
        branch = f"{rev}@" if rev and rev != origin.revision else ""
        noted = {SOURCE: origin.source, REVISION: f"{branch}{kind}:{origin.revision}"}
    else:
        noted = {SOURCE: f"oci://{reference.name}", REVISION: f"{reference.tag}@{digest_of(layer)}"}
    return noted | ({CREATED: created} if created else {})


@dataclass(frozen=True)
class FluxPublisher:
    """Publishes for Flux, signed as states are."""

    registry: Registry
    uploader: "Uploader"
    signer: Signer
    now: Callable[[], datetime]
    forms: Forms = DEFAULT_FORMS

    async def publish(self, reference: Reference, artifact: FluxArtifact) -> FluxRelease:
        """Publish at a tag, unless it has this content and this key signed it (format 15.4).

        Nothing is signed that was not made here: what a registry has may say more than its layer. Raises FormatError
        if the tag holds something else, RegistryError.
        """
        attacher = Attacher(self.registry, self.uploader, self.now, self.forms)
        there, manifest = await current_flux(self.registry, reference), artifact.manifest
        if has_content(there, artifact) and await attacher.released_by(reference, there.descriptor, self.signer):
            await attacher.sign(reference, there.descriptor, self.signer)  # in the forms that it lacks
            return FluxRelease(reference, there.digest, changed=False)
        for blob, data in ((manifest.config, artifact.config), (manifest.layers[0], artifact.layer)):
            await asyncio.to_thread(self.uploader.send, reference, blob, data)
        await asyncio.to_thread(self.uploader.manifest, reference.at(manifest.digest), manifest.data)
        await attacher.sign(reference, manifest.descriptor, self.signer)
        await asyncio.to_thread(self.uploader.manifest, reference, manifest.data)  # last: nobody finds it unsigned
        return FluxRelease(reference, manifest.digest, changed=True)


def has_content(there: Manifest | None, artifact: FluxArtifact) -> TypeGuard[Manifest]:
    """Tell whether a tag has these documents already, whatever is said about them."""
    return there is not None and there.layers[0].digest == artifact.manifest.layers[0].digest


async def current_flux(registry: Registry, reference: Reference) -> Manifest | None:
    """Return what a tag has for Flux now; None if there is nothing. Raises FormatError if it is something else."""
    try:
        received = await registry.manifest(reference)
    except NotFound:
        return None
    assert received is not None  # noqa: S101  (nothing was known before)
    try:
        manifest = Manifest.from_bytes(received.data, what=str(reference))
    except FormatError as error:
        raise FormatError(f"{reference} holds something else, which is not overwritten: {error}") from None
    if manifest.config.media_type != CONFIG_TYPE or len(manifest.layers) != 1:
        raise FormatError(f"{reference} holds something else than an artifact for Flux: it is not overwritten")
    return manifest


def _config(diff_id: str) -> bytes:
    """Return the configuration that goes with one layer, as Flux's own tool writes it (and nobody reads)."""
    value = {
        "architecture": "",
        "created": _NO_TIME,
        "history": [{"created": _NO_TIME}],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "config": {},
    }
    return json.dumps(value, separators=(",", ":")).encode()
