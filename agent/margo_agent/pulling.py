"""A pull under way: what the engine says about it, read beside, and when there has been enough waiting."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

PULL_STALL_S = 300.0  # unpacking a large layer on a slow disk says nothing for minutes
PULL_LIMIT_S = 4 * 3600.0
LOOK_EVERY_S = 0.5

Line = Mapping[str, Any]


@dataclass
class Patience:
    """How long a pull may take. An engine repeats itself while it waits, so only what is new is progress."""

    begun_s: float
    stall_s: float = PULL_STALL_S
    limit_s: float = PULL_LIMIT_S
    said: dict[object, Line] = field(default_factory=dict)
    moved_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.moved_s = self.begun_s

    def hear(self, line: Line, now_s: float) -> str:
        """Take a line, or an empty one for silence; return "" or why to wait no longer."""
        if line and self.said.get(line.get("id")) != line:
            self.said[line.get("id")] = line
            self.moved_s = now_s
        if now_s - self.moved_s > self.stall_s:
            return f"nothing came for {self.stall_s:.0f} s"
        return f"not done after {self.limit_s:.0f} s" if now_s - self.begun_s > self.limit_s else ""


def read_beside(lines: Callable[[], Generator[Line, None, None]]) -> Iterator[Line]:
    """Yield what `lines` yields, and an empty line whenever nothing came for a moment; raise what it raises.

    It is read in a thread, so that the reader can stop waiting. After that `lines` is closed at its next line.
    """
    found: SimpleQueue[Line | Exception | None] = SimpleQueue()
    left = Event()

    def read() -> None:
        try:
            with closing(lines()) as source:
                for line in source:
                    found.put(line)
                    if left.is_set():
                        return
            found.put(None)
        except Exception as error:  # raised again where it can be dealt with
            found.put(error)

    Thread(target=read, daemon=True).start()
    try:
        while (line := _next(found)) is not None:
            if isinstance(line, Exception):
                raise line
            yield line
    finally:
        left.set()


def _next(found: "SimpleQueue[Line | Exception | None]") -> Line | Exception | None:
    try:
        return found.get(timeout=LOOK_EVERY_S)
    except Empty:
        return {}
