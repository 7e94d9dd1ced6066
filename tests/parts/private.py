"""An engine of our own: started for the tests, with data, sockets and containers of its own, gone afterwards."""

import os
import secrets
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import docker
import requests
from docker.models.networks import Network

from tests.parts import child
from tests.parts.pid_namespace import CGROUP_PREFIX, CGROUP_VARIABLE

START_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
_BUILT_IN = ("bridge", "host", "none", "podman")  # Podman has no filter for these
_UNFINISHED = (docker.errors.DockerException, requests.RequestException)


class PrivateEngine(ABC):
    """A daemon that speaks the Docker API for as long as the `with` block lasts; needs root, best within `isolated`."""

    program: str

    def __init__(self, root: Path) -> None:
        self.root = root
        self._socket = root / f"{self.program}.sock"
        self.docker_host = f"unix://{self._socket}"
        self.docker_config = root / "config"
        self._data = root / "data"
        self._log = root / f"{self.program}.log"
        self._cgroup = os.environ.get(CGROUP_VARIABLE) or CGROUP_PREFIX + secrets.token_hex(4)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.docker_config.mkdir(parents=True, exist_ok=True)
        self._prepare()
        self._process = child.start(
            self._command(),
            stdout=self._log,
            stderr=self._log,
            environment={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **self._environment()},
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
            remove_all(self.docker_host, {})
        finally:
            self._stop(self._process)

    @abstractmethod
    def _prepare(self) -> None:
        """Write the configuration."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """How it is started."""

    @abstractmethod
    def _environment(self) -> Mapping[str, str]:
        """What it needs beside our own environment."""

    @abstractmethod
    def _clean(self) -> None:
        """Remove what a daemon that ended leaves behind."""

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        # Without the check, the docker SDK would leave a socket open for every attempt.
        while not (self._socket.exists() and answers(self.docker_host)):
            if process.poll() is not None or time.monotonic() > deadline:
                log = child.last_lines(self._log)
                raise RuntimeError(f"{self.program} did not come up; the end of its log:\n{log}")
            time.sleep(0.05)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        child.stop(process, within_s=STOP_LIMIT_S)
        self._clean()


def answers(docker_host: str) -> bool:
    """Tell whether an engine is there."""
    try:
        with closing(docker.DockerClient(base_url=docker_host, timeout=5)) as client:
            return bool(client.ping())
    except _UNFINISHED:
        return False


def remove_all(docker_host: str, filters: Mapping[str, str]) -> None:
    """Remove containers, then networks. The three that every engine has are not removable."""
    with closing(docker.DockerClient(base_url=docker_host, timeout=30)) as client:
        for container in client.containers.list(all=True, filters=dict(filters)):
            container.remove(force=True, v=True)
        for network in client.networks.list(filters=dict(filters)):
            if network.name not in _BUILT_IN:
                _remove(network)


def _remove(network: Network) -> None:
    """Remove a network; an engine under load may take a moment to let go of its last container."""
    for _ in range(10):
        with suppress(docker.errors.APIError):
            network.remove()
            return
        time.sleep(0.5)
    network.remove()
