"""How fast content may come, and how slow: one pace for all that a process fetches at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from margo_oci.errors import TooSlow

LEAST_OVER_S = 60.0  # how long a body may bring too little
BURST_S = 0.25  # what was not used is kept for so long


@dataclass
class Pace:
    """At most `most_bytes_s` over all bodies together, at least `least_bytes_s` of each; 0 is no limit.

    A token bucket that may be overdrawn: a piece that came is paid for by waiting before the next one is read.
    """

    most_bytes_s: int = 0
    least_bytes_s: int = 0
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _paid_until_s: float = field(default=float("-inf"), init=False)

    async def take(self, count_bytes: int) -> float:
        """Wait until `count_bytes` that just came are within the rate; return the seconds that took."""
        if not self.most_bytes_s:
            return 0.0
        now_s = self.monotonic_s()
        self._paid_until_s = max(self._paid_until_s, now_s - BURST_S) + count_bytes / self.most_bytes_s
        wait_s = self._paid_until_s - now_s
        if wait_s <= 0:
            return 0.0
        await self.sleep(wait_s)
        return self.monotonic_s() - now_s

    def body(self, what: str) -> "BodyPace":
        """Watch one body."""
        return BodyPace(self, what, self.monotonic_s())


@dataclass
class BodyPace:
    """One body under way: what it brought since `since_s`. Waiting of our own does not count against it."""

    pace: Pace
    what: str
    since_s: float
    came_bytes: int = 0

    async def take(self, count_bytes: int) -> None:
        """Count a piece, and wait if need be. Raises TooSlow for a body that drips."""
        self.came_bytes += count_bytes
        self._check(self.pace.monotonic_s())
        self.since_s += await self.pace.take(count_bytes)

    def _check(self, now_s: float) -> None:
        over_s = now_s - self.since_s
        if over_s < LEAST_OVER_S:
            return
        if self.came_bytes < self.pace.least_bytes_s * over_s:
            least = f"leastRate is {self.pace.least_bytes_s} B/s"
            raise TooSlow(f"{self.what}: {self.came_bytes} bytes in {over_s:.0f} s: given up, as {least}")
        self.since_s, self.came_bytes = now_s, 0
