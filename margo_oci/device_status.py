"""How a device is: which state it has, whether it is stale or waits, and how its deployments are. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from margo_oci.content import canonical_json, parse_json
from margo_oci.freshness import parse_moment
from margo_oci.jsonfields import JsonFields
from margo_oci.status import DeploymentStatus

DEVICE_LIMIT_BYTES = 2 * 1024 * 1024
DEPLOYMENT_COUNT_LIMIT = 4096
HEARTBEAT_LIMIT_S = 366 * 86400
OVERDUE_HEARTBEATS = 2
SOURCE_LIMIT_CHARS = 600


@dataclass(frozen=True, kw_only=True)
class DeviceStatus:
    """One report of a device; moments are text, "" and 0 mean that there is nothing to say.

    `digest`, `counter` and `scope` are of the state accepted last, of which nothing is left to do if `settled`;
    `applied` is when one was last applied whole.
    `heartbeat_s` is how soon the next report is to be expected at the latest; 0 if only news is reported.
    """

    device: str
    written: str
    agent: str = ""
    source: str = ""
    digest: str = ""
    counter: int = 0
    scope: str = ""
    settled: bool = False
    head_version: int = 0
    head_expires: str = ""
    stale: str = ""
    outcome: str = ""
    reason: str = ""
    message: str = ""
    waiting: str = ""
    applied: str = ""
    heartbeat_s: int = 0
    deployments: Sequence[DeploymentStatus] = ()
    free_bytes: int = 0
    total_bytes: int = 0
    engine: str = ""
    engine_version: str = ""
    last_event: int = 0
    dropped_events: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; what is empty is left out."""
        raw: dict[str, Any] = {
            "device": self.device,
            "agent": self.agent,
            "source": self.source,
            "digest": self.digest,
            "counter": self.counter,
            "scope": self.scope,
            "settled": self.settled,
            "head": _filled({"version": self.head_version, "expires": self.head_expires}),
            "stale": self.stale,
            "outcome": self.outcome,
            "reason": self.reason,
            "message": self.message,
            "waiting": self.waiting,
            "applied": self.applied,
            "written": self.written,
            "heartbeatSeconds": self.heartbeat_s,
            "deployments": [one.to_dict() for one in self.deployments],
            "disk": _filled({"freeBytes": self.free_bytes, "totalBytes": self.total_bytes}),
            "engine": _filled({"kind": self.engine, "version": self.engine_version}),
            "events": _filled({"last": self.last_event, "dropped": self.dropped_events}),
        }
        return _filled(raw)

    def to_bytes(self) -> bytes:
        """Return the document, the same bytes for the same status."""
        return canonical_json(self.to_dict())

    @property
    def steady(self) -> "DeviceStatus":
        """The same without what changes all the time: two that are equal so are no news."""
        return replace(self, written="", free_bytes=0, total_bytes=0)

    def overdue(self, now: datetime) -> bool:
        """Tell whether two heartbeats have passed since this report, so that nobody knows how the device is now."""
        if not self.heartbeat_s:
            return False
        age = now - parse_moment(self.written, at="written")
        return age > timedelta(seconds=OVERDUE_HEARTBEATS * self.heartbeat_s)


def parse_device_status(data: bytes, *, what: str = "device status") -> DeviceStatus:
    """Read the status a device wrote; fields that are not known are left alone. Raises FormatError."""
    fields = JsonFields(parse_json(data, what=what, limit_bytes=DEVICE_LIMIT_BYTES), what)
    head, disk, engine, events = (fields.inner(key) for key in ("head", "disk", "engine", "events"))
    return DeviceStatus(
        device=fields.text("device", required=True),
        written=fields.moment("written", required=True),
        agent=fields.text("agent"),
        source=fields.text("source", limit_chars=SOURCE_LIMIT_CHARS),
        digest=fields.digest("digest"),
        counter=fields.number("counter"),
        scope=fields.text("scope"),
        settled=fields.flag("settled"),
        head_version=head.number("version"),
        head_expires=head.moment("expires"),
        stale=fields.words("stale"),
        outcome=fields.text("outcome"),
        reason=fields.text("reason"),
        message=fields.words("message"),
        waiting=fields.words("waiting"),
        applied=fields.moment("applied"),
        heartbeat_s=fields.number("heartbeatSeconds", most=HEARTBEAT_LIMIT_S),
        deployments=tuple(map(DeploymentStatus.from_fields, fields.each("deployments", most=DEPLOYMENT_COUNT_LIMIT))),
        free_bytes=disk.number("freeBytes"),
        total_bytes=disk.number("totalBytes"),
        engine=engine.text("kind"),
        engine_version=engine.text("version"),
        last_event=events.number("last"),
        dropped_events=events.number("dropped"),
    )


def _filled(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value}
