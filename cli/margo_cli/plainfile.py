"""Plain files of a folder that somebody else may have written: no links out of it, no pipes that never end."""

import errno
import os
import stat
from pathlib import Path, PurePath

from margo_oci.errors import FormatError

NOT_PLAIN = "a plain file is expected, no link, pipe, socket or device"
_NOT_PLAIN = (errno.ELOOP, errno.EMLINK, errno.ENXIO)  # a link, on some systems by the second name; a socket


def read_plain(file: Path, *, limit_bytes: int) -> bytes:
    """Return a file, of a longer one a byte too much. Raises FormatError, also for what is no plain file."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(opened, "rb") as stream:  # noqa: PTH123  (a descriptor)
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise FormatError(f"{file}: {NOT_PLAIN}")
            return stream.read(limit_bytes + 1)
    except OSError as error:
        raise FormatError(f"{file}: {NOT_PLAIN if error.errno in _NOT_PLAIN else error.strerror}") from None


def link_in(folder: Path, path: str) -> Path | None:
    """Return the first link on the way from a folder to a path in it: what it leads to may lie elsewhere."""
    place = folder
    for part in PurePath(path).parts:
        place /= part
        if place.is_symlink():
            return place
    return None


def fault_in(folder: Path, path: str) -> str:
    """Return why a file of a folder is not taken; "" if it is there, and plain, without a link on the way."""
    if link := link_in(folder, path):
        return f"is a link at {link.relative_to(folder)}: put the file itself there"
    if not (folder / path).exists():
        return "is not there: add it, or leave it out"
    return "" if (folder / path).is_file() else f"is none: {NOT_PLAIN}"
