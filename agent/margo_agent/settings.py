"""What the configuration says of applying, cleaning, reporting and logging: one frozen value for each section."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from margo_agent.fields import Fields
from margo_agent.window import Window, parse_window
from margo_oci.capabilities import check_labels
from margo_oci.errors import FormatError
from margo_oci.reference import Reference, parse_reference

Atomic = Literal["deployment", "state"]
Drift = Literal["correct", "report"]

DEFAULT_SETTLE_S = 5.0
DEFAULT_LEAST_RATE_BYTES_S = 100
DEFAULT_CLEAN_AFTER_S = 24 * 3600.0
KEEP_FREE_LIMIT_BYTES = 256 * 2**20
KEEP_FREE_SHARE = 20  # one part in so many, where nothing else is said: a small disk is not kept empty
DEFAULT_HEARTBEAT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class ApplySettings:
    """How a state is applied, and when.

    `windows` are when applying may begin; without any it always may. Who holds a lock on `lock_file` says "not now".
    """

    atomic: Atomic = "deployment"
    settle_s: float = DEFAULT_SETTLE_S
    windows: Sequence[Window] = ()
    timezone: ZoneInfo | None = None
    lock_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """How fast content may come, and how slow, in bytes a second; 0 is no limit."""

    most_bytes_s: int = 0
    least_bytes_s: int = DEFAULT_LEAST_RATE_BYTES_S


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """When what nothing needs any more is removed: after a time, or as soon as less than `keep_free_bytes` is free.

    0 is a twentieth of the disk, and 256 MiB at most.
    """

    after_s: float = DEFAULT_CLEAN_AFTER_S
    keep_free_bytes: int = 0

    def kept_free_bytes(self, total_bytes: int) -> int:
        """Return how much is kept free of a disk."""
        return self.keep_free_bytes or min(KEEP_FREE_LIMIT_BYTES, total_bytes // KEEP_FREE_SHARE)


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Where the status goes. To the registry it goes under `reference`, or as a referrer of the applied manifest.

    `reference` None is the tag of this device in the repository `status` below the state's.
    """

    registry: bool = False
    form: Literal["tag", "referrer"] = "tag"
    reference: Reference | None = None
    key: Path | None = None
    files: Path | None = None
    heartbeat_s: float = DEFAULT_HEARTBEAT_S
    textfile: Path | None = None
    otlp: str = ""


@dataclass(frozen=True, kw_only=True)
class IdentitySettings:
    """What files for this device are encrypted to, if its maker gave it: both, or the agent makes its own."""

    key: Path | None = None
    certificate: Path | None = None


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """How the loop says what it decides."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning"] = "info"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a device cannot find out about itself; `labels` go into its capabilities as they are."""

    vendor: str = ""
    model_number: str = ""
    serial_number: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)


def read_apply(fields: Fields) -> ApplySettings:
    """Return the section `apply`."""
    fields.section(("apply",), ("atomic", "settle", "window", "timezone", "lockFile"))
    lock_file = fields.text(("apply", "lockFile"), required=False)
    return ApplySettings(
        atomic="state" if fields.choice(("apply", "atomic"), ("deployment", "state")) == "state" else "deployment",
        settle_s=fields.duration_s(("apply", "settle"), DEFAULT_SETTLE_S, least_s=0.0),
        windows=_windows(fields),
        timezone=fields.checked(("apply", "timezone"), _timezone, required=False),
        lock_file=fields.path(lock_file) if lock_file else None,
    )


def _windows(fields: Fields) -> Sequence[Window]:
    found = []
    for text in fields.texts(("apply", "window"), required=False, example="Mon-Fri 22:00-04:00"):
        try:
            found.append(parse_window(text))
        except FormatError as error:
            fields.fault(("apply", "window"), str(error))
    return tuple(found)


def _timezone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise FormatError(
            f"{name!r:.80}: a time zone is expected that this machine knows, as in Europe/Berlin"
        ) from None


def read_transfer(fields: Fields) -> TransferSettings:
    """Return `bandwidth` and `leastRate`."""
    settings = TransferSettings(
        most_bytes_s=fields.size_bytes(("bandwidth",), 0, per_second=True),
        least_bytes_s=fields.size_bytes(("leastRate",), DEFAULT_LEAST_RATE_BYTES_S, per_second=True),
    )
    if 0 < settings.most_bytes_s < settings.least_bytes_s:
        fields.fault(("bandwidth",), f"{settings.most_bytes_s} B/s is below leastRate, {settings.least_bytes_s} B/s")
    return settings


def read_clean(fields: Fields) -> CleanSettings:
    """Return the section `clean`."""
    fields.section(("clean",), ("after", "keepFree"))
    return CleanSettings(
        after_s=fields.duration_s(("clean", "after"), DEFAULT_CLEAN_AFTER_S, least_s=0.0),
        keep_free_bytes=fields.size_bytes(("clean", "keepFree"), 0),
    )


def read_report(fields: Fields, state_dir: Path) -> ReportSettings:
    """Return the section `report`."""
    keys = ("registry", "as", "reference", "key", "files", "heartbeat", "textfile", "otlp")
    fields.section(("report",), keys)
    textfile = fields.text(("report", "textfile"), required=False)
    return ReportSettings(
        registry=fields.flag(("report", "registry")),
        form="referrer" if fields.choice(("report", "as"), ("tag", "referrer")) == "referrer" else "tag",
        reference=fields.checked(("report", "reference"), parse_reference, required=False),
        key=fields.file_at(("report", "key")),
        files=fields.place(("report", "files"), state_dir / "status"),
        heartbeat_s=fields.duration_s(("report", "heartbeat"), DEFAULT_HEARTBEAT_S, least_s=10.0),
        textfile=fields.path(textfile) if textfile else None,
        otlp=fields.checked(("report", "otlp"), _http_url, required=False) or "",
    )


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or len(text) > 2000 or not text.isprintable():
        raise FormatError(f"{text!r:.80}: an address is expected, as in http://127.0.0.1:4318")
    return text.rstrip("/")


def read_identity(fields: Fields) -> IdentitySettings:
    """Return the section `identity`."""
    fields.section(("identity",), ("key", "certificate"))
    found = IdentitySettings(
        key=fields.file_at(("identity", "key")), certificate=fields.file_at(("identity", "certificate"))
    )
    given = [fields.document.find(("identity", name)) is not None for name in ("key", "certificate")]
    if len(set(given)) > 1:
        fields.fault(("identity",), "key and certificate go together")
    return found


def read_log(fields: Fields) -> LogSettings:
    """Return the section `log`."""
    fields.section(("log",), ("format", "level"))
    level = fields.choice(("log", "level"), ("debug", "info", "warning"))
    return LogSettings(
        format="json" if fields.choice(("log", "format"), ("text", "json")) == "json" else "text",
        level="debug" if level == "debug" else "warning" if level == "warning" else "info",
    )


def read_about(fields: Fields) -> About:
    """Return the section `about`."""
    fields.section(("about",), ("vendor", "modelNumber", "serialNumber", "labels"))
    return About(
        vendor=fields.text(("about", "vendor"), required=False),
        model_number=fields.text(("about", "modelNumber"), required=False),
        serial_number=fields.text(("about", "serialNumber"), required=False),
        labels=_labels(fields),
    )


def _labels(fields: Fields) -> Mapping[str, Any]:
    labels = fields.map(("about", "labels"))
    try:
        return check_labels(labels, at="labels")
    except FormatError as error:
        fields.fault(("about", "labels"), str(error))
        return {}
