"""The archive that the engine is handed."""

import io
import json
import tarfile
from collections.abc import Iterator

from margo_agent.loading import archive
from margo_oci.content import Descriptor, digest_of
from margo_oci.images import Image
from margo_oci.manifest import IMAGE_MANIFEST
from margo_oci.reference import parse_image

LAYERS = {digest_of(data): data for data in (b"base", b"top" * 300)}
NAME = "registry.example/web:sha256-1"


def image() -> Image:
    layers = [Descriptor.of(data, "application/vnd.oci.image.layer.v1.tar") for data in LAYERS.values()]
    return Image(
        reference=parse_image("registry.example/web:1"), manifest=Descriptor.of(b"{m}", IMAGE_MANIFEST),
        manifest_data=b"{m}", config=Descriptor.of(b"{c}", "application/vnd.oci.image.config.v1+json"),
        config_data=b"{c}", layers=layers, diff_ids=tuple(LAYERS),
    )  # fmt: skip


def pieces(layer: Descriptor) -> Iterator[bytes]:
    yield LAYERS[layer.digest]


def test_both_kinds_of_archives_are_in_it_over_the_same_blobs() -> None:
    data = b"".join(archive(image(), NAME, image().layers, pieces))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]
    (docker,) = json.loads(files["manifest.json"])
    (oci,) = json.loads(files["index.json"])["manifests"]
    assert docker["RepoTags"] == [NAME] == [oci["annotations"]["io.containerd.image.name"]]
    assert [files[layer] for layer in docker["Layers"]] == list(LAYERS.values())
    assert files[docker["Config"]] == b"{c}"
    assert files[f"blobs/{oci['digest'].replace(':', '/')}"] == b"{m}"
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_what_the_engine_has_is_named_and_left_out() -> None:
    data = b"".join(archive(image(), NAME, image().layers[1:], pieces))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
    base, top = (f"blobs/{digest.replace(':', '/')}" for digest in LAYERS)
    assert top in names
    assert base not in names
