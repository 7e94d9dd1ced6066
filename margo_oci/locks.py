"""What a published state is locked to, held against what the tags lead to now (format 4.8)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from margo_oci.component import component_reference
from margo_oci.deployment import Component, Deployment
from margo_oci.desired_state import DEPLOYMENT, LOCK, DesiredState, Lock
from margo_oci.errors import NotFound
from margo_oci.reference import parse_image, parse_reference
from margo_oci.registry import Registry
from margo_oci.versions import Newer, is_release, newer

LISTS_AT_ONCE = 8
Kind = Literal["component", "image"]


@dataclass(frozen=True, kw_only=True)
class Move:
    """Something that the next push locks to another digest; `old` is "" where nothing was locked yet."""

    deployment: str
    kind: Kind
    source: str
    old: str
    new: str

    @property
    def is_alarming(self) -> bool:
        """Whether a release moved, which nobody expects: a version names one thing for ever."""
        parse = parse_reference if self.kind == "component" else parse_image
        return bool(self.old) and is_release(parse(self.source).tag)


@dataclass(frozen=True)
class Update:
    """Newer versions that there are of a component, the newest of each step."""

    component: Component
    found: Sequence[Newer]


def locks_of(state: DesiredState, *, what: str) -> Mapping[str, Lock]:
    """Return the locks of a state's deployments by id, out of its manifest alone; what is not locked is left out.

    Raises FormatError.
    """
    return {
        layer.annotations[DEPLOYMENT].lower(): Lock.from_json(layer.annotations[LOCK], at=f"{what}: lock")
        for layer in state.layers
        if DEPLOYMENT in layer.annotations and LOCK in layer.annotations
    }


def moves(published: Mapping[str, Lock], now: Mapping[str, Lock]) -> Sequence[Move]:
    """Return what moves from the locks that are published to those that a push makes now, by deployment's id."""
    empty = Lock({}, {})
    found: list[Move] = []
    for deployment, lock in now.items():
        before = published.get(deployment, empty)
        kinds: Sequence[tuple[Kind, Mapping[str, str], Mapping[str, str]]] = (
            ("component", before.components, lock.components),
            ("image", before.images, lock.images),
        )
        found += [
            Move(deployment=deployment, kind=kind, source=source, old=old.get(source, ""), new=digest)
            for kind, old, new in kinds
            for source, digest in sorted(new.items())
            if old.get(source) != digest
        ]
    return found


async def updates(registry: Registry, deployments: Sequence[Deployment]) -> Mapping[str, Update]:
    """Return what newer versions there are of each component, by `repository:revision`; each list is asked for once.

    Raises RegistryError; a registry that lists no tags of a repository has none that are newer.
    """
    parts = {one.source: one for deployment in deployments for one in deployment.components if one.repository}
    gate = asyncio.Semaphore(LISTS_AT_ONCE)

    async def tags(repository: str) -> Sequence[str]:
        async with gate:
            try:
                return await registry.tags(component_reference(first[repository]))
            except NotFound:
                return ()

    first = {one.repository: one for one in parts.values()}
    listed = dict(zip(first, await asyncio.gather(*map(tags, first)), strict=True))
    found = {source: Update(one, newer(one.revision, listed[one.repository])) for source, one in parts.items()}
    return {source: update for source, update in found.items() if update.found}
