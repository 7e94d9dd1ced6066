"""What is on the device against what is needed, as pure rules: things, needs and times in, garbage out."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

Kind = Literal["blob", "part", "component", "generation", "image", "leftover"]

WHY: Mapping[Kind, str] = {
    "blob": "not part of the accepted state",
    "part": "an unfinished download of nothing that the accepted state has",
    "component": "used by no revision that is kept",
    "generation": "neither installed nor the way back, nor of the accepted state",
    "image": "used by no revision that is kept, nor by any container",
    "leftover": "half made or half removed when the power went",
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing that can be removed on its own; `disk` tells which file system it takes room of."""

    kind: Kind
    name: str
    size_bytes: int
    changed_s: float = 0.0
    disk: str = ""

    @property
    def key(self) -> str:
        """What it is called where it is remembered."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Names of what is needed, by kind; a kind that is not in it is needed whole, as nobody can tell."""

    names: Mapping[Kind, Set[str]]

    def need(self, thing: Thing) -> bool:
        """Tell whether a thing has to stay."""
        return thing.kind != "leftover" and (thing.kind not in self.names or thing.name in self.names[thing.kind])


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that nothing needs, since when, and whether it goes now."""

    thing: Thing
    since_s: float
    goes: bool

    @property
    def why(self) -> str:
        """Why it is not needed."""
        return WHY[self.thing.kind]


def garbage(
    there: Sequence[Thing],
    needs: Needs,
    first_seen_s: Mapping[str, float],
    now_s: float,
    *,
    after_s: float,
    short_bytes: Mapping[str, int],
) -> Sequence[Garbage]:
    """Return what nothing needs, oldest first. It goes `after_s` after it was first seen so, or at once, oldest
    first, until each disk has the `short_bytes` that it lacks.

    `first_seen_s` is by key. A moment that is still to come was told by another clock: it counts as now.
    """
    unneeded = [(_since_s(one, first_seen_s, now_s), one) for one in there if not needs.need(one)]
    short = dict(short_bytes)
    found = []
    for since_s, one in sorted(unneeded, key=lambda pair: (pair[0], pair[1].key)):
        old = one.kind == "leftover" or now_s - since_s >= after_s
        goes = old or short.get(one.disk, 0) > 0
        if goes:
            short[one.disk] = short.get(one.disk, 0) - one.size_bytes
        found.append(Garbage(thing=one, since_s=since_s, goes=goes))
    return found


def _since_s(thing: Thing, first_seen_s: Mapping[str, float], now_s: float) -> float:
    """Return since when a thing is not needed; a download that still grows was needed until then."""
    since_s = first_seen_s.get(thing.key, now_s)
    if thing.kind == "part":
        since_s = max(since_s, thing.changed_s)
    return min(since_s, now_s)
