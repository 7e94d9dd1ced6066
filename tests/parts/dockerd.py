"""Debian's dockerd, privately."""

import shutil
from collections.abc import Mapping, Sequence

from tests.parts.pid_namespace import remove_cgroups
from tests.parts.private import PrivateEngine


class PrivateDocker(PrivateEngine):
    """A dockerd that leaves the host's firewall, bridges and containerd alone."""

    program = "dockerd"

    def _prepare(self) -> None:
        (self.root / "daemon.json").write_text("{}")

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _command(self) -> Sequence[str]:
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

    def _clean(self) -> None:
        remove_cgroups(self._cgroup)
        shutil.rmtree(self._data)
