"""What `status` and `devices` show: rows made of reports, as JSON and as tables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from margo_cli.session import F, human_bytes, load_public_keys
from margo_oci.desired_state import parse_state
from margo_oci.errors import FormatError, NotFound, TrustError, said
from margo_oci.fleet import Meant, Standing, age_s, standing, why
from margo_oci.head import HEAD_LIMIT_BYTES, Head, open_head, parse_head
from margo_oci.heads import read_head
from margo_oci.keys import PublicKey
from margo_oci.manifest import Manifest
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.reports import DeviceKeys, DeviceReport, Unreadable
from margo_oci.root import Root
from margo_oci.tuf import Document

KEY_COUNT_LIMIT = 10_000
WORDS_CHARS = 100
_FILE = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@dataclass(frozen=True)
class Row:
    """One device as it is shown: its report, and how that stands."""

    report: DeviceReport
    standing: Standing
    age_s: int

    @classmethod
    def of(cls, report: DeviceReport, meant: Meant | None, now: datetime, *, checked: bool) -> "Row":
        """Judge a report. Where keys were given (`checked`), one that none of them signed is not believed."""
        doubt = report.doubt if checked or report.doubt not in ("", "unverified", "unsigned") else ""
        return cls(report, standing(report.status, meant, now=now, doubt=doubt), age_s(report.status.written, now))

    @property
    def words(self) -> str:
        """What there is to say beside the one word."""
        status = self.report.status
        return self.report.doubt if self.standing == "doubtful" else why(status, self.standing)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        report, status = self.report, self.report.status
        raw = {
            **status.to_dict(),
            "reported": status.written,
            "ageSeconds": self.age_s,
            "standing": self.standing,
            "words": self.words or None,
            "verified": bool(report.signed_by),
            "signedBy": report.signed_by or None,
            "doubt": report.doubt or None,
            "at": report.at,
        }
        del raw["written"]
        if report.events:
            raw["newestEvents"] = [one.to_dict() for one in report.events]
        if report.capabilities:
            raw["capabilities"] = report.capabilities.to_dict()
        return raw


def device_keys_options(command: F) -> F:
    """Add the options that name the keys of devices."""
    for option in (
        click.option("--device-keys", "key_folder", type=_FOLDER, metavar="DIR",
                     help="A folder with the public key of each device, DEVICE.pub."),
        click.option("--device-key", "key_files", type=_FILE, multiple=True, metavar="FILE",
                     help="The public key of one device, DEVICE.pub; may be given several times."),
    ):  # fmt: skip
        command = option(command)
    return command


def load_device_keys(files: Sequence[Path], folder: Path | None) -> DeviceKeys:
    """Read the keys; each counts for the device that its file is named after. Raises FormatError."""
    every = [*files, *(sorted(folder.glob("*.pub")) if folder else ())]
    if len(every) > KEY_COUNT_LIMIT:
        raise FormatError(f"{folder}: {len(every)} keys, at most {KEY_COUNT_LIMIT} are read")
    if folder and not every:
        raise FormatError(f"{folder}: no key is there: DEVICE.pub is expected, as `margo-agent identity` prints it")
    found: dict[str, PublicKey] = {}
    for file, key in zip(every, load_public_keys(every), strict=True):
        found[file.name.removesuffix(".pub")] = key
    return DeviceKeys(found)


async def what_is_meant(registry: Registry, reference: Reference, root: Root | None = None) -> Meant:
    """Return what devices are to have: what the head beside the tag names, or else what the tag has.

    With `root` the head must be signed as it asks for; without, what is there is taken as it is.
    Raises RegistryError, TrustError, FormatError.
    """
    if reference.tag and (head := await _head(registry, reference, root)):
        return Meant(head.digest, head.counter)
    received = await registry.manifest(reference)
    assert received is not None  # noqa: S101  (nothing was known before)
    state = parse_state(Manifest.from_bytes(received.data, what=f"state {reference}"), what=f"state {reference}")
    return Meant(received.digest, state.counter)


async def _head(registry: Registry, reference: Reference, root: Root | None) -> Head | None:
    try:
        carried = await read_head(registry, reference)
    except NotFound:
        if root:
            raise TrustError("head-unsigned", f"{reference}: there is no head beside the tag") from None
        return None
    assert carried is not None  # noqa: S101  (nothing was known before)
    if root:
        return open_head(carried.head, root)
    return parse_head(Document.from_bytes(carried.head, what="head", limit_bytes=HEAD_LIMIT_BYTES).signed)


def unreadable_json(found: Sequence[DeviceReport | Unreadable]) -> Sequence[Mapping[str, str]]:
    """Return what lies among the reports and is none."""
    return [{"at": one.at, "why": said(one.why)} for one in found if isinstance(one, Unreadable)]


COLUMNS = ("DEVICE", "STANDING", "COUNTER", "DIGEST", "APPLIED", "REPORTED", "DEPLOYMENTS", "SIGNED")
WIDE = ("SCOPE", "AGENT", "ENGINE", "FREE", "HEAD UNTIL")


def table(rows: Sequence[Row], *, wide: bool) -> Sequence[str]:
    """Return the rows for people; what there is to say stands below each."""
    if not rows:
        return ["  no device reports here"]
    cells = [(*COLUMNS, *(WIDE if wide else ())), *(_cells(row, wide=wide) for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    shown = [lines[0]]
    for row, line in zip(rows, lines[1:], strict=True):
        shown.append(line)
        if row.words:
            shown.append(f"    {said(row.words, limit_chars=400 if wide else WORDS_CHARS)}")
    return shown


def _cells(row: Row, *, wide: bool) -> tuple[str, ...]:
    status, report = row.report.status, row.report
    there = sum(one.state == "installed" for one in status.deployments)
    cells = (
        status.device,
        row.standing,
        str(status.counter or "-"),
        status.digest.removeprefix("sha256:")[:12] or "-",
        status.applied or "-",
        f"{human_age(row.age_s)} ago",
        f"{there}/{len(status.deployments)}",
        "yes" if report.signed_by else report.doubt,
    )
    if not wide:
        return cells
    engine = f"{status.engine} {status.engine_version}".strip()
    free = human_bytes(status.free_bytes) if status.free_bytes else "-"
    return (*cells, status.scope or "-", status.agent or "-", engine or "-", free, status.head_expires or "-")


def human_age(seconds: int) -> str:
    """Return a length of time for people, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def event_lines(row: Row) -> Sequence[str]:
    """Return the newest events of a device for people."""
    return [
        re.sub(
            r"\s+$",
            "",
            f"    {one.number:>5}  {one.time}  {one.kind:<10} {one.state or one.digest[:19]}  "
            f"{one.name or one.deployment}  {one.code or one.reason}  {said(one.message, limit_chars=WORDS_CHARS)}",
        )
        for one in row.report.events
    ]
