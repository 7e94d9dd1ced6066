"""Container images as a registry describes them: which platform's, and what they are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.content import MANIFEST_LIMIT_BYTES, Descriptor, is_digest, parse_json
from margo_oci.errors import FormatError, said
from margo_oci.manifest import DOCKER_LIST, DOCKER_MANIFEST, IMAGE_INDEX, IMAGE_MANIFEST, Manifest
from margo_oci.platforms import Platform, worded_platforms
from margo_oci.reference import Reference
from margo_oci.registry import Received, Registry

INDEX_COUNT_LIMIT = 256
LAYER_LIMIT_BYTES = 32 * 2**30  # one layer; what fits on the disk is summed before
IMAGE_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_LAYERS = {f"{kind}{suffix}" for kind, suffixes in {
    _OCI_LAYER: ("", "+gzip", "+zstd"), _DOCKER_LAYER: ("", ".gzip", ".zstd"),
}.items() for suffix in suffixes}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Image:
    """One platform's image, as it was read; its layers are still to come. `diff_ids` name them unpacked."""

    reference: Reference
    manifest: Descriptor
    manifest_data: bytes
    config: Descriptor
    config_data: bytes
    layers: Sequence[Descriptor]
    diff_ids: Sequence[str]

    @property
    def is_zstd(self) -> bool:
        """Whether an engine must know zstd to unpack it."""
        return any(layer.media_type.endswith("zstd") for layer in self.layers)


async def read_image(registry: Registry, reference: Reference, platform: Platform) -> Image:
    """Return what the image at `reference` is made of on `platform`, checked by digest (image-spec v1.1).

    Raises FormatError if it has nothing for the platform or breaks a rule, RegistryError, TrustError.
    """
    what = str(reference)
    received = await _received(registry, reference)
    if index := _index(received.data, what):
        digest = _for_platform(index, platform, what)
        received = await _received(registry, reference.at(digest))
    manifest = Manifest.from_bytes(received.data, what=what)
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in _LAYERS:
            raise FormatError(f"{what}: layers[{number}].mediaType: {said(layer.media_type)} is no layer of an image")
    data = await registry.small_blob(reference, manifest.config, limit_bytes=MANIFEST_LIMIT_BYTES)
    return Image(
        reference=reference,
        manifest=Descriptor.of(received.data, media_type_of(received)),
        manifest_data=received.data,
        config=manifest.config,
        config_data=data,
        layers=manifest.layers,
        diff_ids=_diff_ids(parse_json(data, what=f"{what}: config"), len(manifest.layers), platform, what),
    )


async def platforms_of(registry: Registry, reference: Reference) -> Sequence[Any]:
    """Return for which platforms an image is, as its index or its configuration says (image-spec v1.1).

    Raises FormatError, RegistryError, TrustError.
    """
    received = await _received(registry, reference)
    listed = index_entries(received.data, str(reference))
    if listed is not None:
        return [one.get("platform") for one in listed]
    manifest = Manifest.from_bytes(received.data, what=str(reference))
    data = await registry.small_blob(reference, manifest.config, limit_bytes=MANIFEST_LIMIT_BYTES)
    return [parse_json(data, what=f"{reference}: config")]


def index_entries(data: bytes, what: str) -> Sequence[Mapping[str, Any]] | None:
    """Return what an image index lists; None if `data` is no index. Raises FormatError."""
    index = _index(data, what)
    if index is None:
        return None
    listed = index["manifests"]
    if not isinstance(listed, list) or len(listed) > INDEX_COUNT_LIMIT:
        raise FormatError(f"{what}: a list of at most {INDEX_COUNT_LIMIT} manifests is expected")
    return [one for one in listed if isinstance(one, dict)]


async def _received(registry: Registry, reference: Reference) -> Received:
    received = await registry.manifest(reference)
    assert received is not None  # noqa: S101  (nothing was known before)
    return received


def _index(data: bytes, what: str) -> Mapping[str, Any] | None:
    """Return the index in `data`, if it is one; by its content: what the registry calls it is not signed.

    Raises FormatError for what can be read in two ways (image-spec v1.1, image-index.md and manifest.md).
    """
    raw = parse_json(data, what=what)
    if "manifests" not in raw:
        return None
    if "layers" in raw or "config" in raw or raw.get("mediaType", IMAGE_INDEX) not in (IMAGE_INDEX, DOCKER_LIST):
        raise FormatError(f"{what}: it can be read as an index and as a manifest")
    return raw


def media_type_of(received: Received, known: Sequence[str] = (IMAGE_MANIFEST, DOCKER_MANIFEST)) -> str:
    """Return what a manifest says it is, or else the registry: one of `known`, the first if neither says one."""
    said_type = parse_json(received.data, what="manifest").get("mediaType", received.media_type)
    return said_type if said_type in known else known[0]


def _for_platform(index: Mapping[str, Any], platform: Platform, what: str) -> str:
    manifests = index.get("manifests")
    listed = manifests if isinstance(manifests, list) else []
    if len(listed) > INDEX_COUNT_LIMIT:
        raise FormatError(f"{what}: {len(listed)} entries, at most {INDEX_COUNT_LIMIT} are read")
    entries = [one for one in listed if isinstance(one, dict)]
    ranks = [(rank, one) for one in entries if (rank := platform.rank(one.get("platform"))) is not None]
    if not ranks:
        raise FormatError(f"{what}: no image for {platform}")
    best = max(ranks, key=lambda found: found[0])[1]
    if not is_digest(digest := str(best.get("digest"))):
        raise FormatError(f"{what}: the index names {said(digest)!r} for {platform}: sha256:… is expected")
    return digest


def _diff_ids(config: Mapping[str, Any], count: int, platform: Platform, what: str) -> Sequence[str]:
    if platform.rank(config) is None:
        raise FormatError(f"{what}: it is for {worded_platforms([config])}, this device is {platform}")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != count or not all(is_digest(one) for one in diff_ids):
        raise FormatError(f"{what}: config: rootfs.diff_ids: the digests of {count} layers are expected")
    return tuple(diff_ids)
