"""Where reports of devices meet registries: pushing one, finding and checking many."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from margo_oci.capabilities import CAPABILITIES_LIMIT_BYTES, DeviceCapabilities, parse_capabilities
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, SIGNATURE_LIMIT_BYTES, Descriptor
from margo_oci.device_report import (
    ARTIFACT_TYPE,
    DEVICE,
    REPORT_LIMIT_BYTES,
    BuiltReport,
    Layers,
    check_signed,
    device_tag,
    parse_report,
)
from margo_oci.device_status import DEVICE_LIMIT_BYTES, DeviceStatus, parse_device_status
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError
from margo_oci.events import EVENTS_LIMIT_BYTES, Event, parse_events
from margo_oci.keys import PublicKey
from margo_oci.manifest import IMAGE_INDEX, Manifest, build_index
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.transfer import referrers

if TYPE_CHECKING:
    from margo_oci.upload import Uploader  # oras takes a while to load, and reading needs none of it

REPOSITORY = "status"  # below the repository of the state, a tag for each device
REFERRERS_AT_MOST = 128  # half of what is read of a list: signatures of the state stand there as well
DEVICES_AT_MOST = 10_000
READS_AT_ONCE = 16
EARLIER_LOOKED_AT = 8


@dataclass(frozen=True)
class ReportPusher:
    """Pushes reports, by tag or as referrers."""

    registry: Registry
    uploader: "Uploader"

    async def under_tag(self, at: Reference, report: BuiltReport) -> None:
        """Put a report under the device's tag. Raises RegistryError."""
        await self._blobs(at, report)
        await asyncio.to_thread(self.uploader.manifest, at, report.manifest.data)

    async def beside_state(self, at: Reference, report: BuiltReport, *, replaces: str = "") -> bool:
        """Attach a report to the state it is about; tell whether the one before (a digest) is gone from the list.

        A list that is half full takes no more: it would crowd out signatures. Raises RegistryError, FormatError.
        """
        assert report.manifest.subject is not None  # noqa: S101  (it is built for a subject)
        subject = report.manifest.subject.digest
        listed = await referrers(self.registry, at, subject)
        others = [one for one in listed if not (replaces and one.digest == replaces)]
        if len(others) >= REFERRERS_AT_MOST:
            raise FormatError(
                f"{at.name}: {len(others)} things refer to {subject}: reports would crowd out signatures: "
                "have devices report under tags (`report: {as: tag}`)"
            )
        await self._blobs(at, report)
        if await asyncio.to_thread(self.uploader.manifest, at.at(report.manifest.digest), report.manifest.data):
            return await self._delete(at, replaces, report.manifest.digest)
        # Without the API the list is a tag that we keep. Our own entry before this one is left out of it.
        mine = [one for one in others if not (_is_report(one) and one.annotations.get(DEVICE) == report.device)]
        index = build_index([*mine, _entry(report.manifest)])
        await asyncio.to_thread(self.uploader.manifest, at.at(subject.replace(":", "-")), index, IMAGE_INDEX)
        return True

    async def _blobs(self, at: Reference, report: BuiltReport) -> None:
        await asyncio.to_thread(self.uploader.blob, at, EMPTY_CONFIG, EMPTY_JSON)
        for layer, data in report.blobs:
            await asyncio.to_thread(self.uploader.blob, at, layer, data)

    async def _delete(self, at: Reference, digest: str, but: str) -> bool:
        """Take the report before away where the registry lets us."""
        if not digest or digest == but:
            return True
        try:
            await asyncio.to_thread(self.uploader.delete, at.at(digest))
        except RegistryError:
            return False
        return True


def _entry(manifest: Manifest) -> Descriptor:
    return Descriptor(
        media_type=manifest.descriptor.media_type,
        digest=manifest.digest,
        size=len(manifest.data),
        annotations=manifest.annotations,
        artifact_type=manifest.artifact_type,
    )


def _is_report(one: Descriptor) -> bool:
    return one.artifact_type == ARTIFACT_TYPE


@dataclass(frozen=True)
class DeviceKeys:
    """The keys of devices by the tag of their reports: each counts for its own device alone."""

    keys: Mapping[str, PublicKey] = field(default_factory=dict)

    def of(self, device: str) -> PublicKey | None:
        """Return the key of a device; None if none is known."""
        return self.keys.get(device_tag(device))


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """A report that was found. `signed_by` is "" unless the device's own key signed it; `doubt` says why not."""

    at: str
    status: DeviceStatus
    signed_by: str = ""
    doubt: str = ""
    events: Sequence[Event] = ()
    capabilities: DeviceCapabilities | None = None


@dataclass(frozen=True)
class Unreadable:
    """What lies where a report should be, and why it is none."""

    at: str
    why: str


@dataclass(frozen=True)
class ReportReader:
    """Finds reports. `whole` also reads events and capabilities."""

    registry: Registry
    keys: DeviceKeys
    whole: bool = False

    async def for_state(self, reference: Reference) -> Sequence[DeviceReport | Unreadable]:
        """Return the newest report of each device that follows `reference`: from its repository `status`, and
        from what refers to the state and to those before it. Raises RegistryError.
        """
        below = Reference(reference.host, f"{reference.repository}/{REPOSITORY}")
        found = [*await self.under_tags(below), *await self._beside(reference)]
        return newest(one for one in found if of_state(one, reference))

    async def under_tags(self, repository: Reference) -> Sequence[DeviceReport | Unreadable]:
        """Return the reports under the tags of a repository; none if it is not there. Raises RegistryError."""
        try:
            tags = await self.registry.tags(repository)
        except NotFound:
            return ()
        if len(tags) > DEVICES_AT_MOST:
            raise RegistryError(f"{repository.name}: {len(tags)} tags, at most {DEVICES_AT_MOST} are read")
        return await self._all(repository.at(tag) for tag in tags if not tag.startswith("sha256-"))

    async def _beside(self, reference: Reference) -> Sequence[DeviceReport | Unreadable]:
        """A device that is behind reports beside an earlier state: the newest few are looked at as well."""
        digests = {await self.registry.digest(reference): None}
        if reference.tag:
            for tag in _claims(await self.registry.tags(reference), reference.tag)[:EARLIER_LOOKED_AT]:
                digests[await self.registry.digest(reference.at(tag))] = None
        lists = [await referrers(self.registry, reference, digest) for digest in digests]
        return await self._all(reference.at(one.digest) for listed in lists for one in listed if _is_report(one))

    async def _all(self, places: Iterable[Reference]) -> Sequence[DeviceReport | Unreadable]:
        gate = asyncio.Semaphore(READS_AT_ONCE)

        async def one(at: Reference) -> DeviceReport | Unreadable | None:
            async with gate:
                try:
                    return await self.read(at)
                except NotFound:
                    return None  # gone meanwhile
                except (FormatError, TrustError) as error:
                    return Unreadable(str(at), str(error))

        return [found for found in await asyncio.gather(*map(one, places)) if found]

    async def read(self, at: Reference) -> DeviceReport:
        """Return one report, checked as far as there is a key. Raises RegistryError, FormatError, TrustError."""
        received = await self.registry.manifest(at, limit_bytes=REPORT_LIMIT_BYTES)
        assert received is not None  # noqa: S101  (nothing was known before)
        layers = parse_report(Manifest.from_bytes(received.data, what=f"report {at}"))
        status = parse_device_status(await self._content(at, layers.status, DEVICE_LIMIT_BYTES), what=f"status {at}")
        signed_by, doubt = await self._signed(at, layers, status.device)
        return DeviceReport(
            at=str(at),
            status=status,
            signed_by=signed_by,
            doubt=doubt,
            events=await self._events(at, layers),
            capabilities=await self._capabilities(at, layers),
        )

    async def _signed(self, at: Reference, layers: Layers, device: str) -> tuple[str, str]:
        """Return whose key signed a report, or what keeps it from counting."""
        key = self.keys.of(device)
        if layers.bundle is None:
            return "", "unsigned"
        if key is None:
            return "", "unverified"
        try:
            check_signed(layers, await self._content(at, layers.bundle, SIGNATURE_LIMIT_BYTES), key)
        except TrustError as error:
            return "", error.reason
        return key.name, ""

    async def _events(self, at: Reference, layers: Layers) -> Sequence[Event]:
        if not self.whole or layers.events is None:
            return ()
        return parse_events(await self._content(at, layers.events, EVENTS_LIMIT_BYTES), what=f"events {at}")

    async def _capabilities(self, at: Reference, layers: Layers) -> DeviceCapabilities | None:
        if not self.whole or layers.capabilities is None:
            return None
        data = await self._content(at, layers.capabilities, CAPABILITIES_LIMIT_BYTES)
        return parse_capabilities(data, what=f"capabilities {at}")

    async def _content(self, at: Reference, layer: Descriptor, limit_bytes: int) -> bytes:
        if layer.data is not None:
            return layer.data
        return await self.registry.small_blob(at, layer, limit_bytes=limit_bytes)


def newest(found: Iterable[DeviceReport | Unreadable]) -> Sequence[DeviceReport | Unreadable]:
    """Return one report for each device: one that its key signed before one that it did not, then the newest."""
    by_device: dict[str, DeviceReport] = {}
    others: list[DeviceReport | Unreadable] = []
    for one in found:
        if isinstance(one, Unreadable):
            others.append(one)
            continue
        before = by_device.get(one.status.device)
        if before is None or _rank(one) > _rank(before):
            by_device[one.status.device] = one
    return [*(by_device[device] for device in sorted(by_device)), *others]


def of_state(one: DeviceReport | Unreadable, reference: Reference) -> bool:
    """Tell whether a report is about the state at `reference`: a device may know the registry by another name."""
    if isinstance(one, Unreadable) or not reference.tag:
        return True
    try:
        source = parse_reference(one.status.source)
    except FormatError:
        return True
    return (source.repository, source.tag) == (reference.repository, reference.tag)


def _rank(one: DeviceReport) -> tuple[bool, str]:
    return bool(one.signed_by), one.status.written


def _claims(tags: Sequence[str], tag: str) -> Sequence[str]:
    """Return the tags that claim a counter (format 2.3), the highest first."""
    found = [
        (int(match[1]), one)
        for one in tags
        if (match := re.fullmatch(rf"{re.escape(tag)}-counter-([0-9]{{1,20}})", one))
    ]
    return [one for _, one in sorted(found, reverse=True)]
