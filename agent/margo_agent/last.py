"""The last report of a look or a pass, kept for `margo-agent why`: written only when it says something new."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from margo_oci.content import parse_json
from margo_oci.errors import FormatError
from margo_oci.freshness import format_moment
from margo_oci.store import write_whole

LAST_FILE = "last.json"
LAST_LIMIT_BYTES = 16 * 1024 * 1024
_NEWS = ("outcome", "digest", "reason", "stale", "deployments")


@dataclass(frozen=True)
class Last:
    """A report as JSON has it, and since when reports say the same."""

    since: str
    result: Mapping[str, Any]


def keep_last(state_dir: Path, result: Mapping[str, Any], now: datetime) -> None:
    """Keep a report, unless the one before said the same. A disk that takes none is no reason to stop."""
    before = read_last(state_dir)
    if before and _news(before.result) == _news(result):
        return
    with suppress(OSError):
        text = json.dumps({"format": 1, "since": format_moment(now), "result": result})
        write_whole(state_dir / LAST_FILE, text.encode())


def read_last(state_dir: Path) -> Last | None:
    """Return the last report; None if there is none that can be read."""
    file = state_dir / LAST_FILE
    try:
        with file.open("rb") as stream:
            data = stream.read(LAST_LIMIT_BYTES + 1)
        raw = parse_json(data, what=str(file), limit_bytes=LAST_LIMIT_BYTES)
    except (OSError, FormatError):
        return None
    since, result = raw.get("since"), raw.get("result")
    return Last(since, result) if isinstance(since, str) and isinstance(result, dict) else None


def _news(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what makes a report new: a refusal's words may say what time it is, without a reason they count."""
    keys = _NEWS if result.get("reason") else (*_NEWS, "message")
    return {key: result.get(key) for key in keys}
