"""Debian's Podman as somebody who is not root, privately, by its Docker API."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.parts.podman import write_configuration
from tests.parts.private import PrivateEngine

USER_ID = 61001
_NEEDED = ("podman", "newuidmap", "slirp4netns")
# Podman hides /run from its containers' network, all but the runtime directory: its data has to be elsewhere.
_START = """
mount -t tmpfs -o mode=755 margo-parts /srv
mkdir /srv/etc /srv/work /srv/dev
mount -t overlay -o lowerdir=/etc,upperdir=/srv/etc,workdir=/srv/work overlay /etc
echo "margo:x:$2:$2::/srv/home:/bin/sh" >> /etc/passwd
echo "margo:x:$2:" >> /etc/group
echo "margo:200000:65536" > /etc/subuid
echo "margo:200000:65536" > /etc/subgid
mknod -m 666 /srv/dev/tun c 10 200
if [ -e /dev/net/tun ]; then mount --bind /srv/dev/tun /dev/net/tun; fi
cp -r "$1" /srv/home
chown -R "$2:$2" /srv/home
cd /srv/home
exec setpriv --reuid="$2" --regid="$2" --init-groups --inh-caps=-all --pdeathsig TERM -- \
  podman system service --time=0 "$3"
"""


def rootless_problem() -> str:
    """Return why there cannot be a Podman without root here; empty if there can."""
    if missing := [name for name in _NEEDED if not shutil.which(name)]:
        return f"{', '.join(missing)} missing: tests/parts/install"
    done = subprocess.run([*as_user(), "unshare", "--user", "true"], capture_output=True, check=False)
    return "user namespaces are not permitted here" if done.returncode else ""


def as_user(*, reads_all: bool = False) -> Sequence[str]:
    """What makes a command that user's; `reads_all` lets it find a Python that lies in root's home."""
    kept = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"] if reads_all else ["--inh-caps=-all"]
    return ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", *kept, "--"]


class RootlessPodman(PrivateEngine):
    """A Podman of a user who is made for it, with data that nobody else sees; only within `isolated`."""

    program = "podman"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._runtime = Path(f"/run/user/{USER_ID}")
        self._socket = self._runtime / "podman.sock"
        self.docker_host = f"unix://{self._socket}"

    def _prepare(self) -> None:
        self._runtime.mkdir(parents=True, exist_ok=True)
        os.chown(self._runtime, USER_ID, USER_ID)
        write_configuration(self.root / "home", "/srv/home")

    def _environment(self) -> Mapping[str, str]:
        return {
            "HOME": "/srv/home", "USER": "margo", "XDG_RUNTIME_DIR": str(self._runtime), "TMPDIR": "/srv/home",
            "DISABLE_HC_SYSTEMD": "true",
        }  # fmt: skip

    def _command(self) -> Sequence[str]:
        arguments = [str(self.root / "home"), str(USER_ID), self.docker_host]
        return ["unshare", "--mount", "bash", "-euc", _START, "bash", *arguments]

    def _clean(self) -> None:
        """What it started for its networks, and the process that holds its namespace, stay when it ends."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if process.stat().st_uid == USER_ID:
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(self._runtime, ignore_errors=True)
