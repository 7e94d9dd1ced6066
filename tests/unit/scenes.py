"""What unit tests begin with: documents, layers, states, keys and archives, made in one line."""

import functools
import io
import json
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from margo_oci.content import Descriptor
from margo_oci.deployment import Deployment, parse_deployment
from margo_oci.desired_state import DesiredState, Lock, build_layer, build_state
from margo_oci.errors import FormatError
from margo_oci.keys import FileKey, generate

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
ID = "a3e2f5dc-912e-494f-8395-52cf3769bc06"
OTHER_ID = "ad9b614e-8912-45f4-a523-372358765def"
DIGEST = "sha256:" + "1" * 64
OTHER_DIGEST = "sha256:" + "2" * 64
SCOPE = "plant-3/line-1/edge-17"
REPOSITORY = "oci://registry.example/components/hello"


def document(deployment_id: str = ID, **changes: Any) -> dict[str, Any]:
    """An ApplicationDeployment in the newer shape; `changes` replace what stands below `spec`."""
    return {
        "id": deployment_id,
        "metadata": {"name": "hello", "namespace": "plant-3"},
        "spec": {
            "applicationId": "com-example-hello",
            "deploymentProfile": {"type": "compose", "components": [component("web")]},
            **changes,
        },
    }


def component(name: str, **properties: Any) -> dict[str, Any]:
    """One component of the profile."""
    return {"name": name, "properties": {"repository": REPOSITORY, "revision": "1.0.0", **properties}}


def parameter(value: Any, pointer: str, *components: str) -> dict[str, Any]:
    """One parameter with one target."""
    return {"value": value, "targets": [{"pointer": pointer, "components": list(components or ("web",))}]}


def changed(data: bytes, path: Sequence[str | int], value: Any) -> bytes:
    """A JSON document with one value replaced, or taken out if it is `...`."""
    raw = json.loads(data)
    at = raw
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(raw).encode()


def as_yaml(value: Any) -> bytes:
    """Write a document."""
    return yaml.safe_dump(value, sort_keys=False).encode()


def deployment(deployment_id: str = ID, **changes: Any) -> Deployment:
    """A parsed deployment."""
    return parse_deployment(as_yaml(document(deployment_id, **changes)), what="hello.yaml")


def lock(image_digest: str = DIGEST) -> Lock:
    """What `deployment()` leads to."""
    return Lock({f"{REPOSITORY}:1.0.0": DIGEST}, {"registry.example/web:1": image_digest})


def layer(deployment_id: str = ID) -> Descriptor:
    """The descriptor of a locked layer."""
    return build_layer(deployment(deployment_id), lock()).descriptor


def state(counter: int = 7, scope: str = SCOPE, layers: Sequence[Descriptor] | None = None) -> DesiredState:
    """A desired state with one deployment."""
    return build_state([layer()] if layers is None else layers, counter=counter, scope=scope)


@functools.cache
def key(name: str = "fleet") -> FileKey:
    """A private key; the same name is the same key."""
    return FileKey.from_pem(generate(None)[0], None, name=name)


def gzip_of(data: bytes) -> bytes:
    """Compress as others do."""
    deflater = zlib.compressobj(wbits=31)
    return deflater.compress(data) + deflater.flush()


def tar_of(*members: tuple[tarfile.TarInfo, bytes], pax: Mapping[str, str] | None = None) -> bytes:
    """A tar of just these members, whatever they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=pax) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, data: bytes = b"x", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "",
           pax: Mapping[str, str] | None = None) -> tuple[tarfile.TarInfo, bytes]:  # fmt: skip
    """One member, and its content."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    info.pax_headers = dict(pax or {})
    return info, data


def hostile(*members: tuple[tarfile.TarInfo, bytes], pax: Mapping[str, str] | None = None) -> bytes:
    """The same, compressed: what `unpack` gets."""
    return gzip_of(tar_of(*members, pax=pax))


def ends_in_time(code: str, cpu_s: int = 3) -> bool:
    """Tell whether `code`, in a process of its own, ends before it has used so much of a processor."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({cpu_s}, {cpu_s}))\n"
    done = subprocess.run([sys.executable, "-c", limit + code], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr, done.stderr
    return done.returncode == 0


def read_or_refused(read: Callable[[], T], begins: str) -> T | None:
    """Return what was read, or None if it was refused in words that begin so. Any other exception goes through."""
    try:
        return read()
    except FormatError as error:
        words = str(error)
    assert words.startswith(begins)
    return None
