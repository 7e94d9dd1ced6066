"""The agent's own folder: made for it alone, refused where others could write, and one agent at a time in it."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from margo_oci.errors import FormatError, disk_words


class AtWork(FormatError):  # noqa: N818  (no fault of anybody: wait)
    """Another margo-agent holds this state directory just now."""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold `file` for as long as the block runs. Raises AtWork if another agent does, or FormatError by `claim`."""
    folder = file.parent
    try:
        claim(folder)
        stream = _opened(file)
    except OSError as error:
        raise FormatError(disk_words(error, folder)) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AtWork(
                f"stateDir {folder}: another margo-agent is at work here ({file.name} is held): wait for it, or "
                "margo-agent look asks the one that runs"
            ) from None
        yield


def _opened(file: Path) -> IO[str]:
    """Open a lock's file. A disk that can only be read by now is no reason not to bring up what is installed."""
    try:
        return file.open("w")
    except OSError as error:
        if error.errno != errno.EROFS or not file.exists():
            raise
        return file.open("r")


def claim(folder: Path) -> None:
    """Make the folder if it is not there. Raises FormatError for one that others own or can write.

    Whoever can write here decides what runs: the record says what was verified.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise FormatError(
            f"stateDir {folder}: belongs to user {found.st_uid}, margo-agent runs as {os.geteuid()}: "
            "run it as that user, or give it a folder of its own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(found.st_mode)
        raise FormatError(
            f"stateDir {folder}: others can write to it (mode {mode:04o}): take that away, as with chmod 700"
        )
