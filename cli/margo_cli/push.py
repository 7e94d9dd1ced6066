"""`margo-oci push` and `margo-oci component push`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from margo_cli.folder import Document, read_component, read_deployments
from margo_cli.session import (
    Session,
    cache,
    compose,
    load_public_keys,
    peer_keys_option,
    reference_argument,
    say,
    with_session,
)
from margo_cli.trusting import Signing, signing_options
from margo_oci.archive import Entry
from margo_oci.compose import faults_of_template
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON
from margo_oci.desired_state import DEPLOYMENT, Layer, build_layer, check_counter, check_scope
from margo_oci.errors import FormatError, NotFound
from margo_oci.keys import PublicKey, Signer
from margo_oci.lock import Locker
from margo_oci.package import build_component, check_version, faults_of, placed_below
from margo_oci.publish import Publisher, Release, current_state, plan_release
from margo_oci.reference import Reference
from margo_oci.signing import Attacher, Forms, timestamp
from margo_oci.yamltree import parse_tree


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@reference_argument
@signing_options
@click.option(
    "--scope",
    required=True,
    help="The one device or group the state is for, as in plant-3/line-1/edge-17.",
)
@peer_keys_option
@click.option("--counter", type=int, help="Release counter; higher than the last. [the last and one]")
@click.option(
    "--created",
    help="Note when it was made: `now`, or RFC 3339. [not noted: the same input, the same digest]",
)
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Publish a state without deployments: devices remove everything.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be published, and send nothing.")
@with_session()
def push(
    session: Session,
    folder: Path,
    reference: Reference,
    signing: Signing,
    scope: str,
    peer_files: Sequence[Path],
    counter: int | None,
    created: str | None,
    allow_empty: bool,
    dry_run: bool,
) -> None:
    """Publish the ApplicationDeployments in DIR (*.yaml) as one signed desired state.

    Every component and image they lead to is locked to the digest it has now. What the registry has is not sent
    again; the tag moves last. The same input publishes nothing new. The next counter is counted from what the tag
    has, if this key or a --peer-key signed it; else --counter is asked for.

    \b
    Examples:
      margo-oci push states/edge-17 registry.example/fleet/edge-17:latest --key fleet.key --scope edge-17
      margo-oci push states/edge-17 localhost:5000/fleet/edge-17 --key fleet.key --scope edge-17 --plain-http
      margo-oci push states/edge-17 registry.example/fleet/edge-17 --scope edge-17 --dry-run
    """
    if reference.digest:
        raise FormatError(f"{reference}: a tag to move is expected, not a digest")
    check_scope(scope)
    if counter is not None:
        check_counter(counter)
    documents = read_deployments(folder, allow_empty=allow_empty)
    # A dry run needs no key, and asks for no password.
    signer = None if dry_run else signing.required()
    peers = load_public_keys(peer_files)
    release, names = asyncio.run(
        _push(session, documents, reference, signer, signing.forms, peers, scope, counter, _created(created))
    )
    session.show(_release_json(release, names, dry_run), list(_release_lines(release, names, dry_run)))


async def _push(
    session: Session,
    documents: Sequence[Document],
    reference: Reference,
    signer: Signer | None,
    forms: Forms,
    peers: Sequence[PublicKey],
    scope: str,
    counter: int | None,
    created: str,
) -> tuple[Release, Mapping[str, str]]:
    deployments = [document.deployment for document in documents]
    names = {deployment.id: deployment.name for deployment in deployments}
    async with session.registry(reference) as registry:
        async with Locker(registry, cache(), compose) as locker:
            locks = await locker.lock_all({str(document.file): document.deployment for document in documents})
        for warning in sorted(locker.warnings):
            say(f"warning: {warning}")
        layers: list[Layer] = [build_layer(*pair) for pair in zip(deployments, locks, strict=True)]
        if signer is None:
            current = await current_state(registry, reference)
            planned = await plan_release(
                registry, reference, layers, current, scope=scope, counter=counter, created=created
            )
            known = {layer.digest for layer in current.manifest.layers} if current else set()
            new = frozenset(layer.descriptor.digest for layer in layers) - known
            return Release(reference=reference, state=planned.state, uploaded=new, changed=planned.changed), names
        uploader = session.uploader(reference)
        publisher = Publisher(registry, uploader, signer, lambda: datetime.now(UTC), peers, forms)
        with session.progress("pushing", len(layers)) as progress:
            release = await publisher.publish(
                reference, layers, scope=scope, counter=counter, created=created, progress=progress
            )
        return release, names


def _created(text: str | None) -> str:
    if not text:
        return ""
    try:
        moment = datetime.now(UTC) if text == "now" else datetime.fromisoformat(text)
    except ValueError:
        raise FormatError(f"--created {text!r}: now, or RFC 3339 as in 2026-11-21T09:33:39Z, is expected") from None
    return timestamp(moment.astimezone(UTC))


def _release_json(release: Release, names: Mapping[str, str], dry_run: bool) -> dict[str, Any]:
    sent = "new" if dry_run else "uploaded"
    return {
        "reference": str(release.reference),
        "digest": release.state.manifest.digest,
        "counter": release.state.counter,
        "scope": release.state.scope,
        "changed": release.changed,
        "dryRun": dry_run,
        "layers": [
            {
                "deployment": layer.annotations.get(DEPLOYMENT, ""),
                "name": names.get(layer.annotations.get(DEPLOYMENT, ""), ""),
                "digest": layer.digest,
                "size": layer.size,
                "status": sent if layer.digest in release.uploaded else "present",
            }
            for layer in release.state.layers
        ],
        "bytesUploaded": 0 if dry_run else release.bytes_uploaded,
    }


def _release_lines(release: Release, names: Mapping[str, str], dry_run: bool) -> Sequence[str]:
    raw = _release_json(release, names, dry_run)
    lines = [f"{one['status']:<8}  {one['digest'][:19]}  {one['size']:>7} B  {one['name']}" for one in raw["layers"]]
    verb = ("would publish" if dry_run else "published") if release.changed else "already published"
    lines.append(f"{verb} {release.reference} as counter {release.state.counter} for {release.state.scope}")
    return [*lines, str(release.pinned)]


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
