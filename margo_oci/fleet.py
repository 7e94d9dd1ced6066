"""Who runs what, held against what the tag says now: one word for each device. No I/O.

The word names what is to be looked at first: what the device last said before what that means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from margo_oci.device_status import DeviceStatus
from margo_oci.freshness import parse_moment

Standing = Literal[
    "up-to-date", "applying", "behind", "ahead", "waiting", "failed", "refused", "head-expired", "stale", "doubtful"
]


@dataclass(frozen=True)
class Meant:
    """What devices are to have: the state that a tag leads to now; `counter` is 0 if it does not say one."""

    digest: str
    counter: int


def standing(status: DeviceStatus, meant: Meant | None, *, now: datetime, doubt: str = "") -> Standing:
    """Return how a device stands. Without `meant` nothing is known of what it is to have.

    `doubt` says why its report does not count: then what it says is not believed, however good it is.
    """
    if doubt:
        return "doubtful"
    if status.overdue(now):
        return "stale"
    if status.outcome == "failed" or any(one.state == "failed" for one in status.deployments):
        return "failed"
    if status.outcome == "refused":
        return "refused"
    if status.stale:
        return "head-expired"
    if status.waiting:
        return "waiting"
    if meant and status.digest != meant.digest:
        return "ahead" if status.counter > meant.counter > 0 else "behind"
    return "up-to-date" if status.settled else "applying"


def why(status: DeviceStatus, found: Standing) -> str:
    """Return the words that go with a standing; "" if there is nothing to add."""
    if found == "failed":
        faults = [
            f"{one.name or one.id}: {one.error.code}: {one.error.message}" for one in status.deployments if one.error
        ]
        return "; ".join(faults) or status.message
    if found == "refused":
        return f"{status.reason}: {status.message}"
    return {"head-expired": status.stale, "waiting": status.waiting}.get(found, "")


def age_s(moment: str, now: datetime) -> int:
    """Return how long ago a moment was, in seconds; 0 if it is to come, as where a clock is wrong."""
    return max(0, int((now - parse_moment(moment, at="moment")).total_seconds()))


def all_well(standings: Sequence[Standing]) -> bool:
    """Tell whether there are devices, and all have what they are to have."""
    return bool(standings) and all(one == "up-to-date" for one in standings)
