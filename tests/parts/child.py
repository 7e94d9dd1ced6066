"""Child processes that never outlive their parent."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def start(
    command: Sequence[str],
    *,
    stdout: Path,
    stderr: Path,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, so that Ctrl-C leaves stopping it to us.

    The kernel sends it SIGTERM when the thread that called this ends.
    """
    with stdout.open("ab") as out, stderr.open("ab") as err:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(environment),
            process_group=0,
        )


def stop(process: subprocess.Popen[bytes], *, within_s: float) -> None:
    """End a child: politely, and after a while by force."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_lines(log: Path, count: int = 15) -> str:
    """Return the end of a log, to show in an error."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
