"""Events on their way out: numbered, in order, kept until a registry has them, and never more than so many.

One file, a line for each event. It grows at its end, and is written anew when it has too many. Its first line says what
was there before them: `{"last": 41, "dropped": 3, "facts": […]}`. A line that a power cut tore counts as not written.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from margo_agent.notice import Facts
from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.events import EVENT_COUNT_LIMIT, EVENTS_LIMIT_BYTES, Event, lines_of, parse_event
from margo_oci.jsonfields import JsonFields
from margo_oci.store import write_whole

FILE_LIMIT_BYTES = 8 * EVENTS_LIMIT_BYTES
KEPT_DELIVERED = 100  # delivered ones ride along again, so that who looks now and then misses none
KEPT_SHARE = 0.9  # when there are too many, so that the next event needs no new file again
MARK_LIMIT_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Gist:
    """What the loop keeps in mind of an outbox: what is so now, how many wait, the newest, how many are lost."""

    facts: Facts
    pending: int
    last: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What is in the outbox. `earlier` is what was so before the first of `events`; `whole` that no line is torn."""

    events: Sequence[Event] = ()
    earlier: Facts = field(default_factory=dict)
    dropped: int = 0
    last: int = 0
    delivered: int = 0
    whole: bool = False

    @property
    def facts(self) -> Facts:
        """What is so now: the newest event of each kind."""
        return _after(self.earlier, self.events)

    @property
    def gist(self) -> Gist:
        """All of it but the events themselves, which take megabytes when nobody fetches them."""
        return Gist(facts=self.facts, pending=self.pending, last=self.last, dropped=self.dropped)

    @property
    def pending(self) -> int:
        """How many events no registry has accepted yet."""
        return sum(one.number > self.delivered for one in self.events)

    @property
    def window(self) -> Sequence[Event]:
        """What goes into the next report: all that are pending, and the newest of the others."""
        return self.events[-max(self.pending, KEPT_DELIVERED) :]

    def then(self, events: Sequence[Event], *, count_limit: int, limit_bytes: int) -> "Waiting":
        """Return it with more events; if they are too many, the oldest are dropped and counted."""
        every = [*self.events, *events]
        last = every[-1].number if every else self.last
        if len(every) <= count_limit and len(lines_of(every)) <= limit_bytes:
            return replace(self, events=every, last=last)
        kept = _newest(every, int(count_limit * KEPT_SHARE), int(limit_bytes * KEPT_SHARE))
        gone = every[: len(every) - len(kept)]
        lost = sum(one.number > self.delivered for one in gone)
        return replace(
            self, events=kept, earlier=_after(self.earlier, gone), dropped=self.dropped + lost, last=last, whole=False
        )

    def to_bytes(self) -> bytes:
        """Return the file."""
        before = self.events[0].number - 1 if self.events else self.last
        header = {"last": before, "dropped": self.dropped, "facts": [one.to_dict() for one in self.earlier.values()]}
        return canonical_json(header) + b"\n" + lines_of(self.events)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The report that a registry accepted last: up to which event, which manifest beside which state, and when."""

    delivered: int = 0
    digest: str = ""
    subject: str = ""
    time: str = ""


@dataclass(frozen=True)
class Outbox:
    """The outbox of a device, in its `stateDir`. Passes and the loop share it, and hold it while they write."""

    folder: Path
    count_limit: int = EVENT_COUNT_LIMIT
    limit_bytes: int = EVENTS_LIMIT_BYTES

    @property
    def file(self) -> Path:
        """Where the events are."""
        return self.folder / "outbox.jsonl"

    @property
    def mark_file(self) -> Path:
        """Where it is noted what was delivered."""
        return self.folder / "reported.json"

    def load(self) -> Waiting:
        """Return what is in it. One that cannot be read is empty: numbers go on after what was delivered."""
        delivered = self.mark().delivered
        try:
            found = replace(_read(self.file), delivered=delivered)
        except (OSError, FormatError):
            return Waiting(last=delivered, delivered=delivered)
        return replace(found, last=max(found.last, delivered))

    def add(self, events: Sequence[Event], *, time: str) -> Waiting:
        """Number events, keep them durably, and return all. Raises OSError.

        What says nothing new is left out: a pass and the loop may have noticed the same.
        """
        if not events:
            return self.load()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._held():
            before = self.load()
            fresh = [one for one in events if _is_new(one, before.facts)]
            if not fresh:
                return before
            numbered = [replace(one, number=before.last + n, time=time) for n, one in enumerate(fresh, start=1)]
            after = before.then(numbered, count_limit=self.count_limit, limit_bytes=self.limit_bytes)
            if after.whole:
                _append(self.file, lines_of(numbered))
            else:
                write_whole(self.file, after.to_bytes())
        return replace(after, whole=True)

    def accept(self, mark: Mark) -> None:
        """Note durably what a registry has. Raises OSError."""
        write_whole(self.mark_file, canonical_json(asdict(mark)))

    def mark(self) -> Mark:
        """Return what was delivered last; nothing if that is not known: it is then sent again, by the same numbers."""
        try:
            data = self.mark_file.read_bytes()
            fields = JsonFields(parse_json(data, what="mark", limit_bytes=MARK_LIMIT_BYTES), "mark")
            return Mark(
                delivered=fields.number("delivered"),
                digest=fields.digest("digest"),
                subject=fields.digest("subject"),
                time=fields.moment("time"),
            )
        except (OSError, FormatError):
            return Mark()

    @contextmanager
    def _held(self) -> Iterator[None]:
        with (self.folder / "outbox.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _read(file: Path) -> Waiting:
    with file.open("rb") as stream:
        data = stream.read(FILE_LIMIT_BYTES + 1)
    header, *lines = data.split(b"\n")
    state = JsonFields(parse_json(header, what=f"{file}", limit_bytes=FILE_LIMIT_BYTES), str(file))
    earlier = [_event(one.raw) for one in state.each("facts", most=100_000)]
    events = list(_events(lines, after=state.number("last")))
    last = events[-1].number if events else state.number("last")
    whole = len(events) + 1 == len(lines) and not lines[-1]
    return Waiting(events=events, earlier=_after({}, earlier), dropped=state.number("dropped"), last=last, whole=whole)


def _event(raw: Any) -> Event:
    return parse_event(canonical_json(raw), what="outbox")


def _events(lines: Sequence[bytes], *, after: int) -> Iterator[Event]:
    """Yield events up to the first line that is none."""
    for line in lines:
        try:
            event = parse_event(line, what="outbox")
        except FormatError:
            return
        if event.number <= after:
            return
        after = event.number
        yield event


def _after(facts: Facts, events: Sequence[Event]) -> Facts:
    found = dict(facts)
    for one in events:
        found[one.fact] = one
    return {fact: one for fact, one in found.items() if one.state != "removed"}


def _is_new(event: Event, facts: Facts) -> bool:
    known = facts.get(event.fact)
    return known is not None if event.state == "removed" else not event.says_as(known)


def _newest(events: Sequence[Event], count_limit: int, limit_bytes: int) -> Sequence[Event]:
    kept = list(events[-count_limit:])
    size = len(lines_of(kept))
    while kept and size > limit_bytes:
        size -= len(kept.pop(0).to_line())
    return kept


def _append(file: Path, data: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
