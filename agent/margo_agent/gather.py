"""The first half of a pass: resolve, verify, fetch. Nothing that runs is touched, whatever happens here."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from margo_agent.config import AgentConfig
from margo_agent.finding import bound
from margo_agent.generation import Generations
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_agent.trusted import Trusted
from margo_oci.component import component_reference, fetch_archive
from margo_oci.compose import images_of
from margo_oci.content import Descriptor
from margo_oci.deployment import Component
from margo_oci.desired_state import LOCK, Lock, Placed, read_layer, revision_of
from margo_oci.errors import FormatError, RegistryError, TrustError
from margo_oci.reference import Reference, parse_image
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import Judge, Sleep, fetch
from margo_oci.trust import Verified

GATHER_LIMIT_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Desired:
    """A verified state, read: every deployment's revision, and those that are new in full.

    `faults` says for which of them, and why, something they need can never be had.
    """

    revisions: Mapping[str, str]
    placed: Mapping[str, Placed]
    locks: Mapping[str, Lock] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Gatherer:
    """Brings a state and all its documents and archives onto the device."""

    config: AgentConfig
    trusted: Trusted
    registry: Callable[[], Registry]
    store: Store
    record_file: RecordFile
    generations: Callable[[], Generations]
    sleep: Sleep = asyncio.sleep

    def gather(self, record: Record, report: Report, *, accept: bool, offered: bytes = b"") -> Desired | None:
        """Return the desired state, or None if nothing is new; with `accept` what was verified is recorded.

        `offered` is a manifest just received from the source. Raises TrustError, FormatError, RegistryError.
        """
        return asyncio.run(self._in_time(self._gather(record, report, accept=accept, offered=offered)))

    async def _in_time(self, work: Coroutine[Any, Any, Desired | None]) -> Desired | None:
        """A registry that drips must not hold a device for ever; what has come so far is kept."""
        try:
            return await asyncio.wait_for(work, GATHER_LIMIT_S)
        except TimeoutError:
            raise RegistryError(f"{self.config.source}: not done after {GATHER_LIMIT_S:.0f} s") from None

    async def _gather(self, record: Record, report: Report, *, accept: bool, offered: bytes) -> Desired | None:
        save = self.record_file.save if accept else lambda unsaved: unsaved
        async with self.registry() as registry:
            try:
                finder = self.trusted.finder
                verified = await finder.find(registry, record, report, offered=offered, save=save)
                if verified is None:
                    return None
                with report.timed("fetch"):
                    return await self._fetch(registry, verified, record, report)
            finally:
                report.requests += registry.traffic.requests
                report.bytes_in += registry.traffic.bytes_in

    async def _fetch(self, registry: Registry, verified: Verified, record: Record, report: Report) -> Desired:
        fetched = await fetch(verified, registry, self.config.source, self.store, sleep=self.sleep)
        report.fetched, report.reused = fetched.fetched, fetched.reused
        desired = self._read(verified, record)
        locks: dict[str, Lock] = {}
        faults: dict[str, str] = {}
        for name, placed in desired.placed.items():
            try:
                locks[name] = await self._complete(registry, placed)
            except FormatError as error:
                faults[name] = str(error)
        return Desired(revisions=desired.revisions, placed=desired.placed, locks=locks, faults=faults)

    def _read(self, verified: Verified, record: Record) -> Desired:
        """Read the layers, but not those whose revision is installed here, or failed here, already."""
        known = {one.revision: name for name, one in record.installed.items() if name not in record.unsure}
        known |= {one.revision: name for name, one in record.failed.items()}
        checked = record.settled and bound(record, self.trusted.finder.terms)
        revisions: dict[str, str] = {}
        placed: dict[str, Placed] = {}
        for layer in verified.state.layers:
            revision = revision_of(layer)
            # What was accepted under other terms is held against these, known or not; what is not locked, always.
            enough = checked and (self.config.lock == "resolve" or LOCK in layer.annotations)
            new = {} if enough and revision in known else self._deployments(layer)
            found = {} if new else {known[revision]: revision} if revision in known else {}
            found |= {name: one.revision for name, one in new.items()}
            if twice := sorted(set(found) & set(revisions)):
                raise FormatError(f"deployment {twice[0]} stands in two layers")
            revisions |= found
            placed |= {name: one for name, one in new.items() if not enough or one.revision not in known}
        return Desired(revisions=revisions, placed=placed)

    def _deployments(self, layer: Descriptor) -> Mapping[str, Placed]:
        data = self.store.read(layer)
        if data is None:
            raise RegistryError(f"{layer.digest}: went bad on this disk and was dropped: it is fetched again next time")
        return {one.deployment.id: one for one in read_layer(layer, data, what=f"layer {layer.digest[:19]}")}

    async def _complete(self, registry: Registry, placed: Placed) -> Lock:
        """Have every component of a deployment unpacked here, by its locked digest; return the full lock."""
        lock = placed.lock or Lock({}, {})
        if placed.deployment.profile != "compose":
            return lock
        components, images = dict(lock.components), dict(lock.images)
        for component in placed.deployment.components:
            if not component.repository:
                raise FormatError(f"component {component.name}: named by URL, which this device does not fetch")
            if component.source not in components:
                self._allow_unlocked(placed, component.source)
                components[component.source] = await registry.digest(component_reference(component))
            await self._component(registry, component, components[component.source])
            if placed.lock is None:
                images |= await self._images(registry, placed, component, components[component.source])
        return Lock(components, images)

    def _allow_unlocked(self, placed: Placed, source: str) -> None:
        if self.config.lock == "enforce":
            raise TrustError(
                "unlocked",
                f"deployment {placed.deployment.id}: the signed state has no digest for {source}: whoever can move "
                "that tag would decide what runs; publish with `margo-oci push`, or set `lock: resolve`",
            )

    async def _component(self, registry: Registry, component: Component, digest: str) -> None:
        generations, at = self.generations(), component_reference(component).at(digest)
        try:
            if judge := self.trusted.component_judge(at.name):
                await self._check_vendor(registry, at, judge)
        except FormatError as error:  # a fault of this device's configuration, not of the workload
            raise TrustError("policy-unusable", f"trust.components, for {at.name}: {error}") from None
        if not generations.has_component(digest):
            generations.add_component(digest, await fetch_archive(registry, at, self.store))

    async def _check_vendor(self, registry: Registry, at: Reference, judge: Judge) -> None:
        """Ask for the signature that the configuration wants of a component (format 6.13). Raises TrustError."""
        received = await registry.manifest(at)
        assert received is not None  # noqa: S101
        await judge.signers(registry, at, Descriptor.of(received.data, received.media_type))

    async def _images(self, registry: Registry, placed: Placed, component: Component, digest: str) -> Mapping[str, str]:
        """Resolve the images of an unlocked component; only with `lock: resolve`."""
        variables = placed.deployment.environment(component.name)
        images = images_of(self.generations().model(digest, project="lock", variables=variables))
        references = {image: parse_image(image) for image in images}
        return {image: one.digest or await registry.digest(one) for image, one in references.items()}
