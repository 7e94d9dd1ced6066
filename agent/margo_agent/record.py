"""What the agent remembers across restarts: one small file, replaced whole after each step."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from margo_agent.clock import Mark
from margo_oci.content import is_digest, parse_json
from margo_oci.errors import FormatError
from margo_oci.freshness import SeenHead
from margo_oci.store import write_whole

RECORD_LIMIT_BYTES = 16 * 1024 * 1024
PINS_LIMIT = 2000
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SeenCarrier:
    """The last head that was accepted for a scope, and the manifest that carried it; moments are text here."""

    carrier: str
    version: int
    content: str
    state: str
    issued: str
    expires: str

    @property
    def seen(self) -> SeenHead:
        """The head, as the rules want it. Raises FormatError."""
        return SeenHead.from_dict(asdict(self), at="record: head")


@dataclass(frozen=True)
class GivenRoot:
    """The newest root that is trusted, as text; `given` is the digest of the one it was followed from."""

    given: str
    data: str
    looked: str  # when newer ones were looked for; "" if never


@dataclass(frozen=True)
class Accepted:
    """A verified state: what the next counter is held against. Stored before anything is applied."""

    counter: int
    digest: str
    scope: str
    policy: str = ""  # by which it was verified
    head: SeenCarrier | None = None  # which said that it is meant


@dataclass(frozen=True)
class Installed:
    """A workload that runs (or ran last) in a good version; `revision` names its folder, `needs` what it depends on."""

    revision: str
    name: str
    components: Sequence[str]
    since: str
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Failure:
    """A revision that could not be brought up; it is not tried again until it changes.

    One that only `waits_for` another deployment is tried as soon as that one is desired in another revision.
    """

    revision: str
    name: str
    components: Sequence[str]
    error: str
    since_then: str = ""  # what was done about it
    waits_for: str = ""
    code: str = ""  # one of `margo_oci.status.CODES`; "" by an agent that had none yet

    @property
    def words(self) -> str:
        """Why it failed, and what was done about it."""
        return f"{self.error}; {self.since_then}" if self.since_then else self.error


@dataclass(frozen=True)
class Record:
    """The agent's memory. `settled` tells that nothing is left to do for `accepted`.

    `unsure` names the deployments a step was begun for and not recorded as ended: the power went, or the engine;
    `leaving` are those among them that are being removed.
    `previous` is the good version before the installed one. While a state is applied as a whole, `before` is what was
    installed when that began; `failed_state` is the digest of one that was put back as a whole. `waiting` says why
    what is prepared is not applied yet. `pins` are the digests that release tags had when they were first seen.
    """

    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    current: str = ""
    settled: bool = False
    installed: Mapping[str, Installed] = field(default_factory=dict)
    failed: Mapping[str, Failure] = field(default_factory=dict)
    unsure: Sequence[str] = ()
    leaving: Sequence[str] = ()
    previous: Mapping[str, Installed] = field(default_factory=dict)
    before: Mapping[str, Installed] | None = None
    failed_state: str = ""
    waiting: str = ""
    pins: Mapping[str, str] = field(default_factory=dict)
    root: GivenRoot | None = None
    time: Mark | None = None

    def accept(self, accepted: Accepted) -> "Record":
        """Return the record with a newly verified state, which is then still to be applied."""
        return replace(
            self,
            accepted={**self.accepted, accepted.scope: accepted},
            current=accepted.scope,
            settled=self.settled and self._is_still(accepted),
            waiting=self.waiting if self._is_still(accepted) else "",
        )

    def _is_still(self, accepted: Accepted) -> bool:
        """Tell whether this is what was accepted last, under the same terms: else everything is looked at afresh."""
        return self.digest == accepted.digest and self.accepted[self.current].policy == accepted.policy

    def is_leaving(self, deployment: str) -> bool:
        """Tell whether a deployment is being removed."""
        return deployment in self.leaving and deployment in self.unsure

    @property
    def digest(self) -> str:
        """The manifest digest of the state that was accepted last."""
        return self.accepted[self.current].digest if self.current in self.accepted else ""

    def is_done(self, digest: str, counter: int) -> bool:
        """Tell whether this very release was accepted last, and nothing is left to do for it."""
        current = self.accepted.get(self.current)
        return self.settled and current is not None and (current.digest, current.counter) == (digest, counter)

    @property
    def known(self) -> str:
        """What the registry is asked to leave out: the digest of a state, or of what carries its head, with which
        nothing is left to do.
        """
        return self.seen if self.settled else ""

    @property
    def seen(self) -> str:
        """What the registry had when the state was accepted: its digest, or that of what carries its head."""
        head = self.accepted[self.current].head if self.current in self.accepted else None
        return head.carrier if head else self.digest

    def known_by(self, policy: str) -> str:
        """Return the same, if it was verified by this very policy."""
        return self.known if self.known and self.accepted[self.current].policy == policy else ""

    def pin(self, pins: Mapping[str, str]) -> "Record":
        """Return the record with the digests that release tags have now; what was pinned before stays as it was."""
        known = {**pins, **self.pins}
        return replace(self, pins=dict(sorted(known.items())[-PINS_LIMIT:]))

    def forget_heads(self) -> "Record":
        """Return the record without heads and the time they told: a key that signed them is trusted no more (10.6).

        It is not settled until a head is accepted again: else "nothing new" would be taken for an answer.
        """
        accepted = {key: replace(one, head=None) for key, one in self.accepted.items()}
        return replace(self, accepted=accepted, time=None, settled=False)

    def forget_counters(self) -> "Record":
        """Return the record without counters: a key that signed those states is trusted no more (10.6)."""
        return replace(self, accepted={key: replace(one, counter=0) for key, one in self.accepted.items()})

    def begin(self, deployment: str, *, leaves: bool = False) -> "Record":
        """Return the record with a step under way, after which it runs or, if it `leaves`, does not.

        Until it ends nobody knows what runs.
        """
        others = [one for one in _others(self.leaving, deployment) if one in self.unsure]
        leaving = (*others, deployment) if leaves else tuple(others)
        return replace(self, unsure=(*_others(self.unsure, deployment), deployment), leaving=leaving)

    def did_install(self, deployment: str, installed: Installed) -> "Record":
        """Return the record with a workload that came up; what it replaces is the version to go back to."""
        last = self.installed.get(deployment)
        kept = {deployment: last} if last and last.revision != installed.revision else {}
        return replace(
            self,
            installed={**self.installed, deployment: installed},
            previous={**self.previous, **kept},
            failed=_without(self.failed, deployment),
            unsure=_others(self.unsure, deployment),
        )

    def did_fail(self, deployment: str, failure: Failure, *, sure: bool = True) -> "Record":
        """Return the record with a revision that did not; what was installed before stays.

        Without `sure` nobody knows what runs: the last good version did not come back.
        """
        failed, others = {**self.failed, deployment: failure}, _others(self.unsure, deployment)
        unsure = others if sure else (*others, deployment)
        return replace(self, failed=failed, unsure=unsure, settled=self.settled and sure)

    def did_put_back(self, deployment: str) -> "Record":
        """Return the record with the last good version running: what is installed, or nothing."""
        return replace(self, unsure=_others(self.unsure, deployment))

    def did_recover(self, deployment: str) -> "Record":
        """Return the record without the failure of a revision that is no longer desired."""
        return replace(self, failed=_without(self.failed, deployment))

    def did_remove(self, deployment: str) -> "Record":
        """Return the record without a workload."""
        return replace(
            self,
            installed=_without(self.installed, deployment),
            previous=_without(self.previous, deployment),
            failed=_without(self.failed, deployment),
            unsure=_others(self.unsure, deployment),
            leaving=_others(self.leaving, deployment),
        )

    def did_go_back(self, deployment: str, good: Installed | None) -> "Record":
        """Return the record with a good version running again that another one had replaced, or with nothing."""
        if good is None:
            return self.did_remove(deployment)
        installed = {**self.installed, deployment: good}
        return replace(self, installed=installed, unsure=_others(self.unsure, deployment))

    @property
    def deployments(self) -> set[str]:
        """All that something may run of, or that may be gone back to."""
        return {*self.installed, *self.previous, *(self.before or {}), *self.unsure}

    def kept_revisions(self, deployment: str) -> set[str]:
        """Return the revisions of a deployment that run, or that may be gone back to."""
        places = (self.installed, self.previous, self.before or {})
        return {place[deployment].revision for place in places if deployment in place}


def _others(names: Sequence[str], name: str) -> Sequence[str]:
    return tuple(other for other in names if other != name)


def _without(items: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in items.items() if name != key}


@dataclass(frozen=True)
class RecordFile:
    """Where the record is kept."""

    path: Path

    def load(self) -> Record:
        """Return the record; a new device has an empty one. Raises FormatError for a damaged file."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return Record()
        raw = parse_json(data, what=str(self.path), limit_bytes=RECORD_LIMIT_BYTES)
        try:
            if raw["format"] != _FORMAT:
                raise ValueError(f"format {raw['format']!r}")
            record = Record(
                accepted={key: _accepted(value) for key, value in raw["accepted"].items()},
                current=raw["current"],
                settled=raw["settled"],
                installed=_installed(raw["installed"]),
                failed={key: Failure(**value) for key, value in raw["failed"].items()},
                unsure=tuple(raw.get("unsure", ())),
                leaving=tuple(raw.get("leaving", ())),
                previous=_installed(raw.get("previous", {})),
                before=None if raw.get("before") is None else _installed(raw["before"]),
                failed_state=raw.get("failed_state", ""),
                waiting=raw.get("waiting", ""),
                pins=raw.get("pins", {}),
                root=GivenRoot(**raw["root"]) if raw.get("root") else None,
                time=Mark(**raw["time"]) if raw.get("time") else None,
            )
            _check(record)
        except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
            # Never start over on our own: the counters in it are what keeps old states out.
            raise FormatError(
                f"{self.path}: not a usable record ({error}): restore it, or provision the device anew"
            ) from None
        return record

    def save(self, record: Record) -> Record:
        """Keep `record` durably, and return it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps({"format": _FORMAT, **asdict(record)}, sort_keys=True, ensure_ascii=False)
        write_whole(self.path, text.encode(errors="replace"))  # words of an error may hold what is no text
        return record


class Journal:
    """The record while steps are taken, perhaps side by side: each change is durable before the step goes on."""

    def __init__(self, file: RecordFile) -> None:
        self.file = file
        self.record = file.load()
        self._turn = threading.Lock()

    def note(self, change: Callable[[Record], Record]) -> Record:
        """Keep what `change` makes of the record, and return it. What changes nothing is not written."""
        with self._turn:
            following = change(self.record)
            if following != self.record:
                self.record = self.file.save(following)
            return self.record


def _accepted(raw: Mapping[str, Any]) -> Accepted:
    head = raw.get("head")
    return Accepted(**{**raw, "head": SeenCarrier(**head) if head else None})


def _installed(raw: Mapping[str, Any]) -> Mapping[str, Installed]:
    return {key: Installed(**{**value, "needs": tuple(value.get("needs", ()))}) for key, value in raw.items()}


def _check(record: Record) -> None:
    """Raise ValueError for what the file cannot have said."""
    if not all(is_digest(one.digest) and isinstance(one.counter, int) for one in record.accepted.values()):
        raise ValueError("accepted")
    if not isinstance(record.current, str) or not isinstance(record.settled, bool):
        raise ValueError("current, settled")
    if record.current and record.current not in record.accepted:
        raise ValueError("current")
    for one in record.accepted.values():
        if one.head and one.head.seen.state != one.digest:
            raise ValueError("accepted: head")
    if record.root and not all(isinstance(text, str) for text in astuple(record.root)):
        raise ValueError("root")
    if record.time and not isinstance(record.time.uptime_s, int | float):
        raise ValueError("time")
    if not all(isinstance(one, str) for one in (*record.unsure, *record.leaving, record.failed_state, record.waiting)):
        raise ValueError("unsure, leaving, failed_state, waiting")
    if not all(is_digest(digest) for digest in record.pins.values()):
        raise ValueError("pins")
    if not all(is_digest(one.revision) for one in (*record.previous.values(), *(record.before or {}).values())):
        raise ValueError("previous, before")
