"""Tiny images from Debian's static busybox, built and pushed without the internet."""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import docker

BUSYBOX = Path("/bin/busybox")
WEB_PORT = 80
_APPLETS = ("cat", "echo", "env", "httpd", "id", "ls", "mkdir", "sh", "sleep", "touch", "wget")
_ENTRYPOINT = "/entrypoint"

# Pid 1 has no default signal handlers: without the trap, every stop would take its whole grace period.
_SERVE = f"""\
#!/bin/sh
trap 'exit 0' TERM INT
echo "${{GREETING:-hello}}" >/www/index.html
httpd -f -p {WEB_PORT} -h /www &
wait
"""


@dataclass(frozen=True)
class Recipe:
    """What is in an image besides busybox: a script to start with, files by path, and a health check."""

    script: str
    files: Mapping[str, str] = field(default_factory=dict)
    healthcheck: str = ""


def web(*, version: str = "1", health: Literal["unchecked", "healthy", "unhealthy"] = "unchecked") -> Recipe:
    """Serve $GREETING (or "hello") as page on port 80, and /version. Another version is another image."""
    path = {"unchecked": "", "healthy": "/index.html", "unhealthy": "/missing"}[health]
    check = f"wget -q -O /dev/null http://127.0.0.1:{WEB_PORT}{path}" if path else ""
    return Recipe(_SERVE, {"/www/version": version + "\n"}, check)


def broken(*, version: str = "1", status: int = 3, after_s: float = 0) -> Recipe:
    """Start, and exit with that status."""
    return Recipe(f"#!/bin/sh\nsleep {after_s}\nexit {status}\n", {"/version": version + "\n"})


def build_and_push(
    docker_host: str,
    registry_host: str,
    repository: str,
    tag: str,
    recipe: Recipe,
    *,
    login: tuple[str, str] | None = None,
) -> str:
    """Build an image, push it, forget it locally; return the digest of its manifest."""
    name = f"{registry_host}/{repository}"
    with closing(docker.APIClient(base_url=docker_host, timeout=60)) as engine:
        context = io.BytesIO(_context(recipe))
        _finish(engine.build(fileobj=context, custom_context=True, tag=f"{name}:{tag}", rm=True, decode=True))
        credentials = {"username": login[0], "password": login[1]} if login else None
        steps = _finish(engine.push(name, tag, stream=True, decode=True, auth_config=credentials))
        engine.remove_image(f"{name}:{tag}", force=True)
    # Not RepoDigests: Podman compresses as it pushes, and keeps the digest of what it had before.
    told = (re.search(r"digest: (sha256:[0-9a-f]{64})", step.get("status", "")) for step in steps)
    return next(match[1] for match in told if match)


@dataclass(frozen=True)
class Images:
    """Builds with one engine for one registry."""

    docker_host: str
    registry_host: str
    login: tuple[str, str] | None = None

    def push(self, repository: str, tag: str, recipe: Recipe) -> str:
        """Build and push an image; return its reference by digest."""
        digest = build_and_push(self.docker_host, self.registry_host, repository, tag, recipe, login=self.login)
        return f"{self.registry_host}/{repository}@{digest}"


def _finish(steps: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Read the engine's progress to its end. Raises RuntimeError with what the engine complains about."""
    seen = []
    for step in steps:
        if "error" in step:
            raise RuntimeError(f"the engine reports: {step['error']}")
        seen.append(step)
    return seen


def _context(recipe: Recipe) -> bytes:
    """Return a build context: a Dockerfile, and the root file system in one archive."""
    lines = ["FROM scratch", "ADD root.tar /", "ENV PATH=/bin", f"ENTRYPOINT {json.dumps([_ENTRYPOINT])}"]
    if recipe.healthcheck:
        lines.append(f"HEALTHCHECK --interval=1s --timeout=2s --retries=2 CMD {recipe.healthcheck}")
    files = {"Dockerfile": "\n".join(lines).encode(), "root.tar": _root(recipe)}
    return _archive(files, mode=0o644, links={})


def _root(recipe: Recipe) -> bytes:
    files = {_ENTRYPOINT: recipe.script.encode(), "/bin/busybox": BUSYBOX.read_bytes()}
    files |= {path: content.encode() for path, content in recipe.files.items()}
    links = {f"/bin/{applet}": "busybox" for applet in _APPLETS}
    return _archive(files, mode=0o755, links=links)


def _archive(files: Mapping[str, bytes], *, mode: int, links: Mapping[str, str]) -> bytes:
    """Return a tar archive, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        for path, target in links.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()
