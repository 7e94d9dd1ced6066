"""Checking a document takes bounded time, whatever regular expressions somebody wrote into it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from margo_oci.errors import FormatError

LIMIT_S = 5.0


@contextmanager
def bounded(what: str, limit_s: float = LIMIT_S) -> Iterator[None]:
    """Raise FormatError once the processor has been at it for `limit_s` seconds; matching looks for signals."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise FormatError(
            f"{what}: not checked within {limit_s:g} s of a processor: look for a regexMatch with repeats in repeats"
        )

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
