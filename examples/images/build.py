"""Builds the example images from Debian's static busybox and pushes them, without the internet.

    python examples/images/build.py 127.0.0.1:5000

The engine is the one of DOCKER_HOST.
"""

import io
import sys
import tarfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import docker

BUSYBOX = Path("/bin/busybox")
FOLDER = Path(__file__).parent
VERSION = "1.0"


def build_and_push(engine: docker.APIClient, folder: Path, repository: str) -> str:
    """Build the Dockerfile in `folder`, push it as `repository`:1.0, forget it here; return its digest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as context:
        context.add(folder, arcname=".")
        context.add(BUSYBOX, arcname="busybox")
    buffer.seek(0)
    name = f"{repository}:{VERSION}"
    finished(engine.build(fileobj=buffer, custom_context=True, tag=name, rm=True, decode=True))
    finished(engine.push(repository, VERSION, stream=True, decode=True))
    known: list[str] = engine.inspect_image(name)["RepoDigests"]  # type: ignore[no-untyped-call]
    engine.remove_image(name, force=True)
    return next(one.partition("@")[2] for one in known if one.startswith(f"{repository}@"))


def finished(progress: Iterable[dict[str, Any]]) -> None:
    """Read an engine's progress to its end. Raises RuntimeError with what it complains about."""
    for line in progress:
        if "error" in line:
            raise RuntimeError(line["error"])


def build_all(registry_host: str, docker_host: str | None = None) -> dict[str, str]:
    """Build and push every example image; return reference to digest."""
    with closing(docker.APIClient(base_url=docker_host) if docker_host else docker.from_env().api) as engine:
        folders = sorted(path.parent for path in FOLDER.glob("*/Dockerfile"))
        return {
            f"{registry_host}/images/{folder.name}:{VERSION}": build_and_push(
                engine, folder, f"{registry_host}/images/{folder.name}"
            )
            for folder in folders
        }


if __name__ == "__main__":
    for reference, digest in build_all(sys.argv[1]).items():
        print(reference, digest)
