"""A hold: while it lasts a device fetches and verifies, and applies nothing.

It is a file in `stateDir`, so it outlives restarts and needs no agent that runs.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from margo_oci.content import parse_json
from margo_oci.errors import FormatError, said
from margo_oci.freshness import format_moment, parse_moment
from margo_oci.store import sync_folder, write_whole

HOLD_FILE = "hold"
HOLD_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Since when, until when (None: until `resume`), and why. `fault` says why its file cannot be read."""

    since: datetime | None = None
    until: datetime | None = None
    reason: str = ""
    fault: str = ""

    @property
    def words(self) -> str:
        """What holds, as it stands in a report."""
        if self.fault:
            return f"held: {self.fault}; it counts as a hold: margo-agent resume ends it"
        since = f" since {format_moment(self.since)}" if self.since else ""
        until = f" until {format_moment(self.until)}" if self.until else ""
        reason = f": {said(self.reason)}" if self.reason else ""
        return f"held{since}{until}{reason}"


def read_hold(state_dir: Path, now: datetime) -> Hold | None:
    """Return what holds at `now`; None if nothing does. A file that cannot be read counts as a hold."""
    file = state_dir / HOLD_FILE
    try:
        with file.open("rb") as stream:
            data = stream.read(HOLD_LIMIT_BYTES + 1)
        hold = parse_hold(data, what=str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        return Hold(fault=f"{file}: {error.strerror}")
    except FormatError as error:
        return Hold(fault=str(error))
    return None if hold.until and now >= hold.until else hold


def parse_hold(data: bytes, *, what: str) -> Hold:
    """Read what `write_hold` wrote. Raises FormatError."""
    raw = parse_json(data, what=what, limit_bytes=HOLD_LIMIT_BYTES)
    reason = raw.get("reason", "")
    if not isinstance(reason, str):
        raise FormatError(f"{what}: reason: text is expected")
    until = raw.get("until")
    return Hold(
        since=parse_moment(raw.get("since"), at=f"{what}: since"),
        until=None if until is None else parse_moment(until, at=f"{what}: until"),
        reason=reason,
    )


def write_hold(state_dir: Path, now: datetime, *, for_s: float | None, reason: str) -> Hold:
    """Hold from now on, durably; what held before is replaced. Raises OSError, FormatError for an endless duration."""
    try:
        until = None if for_s is None else now + timedelta(seconds=for_s)
    except OverflowError:
        raise FormatError(
            f"hold: {for_s:.0f} s is too long: leave the duration out, and it lasts until resume"
        ) from None
    hold = Hold(since=now.replace(microsecond=0), until=until, reason=said(reason))
    raw = {
        "since": format_moment(now),
        "until": format_moment(until) if until else None,
        "reason": hold.reason,
    }
    write_whole(state_dir / HOLD_FILE, json.dumps(raw).encode())
    return hold


def drop_hold(state_dir: Path) -> bool:
    """End a hold, durably; tell whether there was one. Raises OSError."""
    try:
        (state_dir / HOLD_FILE).unlink()
    except FileNotFoundError:
        return False
    sync_folder(state_dir)
    return True
