"""Puts right what is not as the record says: a look at the engine, findings, and only what they name is touched."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from margo_agent.drift import Finding, Remembered, Service, Sight, findings, mends, orphans, services_of
from margo_agent.generation import Generation, Generations, Part
from margo_agent.given import GivenNames
from margo_agent.interrupted import Interrupted
from margo_agent.noticed import Noticed, NoticedFile
from margo_agent.record import Record
from margo_agent.report import DeploymentReport, Report
from margo_agent.runtime import Runtime
from margo_agent.standing import fail_if_any_failed, name_of
from margo_oci.errors import ApplyError


@dataclass(frozen=True)
class Checked:
    """The deployments that are looked at: what should run of them, and those that cannot be told."""

    generations: Mapping[str, Generation]
    services: Sequence[Service]
    unusable: Mapping[str, ApplyError]


@dataclass(frozen=True, kw_only=True)
class Corrector:
    """Looks for drift. `leave` says why nothing is to be touched, "" if it may be; `held` that this will pass."""

    device: str
    generations: Generations
    runtime: Runtime
    noticed_file: NoticedFile
    given: GivenNames
    leave: str = ""
    held: bool = False

    def correct(
        self, record: Record, report: Report, *, only: Set[str] = frozenset(), stopped: Set[str] = frozenset()
    ) -> None:
        """Look at all deployments, or `only` at some, and put right what is found; `stopped` are containers that
        somebody stopped. Raises Interrupted; what cannot be put right is an outcome.
        """
        _say_what_is_accepted(record, report)
        noticed = self.noticed_file.load()
        with report.timed("look"):
            checked = self._checked(record, only)
            sight = self._look(record, checked.services)
        remembered = Remembered(settings=noticed.settings, images=self.given.load())
        found = findings(checked.services, sight, remembered, stopped={*stopped, *noticed.stopped})
        strays = self._strays(record, sight, noticed)
        standing: Sequence[Finding] = [*found, *strays]
        if standing and not self.leave:
            with report.timed("apply"):
                errors = self._put_right(checked, found, strays, remembered)
                sight, noticed = self._look_again(record, checked, noticed, sight)
            remembered = replace(remembered, settings=noticed.settings)
            standing = [*findings(checked.services, sight, remembered), *self._strays(record, sight, noticed)]
            self._tell(record, report, [*found, *strays], standing, errors)
        else:
            self._tell(record, report, [], standing, {})
            report.held = self.held and bool(standing)
        self._tell_unusable(record, report, checked)
        fail_if_any_failed(report)
        self.noticed_file.save(self._noticed(record, checked, sight, noticed, standing))

    def _checked(self, record: Record, only: Set[str]) -> Checked:
        generations: dict[str, Generation] = {}
        services: list[Service] = []
        unusable: dict[str, ApplyError] = {}
        for name, installed in record.installed.items():
            if name in record.unsure or (only and name not in only):
                continue  # a step that is under way is for a pass to end
            try:
                generation = self.generations.open(name, installed.revision)
                for part in generation.parts:
                    services += self._services(name, part)
                generations[name] = generation
            except ApplyError as error:
                unusable[name] = error
        return Checked(generations, [one for one in services if one.deployment in generations], unusable)

    def _services(self, deployment: str, part: Part) -> Sequence[Service]:
        hashes = self.generations.compose.hashes(part.file, project=part.project, variables=part.variables)
        try:
            model = json.loads(part.file.read_bytes())
            return services_of(deployment, part.name, part.project, model, hashes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ApplyError(f"{part.file}: not usable: {error}") from None

    def _look(self, record: Record, services: Sequence[Service]) -> Sight:
        engine = self.runtime.engine
        return Sight(
            containers=engine.seen(self.device, set(self._projects(record))),
            networks=engine.network_projects(),
            images={name: engine.image_id(name) for name in sorted({one.image for one in services})},
        )

    def _projects(self, record: Record) -> dict[str, str]:
        projects: dict[str, str] = {}
        for name, installed in record.installed.items():
            try:
                generation = self.generations.open(name, installed.revision)
            except ApplyError:
                continue
            projects |= {part.project: name for part in generation.parts}
        return projects

    def _look_again(self, record: Record, checked: Checked, noticed: Noticed, before: Sight) -> tuple[Sight, Noticed]:
        """Look at what became of it. What was made now is as it should be, whatever Compose's hash says of it."""
        sight = self._look(record, checked.services)
        old = {one.id for one in before.containers}
        new = {one.id: one.settings for one in sight.containers if one.id not in old}
        return sight, replace(noticed, settings={**noticed.settings, **new})

    def _strays(self, record: Record, sight: Sight, noticed: Noticed) -> Sequence[Finding]:
        """Return what is ours and of no deployment. Before a state was accepted and settled nobody can tell."""
        if not record.current or not record.settled or record.unsure:
            return ()
        return orphans(sight, self.device, {*record.installed, *record.failed}, noticed.projects)

    def _put_right(
        self, checked: Checked, found: Sequence[Finding], strays: Sequence[Finding], remembered: Remembered
    ) -> Mapping[str, ApplyError]:
        """Put right what was found; return for each deployment what stood in the way."""
        errors: dict[str, ApplyError] = {}
        for name in dict.fromkeys(one.deployment for one in [*found, *strays]):
            mine = [one for one in found if one.deployment == name]
            try:
                self._remove([one for one in strays if one.deployment == name])
                if mine:
                    self._mend(checked.generations[name], mine, checked.services, remembered)
            except Interrupted:
                raise
            except ApplyError as error:
                errors[name] = error
        return errors

    def _mend(
        self, generation: Generation, found: Sequence[Finding], services: Sequence[Service], remembered: Remembered
    ) -> None:
        engine = self.runtime.engine
        self._name_images([one for one in services if one.deployment == generation.deployment], remembered)
        if any(one.kind == "image" for one in found):
            self.runtime.pull_missing(generation)
        for one in found:
            if one.kind == "paused":
                engine.unpause(one.container)
        self._remove([one for one in found if one.kind == "orphan"])
        plan = mends(found, services)
        for part in generation.parts:
            if mend := plan.get(part.project):
                self.runtime.mend(generation, part, recreate=mend.recreate, start=mend.start)

    def _name_images(self, services: Sequence[Service], remembered: Remembered) -> None:
        """Let every name lead where it was given to, else Compose would make containers of another image."""
        engine = self.runtime.engine
        for name in sorted({one.image for one in services}):
            given = remembered.images.get(name)
            if given and engine.image_id(name) != given and engine.image_id(given):
                engine.name_image(given, name)

    def _remove(self, strays: Sequence[Finding]) -> None:
        for one in sorted(strays, key=lambda one: not one.container):  # networks last
            if one.container:
                self.runtime.engine.remove_container(one.container)
            else:
                self.runtime.engine.remove_network(one.service)

    def _tell(
        self,
        record: Record,
        report: Report,
        touched: Sequence[Finding],
        standing: Sequence[Finding],
        errors: Mapping[str, ApplyError],
    ) -> None:
        for name in dict.fromkeys(one.deployment for one in [*touched, *standing]):
            one = _reported(record, name, [one.words for one in touched or standing if one.deployment == name])
            still = [one.words for one in standing if one.deployment == name]
            if touched:
                one.action = "correct" if name in record.installed else "remove"
                error = errors.get(name) or (ApplyError(f"still so: {'; '.join(still)}") if still else None)
                one.error, one.code = (str(error), error.code) if error else ("", "")
                one.state = "failed" if one.error else "installed" if name in record.installed else "removed"
            report.deployments.append(one)
        report.outcome = "applied" if touched else "unchanged"
        words = "; ".join(_words(report.deployments))
        report.message = f"drift: {words}{f' ({self.leave})' if self.leave else ''}" if words else ""

    def _tell_unusable(self, record: Record, report: Report, checked: Checked) -> None:
        for name, error in checked.unusable.items():
            one = _reported(record, name, [])
            one.state, one.error, one.code = "failed", str(error), error.code
            report.deployments.append(one)

    def _noticed(
        self, record: Record, checked: Checked, sight: Sight, before: Noticed, standing: Sequence[Finding]
    ) -> Noticed:
        bad = {one.container for one in standing if one.kind == "changed"}
        settings = {
            one.id: before.settings.get(one.id, one.settings)
            for one in sight.containers
            if one.id in before.settings or one.id not in bad
        }
        there = {one.project for one in sight.containers} | set(sight.networks.values())
        projects = {name: owner for name, owner in before.projects.items() if name in there} | dict(
            self._projects(record)
        )
        looked_at = {*checked.generations, *checked.unusable}
        names = {name: one for name, one in before.names.items() if one in set(record.installed) - looked_at}
        names |= {name: one.deployment for one in checked.services for name in one.networks}
        images = {one.image: one.deployment for one in checked.services}
        names |= {known: owner for name, owner in images.items() for known in (name, sight.images[name]) if known}
        # Podman names the container, and not the network, when one is taken out of the other.
        names |= {one.id: one.deployment for one in sight.containers if one.deployment in looked_at}
        found: dict[str, list[str]] = {
            name: list(words) for name, words in before.found.items() if name in set(record.installed) - looked_at
        }
        for one in standing:
            found.setdefault(one.deployment, []).append(one.words)
        still = {one.container for one in standing if one.kind == "stopped"}
        elsewhere = {one.id for one in sight.containers if one.deployment not in looked_at}
        still |= elsewhere & set(before.stopped)
        return Noticed(settings=settings, projects=projects, names=names, found=found, stopped=sorted(still))


def _say_what_is_accepted(record: Record, report: Report) -> None:
    if record.current:
        accepted = record.accepted[record.current]
        report.digest, report.counter, report.scope = accepted.digest, accepted.counter, accepted.scope


def _reported(record: Record, deployment: str, words: Sequence[str]) -> DeploymentReport:
    installed = record.installed.get(deployment)
    one = DeploymentReport(deployment, name_of(deployment, record), "keep", "installed" if installed else "orphan")
    one.components = [{"name": name, "state": one.state} for name in installed.components] if installed else []
    one.drift = list(words)
    return one


def _words(deployments: Sequence[DeploymentReport]) -> Iterator[str]:
    for one in deployments:
        if one.drift:
            yield f"{one.name or one.id or 'networks'}: {', '.join(one.drift)}"
