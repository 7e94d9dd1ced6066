"""Brings generations up and takes them down: Compose applies, the engine is watched until all is well."""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_agent.address import EngineUnavailable
from margo_agent.answered import Container
from margo_agent.engine import Engine
from margo_agent.generation import Generation, Part
from margo_agent.images import Images
from margo_agent.interrupted import Interrupted
from margo_agent.report import Brought
from margo_agent.settings import DEFAULT_SETTLE_S
from margo_oci.compose import Compose
from margo_oci.errors import ApplyError

UNCHECKED_S = 2.0  # how long what has no health check stays up before the next component is begun
LOOK_EVERY_S = 0.2
DOWN_TIMEOUT_S = 120.0

# The models of a deployment, its id, and which deployments change in this pass → why this device cannot run it.
Misfits = Callable[[Sequence[Mapping[str, Any]], str, Collection[str] | None], Sequence[str]]


@dataclass(frozen=True)
class Runtime:
    """What applying needs from the outside. `go_on` raises Interrupted if there is something better to do."""

    compose: Compose
    engine: Engine
    images: Images
    misfits: Misfits
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    go_on: Callable[[], None] = lambda: None
    settle_s: float = DEFAULT_SETTLE_S
    place: Callable[[Generation], None] = lambda _: None  # what it mounts of the deployment's files

    def pull_missing(self, generation: Generation, changing: Collection[str] | None = None) -> Brought:
        """Have every image of a generation in the engine, once it is clear that this device can run it (format 5.4).

        `changing` are the deployments that are removed or renewed in this pass, all of ours if not said: what they hold
        is no hindrance. Raises Unready (Unfit, NoRoom, PullFailed), EngineUnavailable.
        """
        self.go_on()
        placed = {one.path for one in generation.placements}  # when it is applied
        models = [_without(json.loads(part.file.read_bytes()), placed) for part in generation.parts]
        return self.images.bring(generation.images, self.misfits(models, generation.deployment, changing))

    def apply(self, generation: Generation) -> None:
        """Make the engine run exactly this generation; what it does not change keeps its containers.

        What is no longer part of it goes first: it may hold a port that something new needs. Then components come up
        in their order (Margo, `components`), and all of them stay up for a while (format 5.5). Raises ApplyError that
        names component and cause, Interrupted.
        """
        self.place(generation)
        self._remove_projects(generation.deployment, keep={part.project for part in generation.parts})
        for part in generation.parts:
            self.go_on()
            deadline_s = self.monotonic_s() + part.timeout_s
            try:
                self._up(part, ["--remove-orphans", *self._which(generation, part)])
                if part.wait:
                    self._wait(generation, part, deadline_s)
            except Interrupted:
                raise
            except ApplyError as error:
                raise self._blame(error, f"component {part.name}: {error}") from None
        self._stay(generation)

    def _up(self, part: Part, more: Sequence[str]) -> None:
        """Have Compose bring services of a part up. A stop, or a newer state, does not wait for it."""
        try:
            self.compose.run(
                ["up", "--detach", "--no-build", "--pull", "never", *more],
                file=part.file,
                project=part.project,
                variables=part.variables,
                timeout_s=part.timeout_s,
                go_on=self.go_on,
            )
        except ApplyError as error:
            if error.code != "unhealthy":
                raise
            # Something depends on it. Compose says which container it is, and not why.
            checked = [one for one in self.engine.containers() if one.project == part.project and one.check]
            words = [f"service {one.service}: {one.check}" for one in checked]
            raise ApplyError("; ".join([str(error), *words]), code=error.code) from None

    def _which(self, generation: Generation, part: Part) -> Sequence[str]:
        """Return what to tell Compose of a part that it would replace whole, whatever it was made from (Podman 4)."""
        there = self._containers(generation, [part])
        if not any(one.always_replaced for one in there):
            return ()
        wanted = self.compose.hashes(part.file, project=part.project, variables=part.variables)
        stands = {one.service: one.model_hash for one in there if one.ready}
        changed = [service for service, made_from in wanted.items() if stands.get(service) != made_from]
        return ["--no-deps", *changed] if changed else ["--no-recreate"]

    def mend(self, generation: Generation, part: Part, *, recreate: Sequence[str], start: Sequence[str]) -> None:
        """Have the engine run some services of a part again, and leave its others alone: `recreate` get new
        containers, `start` are started or made if they are not there. Raises ApplyError as `apply`, Interrupted.
        """
        self.go_on()
        self.place(generation)
        deadline_s = self.monotonic_s() + part.timeout_s
        try:
            for options, services in ((["--force-recreate"], recreate), ([], start)):
                if services:
                    self._up(part, ["--no-deps", *options, "--", *services])
            if part.wait:
                self._wait(generation, part, deadline_s)
        except Interrupted:
            raise
        except ApplyError as error:
            raise self._blame(error, f"component {part.name}: {error}") from None

    def remove(self, deployment: str) -> None:
        """Take everything of a deployment down. Named volumes stay: they are data (docs/decisions/0007)."""
        self._remove_projects(deployment, keep=set())

    def _remove_projects(self, deployment: str, keep: set[str]) -> None:
        for project in sorted(self.engine.projects(deployment) - keep):
            try:
                self.compose.run(["down", "--remove-orphans"], file=None, project=project, timeout_s=DOWN_TIMEOUT_S)
            except ApplyError as error:
                raise self._blame(error, str(error), code="not-removed") from None

    def _blame(self, error: ApplyError, words: str, code: str = "") -> ApplyError:
        """Return the same in other words: an engine that went away, or was restarted, is not the workload's fault.

        Raises EngineUnavailable if the engine is away now; by what Compose said, it may be back already.
        """
        self.engine.ping()
        kind = EngineUnavailable if error.code == EngineUnavailable.code else type(error)
        return kind(words, code=EngineUnavailable.code if kind is EngineUnavailable else code or error.code)

    def _wait(self, generation: Generation, part: Part, deadline_s: float) -> None:
        """Wait until every container is ready, and stays so for a moment where nobody can be asked (format 5.5)."""
        ready_since_s: float | None = None
        while True:
            self.go_on()
            containers = self._containers(generation, [part])
            _raise_for_broken(containers, self.engine)
            now_s = self.monotonic_s()
            if containers and all(one.ready for one in containers):
                ready_since_s = now_s if ready_since_s is None else ready_since_s
                checked = all(one.health == "healthy" for one in containers)
                if now_s - ready_since_s >= (0.0 if checked else UNCHECKED_S):
                    return
            else:
                ready_since_s = None
            if now_s > deadline_s:
                raise ApplyError(f"not up after {part.timeout_s:.0f} s: {_waiting(containers)}", code="not-up")
            self.sleep(LOOK_EVERY_S)

    def _stay(self, generation: Generation) -> None:
        """See that all that came up stays up: what falls over in its first moments did not come up (format 5.5)."""
        parts = [part for part in generation.parts if part.wait]
        if not parts or not self.settle_s:
            return
        begun = {one.id: one.restarts for one in self._containers(generation, parts)}
        until_s = self.monotonic_s() + self.settle_s
        while self.monotonic_s() < until_s:
            self.sleep(LOOK_EVERY_S)
            self.go_on()
            for one in self._containers(generation, parts):
                if one.broken or one.restarts > begun.get(one.id, 0):
                    why = one.broken or f"was restarted {one.restarts - begun.get(one.id, 0)} times"
                    words = f"component {one.component}: {_fallen(one, why, self.engine)}"
                    raise ApplyError(words, code=_code_of(one))

    def _containers(self, generation: Generation, parts: Sequence[Part]) -> Sequence[Container]:
        projects = {part.project for part in parts}
        return [one for one in self.engine.containers(generation.deployment) if one.project in projects]


def _without(model: Mapping[str, Any], sources: Collection[str]) -> Mapping[str, Any]:
    """Return a model without the mounts of `sources`."""
    services = {
        name: {**one, "volumes": [each for each in one["volumes"] if each.get("source") not in sources]}
        if one.get("volumes")
        else one
        for name, one in model["services"].items()
    }
    return {**model, "services": services}


def _raise_for_broken(containers: Sequence[Container], engine: Engine) -> None:
    for container in containers:
        if container.broken:
            raise ApplyError(_fallen(container, container.broken, engine), code=_code_of(container))


def _code_of(fallen: Container) -> str:
    return "unhealthy" if fallen.status == "running" and fallen.health == "unhealthy" else "exited"


def _fallen(container: Container, why: str, engine: Engine) -> str:
    check = container.check if container.health == "unhealthy" else ""
    words = "; ".join(filter(None, (check, engine.last_words(container))))
    return f"service {container.service} {why}{f': {words}' if words else ''}"


def _waiting(containers: Sequence[Container]) -> str:
    states = [
        f"{one.service} is {one.health or one.status}{f' ({one.check})' if one.check else ''}"
        for one in containers
        if not one.ready
    ]
    return ", ".join(states) or "no container came up"
