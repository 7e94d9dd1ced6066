"""A container engine: a private one that leaves nothing behind, or one that is already there (MARGO_ENGINE)."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, Self

import docker
import requests

from tests.parts import child
from tests.parts.pid_namespace import CGROUP_PREFIX, CGROUP_VARIABLE, remove_cgroups

DEPLOYMENT_LABEL = "org.margo.deployment"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
_BUILT_IN = ("bridge", "host", "none", "podman")  # Podman has no filter for these
_UNFINISHED = (docker.errors.DockerException, requests.RequestException)


class Engine(Protocol):
    """What tests need to know of an engine."""

    @property
    def docker_host(self) -> str:
        """The address, as DOCKER_HOST wants it."""

    @property
    def docker_config(self) -> Path:
        """A directory for DOCKER_CONFIG, without anyone's credentials."""


class PrivateEngine:
    """Debian's dockerd with data, sockets and containers of its own; needs root, best within `isolated`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._socket = root / "docker.sock"
        self.docker_host = f"unix://{self._socket}"
        self.docker_config = root / "config"
        self._data = root / "data"
        self._log = root / "dockerd.log"
        self._cgroup = os.environ.get(CGROUP_VARIABLE) or CGROUP_PREFIX + secrets.token_hex(4)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.docker_config.mkdir(parents=True, exist_ok=True)
        (self.root / "daemon.json").write_text("{}")
        self._process = child.start(
            self._command(),
            stdout=self._log,
            stderr=self._log,
            environment={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self._stop(self._process)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._process:
            return
        try:
            _remove_all(self.docker_host, {})
        finally:
            self._stop(self._process)

    def _command(self) -> list[str]:
        return [
            "dockerd",
            f"--config-file={self.root / 'daemon.json'}",
            f"--host={self.docker_host}",
            f"--data-root={self._data}",
            f"--exec-root={self.root / 'exec'}",
            f"--pidfile={self.root / 'dockerd.pid'}",
            # The host's firewall, bridges and forwarding stay as they are. Published ports work by proxy.
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            # systemd knows nothing of processes in another pid namespace.
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self._cgroup}",
            # If the host's containerd is used, then apart from its other users.
            f"--containerd-namespace={self._cgroup}",
            f"--containerd-plugins-namespace={self._cgroup}-plugins",
            "--shutdown-timeout=2",
        ]

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        # Without the check, the docker SDK would leave a socket open for every attempt.
        while not (self._socket.exists() and _answers(self.docker_host)):
            if process.poll() is not None or time.monotonic() > deadline:
                log = child.last_lines(self._log)
                raise RuntimeError(f"dockerd did not come up; the end of its log:\n{log}")
            time.sleep(0.05)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        child.stop(process, within_s=STOP_LIMIT_S)
        remove_cgroups(self._cgroup)
        shutil.rmtree(self._data)


class ExistingEngine:
    """An engine of the host. Only what carries the deployment label is ours to remove."""

    def __init__(self, docker_host: str, root: Path) -> None:
        self.docker_host = docker_host
        self.docker_config = root / "config"

    def __enter__(self) -> Self:
        self.docker_config.mkdir(parents=True, exist_ok=True)
        if not _answers(self.docker_host):
            raise RuntimeError(f"no engine answers at {self.docker_host}; see MARGO_ENGINE")
        return self

    def __exit__(self, *_: object) -> None:
        _remove_all(self.docker_host, {"label": DEPLOYMENT_LABEL})


@contextmanager
def chosen_engine(root: Path) -> Iterator[Engine]:
    """Yield the engine that MARGO_ENGINE names: private (default), docker, podman, unix://… or tcp://…"""
    choice = os.environ.get("MARGO_ENGINE", "private")
    if choice != "private":
        with ExistingEngine(_address(choice, os.environ), root) as existing:
            yield existing
    elif os.geteuid() != 0:
        raise RuntimeError("a private engine needs root: become root, or set MARGO_ENGINE to docker or podman")
    else:
        with PrivateEngine(root) as private:
            yield private


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


def _answers(docker_host: str) -> bool:
    try:
        with closing(docker.DockerClient(base_url=docker_host, timeout=5)) as client:
            return bool(client.ping())
    except _UNFINISHED:
        return False


def _remove_all(docker_host: str, filters: Mapping[str, str]) -> None:
    """Remove containers, then networks. The three that every engine has are not removable."""
    with closing(docker.DockerClient(base_url=docker_host, timeout=30)) as client:
        for container in client.containers.list(all=True, filters=dict(filters)):
            container.remove(force=True, v=True)
        for network in client.networks.list(filters=dict(filters)):
            if network.name not in _BUILT_IN:
                network.remove()
