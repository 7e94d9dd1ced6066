"""What a cleaning found and did, and how that is told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from margo_agent.garbage import Garbage


@dataclass
class Cleaned:
    """What nothing needs, what of it was removed (with `dry_run`: would be), and what stood in the way."""

    found: Sequence[Garbage] = ()
    dry_run: bool = False
    removed: list[Garbage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        """How much was removed, as far as known: images may share layers."""
        return sum(one.thing.size_bytes for one in self.removed)

    @property
    def exit_code(self) -> int:
        """0 done, 5 something could not be removed."""
        return 5 if self.faults else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form (docs/reference/json.md)."""
        gone = {one.thing.key for one in self.removed}
        raw: dict[str, Any] = {
            "outcome": "failed" if self.faults else "cleaned" if self.removed else "unchanged",
            "dryRun": self.dry_run or None,
            "bytes": self.freed_bytes,
            "message": "; ".join([*self._words(), *self.faults, *self.notes]) or None,
            "garbage": [
                {
                    "kind": one.thing.kind,
                    "name": one.thing.name,
                    "bytes": one.thing.size_bytes,
                    "since": _moment(one.since_s),
                    "why": one.why,
                    "removed": one.thing.key in gone,
                }
                for one in self.found
            ],
        }
        return {key: value for key, value in raw.items() if value is not None}

    def lines(self) -> Iterator[str]:
        """Yield the same for people."""
        gone = {one.thing.key for one in self.removed}
        word = "would go" if self.dry_run else "removed"
        yield f"{word}: {len(self.removed)} of {len(self.found)} things that nothing needs, {self.freed_bytes} bytes"
        for one in self.found:
            what = word if one.thing.key in gone else "stays yet"
            yield f"  {what:<9}  {one.thing.kind:<10}  {one.thing.size_bytes:>10}  {one.thing.name}"
            yield f"             {one.why}, since {_moment(one.since_s)}"
        for words in [*self.faults, *self.notes]:
            yield f"  {words}"

    def _words(self) -> Iterator[str]:
        if self.removed:
            kinds = [one.thing.kind for one in self.removed]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            yield f"{counts}: {self.freed_bytes} bytes {'could be ' if self.dry_run else ''}freed"


def _moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
