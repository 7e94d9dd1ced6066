"""Where the container engine is. The loop asks too, so nothing heavy is imported here."""

import os
from collections.abc import Mapping
from pathlib import Path

from margo_agent.interrupted import Interrupted
from margo_oci.errors import worded


class EngineUnavailable(Interrupted):
    """The engine does not answer: nothing can be done now, and the workload is not to blame."""

    code = "engine"


def find_engine(configured: str, environment: Mapping[str, str]) -> str:
    """Return the engine's address: configured, DOCKER_HOST, or the first socket that is there."""
    if configured or environment.get("DOCKER_HOST"):
        return configured or environment["DOCKER_HOST"]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    sockets = [Path("/var/run/docker.sock"), Path("/run/podman/podman.sock")]
    sockets += [Path(runtime) / "docker.sock", Path(runtime) / "podman" / "podman.sock"] if runtime else []
    for socket in sockets:
        if os.access(socket, os.R_OK | os.W_OK):
            return f"unix://{socket}"
    raise EngineUnavailable(
        worded(
            "looking for one",
            "engine",
            "missing",
            "neither a Docker nor a Podman socket is there that may be used",
            "start one, name its socket with `engine` or DOCKER_HOST, or run as a user who may use it",
        )
    )
