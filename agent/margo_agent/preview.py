"""What a pass would do: which deployments change, which services restart, how many bytes still have to come."""

from collections.abc import Mapping
from dataclasses import dataclass

from margo_agent.applying import prepare, steps_for
from margo_agent.gather import Desired
from margo_agent.generation import Generation, Generations
from margo_agent.plan import Step
from margo_agent.record import Record
from margo_agent.report import DeploymentReport, Report
from margo_agent.runtime import Runtime
from margo_agent.settings import Atomic
from margo_agent.standing import kept, name_of
from margo_oci.errors import ApplyError, MargoError


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Looks ahead; prepares folders, touches nothing that runs."""

    generations: Generations
    runtime: Runtime
    atomic: Atomic = "deployment"

    def show(self, desired: Desired, record: Record, report: Report) -> None:
        """Report every step that applying would take."""
        counted: set[str] = set()
        with report.timed("plan"):
            for step in steps_for(desired, record, atomic=self.atomic):
                report.deployments.append(self._shown(step, desired, record, report, counted))

    def _shown(
        self, step: Step, desired: Desired, record: Record, report: Report, counted: set[str]
    ) -> DeploymentReport:
        if step.action in ("keep", "restore"):
            return kept(step, record)
        before = self._before(step.deployment, record)
        if step.action == "remove":
            one = DeploymentReport(step.deployment, name_of(step.deployment, record), "remove", "installed")
            one.restarts = sorted(before)
            return one
        placed = desired.placed[step.deployment]
        one = DeploymentReport(step.deployment, placed.deployment.name, step.action, "pending")
        one.components = [{"name": component.name, "state": "pending"} for component in placed.deployment.components]
        try:
            generation = prepare(self.generations, desired, step.deployment)
        except ApplyError as error:
            one.state, one.error, one.code = "failed", str(error), error.code
            return one
        after = self._hashes(generation)
        one.restarts = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
        one.bytes = self._image_bytes(generation, report, counted)
        return one

    def _before(self, deployment: str, record: Record) -> Mapping[str, str]:
        installed = record.installed.get(deployment)
        try:
            return self._hashes(self.generations.open(deployment, installed.revision)) if installed else {}
        except ApplyError:
            return {}

    def _hashes(self, generation: Generation) -> Mapping[str, str]:
        return {
            f"{part.name}/{service}": digest
            for part in generation.parts
            for service, digest in self.generations.compose.hashes(
                part.file, project=part.project, variables=part.variables
            ).items()
        }

    def _image_bytes(self, generation: Generation, report: Report, counted: set[str]) -> int | None:
        """Return the size of the images that neither the engine has nor is `counted`; None if nobody can say."""
        try:
            images = {name: image for name, image in generation.images.items() if name not in counted}
            size, traffic = self.runtime.images.to_come(images)
        except MargoError:
            return None
        report.requests += traffic.requests
        report.bytes_in += traffic.bytes_in
        counted.update(images)
        return size
