"""What happened on a device, numbered and in order: one JSON object a line. No I/O."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.jsonfields import JsonFields

EVENT_COUNT_LIMIT = 1000
EVENTS_LIMIT_BYTES = 1024 * 1024
EVENT_LIMIT_BYTES = 16 * 1024
# What an event is about. A fact of each kind (of each deployment) holds until the next event of that kind.
KINDS = ("accepted", "applied", "outcome", "stale", "waiting", "deployment")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One change. `number` rises by one with each event of a device; a gap says that some were dropped."""

    kind: str
    number: int = 0
    time: str = ""
    state: str = ""
    deployment: str = ""
    name: str = ""
    code: str = ""
    reason: str = ""
    message: str = ""
    digest: str = ""
    counter: int = 0

    @property
    def fact(self) -> tuple[str, str]:
        """What it is about: an event replaces the one before about the same."""
        return self.kind, self.deployment

    def says_as(self, other: "Event | None") -> bool:
        """Tell whether it says nothing new; the words of a message may have a time in them, and do not count."""
        return other is not None and replace(self, number=0, time="", message="") == replace(
            other, number=0, time="", message=""
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; what is empty is left out."""
        return {key: value for key, value in asdict(self).items() if value}

    def to_line(self) -> bytes:
        """Return it as a line."""
        return canonical_json(self.to_dict()) + b"\n"


def parse_event(data: bytes, *, what: str) -> Event:
    """Read one line. Raises FormatError."""
    fields = JsonFields(parse_json(data, what=what, limit_bytes=EVENT_LIMIT_BYTES), what)
    return Event(
        kind=fields.choice("kind", KINDS),
        number=fields.number("number", least=1),
        time=fields.moment("time", required=True),
        state=fields.text("state"),
        deployment=fields.text("deployment"),
        name=fields.text("name"),
        code=fields.text("code"),
        reason=fields.text("reason"),
        message=fields.words("message"),
        digest=fields.digest("digest"),
        counter=fields.number("counter"),
    )


def parse_events(data: bytes, *, what: str = "events") -> Sequence[Event]:
    """Read lines of events, whose numbers rise. Raises FormatError."""
    lines = data.splitlines()
    if len(data) > EVENTS_LIMIT_BYTES or len(lines) > EVENT_COUNT_LIMIT:
        raise FormatError(f"{what}: at most {EVENT_COUNT_LIMIT} lines and {EVENTS_LIMIT_BYTES} bytes are read")
    events = [parse_event(line, what=f"{what}, line {number}") for number, line in enumerate(lines, start=1)]
    if any(one.number >= other.number for one, other in pairwise(events)):
        raise FormatError(f"{what}: their numbers do not rise")
    return events


def lines_of(events: Sequence[Event]) -> bytes:
    """Return events as lines."""
    return b"".join(one.to_line() for one in events)
