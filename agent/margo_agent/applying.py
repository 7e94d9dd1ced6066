"""The second half of a pass: plan, prepare, apply, record; and the way back when a version does not come up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from margo_agent.engine import EngineUnavailable, PullFailed
from margo_agent.gather import Desired
from margo_agent.generation import Generation, Generations
from margo_agent.plan import Step, plan
from margo_agent.record import Failure, Installed, Record, RecordFile
from margo_agent.report import DeploymentReport, Report
from margo_agent.runtime import Runtime
from margo_oci.errors import ApplyError


def steps_for(desired: Desired, record: Record) -> Sequence[Step]:
    """Return what leads from the record to the desired state; what is unsure runs no revision that is known."""
    running = {name: one.revision for name, one in record.installed.items()} | dict.fromkeys(record.unsure, "")
    failed = {name: one.revision for name, one in record.failed.items()}
    return plan(running, desired.revisions, failed)


def kept(step: Step, record: Record) -> DeploymentReport:
    """Report a deployment that is left as it is: installed, or failed in just this revision before."""
    installed, failed = record.installed.get(step.deployment), record.failed.get(step.deployment)
    if failed and (step.held or not installed):
        return _reported(step, failed.name, failed.components, "failed", failed.error)
    assert installed is not None  # noqa: S101  (only what is recorded is kept)
    return _reported(step, installed.name, installed.components, "installed")


def name_of(deployment: str, record: Record) -> str:
    """Return what the record calls a deployment."""
    known = record.installed.get(deployment) or record.failed.get(deployment)
    return known.name if known else ""


def _reported(step: Step, name: str, components: Sequence[str], state: str, error: str = "") -> DeploymentReport:
    parts = [{"name": component, "state": state} for component in components]
    return DeploymentReport(step.deployment, name, step.action, state, parts, error)


class NotNow(Exception):  # noqa: N818
    """A step that could not be taken now; it is not remembered as a failure, and tried again in the next pass."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


Ready = Generation | ApplyError  # what a step is to bring up, or why there is nothing


@dataclass(frozen=True, kw_only=True)
class Applier:
    """Takes a device from what runs to what is desired, one recorded step after the other."""

    record_file: RecordFile
    generations: Generations
    runtime: Runtime
    now: Callable[[], datetime]
    stopping: Callable[[], bool] = lambda: False

    def apply(self, desired: Desired, report: Report) -> None:
        """Apply `desired`. Raises EngineUnavailable; a workload that does not come up is an outcome, no error."""
        record = self.record_file.load()
        steps = steps_for(desired, record)
        with report.timed("prepare"):
            ready = self._prepare(steps, desired, report)
        settled = True
        with report.timed("apply"):
            for step in steps:
                if self.stopping():
                    raise EngineUnavailable("stopped on request: the next pass goes on from here")
                try:
                    record = self._take(step, desired, ready.get(step.deployment), record, report)
                except NotNow as error:
                    settled = False
                    report.deployments.append(_reported(step, error.name, (), "failed", str(error)))
        self.record_file.save(replace(record, settled=settled))

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
                        _reported(step, installed.name, installed.components, "failed", str(error))
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

    def _take(self, step: Step, desired: Desired, ready: Ready | None, record: Record, report: Report) -> Record:
        """Take one step, record it durably, report it. Raises NotNow for one that is to be tried again."""
        if step.action == "keep":
            report.deployments.append(kept(step, record))
            return record if step.held else self._forget_failure(step.deployment, record)
        if step.action == "remove":
            return self._remove(step, record, report)
        placed = desired.placed[step.deployment]
        components = tuple(component.name for component in placed.deployment.components)
        if isinstance(ready, PullFailed):
            raise NotNow(placed.deployment.name, f"{ready}; nothing was changed")
        if isinstance(ready, Generation):
            record = self.record_file.save(record.begin(step.deployment))
        error = self._bring_up(step.deployment, ready, record)
        state = "failed" if error else "installed"
        report.deployments.append(_reported(step, placed.deployment.name, components, state, error))
        if error:
            failure = Failure(placed.revision, placed.deployment.name, components, error)
            return self.record_file.save(record.did_fail(step.deployment, failure))
        return self._installed(step.deployment, placed.revision, placed.deployment.name, components, record)

    def _installed(
        self, deployment: str, revision: str, name: str, components: Sequence[str], record: Record
    ) -> Record:
        installed = Installed(revision, name, components, self.now().isoformat(timespec="seconds"))
        before = record.installed.get(deployment)
        record = self.record_file.save(record.did_install(deployment, installed))
        self.generations.drop_others(deployment, [revision, *([before.revision] if before else [])])
        return record

    def _forget_failure(self, deployment: str, record: Record) -> Record:
        """What failed is no longer asked for: what runs is what is desired."""
        return self.record_file.save(record.did_recover(deployment)) if deployment in record.failed else record

    def _remove(self, step: Step, record: Record, report: Report) -> Record:
        name = name_of(step.deployment, record)
        record = self.record_file.save(record.begin(step.deployment))
        try:
            self.runtime.remove(step.deployment)
        except EngineUnavailable:
            raise
        except ApplyError as error:
            raise NotNow(name, str(error)) from None
        report.deployments.append(_reported(step, name, (), "removed"))
        record = self.record_file.save(record.did_remove(step.deployment))
        self.generations.drop_others(step.deployment, ())
        return record

    def _bring_up(self, deployment: str, ready: Ready | None, record: Record) -> str:
        """Apply a generation; return "" or why it failed and what was done about it."""
        if not isinstance(ready, Generation):
            return f"{ready}; nothing was changed"
        try:
            self.runtime.apply(ready)
        except EngineUnavailable:
            raise
        except ApplyError as error:
            return f"{error}; {self._put_back(deployment, record)}"
        return ""

    def _put_back(self, deployment: str, record: Record) -> str:
        """Bring the last good version back, and say what became of it."""
        previous = record.installed.get(deployment)
        try:
            if previous is None:
                self.runtime.remove(deployment)
                return "taken down again"
            self.runtime.apply(self.generations.open(deployment, previous.revision))
        except EngineUnavailable:
            raise
        except ApplyError as error:
            return f"the last good version did not come back: {error}"
        return "the last good version is back"


def prepare(generations: Generations, desired: Desired, deployment: str) -> Generation:
    """Return the generation of a new revision. Raises ApplyError if it can never run here."""
    placed = desired.placed[deployment]
    if deployment in desired.faults:
        raise ApplyError(desired.faults[deployment])
    if placed.deployment.profile != "compose":
        raise ApplyError(f"profile {placed.deployment.profile} is not supported: this device runs Compose deployments")
    return generations.prepare(placed, desired.locks[deployment])
