"""What should run against what the engine says, as pure rules: generations and containers in, findings out."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["missing", "extra", "stopped", "paused", "changed", "network", "image", "orphan"]
_RESTARTED_WITHOUT_US = ("always", "unless-stopped")
_SHARED = ("network_mode", "ipc", "pid")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What should run of one service of an installed generation.

    `hash` is Compose's, "" where it cannot be told beforehand; `shares` names services of which it uses a namespace.
    """

    deployment: str
    component: str
    project: str
    name: str
    image: str
    replicas: int = 1
    hash: str = ""
    networks: Set[str] = frozenset()
    shares: Set[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the engine says about one container; `settings` are those that can be changed while it is there."""

    id: str
    name: str
    device: str
    deployment: str
    project: str
    service: str
    status: str
    exit_code: int = 0
    restart: str = ""
    hash: str = ""
    networks: Set[str] = frozenset()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """All that was seen at once: containers, networks with the Compose project of each, and image names with ids."""

    containers: Sequence[Seen]
    networks: Mapping[str, str]
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What was seen before: the settings of containers when they were new, and which image a name was given to."""

    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, in words."""

    deployment: str
    kind: Kind
    words: str
    project: str = ""
    service: str = ""
    container: str = ""


def services_of(
    deployment: str, component: str, project: str, model: Mapping[str, Any], hashes: Mapping[str, str]
) -> Sequence[Service]:
    """Return what a stored Compose model says should run."""
    called = {key: str((one or {}).get("name", key)) for key, one in (model.get("networks") or {}).items()}
    services = []
    for name, one in model["services"].items():
        shares = {str(one.get(key, "")) for key in _SHARED} | {f"service:{x}" for x in one.get("volumes_from") or ()}
        shared = frozenset(text.removeprefix("service:").partition(":")[0] for text in shares if "service:" in text)
        services.append(
            Service(
                deployment=deployment,
                component=component,
                project=project,
                name=name,
                image=str(one.get("image", "")),
                replicas=_replicas(one),
                # Compose puts the id of the other container in before it makes the hash.
                hash="" if shared else hashes.get(name, ""),
                networks=frozenset(called.get(key, key) for key in one.get("networks") or {}),
                shares=shared,
            )
        )
    return services


def _replicas(service: Mapping[str, Any]) -> int:
    for said in (service.get("scale"), (service.get("deploy") or {}).get("replicas")):
        if said is not None:
            return int(said)
    return 1


def findings(
    services: Sequence[Service], sight: Sight, remembered: Remembered, *, stopped: Set[str] = frozenset()
) -> Sequence[Finding]:
    """Return all that is not as it should be; `stopped` are containers that somebody stopped, by the engine's word.

    A job that is done, and a container that the engine is about to start again, are as they should be.
    """
    found: list[Finding] = []
    for service in services:
        mine = [one for one in sight.containers if (one.project, one.service) == (service.project, service.name)]
        found += _of_service(service, mine, sight, remembered, stopped)
    wanted = {(one.project, one.name) for one in services}
    deployments = {one.project: one.deployment for one in services}
    for one in sight.containers:
        if one.project in deployments and (one.project, one.service) not in wanted:
            words = f"container {one.name} is of no service of it"
            found.append(_finding("orphan", deployments[one.project], words, one))
    return found


def _of_service(
    service: Service, mine: Sequence[Seen], sight: Sight, remembered: Remembered, stopped: Set[str]
) -> Iterator[Finding]:
    at = {"deployment": service.deployment, "project": service.project, "service": service.name}
    where = f"service {service.name}"
    there = sight.images.get(service.image)
    if there is not None and (not there or there != remembered.images.get(service.image, there)):
        words = f"its image name leads to {there[:19]}" if there else "its image is gone"
        yield Finding(kind="image", words=f"{where}: {words}", **at)
    runs = any(one.status == "running" for one in mine)
    if runs and (gone := sorted(service.networks - set(sight.networks))):
        yield Finding(kind="network", words=f"{where}: network {', '.join(gone)} is gone", **at)
    if len(mine) != service.replicas:
        kind: Kind = "missing" if len(mine) < service.replicas else "extra"
        words = f"{len(mine)} of {service.replicas} containers are there"
        yield Finding(kind=kind, words=f"{where}: {words}", **at)
    for one in mine:
        if one.status == "paused":
            yield Finding(kind="paused", words=f"{where}: paused", container=one.id, **at)
        elif one.status in ("exited", "dead", "created", "stopped"):
            if one.id in stopped or not _done(one):
                how = "stopped by hand" if one.id in stopped else _how(one)
                yield Finding(kind="stopped", words=f"{where}: {how}", container=one.id, **at)
        elif one.status == "running" and (words := _changes(service, one, sight, remembered)):
            yield Finding(kind="changed", words=f"{where}: {words}", container=one.id, **at)


def _done(one: Seen) -> bool:
    """Tell whether a container did its work: it ended well, and nobody wants it to go on for ever."""
    return one.status in ("exited", "stopped") and one.exit_code == 0 and one.restart not in _RESTARTED_WITHOUT_US


def _how(one: Seen) -> str:
    return "was never started" if one.status == "created" else f"exited with {one.exit_code}"


def _changes(service: Service, one: Seen, sight: Sight, remembered: Remembered) -> str:
    """Say what is different; a container of which the settings are known was found good when it was new."""
    known = remembered.settings.get(one.id)
    words = []
    if known is None and service.hash and one.hash != service.hash:
        words.append("was made from another model")
    if cut := sorted((service.networks & set(sight.networks)) - one.networks):
        words.append(f"is not in network {', '.join(cut)}")
    if known is not None:
        said = {"networks"} if service.networks - one.networks else set()  # said above, or by who found it gone
        keys = sorted({*known, *one.settings} - said)
        words += [
            f"{key} {known.get(key) or 'none'} -> {one.settings.get(key) or 'none'}"
            for key in keys
            if known.get(key, "") != one.settings.get(key, "")
        ]
    return ", ".join(words)


def orphans(sight: Sight, device: str, deployments: Set[str], projects: Mapping[str, str]) -> Sequence[Finding]:
    """Return what is ours, by our device label, and of no deployment that the record knows; networks by the
    `projects` that were ours, and only when nothing is in them. What is not ours is never among them.
    """
    ours = [one for one in sight.containers if one.device == device]
    found = [
        _finding("orphan", one.deployment, f"container {one.name} is of no deployment of this device", one)
        for one in ours
        if one.deployment not in deployments
    ]
    left = {one.project for one in found} | {name for name, owner in projects.items() if owner not in deployments}
    going = {one.container for one in found}
    held = {one.project for one in sight.containers if one.id not in going}
    held_networks = {name for one in sight.containers if one.id not in going for name in one.networks}
    for name, project in sorted(sight.networks.items()):
        if project and project in left - held and name not in held_networks:
            owner = projects.get(project, "")
            words = f"network {name} is of no deployment of this device"
            found.append(Finding(deployment=owner, kind="orphan", words=words, project=project, service=name))
    return found


def _finding(kind: Kind, deployment: str, words: str, one: Seen) -> Finding:
    return Finding(
        deployment=deployment, kind=kind, words=words, project=one.project, service=one.service, container=one.id
    )


@dataclass(frozen=True)
class Mend:
    """What puts one project right: services that get new containers, and those that are only started."""

    recreate: Sequence[str]
    start: Sequence[str]


def mends(found: Sequence[Finding], services: Sequence[Service]) -> Mapping[str, Mend]:
    """Return for each project what Compose is to do. What shares a namespace goes the way of whom it shares it with."""
    plan: dict[str, Mend] = {}
    for project in dict.fromkeys(one.project for one in found):
        here = [one for one in found if one.project == project and one.service]
        recreate = {one.service for one in here if one.kind in ("changed", "network")}
        start = {one.service for one in here if one.kind in ("missing", "extra", "stopped")} - recreate
        mine = [one for one in services if one.project == project]
        while more := {one.name for one in mine if one.shares & (recreate | start)} - recreate:
            recreate |= more
        if recreate or start:
            plan[project] = Mend(sorted(recreate), sorted(start - recreate))
    return plan
