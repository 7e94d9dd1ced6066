"""`margo-oci copy`: artifacts with all that hangs on them, between registries and layouts."""

import asyncio
import functools
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_cli.layouts import CopySource
from margo_cli.session import Session, cache, human_bytes, with_session
from margo_oci.bundle import Plan, is_in, open_existing, plan_bundle, write_bundle
from margo_oci.closure import Closure
from margo_oci.copying import Copied, Copier, below, counted, renamed, take
from margo_oci.errors import FormatError
from margo_oci.layout import open_layout
from margo_oci.layout_registry import LayoutTransport
from margo_oci.offering import Offer
from margo_oci.reference import HOST, REPOSITORY, Reference, parse_reference
from margo_oci.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


def ends_options(command: F) -> F:
    """Add the options for one side alone, and hand over two sessions, `reading` and `writing`."""
    ca_file = click.Path(exists=True, dir_okay=False, path_type=Path)

    @click.option("--from-plain-http", is_flag=True, help="HTTP without TLS, for the registry of SRC alone.")
    @click.option("--to-plain-http", is_flag=True, help="HTTP without TLS, for the registry of DST alone.")
    @click.option("--from-ca-file", type=ca_file, help="CA of the registry of SRC alone.")
    @click.option("--to-ca-file", type=ca_file, help="CA of the registry of DST alone.")
    @functools.wraps(command)
    def called(
        session: Session, *args: Any, from_plain_http: bool, to_plain_http: bool, from_ca_file: Path | None,
        to_ca_file: Path | None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        reading = _end(session, from_plain_http, from_ca_file)
        return command(reading, _end(session, to_plain_http, to_ca_file), *args, **kwargs)

    return called  # type: ignore[return-value]


def _end(session: Session, plain_http: bool, ca_file: Path | None) -> Session:
    return replace(session, plain_http=session.plain_http or plain_http, ca_file=ca_file or session.ca_file)


@click.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_session()
@ends_options
def copy(reading: Session, writing: Session, source: str, destination: str) -> None:
    """Copy SRC to DST with all that hangs on it: signatures, attestations, SBOMs, in whatever form.

    SRC and DST are a reference, oci:DIR or a file that ends in .tar. A layout is copied whole, to a registry
    (host or host/prefix), where its repositories keep their names; oci:DIR:REF or SITE.tar:REF is one thing in it,
    which goes to a reference. What is there is not sent again, tags move last.
    oci:DIR may be a layout with other content, which is added to.
    What a state leads to is in its bundle: `margo-oci bundle`.

    \b
    Examples:
      margo-oci copy registry.example/images/web:1.0 registry.plant/images/web:1.0
      margo-oci copy site.tar registry.plant:5000/mirror
      margo-oci copy site.tar:registry.example/images/web:1.0 registry.plant/images/web:1.0
      margo-oci copy registry.example/images/web:1.0 oci:web
    """
    taken, to_layout = CopySource.of(source), _layout(destination)
    if taken.layout and to_layout:
        raise click.UsageError("Both are layouts: cp copies them; one side is to be a registry.")
    copied = asyncio.run(_copy(reading, writing, taken, destination, to_layout))
    words = f"{copied.sent} blobs sent ({human_bytes(copied.sent_bytes)}), {copied.reused} were there"
    reading.show({"from": source, "to": destination, **counted(copied)}, [f"{source} -> {destination}: {words}"])


async def _copy(
    reading: Session, writing: Session, source: CopySource, destination: str, to_layout: Path | None
) -> Copied:
    to = None if to_layout else _place(destination, many=source.is_whole_layout)
    async with AsyncExitStack() as opened:
        if source.layout:
            transport = LayoutTransport(Offer(open_layout(source.layout.resolve())))
            references = source.entries(transport.offer, to)
            opened.enter_context(source.lacking(transport))
            registry = transport.registry()
        else:
            references = [parse_reference(source.text)]
            registry = reading.registry(*references)
        await opened.enter_async_context(registry)
        closure = Closure(registry)
        for reference in references:
            await (
                closure.artifact(reference) if to is None or source.is_whole_layout else take(closure, reference, to)
            )
        if to is None:
            return await _to_layout(reading, registry, plan_bundle(closure), to_layout or Path())
        blobs = sum(len(node.blobs) for node in closure.nodes.values())
        with reading.progress("copying", blobs) as progress:
            copier = Copier(
                source=registry,
                destination=await opened.enter_async_context(writing.registry(to)),
                uploader=writing.uploader(to),
                store=cache(),
                to=below(to.host, to.repository) if source.is_whole_layout else renamed(references[0], to),
                progress=progress,
            )
            return await copier.copy(list(closure.nodes.values()))


async def _to_layout(session: Session, registry: Registry, plan: Plan, output: Path) -> Copied:
    there = open_existing(output)
    new = [blob for _, blob in plan.blobs if not (there and is_in([there], blob.digest))]
    with session.progress("copying", len(plan.blobs)) as progress:
        await write_bundle(registry, plan, output, progress=progress, others=there.entries if there else ())
    return Copied(len(new), len(plan.blobs) - len(new), sum(blob.size for blob in new))


def _layout(text: str) -> Path | None:
    if text.startswith("oci:") and not text.startswith("oci://"):
        return Path(text.removeprefix("oci:"))
    return Path(text) if text.lower().endswith(".tar") else None


def _place(text: str, *, many: bool) -> Reference:
    if not many:
        if (found := parse_reference(text)).digest:
            raise FormatError(f"{text}: a copy gets its digest by itself: name a tag, or nothing after the repository")
        return found
    host, _, prefix = text.partition("/")
    if not HOST.fullmatch(host) or (prefix and not REPOSITORY.fullmatch(prefix)):
        raise FormatError(
            f"{text}: a layout goes to host or host/prefix, as registry.plant:5000/mirror; one thing in it, named "
            "behind it as in site.tar:REF, to a reference"
        )
    return Reference(host, prefix)
