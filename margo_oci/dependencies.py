"""What a deployment waits for: `dependsOn`, an annotation of ours, as an order among deployments (format 5.8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True)
class Needs:
    """For each deployment the ids of those that come up before it, and why that cannot be said of some."""

    ids: Mapping[str, frozenset[str]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


def needs_of(names: Mapping[str, str], depends_on: Mapping[str, Sequence[str]]) -> Needs:
    """Return what each deployment in `depends_on` needs; it says so by id or by name.

    `names` is id to name of every deployment of the state. One that names nothing here, several at once, or itself
    round a corner, has a fault.
    """
    ids: dict[str, frozenset[str]] = {}
    faults: dict[str, str] = {}
    for deployment, wanted in depends_on.items():
        found = {one: [other for other, name in names.items() if one in (other, name)] for one in wanted}
        wrong = [one for one, others in found.items() if len(others) != 1]
        if wrong:
            several = "names several deployments of" if found[wrong[0]] else "is no deployment of"
            faults[deployment] = f"dependsOn: {wrong[0]!r:.80} {several} this state"
        else:
            ids[deployment] = frozenset(others[0] for others in found.values())
    faults |= {one: f"dependsOn: it waits for itself: {words}" for one, words in _circle(ids, names).items()}
    return Needs({one: needed for one, needed in ids.items() if one not in faults}, faults)


def _circle(ids: Mapping[str, frozenset[str]], names: Mapping[str, str]) -> Mapping[str, str]:
    """Return those that wait for each other in a circle, with the circle in words; any other of them is found later."""
    try:
        TopologicalSorter(ids).prepare()
    except CycleError as error:
        circle: Sequence[str] = error.args[1]
        return dict.fromkeys(circle, " -> ".join(names.get(one, one) for one in reversed(circle)))
    return {}
