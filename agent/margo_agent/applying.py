"""The second half of a pass: plan, prepare, apply, record; each deployment for itself, or the state as a whole."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from margo_agent.crew import Crew
from margo_agent.gate import Gate
from margo_agent.gather import Desired
from margo_agent.generation import Generation, Generations
from margo_agent.interrupted import Interrupted
from margo_agent.lookout import Lookout
from margo_agent.plan import Step, plan
from margo_agent.record import Journal, Record, RecordFile
from margo_agent.report import Report
from margo_agent.settings import Atomic
from margo_agent.standing import kept, reported
from margo_agent.stepping import Ready, Unmet, Work
from margo_agent.unready import Unready
from margo_agent.whole import Whole
from margo_oci.dependencies import Needs, needs_of
from margo_oci.errors import ApplyError


def steps_for(desired: Desired, record: Record, *, atomic: Atomic = "deployment") -> Sequence[Step]:
    """Return what leads from the record to the desired state; what is unsure runs no revision that is known.

    A state that was put back as a whole is left alone; another one is tried with all that failed before (format 5.10).
    """
    if atomic == "state" and record.failed_state == desired.digest:
        names = sorted({**record.installed, **record.failed})
        return [Step("keep", name, held=name in record.failed) for name in names]
    running = {name: one.revision for name, one in record.installed.items()} | dict.fromkeys(record.unsure, "")
    again = atomic == "state"
    failed = {name: "" if again or one.waits_for else one.revision for name, one in record.failed.items()}
    return plan(running, desired.revisions, failed)


def needs_for(desired: Desired, record: Record) -> Needs:
    """Return what each deployment needs: as new documents say, and as the record says of what is left alone."""
    names = {name: desired.name_of(name, record) for name in desired.revisions}
    found = needs_of(names, {name: placed.deployment.depends_on for name, placed in desired.placed.items()})
    recorded = {name: frozenset(one.needs) for name, one in record.installed.items()}
    return Needs({**recorded, **found.ids}, found.faults)


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Takes a device from what runs to what is desired."""

    record_file: RecordFile
    generations: Generations
    crew: Crew
    gate: Gate
    lookout: Lookout | None = None
    atomic: Atomic = "deployment"

    def apply(self, desired: Desired, report: Report) -> None:
        """Apply `desired`. Raises Interrupted; a workload that does not come up is an outcome, no error."""
        if self.lookout:
            self.lookout.begin(desired.digest)
        journal = self._journal()
        steps = steps_for(desired, journal.record, atomic=self.atomic)
        work = Work(desired, journal, needs_for(desired, journal.record))
        with report.timed("prepare"):
            self._prepare(steps, work, report)
        if why := self._held_back(steps, journal.record):
            self._wait(why, steps, work, report)
            return
        with self.gate.passing(), report.timed("apply"):
            if self.atomic == "state":
                Whole(self.crew).apply(steps, work, report)
            else:
                self._apply_each(steps, work, report)

    def restore(self, report: Report) -> None:
        """Have the engine run the last good state; what runs already is left alone.

        A state that was being applied as a whole is put back first: whether it comes up is not known yet.
        """
        journal = self._journal()
        with report.timed("apply"):
            # What does not come back to where it was is no good state: it is left to the next pass.
            stuck = self.crew.go_back(journal) if journal.record.before is not None else {}
            errors = {**self.crew.bring_back(journal, but=stuck), **{name: ApplyError(stuck[name]) for name in stuck}}
        for name, one in journal.record.installed.items():
            step, error = Step("keep", name), errors.get(name)
            failed = reported(step, one.name, one.components, "failed", error)
            report.deployments.append(failed if error else kept(step, journal.record))

    def _journal(self) -> Journal:
        """Open the record; what is placed for no deployment in it goes (format 14.15)."""
        journal = Journal(self.record_file)
        self.generations.keep_placed_of(journal.record.deployments)
        return journal

    def _prepare(self, steps: Sequence[Step], work: Work, report: Report) -> None:
        """Have everything on this device, images too, before anything that runs is touched."""
        changing = {step.deployment for step in steps if step.action != "keep"}
        for step in steps:
            if step.action in ("install", "update"):
                self.crew.stepper.runtime.go_on()
                work.ready[step.deployment] = self._ready(step.deployment, changing, work, report)

    def _ready(self, deployment: str, changing: Set[str], work: Work, report: Report) -> Ready:
        try:
            if fault := work.needs.faults.get(deployment):
                raise Unmet(fault)
            generation = prepare(self.generations, work.desired, deployment)
            report.brought(self.crew.stepper.runtime.pull_missing(generation, changing))
        except Interrupted:
            raise
        except ApplyError as error:
            return error
        return generation

    def _held_back(self, steps: Sequence[Step], record: Record) -> str:
        """Return why applying may not begin now. What was begun is ended, whatever the time (format 5.9)."""
        begun = record.unsure or record.before is not None
        return self.gate.closed if any(step.action != "keep" for step in steps) and not begun else ""

    def _wait(self, why: str, steps: Sequence[Step], work: Work, report: Report) -> None:
        """Leave everything as it is until applying may begin. What could not be had is asked for again meanwhile."""
        complete = not any(isinstance(one, Unready) for one in work.ready.values())
        work.journal.note(lambda record: replace(record, waiting=why if complete else "", settled=False))
        report.outcome, report.message = "waiting", why
        for step in steps:
            keeps = step.action == "keep"
            report.deployments.append(kept(step, work.record) if keeps else work.not_begun(step, "pending", why))

    def _apply_each(self, steps: Sequence[Step], work: Work, report: Report) -> None:
        """Apply each deployment for itself: one that fails is put back, the others are not affected."""
        work.journal.note(lambda record: replace(record, before=None, failed_state=""))
        try:
            self.crew.take_all(steps, work)
        finally:
            report.deployments += [work.taken[step].report for step in steps if step in work.taken]
        work.settle(settled=all(one.ending != "undone" for one in work.taken.values()))


def prepare(generations: Generations, desired: Desired, deployment: str) -> Generation:
    """Return the generation of a new revision. Raises ApplyError if it can never run here."""
    placed = desired.placed[deployment]
    if deployment in desired.faults:
        raise ApplyError(desired.faults[deployment], code="unfit")
    if placed.deployment.profile != "compose":
        words = f"profile {placed.deployment.profile} is not supported: this device runs Compose deployments"
        raise ApplyError(words, code="unsupported-profile")
    return generations.prepare(placed, desired.locks[deployment])
