"""Applying a state as a whole: all of its deployments come up, or exactly what ran before runs again (format 5.10).

While it lasts the record keeps what was installed `before`; a state that failed is remembered by its digest. So a
power cut at any moment leaves either the way on or the way back to be gone by the next pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from margo_agent.crew import Crew
from margo_agent.plan import Step
from margo_agent.record import Failure, Record
from margo_agent.report import Report
from margo_agent.standing import kept
from margo_agent.stepping import Work
from margo_agent.unready import Unready
from margo_oci.errors import ApplyError

_GOOD = ("kept", "done")
_NOT_BEGUN = "not begun: the state is applied as a whole, and it cannot be completed"


@dataclass(frozen=True)
class Whole:
    """All or nothing."""

    crew: Crew

    def apply(self, steps: Sequence[Step], work: Work, report: Report) -> None:
        """Apply all, or go back. What cannot be had now is tried again, what failed is not. Raises Interrupted."""
        missing = {name: error for name, error in work.ready.items() if isinstance(error, ApplyError)}
        if work.record.failed_state == work.desired.digest:
            self._stay_back(work, report)
        elif missing:
            self._do_not_begin(steps, missing, work, report)
        elif self._all_came_up(steps, work, report):
            work.journal.note(lambda record: replace(record, before=None, failed_state=""))
            work.settle(settled=True)
        else:
            self._give_up(steps, work, _words(work))
            report.deployments.clear()
            self._stay_back(work, report)

    def _all_came_up(self, steps: Sequence[Step], work: Work, report: Report) -> bool:
        if any(step.action != "keep" for step in steps):
            work.journal.note(_begun)
        try:
            self.crew.take_all(steps, work)
        finally:
            report.deployments += [work.taken[step].report for step in steps if step in work.taken]
        return all(ending in _GOOD for ending in work.endings.values())

    def _do_not_begin(
        self, steps: Sequence[Step], missing: Mapping[str, ApplyError], work: Work, report: Report
    ) -> None:
        """Touch nothing; go back if the state was begun before something of it went missing."""
        if any(not isinstance(error, Unready) for error in missing.values()):
            self._give_up(steps, work, _NOT_BEGUN, missing)
            self._stay_back(work, report)
            return
        for step in steps:
            error = missing.get(step.deployment)
            one = work.not_begun(step, "failed" if error else "pending", error or _NOT_BEGUN)
            report.deployments.append(kept(step, work.record) if step.action == "keep" else one)
        work.settle(settled=False)

    def _give_up(
        self, steps: Sequence[Step], work: Work, words: str, errors: Mapping[str, ApplyError] | None = None
    ) -> None:
        """Remember that this state failed, and why: from now on the way is back."""
        failures: dict[str, Failure] = {}
        for step in steps:
            taken = work.taken.get(step)
            if step.action != "keep" and step.deployment in work.desired.placed:
                error = (errors or {}).get(step.deployment) or ApplyError(words, code="rolled-back")
                failures[step.deployment] = (taken.failure if taken else None) or work.failure(step.deployment, error)
        digest = work.desired.digest
        work.journal.note(lambda record: replace(record, failed_state=digest, failed=failures))

    def _stay_back(self, work: Work, report: Report) -> None:
        """Go back to what was installed before, as far as that was left; then nothing is to do for this state."""
        errors = self.crew.go_back(work.journal) if work.record.before is not None else {}
        names = sorted({**work.record.installed, **work.record.failed})
        report.deployments += [kept(Step("keep", name, held=name in work.record.failed), work.record) for name in names]
        report.message = "; ".join(errors.values())
        work.settle(settled=not errors)


def _begun(record: Record) -> Record:
    """Keep what is installed, unless an earlier state was begun and never ended: then what was before that counts."""
    return record if record.before is not None else replace(record, before=dict(record.installed))


def _words(work: Work) -> str:
    reports = [one.report for step, one in work.taken.items() if work.endings[step] not in _GOOD]
    return "put back with the whole state, as " + "; ".join(f"{one.name or one.id}: {one.error}" for one in reports)
