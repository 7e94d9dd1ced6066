"""What an engine says while it works, read beside: whoever waits for it can stop waiting."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

LOOK_EVERY_S = 0.5

Line = Mapping[str, Any]


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
