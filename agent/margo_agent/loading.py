"""An image on its way into the engine: the archive that it is handed, and what the engine says about it.

The archive is one that `docker save` writes since Docker 25: a docker-archive and an OCI layout over the same blobs.
So each engine finds in it what it reads best, and names the image as we do. No I/O here but what is handed in.
"""

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from margo_oci.content import Descriptor, canonical_json
from margo_oci.images import Image
from margo_oci.manifest import IMAGE_INDEX

Pieces = Callable[[Descriptor], Iterator[bytes]]
_LAYOUT = canonical_json({"imageLayoutVersion": "1.0.0"})


def archive(image: Image, name: str, layers: Sequence[Descriptor], pieces: Pieces) -> Iterator[bytes]:
    """Yield the tar that loads `image` under `name`, with those `layers` in it that the engine does not have yet."""
    yield from _file("oci-layout", _LAYOUT)
    yield from _file("index.json", canonical_json(_index(image, name)))
    yield from _file("manifest.json", canonical_json([_docker_manifest(image, name)]))
    yield from _file(_path(image.manifest), image.manifest_data)
    yield from _file(_path(image.config), image.config_data)
    for layer in {layer.digest: layer for layer in layers}.values():
        yield _header(_path(layer), layer.size)
        yield from pieces(layer)
        yield _padding(layer.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _index(image: Image, name: str) -> Mapping[str, Any]:
    tag = name.rpartition(":")[2]
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
    manifest = {**image.manifest.to_dict(), "annotations": annotations}
    return {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [manifest]}


def _docker_manifest(image: Image, name: str) -> Mapping[str, Any]:
    return {"Config": _path(image.config), "RepoTags": [name], "Layers": [_path(layer) for layer in image.layers]}


def _path(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.replace(':', '/')}"


def _file(path: str, data: bytes) -> Iterator[bytes]:
    yield _header(path, len(data)) + data + _padding(len(data))


def _header(path: str, size: int) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)  # a layer may have more than 8 GiB


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
