"""Runs a command in a new pid namespace: signals reach it once, its status comes back, nothing outlives it.

Started by `isolated`. util-linux's `unshare --fork` would not do: it blocks SIGINT and SIGTERM while it waits.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

CGROUP_VARIABLE = "MARGO_PARTS_CGROUP"
CGROUP_PREFIX = "margo-parts-"
PODMAN_CGROUP = "libpod_parent"  # by its Docker API, Podman lets nobody choose another
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_CLONE_NEWPID = 0x20000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(command: list[str]) -> int:
    """Run the command; return its exit status, as a shell tells it."""
    for pattern in (CGROUP_PREFIX + "*", PODMAN_CGROUP):
        remove_cgroups(pattern, older_than_s=60)
    cgroup = CGROUP_PREFIX + secrets.token_hex(4)
    os.environ[CGROUP_VARIABLE] = cgroup
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    if _LIBC.unshare(_CLONE_NEWPID):
        raise OSError(ctypes.get_errno(), "isolated: cannot make a pid namespace")
    first = os.fork()
    if first == 0:
        _be_first(command)
    status = _follow(first)
    remove_cgroups(cgroup)
    return status


def remove_cgroups(pattern: str, *, older_than_s: float = 0) -> None:
    """Remove what a killed engine leaves behind. The kernel refuses to remove a cgroup in use."""
    root = Path("/sys/fs/cgroup")
    for found in [*root.glob(pattern), *root.glob(f"*/{pattern}")]:
        for directory, _, _ in os.walk(found, topdown=False):
            with contextlib.suppress(OSError):
                if time.time() - Path(directory).stat().st_mtime >= older_than_s:
                    Path(directory).rmdir()


def _be_first(command: list[str]) -> NoReturn:
    """Be pid 1: when it ends, the kernel ends every process of the namespace."""
    # The command is in a session of its own: Ctrl-C in a terminal reaches it only once, forwarded.
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _LIBC.mount(b"proc", b"/proc", b"proc", 0, None):
        print(f"isolated: cannot mount /proc: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        os._exit(125)
    child = os.fork()
    if child == 0:
        _become(command)
    os._exit(_follow(child))


def _become(command: list[str]) -> NoReturn:
    os.setsid()
    if os.isatty(0):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        print(f"isolated: {command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(127)


def _follow(child: int) -> int:
    """Pass signals on to a child until it ends; return its exit status, as a shell tells it."""

    def forward(number: int, _: FrameType | None) -> None:
        # As Ctrl-C does: the whole process group, so a shell's children hear it, too.
        try:
            os.killpg(child, number)
        except ProcessLookupError:
            os.kill(child, number)  # it has not become a group yet; the signal waits for it

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        # Orphans of the namespace end here, too.
        ended, status = os.wait()
        if ended == child:
            break
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
