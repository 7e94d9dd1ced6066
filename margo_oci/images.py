"""Container images as a registry describes them: how many bytes a pull moves."""

from typing import Any

from margo_oci.content import is_digest, parse_json
from margo_oci.errors import FormatError, said
from margo_oci.manifest import DOCKER_LIST, IMAGE_INDEX, Manifest
from margo_oci.reference import Reference
from margo_oci.registry import Registry

# `uname -m` to what OCI image indexes say (image-spec v1.1, image-index.md, platform; Go's names)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}


async def image_bytes(registry: Registry, reference: Reference, *, machine: str) -> int:
    """Return the compressed size of an image for `machine` (`uname -m`). Raises FormatError, RegistryError."""
    received = await registry.manifest(reference)
    assert received is not None  # noqa: S101  (nothing was known before)
    if received.media_type in (IMAGE_INDEX, DOCKER_LIST):
        digest = _for_machine(parse_json(received.data, what=str(reference)), machine, str(reference))
        received = await registry.manifest(reference.at(digest))
        assert received is not None  # noqa: S101  (nothing was known before)
    manifest = Manifest.from_bytes(received.data, what=str(reference))
    return manifest.config.size + sum(layer.size for layer in manifest.layers)


def _for_machine(index: dict[str, Any], machine: str, what: str) -> str:
    wanted = ARCHITECTURES.get(machine, machine)
    manifests = index.get("manifests")
    for one in manifests if isinstance(manifests, list) else ():
        platform = one.get("platform") if isinstance(one, dict) else None
        if isinstance(platform, dict) and platform.get("os") == "linux" and platform.get("architecture") == wanted:
            if not is_digest(digest := str(one.get("digest"))):
                raise FormatError(f"{what}: the index names {said(digest)!r} for linux/{wanted}: sha256:… is expected")
            return digest
    raise FormatError(f"{what}: no image for linux/{wanted}")
