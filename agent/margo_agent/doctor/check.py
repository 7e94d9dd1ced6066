"""What a check found, and the one way checks are run: each in its time, none ends the others."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from margo_oci.errors import explain

Status = Literal["ok", "warn", "fail"]
EXIT_CODES: Mapping[Status, int] = {"ok": 0, "warn": 1, "fail": 5}
LIMIT_S = 45.0


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, what was seen, and what to do (empty if it is well)."""

    name: str
    status: Status
    seen: str
    todo: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {key: value or None for key, value in asdict(self).items()}

    @property
    def lines(self) -> Sequence[str]:
        """For people."""
        lines = [f"{self.status:<5} {self.name:<14} {line}" for line in self.seen.split("\n")[:1]]
        lines += [f"{'':<20} {line}" for line in self.seen.split("\n")[1:]]
        return (*lines, f"{'':<20} next: {self.todo}") if self.todo else lines


Checks = Callable[[], Iterator[Check]]


def run_checks(name: str, checks: Checks, *, limit_s: float = LIMIT_S) -> Sequence[Check]:
    """Return what `checks` yields within its time; what it raises, and silence, are findings of their own."""
    found: list[Check] = []

    def work() -> None:
        try:
            found.extend(checks())
        except Exception as error:
            found.append(Check(name, "fail", explain(error)[1], "mend that, then margo-agent doctor again"))

    thread = threading.Thread(target=work, daemon=True)  # what hangs for ever does not hold the others
    thread.start()
    thread.join(limit_s)
    if not thread.is_alive():
        return found
    silent = Check(name, "fail", f"no answer after {limit_s:.0f} s", "see whether that part hangs: restart it")
    return [*found, silent]


def worst(found: Sequence[Check]) -> Status:
    """Return the worst of what was found."""
    statuses = {one.status for one in found}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"


def days_left(seconds: float) -> str:
    """Return how long something still holds, in words."""
    if seconds < 0:
        return f"expired {-seconds / 86400:.1f} days ago"
    return f"{seconds / 86400:.0f} days left" if seconds >= 2 * 86400 else f"{seconds / 3600:.1f} hours left"
