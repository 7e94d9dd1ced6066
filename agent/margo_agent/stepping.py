"""Taking one step: what it does is recorded durably, and what does not come up is put back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from margo_agent.gather import Desired
from margo_agent.generation import Generation, Generations
from margo_agent.interrupted import Interrupted
from margo_agent.plan import Ending, Step, not_up
from margo_agent.record import Failure, Installed, Journal, Record
from margo_agent.report import DeploymentReport
from margo_agent.runtime import Runtime
from margo_agent.standing import kept, name_of, reported
from margo_agent.unready import Unready
from margo_oci.dependencies import Needs
from margo_oci.errors import ApplyError

Ready = Generation | ApplyError  # what a step is to bring up, or why there is nothing


class Unmet(ApplyError):  # noqa: N818  (this workload is fine, the state around it is not: another one may be)
    """A deployment depends on something that the state does not have."""

    code = "dependency"


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


@dataclass(frozen=True)
class Work:
    """A pass under way: what is desired, what is there for it, what is recorded, and how steps ended so far."""

    desired: Desired
    journal: Journal
    needs: Needs = field(default_factory=Needs)
    ready: dict[str, Ready] = field(default_factory=dict)
    taken: dict[Step, Taken] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """What is recorded by now."""
        return self.journal.record

    @property
    def endings(self) -> Mapping[Step, Ending]:
        """How each step ended so far."""
        taken = self.taken.copy()  # in one go: other steps end meanwhile
        return {step: one.ending for step, one in taken.items()}

    def settle(self, *, settled: bool) -> None:
        """Note that the pass is over, and whether nothing is left to do."""
        self.journal.note(lambda record: replace(record, settled=settled and not record.unsure, waiting=""))

    def components(self, deployment: str) -> Sequence[str]:
        """Return the names of a new deployment's components."""
        placed = self.desired.placed.get(deployment)
        return tuple(component.name for component in placed.deployment.components) if placed else ()

    def not_begun(self, step: Step, state: str, why: ApplyError | str) -> DeploymentReport:
        """Report a step that was not taken."""
        name = self.desired.name_of(step.deployment, self.record)
        return reported(step, name, self.components(step.deployment), state, why)

    def failure(self, deployment: str, error: ApplyError, since_then: str = "", *, waits_for: str = "") -> Failure:
        """Return what is remembered of a revision that did not come up."""
        name = self.desired.name_of(deployment, self.record)
        revision = self.desired.revisions[deployment]
        return Failure(revision, name, self.components(deployment), str(error), since_then, waits_for, error.code)


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Takes steps; several may be under way at once, for different deployments."""

    generations: Generations
    runtime: Runtime
    now: Callable[[], datetime]

    def take(self, step: Step, work: Work) -> None:
        """Take one step and note how it ended. Raises Interrupted."""
        self.runtime.go_on()
        work.taken[step] = self._take(step, work)

    def _take(self, step: Step, work: Work) -> Taken:
        if step.action == "keep":
            return self._keep(step, work)
        if step.action == "remove":
            return self._remove(step, work)
        return self._restore(step, work) if step.action == "restore" else self._renew(step, work)

    def _keep(self, step: Step, work: Work) -> Taken:
        """What failed and is no longer asked for is forgotten: what runs is what is desired."""
        if not step.held:
            work.journal.note(lambda record: record.did_recover(step.deployment))
        self._keep_placed(step.deployment, work.record)  # a step that was cut short may have placed more
        return Taken("kept", kept(step, work.record))

    def _remove(self, step: Step, work: Work) -> Taken:
        name = name_of(step.deployment, work.record)
        work.journal.note(lambda record: record.begin(step.deployment, leaves=True))
        try:
            self.runtime.remove(step.deployment)
        except Interrupted:
            raise
        except ApplyError as error:
            return Taken("undone", reported(step, name, (), "failed", error))
        self.generations.keep_placed(step.deployment, "")
        record = work.journal.note(lambda record: record.did_remove(step.deployment))
        self._drop_others(step.deployment, record)
        return Taken("done", reported(step, name, (), "removed"))

    def _restore(self, step: Step, work: Work) -> Taken:
        """The last good version did not come back in an earlier pass: try that again, and not what failed."""
        back = self._put_back(step.deployment, work.record)
        failure = replace(work.record.failed[step.deployment], since_then=back.words)
        one = reported(step, failure.name, failure.components, "failed", failure.words, failure.code)
        if not back.sure:
            return Taken("failed", one, failure, sure=False)
        work.journal.note(lambda record: record.did_fail(step.deployment, failure))
        return Taken("done", one)

    def _renew(self, step: Step, work: Work) -> Taken:
        """Install or update, once all it needs is up."""
        ready = work.ready[step.deployment]
        if missing := not_up(step, work.endings, work.needs.ids):
            words = f"waits for {work.desired.name_of(missing, work.record)}, which is not up"
            return self._blocked(step, work, missing, Unmet(words))
        if isinstance(ready, Unmet):
            return self._blocked(step, work, str(ready), ready)
        if not isinstance(ready, Generation):
            back = self._leave(step.deployment, work)
            return self._failed(step, work, ready, back, ending="undone" if isinstance(ready, Unready) else "failed")
        if missing_file := self._place(ready, work):
            return self._failed(step, work, missing_file, self._leave(step.deployment, work), ending="undone")
        work.journal.note(lambda record: record.begin(step.deployment))
        if error := self.bring_up(ready):
            return self._failed(step, work, error, self._put_back(step.deployment, work.record))
        return self._installed(step, work)

    def _place(self, generation: Generation, work: Work) -> ApplyError | None:
        """Have in place what it mounts; return why that cannot be: nothing was touched then."""
        try:
            self.generations.place(generation)
        except ApplyError as error:
            self._keep_placed(generation.deployment, work.record)
            return error
        return None

    def _keep_placed(self, deployment: str, record: Record) -> None:
        """Remove what is placed of a deployment, but what its installed version mounts."""
        installed = record.installed.get(deployment)
        self.generations.keep_placed(deployment, installed.revision if installed else "")

    def _failed(self, step: Step, work: Work, error: ApplyError, back: Back, *, ending: Ending = "failed") -> Taken:
        failure = work.failure(step.deployment, error, back.words)
        one = reported(step, failure.name, failure.components, "failed", failure.words, failure.code)
        return Taken("undone", one) if ending == "undone" else Taken(ending, one, failure, back.sure)

    def _blocked(self, step: Step, work: Work, missing: str, error: Unmet) -> Taken:
        back = self._leave(step.deployment, work)
        failure = work.failure(step.deployment, error, back.words, waits_for=missing)
        one = reported(step, failure.name, failure.components, "pending", error)
        return Taken("blocked", one, failure, back.sure)

    def _installed(self, step: Step, work: Work) -> Taken:
        installed = Installed(
            work.desired.revisions[step.deployment],
            work.desired.name_of(step.deployment, work.record),
            work.components(step.deployment),
            self.now().isoformat(timespec="seconds"),
            tuple(sorted(work.needs.ids.get(step.deployment, ()))),
        )
        record = work.journal.note(lambda record: record.did_install(step.deployment, installed))
        self._drop_others(step.deployment, record)
        return Taken("done", reported(step, installed.name, installed.components, "installed"))

    def _drop_others(self, deployment: str, record: Record) -> None:
        self.generations.drop_others(deployment, sorted(record.kept_revisions(deployment)))

    def bring_up(self, generation: Generation) -> ApplyError | None:
        """Apply a generation; return why it failed, if it did. Raises Interrupted."""
        try:
            self.runtime.apply(generation)
            self.generations.keep_placed(generation.deployment, generation.revision)
        except Interrupted:
            raise
        except ApplyError as error:
            return error
        return None

    def _leave(self, deployment: str, work: Work) -> Back:
        """Change nothing where something is known to run; else there is a way back to go first."""
        if deployment not in work.record.unsure:
            return Back(True, "nothing was changed")
        back = self._put_back(deployment, work.record)
        if back.sure:
            work.journal.note(lambda record: record.did_put_back(deployment))
        return back

    def _put_back(self, deployment: str, record: Record) -> Back:
        """Bring the last good version back, and say what became of it."""
        previous = record.installed.get(deployment)
        error = self.return_to(deployment, previous)
        if error:
            what = "the last good version did not come back" if previous else "it could not be taken down again"
            return Back(False, f"{what}: {error}")
        return Back(True, "the last good version is back" if previous else "taken down again")

    def return_to(self, deployment: str, good: Installed | None) -> ApplyError | None:
        """Have a good version run again, or nothing; return why that failed, if it did. Raises Interrupted."""
        try:
            if good is None:
                self.runtime.remove(deployment)
                self.generations.keep_placed(deployment, "")
                return None
            generation = self.generations.open(deployment, good.revision)
        except Interrupted:
            raise
        except ApplyError as error:
            return error
        return self.bring_up(generation)
