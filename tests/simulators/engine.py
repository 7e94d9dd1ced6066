"""A container engine and Docker Compose in memory: the real `Runtime` drives them.

Each service has one container. One whose variable RECIPE is among `engine.spoiled` exits with 1, among
`engine.slow` it never gets healthy, among `engine.stillborn` it leaves a network and no container, and in
`engine.ports` it holds a port, which no other may hold. With `engine.away` set nothing answers; `engine.after` is
called when something was done, and may cut the power.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Any

from margo_agent.address import EngineUnavailable
from margo_agent.answered import Container, EngineFacts, Published
from margo_agent.beside import Line
from margo_agent.drift import Seen
from margo_agent.engine import Engine
from margo_agent.generation import project_name
from margo_agent.images import Images
from margo_agent.model import COMPONENT_LABEL, DEPLOYMENT_LABEL, DEVICE_LABEL
from margo_agent.runtime import Runtime
from margo_agent.surroundings import Surroundings
from margo_agent.unready import PullFailed
from margo_oci.compose import Compose, failed
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.content import canonical_json, digest_of
from margo_oci.platforms import Platform

SERVICE = "cell"


class PowerCut(BaseException):
    """The device is without power: nothing of ours runs on, and nothing is caught."""


@dataclass(frozen=True)
class Running:
    """A container and what it was made from."""

    container: Container
    recipe: str
    made_from: str
    device: str = ""
    restart: str = "no"
    settings: Mapping[str, str] = field(default_factory=dict)


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        """Let time pass."""
        self.now_s += pause_s


class SimulatedEngine(Engine):
    """Containers and images, and a log of what changed: `up pump`, `down pump`, `load <image>`."""

    def __init__(self) -> None:
        self.address = "simulated"
        self.all: dict[tuple[str, str], Running] = {}
        self.images: dict[str, Sequence[str]] = {}
        self.loaded: list[Sequence[str]] = []  # the layers that each archive had in it
        self.full = False  # whether its disk is
        self.picky = False  # whether it takes archives with all layers only
        self.machine = EngineFacts(platform=Platform.of("x86_64"), memory_bytes=2**30, cpus=2)
        self.held_ports: Sequence[Published] = ()
        self.named: dict[str, str] = {}  # names that were given to images, by id
        self.strangers: list[Seen] = []
        self.networks: set[str] = set()
        self.spoiled: set[str] = set()
        self.slow: set[str] = set()
        self.stillborn: set[str] = set()
        self.nervous: set[str] = set()  # restarted every second
        self.ports: dict[str, int] = {}
        self.clock = Clock()
        self.away = False
        self.log: list[str] = []
        self.after: Callable[[str], None] = lambda _: None
        self._made = 0

    @property
    def running(self) -> Mapping[str, str]:
        """Component to recipe, of everything that is up."""
        return {one.container.component: one.recipe for one in self.all.values() if one.container.status == "running"}

    @property
    def ids(self) -> Mapping[str, str]:
        """Component to container: another id is another container."""
        return {one.container.component: one.container.id for one in self.all.values()}

    def close(self) -> None:
        """Nothing to let go of."""

    def ping(self) -> None:
        """Answer, or not."""
        self._answer()

    def containers(self, deployment: str | None = None) -> Sequence[Container]:
        """Return the containers of one deployment, or all."""
        self._answer()
        return [self._seen(one) for one in self.all.values() if deployment in (None, one.container.deployment)]

    def _seen(self, one: Running) -> Container:
        restarts = int(self.clock.now_s) if one.recipe in self.nervous else 0
        return replace(one.container, restarts=restarts)

    def facts(self) -> EngineFacts:
        """Return what this machine is."""
        self._answer()
        return self.machine

    @property
    def is_local(self) -> bool:
        """This machine has no paths and ports of its own."""
        return False

    def layers_of(self, image: str) -> Sequence[str]:
        """Return the layers of an image."""
        self._answer()
        return self.images.get(image, ())

    def layer_chains(self) -> Sequence[Sequence[str]]:
        """Return what images are made of."""
        self._answer()
        return list(self.images.values())

    def published(self) -> Sequence[Published]:
        """Return what ports are held by containers that are not simulated."""
        self._answer()
        return self.held_ports

    def load(self, pieces: Callable[[], Iterator[bytes]], what: str) -> Iterator[Line]:
        """Take an archive of an image, as Docker's own image store does."""
        self._answer()
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces()))) as archive:
            (described,) = json.loads(read_member(archive, "manifest.json"))
            config = json.loads(read_member(archive, described["Config"]))
            names = set(archive.getnames())
        (name,) = described["RepoTags"]
        diff_ids = tuple(config["rootfs"]["diff_ids"])
        self.loaded.append([layer for layer in described["Layers"] if layer in names])
        if self.full:
            raise PullFailed(f"{what}: write /data/layer.tar: no space left on device")
        for number, layer in enumerate(described["Layers"]):
            if layer not in names and (self.picky or not self._has_chain(diff_ids[: number + 1])):
                raise PullFailed(f"{what}: open {layer}: no such file or directory")
        self.images[name] = diff_ids
        self.did(f"load {name}")
        self._answer()
        yield {"stream": f"Loaded image: {name}"}

    def _has_chain(self, diff_ids: Sequence[str]) -> bool:
        return any(tuple(chain[: len(diff_ids)]) == tuple(diff_ids) for chain in self.images.values())

    def projects(self, deployment: str) -> set[str]:
        """Return the projects of which there is a network, or a container."""
        self._answer()
        projects = self.networks | {project for project, _ in self.all}
        return {project for project in projects if project.endswith(project_name(deployment, ""))}

    def seen(self, device: str, projects: Set[str]) -> Sequence[Seen]:
        """Return what is ours, of this device."""
        self._answer()
        mine = [_seen(one) for one in self.all.values()]
        return [one for one in [*mine, *self.strangers] if one.device == device]

    def network_projects(self) -> Mapping[str, str]:
        """Return the one network of each project."""
        self._answer()
        return {f"{project}_default": project for project in self.networks}

    def image_id(self, name: str) -> str:
        """Return where a name leads; an id leads to itself."""
        self._answer()
        ids = {digest_of(image.encode()) for image in self.images} | set(self.named.values())
        known = self.named.get(name) or (digest_of(name.encode()) if name in self.images else "")
        return name if name in ids else known

    def image_bytes(self, name: str) -> int:
        """Every image has a thousand bytes."""
        return 1000 if self.image_id(name) else 0

    def images_in_use(self) -> Set[str]:
        """Return what any container has."""
        settings = [one.settings for one in self.all.values()] + [one.settings for one in self.strangers]
        return {one.get("image", "") for one in settings}

    def name_image(self, image_id: str, name: str) -> None:
        """Let a name lead somewhere."""
        self.named[name] = image_id
        self.did(f"name {name}")

    def take_name(self, name: str) -> None:
        """Take a name away."""
        self.named.pop(name, None)
        self.did(f"unname {name}")

    def folder(self) -> str:
        """It keeps its images nowhere."""
        return ""

    def unpause(self, container: str) -> None:
        """Let a container go on."""
        self.change(container, status="running")
        self.did("unpause")

    def remove_container(self, container: str) -> None:
        """Remove a container."""
        self.all = {key: one for key, one in self.all.items() if one.container.id != container}
        self.strangers = [one for one in self.strangers if one.id != container]
        self.did(f"remove {container}")

    def remove_network(self, name: str) -> None:
        """Remove a network."""
        self.networks.discard(name.removesuffix("_default"))
        self.did(f"remove {name}")

    def change(self, container: str, **changes: Any) -> None:
        """Change a container by hand: its state, or with `settings` what can be set while it is there."""
        settings = changes.pop("settings", None)
        for key, one in self.all.items():
            if one.container.id == container:
                changed = replace(one, container=replace(one.container, **changes))
                self.all[key] = replace(changed, settings=settings) if settings is not None else changed

    def last_words(self, container: Container) -> str:
        """Return what a spoiled workload says."""
        return f"{container.component}: this recipe is spoiled"

    def up(self, project: str, model: Mapping[str, Any], services: Set[str] = frozenset(), force: bool = False) -> None:
        """Make a project's containers, or those of `services`; unless `force`, what runs and would be the same stays.

        Raises ApplyError for a port that is held.
        """
        self.networks.add(project)
        for name, service in model["services"].items():
            if services and name not in services:
                continue
            made_from = _hash(service)
            before = self.all.get((project, name))
            if not before or force or before.made_from != made_from or before.container.status != "running":
                self.all.pop((project, name), None)
                made = self._make(project, name, service, made_from)
                if made.recipe in self.stillborn:
                    raise failed("up", "no such device")
                free = self.ports.get(made.recipe) not in self._held
                self.all[project, name] = made if free else _created(made)
                if not free:
                    raise failed("up", f"port {self.ports[made.recipe]} is already allocated")
        self.did(f"up {_component(project)}")

    def down(self, project: str) -> None:
        """Remove a project's containers and network."""
        self.all = {key: one for key, one in self.all.items() if key[0] != project}
        self.networks.discard(project)
        self.did(f"down {_component(project)}")

    @property
    def _held(self) -> set[int]:
        return {self.ports[recipe] for recipe in self.running.values() if recipe in self.ports}

    def did(self, what: str) -> None:
        """Note what was done."""
        self.log.append(what)
        self.after(what)

    def _make(self, project: str, name: str, service: Mapping[str, Any], made_from: str) -> Running:
        self._made += 1
        recipe = service["environment"]["RECIPE"]
        spoiled = recipe in self.spoiled
        container = Container(
            id=f"container-{self._made}",
            name=f"{project}-{name}-1",
            deployment=service["labels"][DEPLOYMENT_LABEL],
            component=service["labels"][COMPONENT_LABEL],
            service=name,
            project=project,
            status="exited" if spoiled else "running",
            health="starting" if recipe in self.slow else "",
            exit_code=int(spoiled),
            device=service["labels"].get(DEVICE_LABEL, ""),
        )
        return Running(
            container, recipe, made_from, service["labels"].get(DEVICE_LABEL, ""), service.get("restart", "no")
        )

    def _answer(self) -> None:
        if self.away:
            raise EngineUnavailable("engine at simulated: connection refused")


@dataclass(frozen=True)
class SimulatedCompose(Compose):
    """Docker Compose, of which only so much is simulated as our compose files use. They are JSON here."""

    engine: SimulatedEngine

    def template(self, folder: Path) -> dict[str, Any]:
        """Read the file as it is."""
        template: dict[str, Any] = json.loads((folder / COMPOSE_FILE).read_text())
        return template

    def model(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Fill variables in."""
        model: dict[str, Any] = json.loads(Template((folder / COMPOSE_FILE).read_text()).substitute(variables))
        return model

    def hashes(self, file: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, str]:
        """Tell services that would be recreated from those that would not."""
        return {name: _hash(service) for name, service in json.loads(file.read_bytes())["services"].items()}

    def run(
        self,
        arguments: Sequence[str],
        *,
        file: Path | None,
        project: str,
        variables: Mapping[str, str] | None = None,
        timeout_s: float,
        go_on: Callable[[], None] = lambda: None,
    ) -> str:
        """Do `up` or `down`; an engine that is away, or goes away meanwhile, fails them like anything else does."""
        self._answer(arguments[0])
        if arguments[0] == "up":
            assert file
            named = arguments[arguments.index("--") + 1 :] if "--" in arguments else ()
            force = "--force-recreate" in arguments
            self.engine.up(project, json.loads(file.read_bytes()), set(named), force)
        else:
            self.engine.down(project)
        self._answer(arguments[0])
        return ""

    def _answer(self, verb: str) -> None:
        if self.engine.away:
            raise failed(verb, "Cannot connect to the Docker daemon. Is the docker daemon running?")


def runtime(
    engine: SimulatedEngine,
    compose: SimulatedCompose,
    images: Images,
    go_on: Callable[[], None],
    settle_s: float,
) -> Runtime:
    """Return the real runtime on this engine."""
    misfits = Surroundings(engine, "edge-17").misfits
    return Runtime(compose, engine, images, misfits, engine.clock.monotonic_s, engine.clock.sleep, go_on, settle_s)


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return a file of an archive."""
    file = archive.extractfile(name)
    assert file
    return file.read()


def _created(made: Running) -> Running:
    return replace(made, container=replace(made.container, status="created"))


def _hash(service: Mapping[str, Any]) -> str:
    return digest_of(canonical_json(service))


def _component(project: str) -> str:
    return project.rpartition("-")[0]


def _seen(one: Running) -> Seen:
    container = one.container
    return Seen(
        id=container.id,
        name=container.name,
        device=one.device,
        deployment=container.deployment,
        project=container.project,
        service=container.service,
        status=container.status,
        exit_code=container.exit_code,
        restart=one.restart,
        hash=one.made_from,
        settings=one.settings,
    )
