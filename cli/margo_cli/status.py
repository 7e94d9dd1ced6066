"""`margo-oci status` and `margo-oci devices`: who runs what, out of the reports that lie in registries."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from margo_cli.fleet import (
    Row,
    device_keys_options,
    event_lines,
    load_device_keys,
    table,
    unreadable_json,
    what_is_meant,
)
from margo_cli.session import DURATION, REFERENCE, F, Session, read_file, say, with_session
from margo_oci.errors import FormatError, MargoError, NotFound, RegistryError, TrustError, explain, plain, plain_json
from margo_oci.fleet import Meant, all_well
from margo_oci.reference import HOST, Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.reports import REPOSITORY, DeviceKeys, DeviceReport, ReportReader, Unreadable, newest, of_state
from margo_oci.root import Root

FORMS = ("table", "wide", "json")
PLACES_AT_ONCE = 8
NOT_WELL = 1


@dataclass(frozen=True)
class Part:
    """One table: what it is about, its devices, and what was found that is no report."""

    title: str
    about: Mapping[str, Any]
    rows: Sequence[Row]
    unreadable: Sequence[Mapping[str, str]]

    @property
    def well(self) -> bool:
        """Whether devices report, and all have what they are to have."""
        return all_well([row.standing for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        rows = [row.to_dict() for row in self.rows]
        return {**self.about, "well": self.well, "devices": rows, "unreadable": self.unreadable}

    def lines(self, *, wide: bool, events: bool) -> Iterator[str]:
        """Yield it for people."""
        yield self.title
        yield from table(self.rows, wide=wide)
        for row in self.rows if events else ():
            yield f"  events of {row.report.status.device}"
            yield from event_lines(row)
        for one in self.unreadable:
            yield f"  no report: {one['at']}: {one['why']}"


def _watching(command: F) -> F:
    """Add the options of whoever looks again and again."""
    for option in (
        click.option("--interval", type=DURATION, default="30s", show_default=True, help="How often --watch looks."),
        click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C."),
        click.option("--show-events", is_flag=True, help="Show the newest events of each device as well."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("references", type=REFERENCE, nargs=-1, required=True, metavar="REFERENCE...")
@device_keys_options
@click.option("--root", "root_file", type=click.Path(path_type=Path), help="The root that heads are checked with.")
@click.option("--reports", "places", type=REFERENCE, multiple=True, metavar="REPOSITORY",
              help="Look here for reports as well; may be given several times.")  # fmt: skip
@_watching
@with_session(forms=FORMS)
def status(
    session: Session,
    references: Sequence[Reference],
    key_files: Sequence[Path],
    key_folder: Path | None,
    root_file: Path | None,
    places: Sequence[Reference],
    watch: bool,
    interval: timedelta,
    show_events: bool,
) -> int:
    """Show which devices follow a state, and what each has of it: from their reports in the registry alone.

    Reports are looked for below REFERENCE's repository, in `status`, and among what refers to the state. With the
    keys of devices only reports count that were signed with them.

    \b
    Examples:
      margo-oci status registry.example/fleet/edge-17:latest --device-keys devices/
      margo-oci status registry.example/fleet/line-1:latest -o wide --watch

    \b
    Exit codes: 0 every device has what it is to have, 1 some do not, or none reports.
    """
    keys = load_device_keys(key_files, key_folder)
    root = Root.from_bytes(read_file(root_file)) if root_file else None

    async def look(registry: Registry) -> Sequence[Part]:
        reader = ReportReader(registry, keys, whole=show_events or session.is_json)
        return [await _state(reader, reference, places, root) for reference in references]

    showing = Showing(session, keys, show_events=show_events, every=interval if watch else None)
    return showing.show(look, [*references, *places], lambda parts: {"references": [one.to_dict() for one in parts]})


@click.command()
@click.argument("prefix", metavar="REPO-PREFIX")
@device_keys_options
@_watching
@with_session(forms=FORMS)
def devices(
    session: Session,
    prefix: str,
    key_files: Sequence[Path],
    key_folder: Path | None,
    watch: bool,
    interval: timedelta,
    show_events: bool,
) -> int:
    """Show all devices that report below a prefix, whatever state they follow.

    The registry must list its repositories (`_catalog`). Where it does not, `status` with references does the same.
    Reports that refer to states are not looked for here.

    \b
    Examples:
      margo-oci devices registry.example/fleet --device-keys devices/
      margo-oci devices registry.example -o json

    \b
    Exit codes: 0 every device has what it is to have, 1 some do not, or none reports.
    """
    keys, below = load_device_keys(key_files, key_folder), _prefix(prefix)

    async def look(registry: Registry) -> Sequence[Part]:
        reader = ReportReader(registry, keys, whole=show_events or session.is_json)
        return [await _devices(reader, below)]

    showing = Showing(session, keys, show_events=show_events, every=interval if watch else None)
    return showing.show(look, [below], lambda parts: parts[0].to_dict())


async def _state(reader: ReportReader, reference: Reference, places: Sequence[Reference], root: Root | None) -> Part:
    meant = await what_is_meant(reader.registry, reference, root)
    found = list(await reader.for_state(reference))
    for place in places:
        # There devices of other states report as well.
        found += [one for one in await reader.under_tags(place) if of_state(one, reference)]
    about = {"reference": str(reference), "digest": meant.digest, "counter": meant.counter}
    rows = _rows(reader, newest(found), lambda _: meant)
    return Part(f"{reference}  counter {meant.counter}  {meant.digest}", about, rows, unreadable_json(found))


async def _devices(reader: ReportReader, below: Reference) -> Part:
    repositories = [one for one in await _repositories(reader.registry, below) if one.endswith(f"/{REPOSITORY}")]
    gate = asyncio.Semaphore(PLACES_AT_ONCE)

    async def read(repository: str) -> tuple[Sequence[DeviceReport | Unreadable], dict[str, Meant]]:
        async with gate:
            found = await reader.under_tags(Reference(below.host, repository))
            return found, await _meant_by(reader.registry, below.host, repository, found)

    results = await asyncio.gather(*map(read, repositories))
    found = [one for part, _ in results for one in part]
    meant = {source: one for _, known in results for source, one in known.items()}
    prefix = below.name.rstrip("/")
    rows = _rows(reader, newest(found), lambda report: meant.get(report.status.source))
    return Part(prefix, {"prefix": prefix}, rows, unreadable_json(found))


async def _repositories(registry: Registry, below: Reference) -> Sequence[str]:
    try:
        every = await registry.repositories(below.host)
    except RegistryError as error:
        raise RegistryError(
            f"{below.host} does not list its repositories for you: {error}: name the states instead, as in "
            f"`margo-oci status {below.name.rstrip('/')}/…`"
        ) from None
    prefix = below.repository
    return [one for one in every if not prefix or one == prefix or one.startswith(f"{prefix}/")]


async def _meant_by(
    registry: Registry, host: str, repository: str, found: Sequence[DeviceReport | Unreadable]
) -> dict[str, Meant]:
    """Return what is meant for each state that reports name; only of the repository that these reports belong to.

    What a report says of its state is a claim: no other host or repository is asked because of it.
    """
    meant: dict[str, Meant] = {}
    for source in {one.status.source for one in found if isinstance(one, DeviceReport)}:
        try:
            reference = parse_reference(source)
            if (reference.host, f"{reference.repository}/{REPOSITORY}") == (host, repository):
                meant[source] = await what_is_meant(registry, reference)
        except (FormatError, TrustError, NotFound):
            continue  # then nothing is known of what the device is to have
    return meant


def _rows(
    reader: ReportReader, found: Sequence[DeviceReport | Unreadable], meant: Callable[[DeviceReport], Meant | None]
) -> Sequence[Row]:
    now, checked = datetime.now(UTC), bool(reader.keys.keys)
    return [Row.of(one, meant(one), now, checked=checked) for one in found if isinstance(one, DeviceReport)]


def _prefix(text: str) -> Reference:
    """Return a registry, and the path of repositories that begin with it. Raises FormatError."""
    host, _, path = text.removeprefix("oci://").partition("/")
    if not path and HOST.fullmatch(host):
        return Reference(host, "")
    return parse_reference(f"{host}/{path.rstrip('/')}").at("")


@dataclass(frozen=True)
class Showing:
    """How rounds are shown: once, or again `every` so often."""

    session: Session
    keys: DeviceKeys
    show_events: bool
    every: timedelta | None

    def show(
        self,
        look: Callable[[Registry], Awaitable[Sequence[Part]]],
        places: Sequence[Reference],
        to_dict: Callable[[Sequence[Part]], Mapping[str, Any]],
    ) -> int:
        """Look, and print what was found; return the exit code of the last round."""
        if not self.keys.keys:
            say("no keys of devices were given: whose reports these are was not verified (--device-keys)")

        async def work() -> int:
            async with self.session.registry(*places) as registry:
                if self.every is None:
                    return self._print(await look(registry), to_dict)
                while True:
                    await self._round(registry, look, to_dict)
                    await asyncio.sleep(self.every.total_seconds())

        return asyncio.run(work())

    async def _round(
        self,
        registry: Registry,
        look: Callable[[Registry], Awaitable[Sequence[Part]]],
        to_dict: Callable[[Sequence[Part]], Mapping[str, Any]],
    ) -> None:
        """Look once of many times: what fails is told, and looked at again."""
        try:
            parts = await look(registry)
        except MargoError as error:
            say(f"error: {explain(error)[1]}")
            return
        if not self.session.is_json and sys.stdout.isatty():
            click.clear()
        self._print(parts, to_dict)

    def _print(self, parts: Sequence[Part], to_dict: Callable[[Sequence[Part]], Mapping[str, Any]]) -> int:
        well = all(part.well for part in parts)
        if self.session.is_json:
            raw = {"well": well, "checked": bool(self.keys.keys), **to_dict(parts)}
            click.echo(plain_json(raw, indent=None if self.every else 2))
        else:
            wide = self.session.output == "wide"
            blocks = ["\n".join(map(plain, part.lines(wide=wide, events=self.show_events))) for part in parts]
            click.echo("\n\n".join(blocks))
        return 0 if well else NOT_WELL
