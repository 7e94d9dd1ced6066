"""What is to be done, as pure rules: running and desired revisions in, ordered steps out (Margo, apply rules)."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

Action = Literal["remove", "restore", "update", "install", "keep"]
# undone: neither done nor remembered, the next pass tries again; blocked: something it needs is not up
Ending = Literal["kept", "done", "failed", "undone", "blocked"]
_ORDER: Sequence[Action] = ("remove", "restore", "update", "install", "keep")
_GOOD: Set[Ending] = {"kept", "done"}


@dataclass(frozen=True)
class Step:
    """One thing to do with one deployment; `held` says that this very revision failed before."""

    action: Action
    deployment: str
    held: bool = False


def plan(running: Mapping[str, str], desired: Mapping[str, str], failed: Mapping[str, str]) -> Sequence[Step]:
    """Return the steps that lead from `running` to `desired`, both deployment to revision.

    What goes, goes first: it may hold a port that something new needs. A revision in `failed` is not tried again;
    where nobody knows what runs instead (an empty revision in `running`), the last good one is to be restored.
    """
    steps = [Step("remove", deployment) for deployment in {**running, **failed} if deployment not in desired]
    steps += [_step(deployment, revision, running, failed) for deployment, revision in desired.items()]
    return sorted(steps, key=lambda step: (_ORDER.index(step.action), step.deployment))


def _step(deployment: str, revision: str, running: Mapping[str, str], failed: Mapping[str, str]) -> Step:
    if running.get(deployment) == revision:
        return Step("keep", deployment)
    if failed.get(deployment) == revision:
        unsure = running.get(deployment) == ""
        return Step("restore" if unsure else "keep", deployment, held=True)
    return Step("update" if deployment in running else "install", deployment)


def before(step: Step, steps: Sequence[Step], needs: Mapping[str, Set[str]]) -> Set[Step]:
    """Return the steps that end before `step` begins: removals before all else, and what a deployment needs before it.

    A removal waits for the removal of those that need what it takes away (format 5.8).
    """
    removals = {one for one in steps if one.action == "remove"}
    if step in removals:
        return {one for one in removals if one != step and step.deployment in needs.get(one.deployment, ())}
    return removals | {one for one in steps if one.deployment in needs.get(step.deployment, ()) and one != step}


def not_up(step: Step, endings: Mapping[Step, Ending], needs: Mapping[str, Set[str]]) -> str:
    """Return a deployment that `step` needs and that is not up in the revision it should have; "" if all are."""
    wanted = needs.get(step.deployment, ())
    bad = (one.deployment for one, ending in endings.items() if one.held or ending not in _GOOD)
    return min((one for one in bad if one in wanted), default="")


def worth_another_try(endings: Mapping[Step, Ending], done_before: Mapping[Step, int]) -> Sequence[Step]:
    """Return the steps that failed, and since whose begin another was done: a port that they wanted may be free now.

    What waited for one of them is tried once more, too. `done_before` says how many were done when each began.
    """
    done = sum(ending == "done" for ending in endings.values())
    again = [step for step, ending in endings.items() if ending == "failed" and done_before[step] < done]
    return [*again, *(step for step, ending in endings.items() if ending == "blocked")] if again else []
