"""One report to the registry: the status as it is now, signed by the device. It runs in a process of its own."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig
from margo_agent.outbox import Mark, Outbox, Waiting
from margo_agent.record import Record, RecordFile
from margo_agent.standing import stale
from margo_agent.summary import Found, summarise
from margo_oci.content import Descriptor
from margo_oci.device_report import BuiltReport, Contents, build_report, device_tag
from margo_oci.device_status import DeviceStatus
from margo_oci.errors import FormatError, MargoError, RegistryError, explain
from margo_oci.events import lines_of
from margo_oci.freshness import format_moment
from margo_oci.keys import Signer
from margo_oci.manifest import IMAGE_MANIFEST
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.reports import REPOSITORY, ReportPusher

if TYPE_CHECKING:
    from margo_oci.upload import Uploader


def destination(config: AgentConfig) -> Reference:
    """Return where reports go: beside the state, under `report.reference`, or the device's tag below the state's."""
    if config.report.form == "referrer":
        return config.source
    below = Reference(config.source.host, f"{config.source.repository}/{REPOSITORY}", device_tag(config.device))
    return config.report.reference or below


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a report needs, built in main.py."""

    config: AgentConfig
    record_file: RecordFile
    outbox: Outbox
    clock: Clock
    agent: str
    look: Callable[[], Found]
    capabilities: Callable[[], bytes]
    signer: Callable[[], Signer]
    registry: Callable[[], Registry]
    uploader: Callable[[str], "Uploader"]

    def send(self) -> Mapping[str, Any]:
        """Push a report, and return what became of it as JSON has it; what fails is an outcome, no error."""
        try:
            return asyncio.run(self._send())
        except RegistryError as error:
            retry = {"retryAfterSeconds": error.retry_after_s} if error.retry_after_s else {}
            return {"outcome": "unreachable", "message": str(error), **retry}
        except (MargoError, OSError) as error:
            return {"outcome": "failed", "message": explain(error)[1]}

    async def _send(self) -> Mapping[str, Any]:
        # The events first: what is noted as delivered afterwards must have been in it.
        waiting, record, to = self.outbox.load(), self.record_file.load(), destination(self.config)
        status = self._status(record, waiting)
        contents = Contents(status.device, status.to_bytes(), lines_of(waiting.window), self.capabilities())
        async with self.registry() as registry:
            pusher = ReportPusher(registry, self.uploader(to.host))
            report = await self._push(pusher, to, contents, record)
        subject = report.manifest.subject.digest if report.manifest.subject else ""
        digest = report.manifest.digest
        self.outbox.accept(Mark(delivered=waiting.last, digest=digest, subject=subject, time=status.written))
        return {"outcome": "reported", "reference": str(to), "digest": digest, "events": waiting.pending}

    async def _push(self, pusher: ReportPusher, to: Reference, contents: Contents, record: Record) -> BuiltReport:
        if self.config.report.form == "tag":
            report = build_report(contents, self.signer())
            await pusher.under_tag(to, report)
            return report
        if not record.digest:
            raise FormatError("report: as: referrer: no state was accepted yet that a report could refer to")
        received = await pusher.registry.manifest(to.at(record.digest))
        assert received is not None  # noqa: S101  (nothing was known before)
        subject = Descriptor(
            media_type=received.media_type or IMAGE_MANIFEST, digest=received.digest, size=len(received.data)
        )
        report = build_report(contents, self.signer(), subject)
        last = self.outbox.mark()
        replaces = last.digest if last.subject == subject.digest else ""
        await pusher.beside_state(to, report, replaces=replaces)
        return report

    def _status(self, record: Record, waiting: Waiting) -> DeviceStatus:
        now = self.clock.now(record.time)
        return summarise(
            self.config, record, waiting.facts, now=format_moment(now), agent=self.agent, found=self.look(),
            stale=stale(record, now), last_event=waiting.last, dropped_events=waiting.dropped,
        )  # fmt: skip
