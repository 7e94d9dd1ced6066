"""`margo-oci copy`: artifacts with all that hangs on them, between registries and layouts."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import click

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


@click.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@with_session()
def copy(session: Session, source: str, destination: str) -> None:
    """Copy SRC to DST with all that hangs on it: signatures, attestations, SBOMs, in whatever form.

    SRC and DST are a reference, oci:DIR or a file that ends in .tar. A layout is copied whole, to a registry
    (host or host/prefix), where its repositories keep their names. What is there is not sent again, tags move last.
    oci:DIR may be a layout with other content, which is added to.
    What a state leads to is in its bundle: `margo-oci bundle`.

    \b
    Examples:
      margo-oci copy registry.example/images/web:1.0 registry.plant/images/web:1.0
      margo-oci copy site.tar registry.plant:5000/mirror
      margo-oci copy registry.example/images/web:1.0 oci:web
    """
    layout, to_layout = _layout(source), _layout(destination)
    if layout and to_layout:
        raise click.UsageError("Both are layouts: cp copies them; one side is to be a registry.")
    copied = asyncio.run(_copy(session, source, destination, layout, to_layout))
    words = f"{copied.sent} blobs sent ({human_bytes(copied.sent_bytes)}), {copied.reused} were there"
    session.show({"from": source, "to": destination, **counted(copied)}, [f"{source} -> {destination}: {words}"])


async def _copy(session: Session, source: str, destination: str, layout: Path | None, to_layout: Path | None) -> Copied:
    async with AsyncExitStack() as opened:
        offer = Offer(open_layout(layout.resolve())) if layout else None
        if offer:
            offer.check_unambiguous()  # below one host each name has one place
        references = list(offer.all_references) if offer else [parse_reference(source)]
        if not references:
            raise FormatError(
                f"{source}: nothing in it says where it belongs: tag it with skopeo copy, by its full name"
            )
        to = None if to_layout else _place(destination, many=bool(offer))
        registry = LayoutTransport(offer).registry() if offer else session.registry(*references, *([to] if to else []))
        await opened.enter_async_context(registry)
        closure = Closure(registry)
        for reference in references:
            await (closure.artifact(reference) if offer or to is None else take(closure, reference, to))
        if to is None:
            return await _to_layout(session, registry, plan_bundle(closure), to_layout or Path())
        at = below(to.host, to.repository) if offer else renamed(references[0], to)
        blobs = sum(len(node.blobs) for node in closure.nodes.values())
        with session.progress("copying", blobs) as progress:
            copier = Copier(
                source=registry,
                destination=await opened.enter_async_context(session.registry(to)),
                uploader=session.uploader(to),
                store=cache(),
                to=at,
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
        raise FormatError(f"{text}: a layout goes to host or host/prefix, as registry.plant:5000/mirror")
    return Reference(host, prefix)
