"""Looking, while a state is applied, whether a newer one is there: a fix does not wait for what it mends."""

import time
from collections.abc import Callable
from threading import Lock

from margo_agent.interrupted import Superseded


class Lookout:
    """Asks `newest` now and then for the digest of the state that is meant, verified; "" if nobody can say.

    Those who wait for a workload ask it; it never waits itself for longer than one look.
    """

    def __init__(
        self, newest: Callable[[], str], *, every_s: float, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.newest = newest
        self.every_s = every_s
        self.monotonic_s = monotonic_s
        self.looked_s = monotonic_s()
        self.applying = ""
        self.newer = ""
        self._turn = Lock()

    def begin(self, digest: str) -> None:
        """Look out for anything newer than the state with this digest."""
        self.applying, self.newer = digest, ""

    def check(self) -> None:
        """Raise Superseded if another state is meant by now than the one that is applied."""
        if self.applying and not self.newer and self._turn.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._turn.release()
        if self.newer:
            raise Superseded(f"a newer state is there: {self.newer}")

    def _look(self) -> None:
        if self.monotonic_s() - self.looked_s < self.every_s:
            return
        found = self.newest()
        self.looked_s = self.monotonic_s()
        self.newer = found if found != self.applying else ""
