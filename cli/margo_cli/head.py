"""`margo-oci head`: say which release devices are to have now, and say it again before it expires."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_cli.session import (
    DURATION,
    REFERENCE,
    F,
    Session,
    load_signer,
    reference_argument,
    say,
    with_session,
)
from margo_oci.errors import FormatError, MargoError, explain, plain, plain_json
from margo_oci.freshness import format_moment
from margo_oci.head import Head, open_head
from margo_oci.heads import read_head
from margo_oci.issue import Behind, Issued, Issuer, what_is_behind
from margo_oci.judging import read_root
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.root import Root

FILE = click.Path(path_type=Path)
LIST_LIMIT_BYTES = 1024 * 1024
REFERENCES_AT_ONCE = 8
T = TypeVar("T")

root_option = click.option("--root", "root_file", type=FILE, required=True, help="The root that is trusted.")


@click.group()
def head() -> None:
    """Issue and renew heads: short-lived signed documents that say which release is meant now."""


def _issuing(command: F) -> F:
    """Add the options of whoever signs heads."""
    for option in (
        click.option("--expires", type=DURATION, default="7d", show_default=True, help="How long a head lives."),
        click.option("--previous-root", "earlier_files", type=FILE, multiple=True,
                     help="An earlier root: heads that its keys signed are counted on from."),
        click.option("--key", "key_files", type=FILE, multiple=True, required=True,
                     help="Private head key; as many as the root asks for."),
        root_option,
    ):  # fmt: skip
        command = option(command)
    return command


def _several(command: F) -> F:
    """Add the ways to name many references."""
    for option in (
        click.option("--from", "list_file", type=FILE, help="A file with one reference a line; # begins a comment."),
        click.argument("references", type=REFERENCE, nargs=-1, metavar="REFERENCE..."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Signing:
    """Whose heads are issued: the root, its head keys, how long a head lives."""

    root: Root
    signers: Sequence[Any]
    lifetime: timedelta
    earlier: Sequence[Root]

    @classmethod
    def of(cls, root_file: Path, key_files: Sequence[Path], expires: timedelta, earlier: Sequence[Path]) -> "Signing":
        """Read the files. Raises FormatError, TrustError."""
        return cls(
            read_root(root_file),
            [load_signer(file) for file in key_files],
            expires,
            [read_root(file) for file in earlier],
        )

    def issuer(self, session: Session, registry: Registry, reference: Reference) -> Issuer:
        """Return what issues heads at the reference's registry."""
        from margo_oci.upload import Uploader

        uploader = Uploader(reference.host, session.access(reference)(reference.host))
        return Issuer(
            registry, uploader, self.root, self.signers, lambda: datetime.now(UTC), self.lifetime, self.earlier
        )


@head.command("issue")
@reference_argument
@_issuing
@click.option("--scope", default="", help="The release must be for this scope. [the one of the head before]")
@click.option("--version", type=click.IntRange(1), help="Count on from here. [the head before and one]")
@with_session()
def issue(
    session: Session,
    reference: Reference,
    root_file: Path,
    key_files: Sequence[Path],
    earlier_files: Sequence[Path],
    expires: timedelta,
    scope: str,
    version: int | None,
) -> None:
    """Issue a head for the release that a tag has now, after checking it as a device would.

    \b
    Example:
      margo-oci head issue registry.example/fleet/edge-17:latest --root root.json --key head.key --scope edge-17
    """
    signing = Signing.of(root_file, key_files, expires, earlier_files)

    async def work(registry: Registry) -> Issued:
        return await signing.issuer(session, registry, reference).issue(reference, scope=scope, version=version)

    issued = _run(session, [reference], work)
    session.show(_issued_json(issued), [_line(issued)])


@head.command("renew")
@_several
@_issuing
@click.option("--within", type=DURATION, help="Only heads that expire within this time. [all]")
@with_session()
def renew(
    session: Session,
    references: Sequence[Reference],
    list_file: Path | None,
    root_file: Path,
    key_files: Sequence[Path],
    earlier_files: Sequence[Path],
    expires: timedelta,
    within: timedelta | None,
) -> None:
    """Issue heads again for the same releases, with a later expiry. One that fails does not stop the others.

    The exit code is that of the first failure.

    \b
    Examples:
      margo-oci head renew registry.example/fleet/edge-17:latest --root root.json --key head.key
      margo-oci head renew --from fleet.txt --within 2d --root root.json --key head.key
    """
    targets = _all(references, list_file)
    signing = Signing.of(root_file, key_files, expires, earlier_files)

    async def work(registry: Registry) -> Sequence[Issued | BaseException]:
        gate = asyncio.Semaphore(REFERENCES_AT_ONCE)

        async def one(reference: Reference) -> Issued:
            async with gate:
                return await signing.issuer(session, registry, reference).renew(reference, within=within)

        return await asyncio.gather(*map(one, targets), return_exceptions=True)

    done = list(zip(targets, _run(session, targets, work), strict=True))
    rows = [_failed_json(where, one) if isinstance(one, BaseException) else _issued_json(one) for where, one in done]
    lines = [_line(one) for _, one in done if isinstance(one, Issued)]
    if lines or session.is_json:
        session.show({"heads": rows}, lines)
    failures = [(where, one) for where, one in done if isinstance(one, BaseException)]
    for where, error in failures:
        say(f"error: {where}: {explain(error)[1]}")
    if failures:
        raise SystemExit(explain(failures[0][1])[0])


@head.command("show")
@reference_argument
@root_option
@with_session()
def show(session: Session, reference: Reference, root_file: Path) -> None:
    """Show the head of a tag after verifying it, and how the release that the tag has now stands to it.

    \b
    Example:
      margo-oci head show registry.example/fleet/edge-17:latest --root root.json
    """
    trusted = read_root(root_file)

    async def work(registry: Registry) -> tuple[Head, Behind]:
        carried = await read_head(registry, reference)
        assert carried is not None  # noqa: S101  (nothing was known before)
        found = open_head(carried.head, trusted)
        return found, await what_is_behind(registry, reference, found)

    found, behind = _run(session, [reference], work)
    remaining = found.expires - datetime.now(UTC)
    raw = {**_head_json(reference, found), "remainingSeconds": int(remaining.total_seconds()), "tag": behind}
    session.show(raw, _shown(found, remaining, behind))


@head.command("watch")
@_several
@_issuing
@click.option("--within", type=DURATION, default="2d", show_default=True, help="Renew what expires within this time.")
@click.option("--interval", type=DURATION, default="30s", show_default=True, help="How often to look.")
@with_session()
def watch(
    session: Session,
    references: Sequence[Reference],
    list_file: Path | None,
    root_file: Path,
    key_files: Sequence[Path],
    earlier_files: Sequence[Path],
    expires: timedelta,
    within: timedelta,
    interval: timedelta,
) -> None:
    """Issue a head whenever a tag moved to a newly signed release, and renew in time, until SIGTERM or Ctrl-C.

    \b
    Example:
      margo-oci head watch --from fleet.txt --root root.json --key head.key --interval 1m
    """
    if within >= expires:
        raise click.UsageError("--within must be shorter than --expires: every look would renew everything.")
    targets = _all(references, list_file)
    signing = Signing.of(root_file, key_files, expires, earlier_files)

    async def work(registry: Registry) -> None:
        issuers = {reference: signing.issuer(session, registry, reference) for reference in targets}
        async with _until_told() as stopped:
            while not stopped.is_set():
                for reference, issuer in issuers.items():
                    await _attend(session, issuer, reference, within)
                    if stopped.is_set():
                        return
                await _pause(stopped, interval)

    _run(session, targets, work)


async def _attend(session: Session, issuer: Issuer, reference: Reference, within: timedelta) -> None:
    try:
        attended = await issuer.attend(reference, within=within)
        if attended.issued:
            raw = _issued_json(attended.issued)
            click.echo(plain_json(raw, indent=None) if session.is_json else plain(_line(attended.issued)))
        refused = attended.refused
    except MargoError as error:
        refused = error
    if refused:
        say(f"error: {reference}: {refused}")


@asynccontextmanager
async def _until_told() -> AsyncIterator[asyncio.Event]:
    """Give an event that is set at SIGTERM and SIGINT."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    try:
        yield stopped
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)


async def _pause(stopped: asyncio.Event, interval: timedelta) -> None:
    try:
        await asyncio.wait_for(stopped.wait(), interval.total_seconds())
    except TimeoutError:
        return


def _run(session: Session, references: Sequence[Reference], work: Callable[[Registry], Awaitable[T]]) -> T:
    async def with_registry() -> T:
        async with session.registry(*references) as registry:
            return await work(registry)

    return asyncio.run(with_registry())


def _all(references: Sequence[Reference], list_file: Path | None) -> Sequence[Reference]:
    found = list(references)
    if list_file:
        with list_file.open("rb") as stream:
            lines = stream.read(LIST_LIMIT_BYTES).decode(errors="replace").splitlines()
        found += [parse_reference(text) for line in lines if (text := line.partition("#")[0].strip())]
    if not found:
        raise FormatError("no references: name them, or a file that lists them (--from)")
    return list(dict.fromkeys(found))


def _head_json(reference: Reference, one: Head) -> dict[str, Any]:
    return {
        "reference": str(reference),
        "scope": one.scope,
        "version": one.version,
        "digest": one.digest,
        "counter": one.counter,
        "issued": format_moment(one.issued),
        "expires": format_moment(one.expires),
        "signedBy": list(one.signed_by),
    }


def _issued_json(one: Issued) -> dict[str, Any]:
    return {**_head_json(one.reference, one.head), "changed": one.changed}


def _failed_json(reference: Reference, error: BaseException) -> dict[str, Any]:
    return {"reference": str(reference), "error": explain(error)[1], "reason": getattr(error, "reason", None)}


def _line(one: Issued) -> str:
    verb = "issued" if one.changed else "still good:"
    return (
        f"{verb} head {one.head.version} for {one.head.scope}: counter {one.head.counter}  {one.head.digest}  "
        f"until {format_moment(one.head.expires)}"
    )


_BEHIND: dict[Behind, str] = {
    "same": "the tag has the same release",
    "newer": "the tag has a newer release: `margo-oci head issue` offers it to devices",
    "older": "the tag has an older release: devices keep to the head",
    "other": "the tag has something else under this counter: look with `margo-oci inspect`",
    "none": "the tag is gone",
}


def _shown(one: Head, remaining: timedelta, behind: Behind) -> Sequence[str]:
    left = "EXPIRED" if remaining <= timedelta(0) else f"{remaining.days} d {remaining.seconds // 3600} h left"
    return [
        f"scope     {one.scope}",
        f"version   {one.version}",
        f"digest    {one.digest}",
        f"counter   {one.counter}",
        f"issued    {format_moment(one.issued)}",
        f"expires   {format_moment(one.expires)}  ({left})",
        f"signed by {', '.join(one.signed_by)}",
        _BEHIND[behind],
    ]
