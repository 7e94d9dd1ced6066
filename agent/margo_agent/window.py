"""Maintenance windows: on which days, and between which times of the day, applying may begin. Pure rules."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from margo_oci.errors import FormatError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_MIN = 24 * 60
_WINDOW = re.compile(r"(?:([A-Za-z,-]+) +)?(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)


@dataclass(frozen=True)
class Window:
    """From `begin_min` to `end_min` after midnight, on `days` (0 is Monday); over midnight if it ends earlier."""

    days: frozenset[int]
    begin_min: int
    end_min: int

    def holds(self, moment: datetime) -> bool:
        """Tell whether `moment`, in the local time that is meant, is within."""
        minute = moment.hour * 60 + moment.minute
        today, yesterday = moment.weekday(), (moment.weekday() - 1) % 7
        if self.begin_min < self.end_min:
            return today in self.days and self.begin_min <= minute < self.end_min
        return (today in self.days and minute >= self.begin_min) or (yesterday in self.days and minute < self.end_min)

    def next(self, moment: datetime) -> datetime:
        """Return when it begins next, after `moment`."""
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        begins = (midnight + timedelta(days=day, minutes=self.begin_min) for day in range(8))
        return next(one for one in begins if one > moment and one.weekday() in self.days)


def parse_window(text: str) -> Window:
    """Return the window that is written as `Mon-Fri 22:00-04:00`, `Sat,Sun 00:00-24:00` or `02:00-05:00`.

    Raises FormatError.
    """
    found = _WINDOW.fullmatch(text)
    begin_min, end_min = (int(found[2]) * 60 + int(found[3]), int(found[4]) * 60 + int(found[5])) if found else (0, 0)
    days = _days(found[1]) if found and found[1] else frozenset(range(7))
    fits = found and begin_min < DAY_MIN and 0 <= end_min <= DAY_MIN and begin_min != end_min
    if not fits or not days or int(found[3]) > 59 or int(found[5]) > 59:  # type: ignore[index]
        raise FormatError(f"{text!r:.80}: a window is expected, as in Mon-Fri 22:00-04:00 or Sat,Sun 00:00-24:00")
    return Window(days, begin_min, end_min)


def _days(text: str) -> frozenset[int]:
    """Return the days of `Mon-Fri,Sun`; none if one of them is no day."""
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if first not in DAYS or last not in DAYS:
            return frozenset()
        begin, end = DAYS.index(first), DAYS.index(last)
        days |= {day % 7 for day in range(begin, end + 1 + (7 if end < begin else 0))}
    return frozenset(days)
