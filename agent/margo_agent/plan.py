"""What is to be done, as pure rules: running and desired revisions in, ordered steps out (Margo, apply rules)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["remove", "restore", "update", "install", "keep"]
Ending = Literal["kept", "done", "failed", "undone"]  # undone: neither done nor remembered, the next pass tries again
_ORDER: Sequence[Action] = ("remove", "restore", "update", "install", "keep")


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


def worth_another_try(endings: Mapping[Step, Ending]) -> Sequence[Step]:
    """Return the steps that failed before another one was done: what stood in their way, a port perhaps, may be free.

    `endings` are in the order in which the steps were taken.
    """
    steps = list(endings)
    last_done = max((number for number, step in enumerate(steps) if endings[step] == "done"), default=0)
    return [step for step in steps[:last_done] if endings[step] == "failed"]
