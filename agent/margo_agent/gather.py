"""The first half of a pass: resolve, verify, fetch. Nothing that runs is touched, whatever happens here."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from margo_agent.config import AgentConfig
from margo_agent.finding import bound
from margo_agent.generation import Generations
from margo_agent.pins import check_pin
from margo_agent.record import Failure, Record, RecordFile
from margo_agent.report import Report
from margo_agent.standing import name_of
from margo_agent.survey import Survey, locks_of
from margo_agent.trusted import Trusted
from margo_oci.component import component_reference, fetch_archive
from margo_oci.content import MANIFEST_LIMIT_BYTES, Descriptor
from margo_oci.deployment import Component
from margo_oci.desired_state import LOCK, Lock, Placed, read_layer
from margo_oci.errors import FormatError, MargoError, RegistryError, TrustError
from margo_oci.reference import Reference, parse_image
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import Judge, Sleep, fetch, parse_manifest
from margo_oci.trust import Seen, Verified, recall

GATHER_LIMIT_S = 1800.0
NEWEST_LIMIT_S = 30.0  # while a workload is waited for, nobody waits long for a registry

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Desired:
    """A verified state, read: every deployment's revision, and those that are new in full.

    `faults` says for which of them, and why, something they need can never be had.
    """

    digest: str
    revisions: Mapping[str, str]
    placed: Mapping[str, Placed]
    locks: Mapping[str, Lock] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, deployment: str, record: Record) -> str:
        """Return what a deployment is called."""
        placed = self.placed.get(deployment)
        return placed.deployment.name if placed else name_of(deployment, record)


@dataclass(frozen=True, kw_only=True)
class Gatherer:
    """Brings a state and all its documents and archives onto the device."""

    config: AgentConfig
    trusted: Trusted
    registry: Callable[[], Registry]
    store: Store
    record_file: RecordFile
    generations: Callable[[], Generations]
    survey: Survey
    sleep: Sleep = asyncio.sleep

    def gather(self, record: Record, report: Report, *, accept: bool, offered: bytes = b"") -> Desired | None:
        """Return the desired state, or None if nothing is new; with `accept` what was verified is recorded.

        `offered` is a manifest just received from the source. Raises TrustError, FormatError, RegistryError.
        """
        return asyncio.run(self._in_time(self._gather(record, report, accept=accept, offered=offered), GATHER_LIMIT_S))

    def kept(self, record: Record, report: Report) -> Desired | None:
        """Return a state that was fetched and prepared whole, and waits; from this disk alone (format 5.9)."""
        accepted = record.accepted.get(record.current)
        if not (accepted and record.waiting and bound(record, self.trusted.finder.terms)):
            return None
        data = self.store.small(accepted.digest, limit_bytes=MANIFEST_LIMIT_BYTES)
        if data is None:
            return None
        report.digest, report.counter, report.scope = accepted.digest, accepted.counter, accepted.scope
        desired = self._read(recall(parse_manifest(data), Seen(accepted.counter, accepted.digest)), record)
        locks = {name: placed.lock for name, placed in desired.placed.items() if placed.lock}
        return replace(desired, locks=locks) if len(locks) == len(desired.placed) else None

    def newest(self) -> str:
        """Return the digest of the state that is meant now, verified but not accepted; "" if that cannot be told."""
        with ThreadPoolExecutor(1) as apart:  # whoever asks may be in the middle of something asynchronous
            try:
                return apart.submit(lambda: asyncio.run(self._in_time(self._newest(), NEWEST_LIMIT_S))).result()
            except MargoError:
                return ""

    async def _newest(self) -> str:
        async with self.registry() as registry:
            record, report = self.record_file.load(), Report("", "")
            found = await self.trusted.finder.find(registry, record, report, offered=b"", save=lambda unsaved: unsaved)
            return found.state.manifest.digest if found else ""

    async def _in_time(self, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        """A registry that drips must not hold a device for ever; what has come so far is kept."""
        try:
            return await asyncio.wait_for(work, limit_s)
        except TimeoutError:
            raise RegistryError(f"{self.config.source}: not done after {limit_s:.0f} s") from None

    async def _gather(self, record: Record, report: Report, *, accept: bool, offered: bytes) -> Desired | None:
        save = self.record_file.save if accept else lambda unsaved: unsaved
        async with self.registry() as registry:
            try:
                finder = self.trusted.finder
                verified = await finder.find(registry, record, report, offered=offered, save=save)
                if verified is None:
                    return None
                with report.timed("fetch"):
                    return await self._fetch(registry, verified, record, report, accept=accept)
            finally:
                report.requests += registry.traffic.requests
                report.bytes_in += registry.traffic.bytes_in

    async def _fetch(
        self, registry: Registry, verified: Verified, record: Record, report: Report, *, accept: bool
    ) -> Desired:
        manifest = verified.state.manifest  # kept: it says which layers are needed for as long as this state is
        self.store.add(manifest.descriptor, manifest.data)
        state = verified.state
        layers = state.layers
        known = {one.revision for one in record.installed.values()} | {one.revision for one in record.failed.values()}
        new = [layer for layer in layers if state.revision_of(layer) not in known]
        await self.survey.check(registry, state.manifest.layers, locks_of(new))
        fetched = await fetch(verified, registry, self.config.source, self.store, sleep=self.sleep)
        report.fetched, report.reused = fetched.fetched, fetched.reused
        desired = self._read(verified, record)
        locks: dict[str, Lock] = {}
        faults: dict[str, str] = {}
        pins = dict(record.pins)
        for name, placed in desired.placed.items():
            try:
                locks[name] = await self._complete(registry, placed, pins)
            except FormatError as error:
                faults[name] = str(error)
        if accept and pins != record.pins:
            self.record_file.save(self.record_file.load().pin(pins))
        return replace(desired, locks=locks, faults=faults)

    def _read(self, verified: Verified, record: Record) -> Desired:
        """Read the layers, but not those whose revision is installed here, or failed here, already."""
        known = {one.revision: name for name, one in record.installed.items() if name not in record.unsure}
        known |= {one.revision: name for name, one in record.failed.items() if self._is_held(one, verified, record)}
        checked = record.settled and bound(record, self.trusted.finder.terms)
        revisions: dict[str, str] = {}
        placed: dict[str, Placed] = {}
        for layer in verified.state.layers:
            revision, files = verified.state.revision_of(layer), verified.state.files_of(layer)
            # What was accepted under other terms is held against these, known or not; what is not locked, always.
            enough = checked and (self.config.lock == "resolve" or LOCK in layer.annotations)
            new = {} if enough and revision in known else self._deployments(layer, files)
            found = {} if new else {known[revision]: revision} if revision in known else {}
            found |= {name: one.revision for name, one in new.items()}
            if twice := sorted(set(found) & set(revisions)):
                raise FormatError(f"deployment {twice[0]} stands in two layers")
            revisions |= found
            placed |= {name: one for name, one in new.items() if not enough or one.revision not in known}
        return Desired(digest=verified.state.manifest.digest, revisions=revisions, placed=placed)

    def _is_held(self, failure: Failure, verified: Verified, record: Record) -> bool:
        """Tell whether what failed is not tried again, whatever else the state has."""
        again = self.config.apply.atomic == "state" and record.failed_state != verified.state.manifest.digest
        return not (failure.waits_for or again)

    def _deployments(self, layer: Descriptor, files: Sequence[Descriptor]) -> Mapping[str, Placed]:
        data = self.store.read(layer)
        if data is None:
            raise RegistryError(f"{layer.digest}: went bad on this disk and was dropped: it is fetched again next time")
        placed = read_layer(layer, data, what=f"layer {layer.digest[:19]}", files=files)
        return {one.deployment.id: one for one in placed}

    async def _complete(self, registry: Registry, placed: Placed, pins: dict[str, str]) -> Lock:
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
                components[component.source] = await _pinned(registry, component_reference(component), pins)
            await self._component(registry, component, components[component.source])
            if placed.lock is None:
                images |= await self._images(registry, placed, component, components[component.source], pins)
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
        assert received is not None  # noqa: S101  (nothing was known before)
        await judge.signers(registry, at, Descriptor.of(received.data, received.media_type))

    async def _images(
        self, registry: Registry, placed: Placed, component: Component, digest: str, pins: dict[str, str]
    ) -> Mapping[str, str]:
        """Resolve the images of an unlocked component; only with `lock: resolve`."""
        images = self.generations().images(placed, component, digest)
        references = {image: parse_image(image) for image in images}
        return {image: one.digest or await _pinned(registry, one, pins) for image, one in references.items()}


async def _pinned(registry: Registry, reference: Reference, pins: dict[str, str]) -> str:
    """Return the digest that a tag has now. Raises TrustError `tag-moved` if it is a release and had another."""
    digest = await registry.digest(reference)
    pins.update(check_pin(reference, digest, pins))
    return digest
