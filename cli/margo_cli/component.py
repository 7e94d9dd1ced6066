"""`margo-oci component`: workloads as OCI artifacts."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_cli.folder import read_component
from margo_cli.session import Session, compose, reference_argument, say, with_session
from margo_cli.trusting import Signing, signing_options
from margo_oci.archive import Entry
from margo_oci.compose import faults_of_template
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON
from margo_oci.errors import FormatError, NotFound
from margo_oci.package import build_component, check_version, faults_of, placed_below
from margo_oci.reference import Reference
from margo_oci.signing import Attacher
from margo_oci.yamltree import parse_tree


@click.group()
def component() -> None:
    """Package workloads as OCI artifacts."""


@component.command("push")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@reference_argument
@signing_options
@with_session()
def component_push(session: Session, folder: Path, reference: Reference, signing: Signing) -> None:
    """Push DIR (compose.yaml and what it needs) as a Compose Archive; the tag is its version.

    It is checked first, by the rules of the standard and by Docker Compose. The same files give the same digest.

    \b
    Examples:
      margo-oci component push hello registry.example/components/hello:1.0.0
      margo-oci component push hello localhost:5000/components/hello:1.0.0 --key vendor.key --plain-http
    """
    if reference.digest:
        raise FormatError(f"{reference}: a tag is expected, not a digest: it is the component's version")
    files = read_component(folder)
    name = reference.repository.rpartition("/")[2]
    check_version(reference.tag)
    _check_archive(folder, files, name)
    artifact = build_component(files, name=name, version=reference.tag)
    _check_compose(folder, files[COMPOSE_FILE].data)
    signer = signing.load()

    async def upload() -> bool:
        async with session.registry(reference) as registry:
            try:
                before = await registry.digest(reference)
            except NotFound:
                before = ""
            if before and before != artifact.manifest.digest:
                say(
                    f"warning: {reference} moves from {before}: states that were published keep what they are locked to"
                )
            uploader = session.uploader(reference)
            await asyncio.to_thread(uploader.blob, reference, EMPTY_CONFIG, EMPTY_JSON)
            sent = await asyncio.to_thread(uploader.blob, reference, artifact.manifest.layers[0], artifact.layer)
            if before != artifact.manifest.digest:
                await asyncio.to_thread(uploader.manifest, reference, artifact.manifest.data)
            if signer:
                attacher = Attacher(registry, uploader, lambda: datetime.now(UTC), signing.forms)
                await attacher.sign(reference, artifact.manifest.descriptor, signer)
            return sent

    sent = asyncio.run(upload())
    layer = artifact.manifest.layers[0]
    pinned = reference.at(artifact.manifest.digest)
    session.show(
        {
            "reference": str(reference),
            "digest": artifact.manifest.digest,
            "layer": {
                "digest": layer.digest,
                "size": layer.size,
                "status": "uploaded" if sent else "present",
            },
            "signed": signer is not None,
        },
        [
            f"{'uploaded' if sent else 'present':<8}  {layer.digest[:19]}  {layer.size:>7} B  {name}",
            str(pinned),
        ],
    )


def _check_archive(folder: Path, files: Mapping[str, Entry], name: str) -> None:
    """Say the faults of an archive as faults of the folder it would be made of."""
    if faults := faults_of(placed_below(name, files)):
        told = [fault.removeprefix(f"{name}/") for fault in faults]
        raise FormatError(
            *(f"{folder}{': ' if same == fault else '/'}{same}" for same, fault in zip(told, faults, strict=True))
        )


def _check_compose(folder: Path, data: bytes) -> None:
    where = folder / COMPOSE_FILE
    try:
        template = compose().template(folder.absolute())
    except FormatError as error:
        raise FormatError(
            *(f"{folder}/{fault}" if fault.startswith(COMPOSE_FILE) else fault for fault in error.faults)
        ) from None
    tree = parse_tree(data, what=str(where))
    faults, warnings = faults_of_template(template, folder.absolute())
    for warning in warnings:
        say(f"warning: {where}:{tree.line_of(warning.partition(': ')[0])}: {warning}")
    if faults:
        raise FormatError(*(f"{where}:{tree.line_of(fault.partition(': ')[0])}: {fault}" for fault in faults))
