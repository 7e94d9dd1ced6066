"""Application packages in a registry: pushed, and read back, checked."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from margo_oci.application import Description
from margo_oci.apppackage import AppArtifact, AppPackage, open_description, parse_package
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor
from margo_oci.errors import FormatError, NotFound, RegistryError
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import Judge, parse_manifest, pull_blob

if TYPE_CHECKING:
    from margo_oci.upload import Uploader


@dataclass(frozen=True)
class Opened:
    """A package as it lies in a registry. `reference` has its digest."""

    reference: Reference
    tag: str
    package: AppPackage
    description: Description

    @property
    def warning(self) -> str:
        """What is odd about it: a tag that is not its version (format 12.13)."""
        if self.tag in ("", self.description.version):
            return ""
        return f"tag {self.tag} is not its version {self.description.version}, as the standard wants it"


async def open_application(
    registry: Registry, reference: Reference, store: Store, judge: Judge | None = None
) -> Opened:
    """Fetch and check the description of a package; with `judge`, only if it is signed by whom that trusts.

    Raises FormatError, RegistryError, TrustError.
    """
    received = await registry.manifest(reference)
    assert received is not None  # noqa: S101  (nothing was known before)
    pinned = reference.at(received.digest)
    manifest = parse_manifest(received.data)
    if judge:
        await judge.signers(registry, pinned, manifest.descriptor)
    package = parse_package(manifest, what=str(reference))
    data = await _content(registry, pinned, package.description, store)
    description = open_description(package, data, what=str(reference))
    return Opened(pinned, reference.tag, package, description)


async def fetch_files(registry: Registry, opened: Opened, store: Store) -> Mapping[str, bytes]:
    """Fetch the other files of a package, by path. Raises RegistryError, TrustError for wrong content."""
    return {
        path: await _content(registry, opened.reference, layer, store) for path, layer in opened.package.files.items()
    }


async def push_application(
    registry: Registry, uploader: "Uploader", reference: Reference, artifact: AppArtifact
) -> tuple[int, str]:
    """Push a package under its tag; return how many blobs were sent, and what the tag named before ("": nothing)."""
    try:
        before = await registry.digest(reference)
    except NotFound:
        before = ""
    await asyncio.to_thread(uploader.blob, reference, EMPTY_CONFIG, EMPTY_JSON)
    layers = {layer.digest: layer for layer in artifact.manifest.layers}
    sent = [
        await asyncio.to_thread(uploader.blob, reference, layer, artifact.blobs[digest])
        for digest, layer in layers.items()
    ]
    if before != artifact.manifest.digest:
        await asyncio.to_thread(uploader.manifest, reference, artifact.manifest.data)
    return sum(sent), before


def at_version(reference: Reference, version: str) -> Reference:
    """Return where a version of an application is pushed. Raises FormatError if another tag is asked for."""
    if reference.digest or reference.tag not in ("", version):
        raise FormatError(
            f"{reference}: the tag is the version: {version} stands in metadata.version; "
            "leave the tag out, or make them equal"
        )
    return reference.at(version)


async def _content(registry: Registry, reference: Reference, layer: Descriptor, store: Store) -> bytes:
    data = store.read(layer)
    if data is None:
        await pull_blob(registry, reference, layer, store)
        data = store.read(layer)
    if data is None:
        raise RegistryError(f"{layer.digest}: its copy in the cache went bad and was dropped: run the command again")
    return data
