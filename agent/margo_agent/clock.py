"""What time it is at least: the device's clock, or what is known to be past, with the time that went by since (10.12).

A box without a battery for its clock wakes in 1970. The last accepted head says when it was issued; the kernel counts
the time since it started, and since that head was accepted if it was not restarted meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from margo_oci.freshness import clock, format_moment, parse_moment

BUILT = datetime(2026, 11, 1, tzinfo=UTC)  # this software was not there before: set anew with each release
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Mark:
    """A moment that is known to be past, and where the kernel's count stood then; durable, as text and numbers."""

    moment: str
    boot: str
    uptime_s: float


@dataclass(frozen=True)
class Clock:
    """The device's clocks: the one that may be wrong, and the kernel's count since it started."""

    rtc: Callable[[], datetime]
    boot: Callable[[], str]
    uptime_s: Callable[[], float]

    def now(self, mark: Mark | None, *floors: datetime | None) -> datetime:
        """Return what time it is at least."""
        return clock(self.rtc(), BUILT, self.known(mark), *floors)

    def known(self, mark: Mark | None) -> datetime | None:
        """Return what has passed for certain since `mark`, whatever the device's clock says."""
        if mark is None:
            return None
        before_s = mark.uptime_s if mark.boot == self.boot() else 0.0
        since = timedelta(seconds=max(0.0, self.uptime_s() - before_s))
        try:
            return parse_moment(mark.moment, at="record: time") + since
        except OverflowError:  # a head from the last second that there is: whoever signed it wants no time after it
            return datetime.max.replace(tzinfo=UTC)

    def mark(self, *moments: datetime | None) -> Mark:
        """Return a mark at the latest of `moments`."""
        latest = max(moment for moment in moments if moment)
        return Mark(format_moment(latest), self.boot(), self.uptime_s())


def system_clock() -> Clock:
    """Return this machine's clocks."""
    return Clock(
        rtc=lambda: datetime.now(UTC),
        boot=lambda: _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "",
        uptime_s=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    )
