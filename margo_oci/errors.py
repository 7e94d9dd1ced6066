"""Errors, named for what the caller does next; each knows its exit code.

MargoError
├── FormatError      never will work as it is: mend the input
├── RegistryError    the registry or the network: try again later
│   ├── NotFound     the registry answers, but has no such thing
│   └── TooSlow      next to nothing came for a minute
├── TrustError       refused: keep what runs, tell a person; `reason` is stable
├── ConflictError    somebody else published meanwhile: look, then publish again
└── ApplyError       the engine could not do it: put the last good version back
"""

import errno
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

OUTSIDE_LIMIT_CHARS = 300
_QUERY = re.compile(r"\?[^\s'\"<>)]*=[^\s'\"<>)]*|(?<=[^\s?])\?[^\s'\"<>)]+")
# What a disk may answer: its category, and what to do.
DISK_FAULTS: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: ("full", "free some room (df -h, df -i)"),
    errno.EDQUOT: ("full", "free some room, or raise the quota"),
    errno.EROFS: ("read-only", "mount it for writing; if the system did that itself, look at dmesg"),
    errno.EIO: ("broken", "look at dmesg: the disk may be failing"),
    errno.EACCES: ("not permitted", "run this as the user it belongs to"),
    errno.EPERM: ("not permitted", "run this as the user it belongs to"),
}
_USERINFO = re.compile(r"//[^/\s'\"<>]*@")


class MargoError(Exception):
    """Anything this project raises on purpose; its text is meant for a person."""

    exit_code: ClassVar[int] = 1


class FormatError(MargoError):
    """Input that breaks a rule; `faults` lists every fault found, one line each."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: Sequence[str] = faults


class RegistryError(MargoError):
    """A registry or the network failed; `retry_after_s` is what the registry asked for, if it did."""

    exit_code = 3

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotFound(RegistryError):  # noqa: N818  (the registry's own word for it)
    """The registry answered that it does not have this."""


class TooSlow(RegistryError):  # noqa: N818  (a matter of the way there)
    """Next to nothing came for a minute: what is here is gone on from later."""


class TrustError(MargoError):
    """Refused. `reason` is a stable word for programs, the message names the suspected attack."""

    exit_code = 4

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConflictError(MargoError):
    """Two publishers met; nothing of the other's was overwritten unnoticed."""

    exit_code = 3


class ApplyError(MargoError):
    """The container engine could not bring a workload up (or down); `code` is one of `margo_oci.status.CODES`."""

    exit_code = 5
    code = "other"  # of a kind, unless the one who raises it knows better

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


def explain(error: BaseException) -> tuple[int, str]:
    """Return exit code and message for a person; what we did not foresee says that it is our fault."""
    if isinstance(error, MargoError):
        return error.exit_code, str(error)
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        return 2, disk_words(error)
    if isinstance(error, OSError) and error.filename:
        return 2, f"{error.filename}: {error.strerror}"
    if isinstance(error, UnicodeEncodeError):
        return 2, f"{said(ascii(error.object))} cannot be written in the encoding {error.encoding}: set LC_ALL=C.UTF-8"
    return (
        1,
        f"unexpected {type(error).__name__}: {error}: please report this with the command you ran",
    )


def write_utf8(*streams: object) -> None:
    """Have text streams write UTF-8, whatever the locale says; what is no text at all is written as an escape."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def worded(doing: str, part: str, category: str, cause: str, todo: str, *, element: str = "") -> str:
    """Return a failure in the grammar of docs/reference/errors.md."""
    about = f' for "{said(element)}"' if element else ""
    return f"while {doing}, {part}{about}: {category}: {cause}; {todo}"


def disk_words(error: OSError, where: object = "") -> str:
    """Return what a disk answered, in words with what to do; `where` stands in for a file that nobody named."""
    category, todo = DISK_FAULTS.get(error.errno or 0, ("failed", "see that stateDir is there and can be written"))
    cause = error.strerror or said(error)
    return worded("reading or writing", "disk", category, cause, todo, element=str(error.filename or where))


def plain(text: str) -> str:
    """Return `text` as one line that no terminal obeys: engines, registries and workloads may have worded it."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain_lines(text: str) -> str:
    """Return the same of several lines; those after the first are set in, so that none passes for another message."""
    return "\n  ".join(plain(line) for line in text.split("\n"))


def plain_json(value: object, *, indent: int | None = 2) -> str:
    """Return JSON that people can read and no terminal obeys: what cannot be printed stands there as an escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def said(text: object, *, limit_chars: int = OUTSIDE_LIMIT_CHARS) -> str:
    """Return what came from outside as it may stand in a message: one printable line, at most so long."""
    line = " ".join(plain(str(text)[: 2 * limit_chars]).split())
    return line if len(line) <= limit_chars else line[: limit_chars - 1] + "…"


def shown(address: object) -> str:
    """Return an address, or words with addresses in them, without what may be secret: queries and logins."""
    return said(_QUERY.sub("", _USERINFO.sub("//", str(address)[: 4 * OUTSIDE_LIMIT_CHARS])))
