"""The second half of a pass: plan, prepare, apply, record; and the way back when a version does not come up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from margo_agent.engine import EngineUnavailable, PullFailed
from margo_agent.gather import Desired
from margo_agent.generation import Generation, Generations
from margo_agent.plan import Ending, Step, plan, worth_another_try
from margo_agent.record import Failure, Installed, Record, RecordFile
from margo_agent.report import DeploymentReport, Report
from margo_agent.runtime import Runtime
from margo_agent.standing import kept, name_of, reported
from margo_oci.errors import ApplyError


def steps_for(desired: Desired, record: Record) -> Sequence[Step]:
    """Return what leads from the record to the desired state; what is unsure runs no revision that is known."""
    running = {name: one.revision for name, one in record.installed.items()} | dict.fromkeys(record.unsure, "")
    failed = {name: one.revision for name, one in record.failed.items()}
    return plan(running, desired.revisions, failed)


Ready = Generation | ApplyError  # what a step is to bring up, or why there is nothing


@dataclass
class Work:
    """A pass under way: what is desired, what is there for it, and what is recorded by now."""

    desired: Desired
    ready: Mapping[str, Ready]
    record: Record


@dataclass(frozen=True)
class Taken:
    """How a step ended. A failure is not recorded yet: the step may be tried again."""

    ending: Ending
    report: DeploymentReport
    failure: Failure | None = None
    sure: bool = True  # whether it is known what runs now


@dataclass(frozen=True)
class Back:
    """What became of the way back; without `sure` nobody knows what runs."""

    sure: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Takes a device from what runs to what is desired, one recorded step after the other."""

    record_file: RecordFile
    generations: Generations
    runtime: Runtime
    now: Callable[[], datetime]

    def apply(self, desired: Desired, report: Report) -> None:
        """Apply `desired`. Raises EngineUnavailable; a workload that does not come up is an outcome, no error."""
        record = self.record_file.load()
        steps = steps_for(desired, record)
        with report.timed("prepare"):
            work = Work(desired, self._prepare(steps, desired, report), record)
        taken: dict[Step, Taken] = {}
        try:
            with report.timed("apply"):
                self._take_all(steps, work, taken)
        finally:
            report.deployments += [one.report for one in taken.values()]
        settled = not work.record.unsure and all(one.ending != "undone" for one in taken.values())
        self.record_file.save(replace(work.record, settled=settled))

    def restore(self, record: Record, report: Report) -> None:
        """Have the engine run what is installed; what runs already is left alone."""
        with report.timed("apply"):
            for name, installed in record.installed.items():
                step = Step("keep", name)
                try:
                    self.runtime.apply(self.generations.open(name, installed.revision))
                except EngineUnavailable:
                    raise
                except ApplyError as error:
                    report.deployments.append(
                        reported(step, installed.name, installed.components, "failed", str(error))
                    )
                else:
                    report.deployments.append(kept(step, record))

    def _prepare(self, steps: Sequence[Step], desired: Desired, report: Report) -> Mapping[str, Ready]:
        """Have everything on this device, images too, before anything that runs is touched."""
        ready: dict[str, Ready] = {}
        for step in steps:
            if step.action in ("install", "update"):
                try:
                    generation = prepare(self.generations, desired, step.deployment)
                    report.images_pulled += self.runtime.pull_missing(generation)
                    ready[step.deployment] = generation
                except EngineUnavailable:
                    raise
                except ApplyError as error:
                    ready[step.deployment] = error
        return ready

    def _take_all(self, steps: Sequence[Step], work: Work, taken: dict[Step, Taken]) -> None:
        """Take every step, those that failed perhaps twice; then remember what failed for good."""
        for step in steps:
            taken[step] = self._take(step, work)
        for step in worth_another_try({step: one.ending for step, one in taken.items()}):
            taken[step] = self._take(step, work)
        for step, one in taken.items():
            if one.failure:
                self._save(work, work.record.did_fail(step.deployment, one.failure, sure=one.sure))

    def _take(self, step: Step, work: Work) -> Taken:
        """Take one step; what it did is recorded durably."""
        self.runtime.go_on()
        if step.action == "keep":
            self._keep(step, work)
            return Taken("kept", kept(step, work.record))
        if step.action == "remove":
            return self._remove(step, work)
        return self._restore(step, work) if step.action == "restore" else self._renew(step, work)

    def _keep(self, step: Step, work: Work) -> None:
        """What failed and is no longer asked for is forgotten: what runs is what is desired."""
        if not step.held and step.deployment in work.record.failed:
            self._save(work, work.record.did_recover(step.deployment))

    def _remove(self, step: Step, work: Work) -> Taken:
        name = name_of(step.deployment, work.record)
        self._save(work, work.record.begin(step.deployment))
        try:
            self.runtime.remove(step.deployment)
        except EngineUnavailable:
            raise
        except ApplyError as error:
            return Taken("undone", reported(step, name, (), "failed", str(error)))
        self._save(work, work.record.did_remove(step.deployment))
        self.generations.drop_others(step.deployment, ())
        return Taken("done", reported(step, name, (), "removed"))

    def _restore(self, step: Step, work: Work) -> Taken:
        """The last good version did not come back in an earlier pass: try that again, and not what failed."""
        back = self._put_back(step.deployment, work.record)
        failure = replace(work.record.failed[step.deployment], since_then=back.words)
        one = reported(step, failure.name, failure.components, "failed", failure.words)
        if not back.sure:
            return Taken("failed", one, failure, sure=False)
        self._save(work, work.record.did_fail(step.deployment, failure))
        return Taken("done", one)

    def _renew(self, step: Step, work: Work) -> Taken:
        """Install or update."""
        placed, ready = work.desired.placed[step.deployment], work.ready[step.deployment]
        name = placed.deployment.name
        components = tuple(component.name for component in placed.deployment.components)
        if isinstance(ready, Generation):
            self._save(work, work.record.begin(step.deployment))
            error = self._bring_up(ready)
            if not error:
                self._installed(step.deployment, placed.revision, name, components, work)
                return Taken("done", reported(step, name, components, "installed"))
            back = self._put_back(step.deployment, work.record)
        else:
            error, back = str(ready), self._leave(step.deployment, work)
        failure = Failure(placed.revision, name, components, error, back.words)
        one = reported(step, name, components, "failed", failure.words)
        return Taken("undone", one) if isinstance(ready, PullFailed) else Taken("failed", one, failure, back.sure)

    def _installed(self, deployment: str, revision: str, name: str, components: Sequence[str], work: Work) -> None:
        installed = Installed(revision, name, components, self.now().isoformat(timespec="seconds"))
        before = work.record.installed.get(deployment)
        self._save(work, work.record.did_install(deployment, installed))
        self.generations.drop_others(deployment, [revision, *([before.revision] if before else [])])

    def _bring_up(self, generation: Generation) -> str:
        """Apply a generation; return "" or why it failed."""
        try:
            self.runtime.apply(generation)
        except EngineUnavailable:
            raise
        except ApplyError as error:
            return str(error)
        return ""

    def _leave(self, deployment: str, work: Work) -> Back:
        """Change nothing where something is known to run; else there is a way back to go first."""
        if deployment not in work.record.unsure:
            return Back(True, "nothing was changed")
        back = self._put_back(deployment, work.record)
        if back.sure:
            self._save(work, work.record.did_put_back(deployment))
        return back

    def _put_back(self, deployment: str, record: Record) -> Back:
        """Bring the last good version back, and say what became of it."""
        previous = record.installed.get(deployment)
        try:
            if previous is None:
                self.runtime.remove(deployment)
                return Back(True, "taken down again")
            self.runtime.apply(self.generations.open(deployment, previous.revision))
        except EngineUnavailable:
            raise
        except ApplyError as error:
            what = "the last good version did not come back" if previous else "it could not be taken down again"
            return Back(False, f"{what}: {error}")
        return Back(True, "the last good version is back")

    def _save(self, work: Work, record: Record) -> None:
        work.record = self.record_file.save(record)


def prepare(generations: Generations, desired: Desired, deployment: str) -> Generation:
    """Return the generation of a new revision. Raises ApplyError if it can never run here."""
    placed = desired.placed[deployment]
    if deployment in desired.faults:
        raise ApplyError(desired.faults[deployment])
    if placed.deployment.profile != "compose":
        raise ApplyError(f"profile {placed.deployment.profile} is not supported: this device runs Compose deployments")
    return generations.prepare(placed, desired.locks[deployment])
