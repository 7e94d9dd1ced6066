"""Images of any size, made of layers that are the same each time, and pushed without an engine."""

import gzip
import hashlib
import http.client
import io
import json
import random
import ssl
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tests.parts.images import BUSYBOX
from tests.parts.registry import LocalRegistry

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Layer:
    """A layer as it is sent, and its digest unpacked."""

    data: bytes
    diff_id: str

    @classmethod
    def of(cls, **files: bytes) -> Self:
        """Pack files, `_` in their names for `/`."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name.replace("_", "/"))
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
        unpacked = buffer.getvalue()
        return cls(gzip.compress(unpacked, 1, mtime=0), digest(unpacked))

    @classmethod
    def base(cls) -> Self:
        """A shell."""
        return cls.of(bin_busybox=BUSYBOX.read_bytes())

    @classmethod
    def random(cls, size: int, seed: str) -> Self:
        """So many bytes that cannot be compressed."""
        source = random.Random(seed)  # noqa: S311
        data = b"".join(source.randbytes(min(2**20, size - at)) for at in range(0, size, 2**20))
        return cls.of(**{f"data_{digest(seed.encode())[7:]}": data})


def digest(data: bytes) -> str:
    """Return `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def push_image(registry: LocalRegistry, repository: str, tag: str, layers: Sequence[Layer]) -> str:
    """Push an image that sleeps until it is stopped; return its digest."""
    command = ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM INT; while :; do /bin/busybox sleep 1; done"]
    config = json.dumps({
        "os": "linux", "architecture": "amd64", "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }).encode()  # fmt: skip
    described = [_described(LAYER, layer.data) for layer in layers]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": _described(CONFIG, config), "layers": described}
    ).encode()
    for blob in (config, *(layer.data for layer in layers)):
        _ask(registry, "POST", f"/v2/{repository}/blobs/uploads/", blob=blob)
    _ask(registry, "PUT", f"/v2/{repository}/manifests/{tag}", body=manifest)
    return digest(manifest)


def _described(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def _ask(registry: LocalRegistry, method: str, path: str, *, body: bytes = b"", blob: bytes = b"") -> None:
    connection: http.client.HTTPConnection
    if registry.ca_file:
        context = ssl.create_default_context(cafile=registry.ca_file)
        connection = http.client.HTTPSConnection(registry.host, context=context, timeout=60)
    else:
        connection = http.client.HTTPConnection(registry.host, timeout=60)
    connection.request(method, path, body=body, headers={"Content-Type": MANIFEST} if body else {})
    answer = connection.getresponse()
    answer.read()
    if blob:
        place = str(answer.headers["Location"]).partition(registry.host)[2]
        connection.request("PUT", f"{place}&digest={digest(blob)}", body=blob)
        answer = connection.getresponse()
        answer.read()
    connection.close()
    if answer.status != http.client.CREATED:
        raise RuntimeError(f"{method} {path}: {answer.status}")
