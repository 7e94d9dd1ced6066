"""A container engine: a private one that leaves nothing behind, or one that is already there (MARGO_ENGINE)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

from tests.parts.dockerd import PrivateDocker
from tests.parts.podman import PrivatePodman
from tests.parts.private import PrivateEngine, answers, remove_all

DEPLOYMENT_LABEL = "org.margo.deployment"
PRIVATE = "private"
_PRIVATE: Mapping[str, type[PrivateEngine]] = {"docker": PrivateDocker, "podman": PrivatePodman}


class Engine(Protocol):
    """What tests need to know of an engine."""

    @property
    def docker_host(self) -> str:
        """The address, as DOCKER_HOST wants it."""

    @property
    def docker_config(self) -> Path:
        """A directory for DOCKER_CONFIG, without anyone's credentials."""


class ExistingEngine:
    """An engine of the host. Only what carries the deployment label is ours to remove."""

    def __init__(self, docker_host: str, root: Path) -> None:
        self.docker_host = docker_host
        self.docker_config = root / "config"

    def __enter__(self) -> Self:
        self.docker_config.mkdir(parents=True, exist_ok=True)
        if not answers(self.docker_host):
            raise RuntimeError(f"no engine answers at {self.docker_host}; see MARGO_ENGINE")
        return self

    def __exit__(self, *_: object) -> None:
        remove_all(self.docker_host, {"label": DEPLOYMENT_LABEL})


def engine_names(environment: Mapping[str, str]) -> Sequence[str]:
    """Return the engines that tests run on: those of our own in MARGO_ENGINES (all), or the host's (MARGO_ENGINE)."""
    if environment.get("MARGO_ENGINE", PRIVATE) != PRIVATE:
        return ["host"]
    names = environment.get("MARGO_ENGINES", ",".join(_PRIVATE)).split(",")
    if unknown := set(names) - set(_PRIVATE):
        raise RuntimeError(f"MARGO_ENGINES has {', '.join(sorted(unknown))}; it can have {', '.join(_PRIVATE)}")
    return names


@contextmanager
def chosen_engine(root: Path, private: str = "docker") -> Iterator[Engine]:
    """Yield the engine that MARGO_ENGINE names: private (default), docker, podman, unix://… or tcp://…

    `private` says which engine of our own that is: docker or podman.
    """
    choice = os.environ.get("MARGO_ENGINE", PRIVATE)
    if choice != PRIVATE:
        with ExistingEngine(_address(choice, os.environ), root) as existing:
            yield existing
    elif os.geteuid() != 0:
        raise RuntimeError("a private engine needs root: become root, or set MARGO_ENGINE to docker or podman")
    else:
        with _PRIVATE[private](root) as engine:
            yield engine


def _address(choice: str, environment: Mapping[str, str]) -> str:
    if choice.startswith(("unix://", "tcp://")):
        return choice
    if choice == "docker":
        return environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if choice == "podman":
        return _podman_address(environment)
    raise RuntimeError(f"MARGO_ENGINE is {choice!r}; it can be private, docker, podman, unix://… or tcp://…")


def _podman_address(environment: Mapping[str, str]) -> str:
    runtime = environment.get("XDG_RUNTIME_DIR")
    places = [Path(runtime)] if runtime else []
    for place in (*places, Path("/run")):
        socket = place / "podman" / "podman.sock"
        if socket.exists():
            return f"unix://{socket}"
    raise RuntimeError("podman has no socket; start one with: systemctl --user start podman.socket")
