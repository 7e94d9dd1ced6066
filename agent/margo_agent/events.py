"""What the engine's events say of our deployments, and when one of them wants a look. Time is handed in."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from margo_oci.content import parse_json
from margo_oci.errors import FormatError

LINE_LIMIT_BYTES = 64 * 1024
DEBOUNCE_S = 2.0  # what a restart, or a hand that changes several things, does in one go is one thing
FLOOR_S = 5.0  # between two looks at one deployment; doubled while there is always something again
FLOOR_LIMIT_S = 600.0
LATE_S = 1.0  # how late an event of our own doing may come
MARK_COUNT_LIMIT = 1000
EVERYTHING = ""  # stands for all deployments

TYPES = ("container", "network", "image")
ACTIONS = (
    *("create", "start", "stop", "kill", "die", "died", "pause", "unpause", "destroy", "remove", "rename", "update"),
    *("disconnect", "connect", "tag", "untag", "delete"),
)
_WELL_AGAIN = ("start", "unpause", "connect")
_BY_HAND = ("stop", "kill")
# The light loop knows labels by name only: what they mean is for margo_agent.model and the processes that import it.
_DEVICE_LABEL, _DEPLOYMENT_LABEL = "org.margo.device", "org.margo.deployment"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event that is of interest: what happened to which thing of which deployment."""

    action: str
    deployment: str
    thing: str


def parse_event(line: bytes, device: str, names: Mapping[str, str]) -> Event | None:
    """Return what an event says of us; None for what is not ours, or no event at all.

    `names` leads from networks and images, also by their id, to a deployment of ours that uses them.
    """
    try:
        raw = parse_json(line, what="event", limit_bytes=LINE_LIMIT_BYTES)
        kind, action, actor = str(raw.get("Type")), str(raw.get("Action")), raw["Actor"]
        said = actor.get("Attributes") or {}
        thing, name = str(actor["ID"]), str(said.get("name", ""))
    except (FormatError, KeyError, TypeError, AttributeError):
        return None
    if action not in ACTIONS:
        return None
    if kind == "container" and said.get(_DEVICE_LABEL) == device:
        return Event(action=action, deployment=str(said.get(_DEPLOYMENT_LABEL, "")), thing=thing)
    if kind in ("network", "image") and (of := names.get(name) or names.get(thing)):
        # A network is left by a container that ends, and is as well again as that is.
        return Event(action=action, deployment=of, thing=str(said.get("container") or thing))
    return None


@dataclass
class Mark:
    """Something happened to one thing and was not undone since; `own` if a pass of ours was at work."""

    at_s: float
    own: bool
    actions: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Due:
    """What is to be looked at now: deployments (none are all), and containers that somebody stopped."""

    deployments: Set[str]
    stopped: Set[str]
    own: bool = False
    marks: Mapping[str, Mapping[str, "Mark"]] = field(default_factory=dict)


@dataclass
class Marks:
    """Which deployments want a look, and when.

    What dies and starts again within the debounce is the restart policy's business. A deployment that is looked at
    again and again is looked at ever more rarely, so that neither engine nor processor gets hot.
    """

    marks: dict[str, dict[str, Mark]] = field(default_factory=dict)
    floors: dict[str, tuple[float, float]] = field(default_factory=dict)  # when it was looked at, and the pause then
    busy: bool = False
    busy_until_s: float = 0.0

    def hear(self, event: Event, now_s: float) -> None:
        """Take an event."""
        things = self.marks.get(event.deployment, {})
        if event.action in _WELL_AGAIN:
            mark = things.get(event.thing)
            if mark and mark.actions <= {"stop", "kill", "die", "died", "pause", "disconnect"}:
                del things[event.thing]
                if not things:
                    del self.marks[event.deployment]
            if not self._own(now_s):
                return
        self._mark(event.deployment, event.thing, event.action, now_s, own=self._own(now_s))

    def everything(self, now_s: float) -> None:
        """Want a look at all deployments: nobody heard what happened."""
        self._mark(EVERYTHING, "", "unheard", now_s, own=False)

    def begin(self) -> None:
        """A pass of ours begins: what happens now is its doing, and is looked at once when it is done."""
        self.busy = True

    def end(self, now_s: float) -> None:
        """It ended."""
        self.busy, self.busy_until_s = False, now_s + LATE_S

    def due_in_s(self, now_s: float) -> float | None:
        """Return how long until something is due; None if nothing is."""
        return min((max(0.0, self._due_s(name) - now_s) for name in self.marks), default=None)

    def take(self, now_s: float) -> Due:
        """Return what is due; it is marked no more."""
        names = {name for name in self.marks if self._due_s(name) <= now_s}
        names = set(self.marks) if EVERYTHING in names else names
        taken = {name: self.marks.pop(name) for name in sorted(names)}
        marks = [(thing, mark) for things in taken.values() for thing, mark in things.items()]
        stopped = {thing for thing, mark in marks if not mark.own and mark.actions & set(_BY_HAND)}
        everything = EVERYTHING in names
        return Due(frozenset() if everything else names, stopped, all(mark.own for _, mark in marks), taken)

    def looked(self, due: Due, found: Sequence[str], now_s: float, *, again: bool = False) -> None:
        """Note that a look took place and what was `found`; with `again` it is to be repeated.

        A look at our own doing that finds nothing does not count.
        """
        for name in {*(due.deployments or {EVERYTHING, *found}), *(due.marks if again else ())}:
            if name in found or again or not due.own:
                self.floors[name] = (now_s, self._next_floor_s(name, now_s))
        for name, things in due.marks.items() if again else ():
            self.marks.setdefault(name, {}).update(things)
        if len(self.floors) > MARK_COUNT_LIMIT:
            self.floors.clear()

    def _next_floor_s(self, name: str, now_s: float) -> float:
        at_s, pause_s = self.floors.get(name, (0.0, 0.0))
        calm = now_s - at_s > 2 * pause_s + 60
        return FLOOR_S if calm or not pause_s else min(2 * pause_s, FLOOR_LIMIT_S)

    def _due_s(self, name: str) -> float:
        at_s, pause_s = self.floors.get(name, (0.0, 0.0))
        marks = self.marks[name].values()
        floor_s = at_s + pause_s if any(not mark.own for mark in marks) else 0.0
        return max(min(mark.at_s for mark in marks) + DEBOUNCE_S, floor_s)

    def _own(self, now_s: float) -> bool:
        return self.busy or now_s < self.busy_until_s

    def _mark(self, deployment: str, thing: str, action: str, now_s: float, *, own: bool) -> None:
        if sum(len(things) for things in self.marks.values()) >= MARK_COUNT_LIMIT:
            self.marks.clear()
            deployment, thing, own = EVERYTHING, "", False
        mark = self.marks.setdefault(deployment, {}).setdefault(thing, Mark(now_s, own))
        mark.own = mark.own and own
        mark.actions.add(action)
