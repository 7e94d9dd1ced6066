"""Takes many steps, each in its turn, and knows the way back for all of them."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from margo_agent.plan import Step, before, plan, worth_another_try
from margo_agent.record import Failure, Journal
from margo_agent.standing import name_of
from margo_agent.stepping import Stepper, Work
from margo_agent.turns import in_turn
from margo_oci.errors import ApplyError

AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Takes steps side by side where they are independent. Everything here raises Interrupted."""

    stepper: Stepper
    at_once: int = AT_ONCE

    def take_all(self, steps: Sequence[Step], work: Work) -> None:
        """Take every step, those that failed perhaps twice; then remember what failed for good."""

        done_before: dict[Step, int] = {}

        def take(step: Step) -> None:
            done_before[step] = sum(ending == "done" for ending in work.endings.values())
            self.stepper.take(step, work)

        self._in_turn(steps, take, work.needs.ids)
        self._in_turn(worth_another_try(work.endings, done_before), take, work.needs.ids)
        for step, one in work.taken.items():
            if one.failure:
                _remember(work.journal, step.deployment, one.failure, sure=one.sure)

    def go_back(self, journal: Journal) -> Mapping[str, str]:
        """Have exactly those run again that did when the state was begun; return what does not come back, and why."""
        good = journal.record.before or {}
        running = {name: one.revision for name, one in journal.record.installed.items()}
        running |= dict.fromkeys(journal.record.unsure, "")
        steps = plan(running, {name: one.revision for name, one in good.items()}, {})
        errors: dict[str, str] = {}

        def take(step: Step) -> None:
            name, last = step.deployment, good.get(step.deployment)
            if step.action == "keep":
                return
            self.stepper.runtime.go_on()
            journal.note(lambda record: record.begin(name))
            if error := self.stepper.return_to(name, last):
                errors[name] = f"{name_of(name, journal.record)}: the last good version did not come back: {error}"
            else:
                journal.note(lambda record: record.did_go_back(name, last))

        self._in_turn(steps, take, {name: frozenset(one.needs) for name, one in good.items()})
        if not errors:
            journal.note(lambda record: replace(record, before=None))
        return errors

    def bring_back(self, journal: Journal, *, but: Collection[str] = ()) -> Mapping[str, ApplyError]:
        """Have everything run that is installed, `but` some; return what does not, and why."""
        good = {name: one for name, one in journal.record.installed.items() if name not in but}
        errors: dict[str, ApplyError] = {}

        def take(step: Step) -> None:
            self.stepper.runtime.go_on()
            if error := self.stepper.return_to(step.deployment, good[step.deployment]):
                errors[step.deployment] = error

        steps = [Step("keep", name) for name in sorted(good)]
        self._in_turn(steps, take, {name: frozenset(one.needs) for name, one in good.items()})
        return errors

    def _in_turn(self, steps: Sequence[Step], take: Callable[[Step], None], needs: Mapping[str, Set[str]]) -> None:
        in_turn(steps, lambda step: before(step, steps, needs), take, at_once=self.at_once)


def _remember(journal: Journal, deployment: str, failure: Failure, *, sure: bool) -> None:
    journal.note(lambda record: record.did_fail(deployment, failure, sure=sure))
