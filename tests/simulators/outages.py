"""Outages at an exact moment: Python tells of each thing it is about to do to a disk, and one of them does not happen.

The moments are CPython's audit events (PEP 578): names are made, changed and removed, files opened for writing,
programs started. Nothing in the product knows of this.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

RENAME, WRITE, FOLDER, REMOVE, PROGRAM = "rename", "write", "folder", "remove", "program"
EVERYTHING = (RENAME, WRITE, FOLDER, REMOVE, PROGRAM)
_KINDS = {"os.rename": RENAME, "os.mkdir": FOLDER, "os.remove": REMOVE, "os.rmdir": REMOVE, "subprocess.Popen": PROGRAM}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class Outage:
    """Calls `strike` at moment `number`, from 1, of those that are of one of `kinds`, at a path `below` a folder."""

    strike: Callable[[str], None]
    number: int
    kinds: tuple[str, ...] = EVERYTHING
    below: str = ""
    moments: int = 0
    struck: str = ""

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event."""
        kind = _kind(event, arguments)
        where = os.fsdecode(arguments[0]) if arguments and isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if kind not in self.kinds or (kind != PROGRAM and not where.startswith(self.below)):
            return
        self.moments += 1
        if self.moments == self.number:
            self.struck = f"{kind} {where}"
            self.strike(self.struck)


def _kind(event: str, arguments: tuple[Any, ...]) -> str:
    if event == "open":
        flags = arguments[2]
        return WRITE if isinstance(flags, int) and flags & _WRITING else ""
    return _KINDS.get(event, "")


_current: list[Outage] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for outage in _current:
        outage.hear(event, arguments)


@contextmanager
def during(outage: Outage) -> Iterator[Outage]:
    """Let an outage happen while the block runs."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hear)  # for good: there is no way to take it back
    _current.append(outage)
    try:
        yield outage
    finally:
        _current.remove(outage)


_hooked: list[bool] = []
