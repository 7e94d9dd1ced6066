"""Debian's Podman, privately, by its Docker API."""

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

import docker
import requests

from tests.parts.pid_namespace import CGROUP_VARIABLE, PODMAN_CGROUP
from tests.parts.private import PrivateEngine

HEALTH_EVERY_S = 1.0
CGROUPS = Path("/sys/fs/cgroup")

_CONTAINERS = """\
[containers]
default_ulimits = []
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
# crun refuses a machine with both versions of cgroups.
runtime = "runc"
tmp_dir = "{place}/tmp"
[network]
network_backend = "netavark"
network_config_dir = "{place}/networks"
"""
# As Docker does by itself: registries on this machine need no certificate that anyone knows.
_REGISTRIES = """\
[[registry]]
prefix = "127.0.0.1"
location = "127.0.0.1"
insecure = true
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{place}/data"
runroot = "{place}/run"
"""
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


def write_configuration(home: Path, place: str) -> None:
    """Write the settings of a Podman that keeps everything in `place`."""
    folder = home / ".config" / "containers"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(_POLICY)
    for name, text in {"containers": _CONTAINERS, "registries": _REGISTRIES, "storage": _STORAGE}.items():
        (folder / f"{name}.conf").write_text(text.format(place=place))


class PrivatePodman(PrivateEngine):
    """A Podman as root, with settings of its own. Its networks are made with the firewall: only within `isolated`."""

    program = "podman"

    def __enter__(self) -> Self:
        if CGROUP_VARIABLE not in os.environ:
            raise RuntimeError("a private Podman changes the firewall: start it within tests/parts/isolated")
        super().__enter__()
        self._ending = threading.Event()
        self._timer = threading.Thread(target=self._run_health_checks, daemon=True)
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._timer.join()
        super().__exit__(*error)

    def _prepare(self) -> None:
        write_configuration(self.root, str(self.root))

    def _environment(self) -> Mapping[str, str]:
        configuration = self.root / ".config" / "containers"
        return {
            "HOME": str(self.root),  # where its policy is looked for
            "CONTAINERS_CONF": str(configuration / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(configuration / "registries.conf"),
            "CONTAINERS_STORAGE_CONF": str(configuration / "storage.conf"),
            "DISABLE_HC_SYSTEMD": "true",
        }

    def _command(self) -> Sequence[str]:
        return ["podman", "system", "service", "--time=0", self.docker_host]

    def _clean(self) -> None:
        # Its storage stays mounted when it ends.
        storage = str(self._data / "overlay")
        subprocess.run(["umount", "--recursive", "--lazy", storage], capture_output=True, check=False)
        # Another Podman may use it at the same time: only what is empty for good.
        for name in (f"{PODMAN_CGROUP}/conmon", PODMAN_CGROUP):
            for cgroup in [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]:
                with suppress(OSError):
                    cgroup.rmdir()
        shutil.rmtree(self._data, ignore_errors=True)

    def _run_health_checks(self) -> None:
        """Do what timers of systemd do on a device: Podman leaves its health checks to them."""
        with closing(docker.DockerClient(base_url=self.docker_host, timeout=30)) as client:
            while not self._ending.wait(HEALTH_EVERY_S):
                with suppress(docker.errors.DockerException, requests.RequestException):
                    for container in client.api.containers():
                        client.api.get(
                            f"http+docker://localhost/v4.0.0/libpod/containers/{container['Id']}/healthcheck"
                        )
