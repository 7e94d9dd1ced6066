"""`margo-oci push`: deployments as one signed desired state."""

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from margo_cli.checking import Checks, checking_options
from margo_cli.folder import Document
from margo_cli.session import (
    Session,
    cache,
    compose,
    load_public_keys,
    peer_keys_option,
    say,
    signature_folder,
    with_session,
)
from margo_cli.sources import Source, carried, say_missing, source_options
from margo_cli.trusting import Signing, signing_options
from margo_oci.desired_state import (
    DEPLOYMENT,
    NO_ORIGIN,
    Layer,
    Origin,
    build_file_layer,
    build_layer,
    check_counter,
    check_scope,
)
from margo_oci.errors import FormatError, said
from margo_oci.files import is_secret
from margo_oci.flux import FluxPublisher, FluxRelease, build_flux, current_flux, has_content
from margo_oci.keys import PublicKey, Signer
from margo_oci.lock import Locker
from margo_oci.manifest import TITLE
from margo_oci.pinned import pinned
from margo_oci.publish import Publisher, Release, current_state, plan_release
from margo_oci.reference import TAG, Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.signing import Forms, timestamp


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a push is to publish, and as whom; without `signer` it is only planned."""

    reference: Reference
    signer: Signer | None
    forms: Forms
    peers: Sequence[PublicKey]
    scope: str
    counter: int | None
    created: str
    checks: Checks
    change_scope: bool = False
    flux: Reference | None = None


@dataclass(frozen=True)
class Content:
    """What is published: layers, the names of their deployments, and where it all came from."""

    # Not in its text: asyncio writes that down whenever something ends, and here it would be megabytes.
    layers: Sequence[Layer] = field(repr=False)
    names: Mapping[str, str] = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    origin: Origin = NO_ORIGIN
    missing: Sequence[str] = field(default_factory=tuple)


@click.command()
@source_options
@signing_options
@click.option(
    "--scope",
    required=True,
    help="The one device or group the state is for, as in plant-3/line-1/edge-17.",
)
@click.option("--change-scope", is_flag=True, help="The tag holds a state for another scope: replace it.")
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
@checking_options
@click.option("--flux", is_flag=True, help="Publish the documents for Flux and Argo CD as well, at TAG-flux.")
@click.option("--flux-to", metavar="TAG|REFERENCE", help="As --flux, but there.")
@click.option("--dry-run", is_flag=True, help="Say what would be published, and send nothing.")
@with_session()
def push(
    session: Session,
    source: Source,
    reference: Reference,
    signing: Signing,
    scope: str,
    change_scope: bool,
    peer_files: Sequence[Path],
    counter: int | None,
    created: str | None,
    allow_empty: bool,
    checks: Checks,
    flux: bool,
    flux_to: str | None,
    dry_run: bool,
) -> None:
    """Publish the ApplicationDeployments in DIR (*.yaml) as one signed desired state.

    Every component and image they lead to is locked to the digest it has now. What the registry has is not sent
    again; the tag moves last. The same input publishes nothing new. The next counter is counted from what the tag
    has, if this key or a --peer-key signed it; else --counter is asked for. Documents can also come from a commit
    (--from-git), whose id is noted, or with their locks from a state in a layout (--from-layout).

    Files in NAME.files/ beside NAME.yaml go with that deployment: each is a layer of its own, and what ends in .jwe is
    encrypted (`margo-oci encrypt`).

    \b
    Examples:
      margo-oci push states/edge-17 registry.example/fleet/edge-17:latest --key fleet.key --scope edge-17
      margo-oci push states/edge-17 localhost:5000/fleet/edge-17 --key fleet.key --scope edge-17 --plain-http
      margo-oci push states/edge-17 registry.example/fleet/edge-17 --scope edge-17 --dry-run
      margo-oci push --from-git https://git.example/plant.git --rev main --path states/edge-17 \\
        registry.example/fleet/edge-17 --key fleet.key --scope edge-17
      margo-oci push states/edge-17 registry.example/fleet/edge-17 --key fleet.key --scope edge-17 \\
        --policy agent.yaml --platform linux/arm64 --require-signed
    """
    if reference.digest:
        raise FormatError(f"{reference}: a tag to move is expected, not a digest")
    check_scope(scope)
    if counter is not None:
        check_counter(counter)
    if checks.trusting.given and not checks.signed and not source.layout:
        raise click.UsageError("--verify-key and --policy say whose signatures count: --require-signed asks for them.")
    if source.layout and not checks.trusting.given:
        raise click.UsageError("--from-layout takes what is signed: by whom? --verify-key or --policy says it.")
    with source.documents(allow_empty=allow_empty) as (documents, origin):
        # A dry run needs no key, and asks for no password.
        wanted = Wanted(
            reference=reference, signer=None if dry_run else signing.required(), forms=signing.forms,
            peers=load_public_keys(peer_files), scope=scope, counter=counter, created=_created(created), checks=checks,
            change_scope=change_scope,
            flux=_flux_place(reference, flux_to) if flux or flux_to is not None else None,
        )  # fmt: skip
        release, content, fluxed = asyncio.run(_push(session, source, documents, origin, wanted))
    raw, lines = _release_json(release, content, dry_run), list(_release_lines(release, content, dry_run))
    if fluxed:
        raw["flux"] = {
            "reference": str(fluxed.reference), "digest": fluxed.digest, "changed": fluxed.changed,
        }  # fmt: skip
        verb = ("would publish" if dry_run else "published") if fluxed.changed else "already published"
        lines.append(f"{verb} {fluxed.reference} for Flux")
    session.show(raw, lines)


async def _push(
    session: Session, source: Source, documents: Sequence[Document], origin: Origin, wanted: Wanted
) -> tuple[Release, Content, FluxRelease | None]:
    async with session.registry(wanted.reference, *([wanted.flux] if wanted.flux else [])) as registry:
        finding = (
            _carried(session, registry, source.layout, wanted.checks)
            if source.layout
            else _locked(registry, documents, origin, wanted.checks)
        )
        content, _ = await asyncio.gather(finding, _loaded(wanted))
        if wanted.flux:  # before anything is published: a tag that holds something else is a fault
            await current_flux(registry, wanted.flux)
        signer = wanted.signer
        release = await (
            _published(session, registry, content, wanted, signer) if signer else _planned(registry, content, wanted)
        )
        return release, content, await _fluxed(session, registry, content, wanted, source) if wanted.flux else None


async def _loaded(wanted: Wanted) -> None:
    """Load the door for pushing, if it will be needed: oras takes a while, and the lookups mostly wait."""
    if wanted.signer:
        await asyncio.to_thread(importlib.import_module, "margo_oci.upload")


async def _locked(registry: Registry, documents: Sequence[Document], origin: Origin, checks: Checks) -> Content:
    """Lock and check documents."""
    async with Locker(registry, cache(), compose) as locker:
        locks = await locker.lock_all(
            {str(one.file): one.deployment for one in documents}, {str(one.file): one.files for one in documents}
        )
    for warning in sorted(locker.warnings):
        say(f"warning: {warning}")
    locked = {str(one.file): (one.deployment, lock) for one, lock in zip(documents, locks, strict=True)}
    await checks.check(registry, locked)
    layers = [build_layer(*pair) for pair in locked.values()]
    layers += [build_file_layer(one.deployment.id, file) for one in documents for file in one.files]
    return _content(layers, documents, origin)


async def _carried(session: Session, registry: Registry, layout: str, checks: Checks) -> Content:
    """Take a state out of a layout with its locks, and check what they name where devices will ask for it."""
    found = await carried(session, layout, checks.trusting)
    locked = {what: (one.deployment, lock) for what, (one, lock) in found.locked.items()}
    missing = await say_missing(registry, pinned(locked), layout)
    await checks.check(registry, locked)
    return _content(found.layers, [one for one, _ in found.locked.values()], found.origin, missing)


def _content(
    layers: Sequence[Layer], documents: Sequence[Document], origin: Origin, missing: Sequence[str] = ()
) -> Content:
    names = {one.deployment.id: one.deployment.name for one in documents}
    return Content(layers, names, {one.file.name: one.deployment.data for one in documents}, origin, missing)


async def _planned(registry: Registry, content: Content, wanted: Wanted) -> Release:
    current = await current_state(registry, wanted.reference)
    planned = await plan_release(
        registry, wanted.reference, content.layers, current,
        scope=wanted.scope, counter=wanted.counter, created=wanted.created, origin=content.origin,
        change_scope=wanted.change_scope,
    )  # fmt: skip
    known = {layer.digest for layer in current.manifest.layers} if current else set()
    new = frozenset(layer.descriptor.digest for layer in content.layers) - known
    return Release(reference=wanted.reference, state=planned.state, uploaded=new, changed=planned.changed)


async def _published(session: Session, registry: Registry, content: Content, wanted: Wanted, signer: Signer) -> Release:
    uploader = session.uploader(wanted.reference)
    publisher = Publisher(
        registry, uploader, signer, lambda: datetime.now(UTC), wanted.peers, wanted.forms, signature_folder()
    )
    with session.progress("pushing", len(content.layers)) as progress:
        return await publisher.publish(
            wanted.reference, content.layers,
            scope=wanted.scope, counter=wanted.counter, created=wanted.created, origin=content.origin,
            change_scope=wanted.change_scope, progress=progress,
        )  # fmt: skip


async def _fluxed(
    session: Session, registry: Registry, content: Content, wanted: Wanted, source: Source
) -> FluxRelease:
    """Publish the documents for Flux as well, or say what that would do."""
    assert wanted.flux is not None  # noqa: S101  (it was asked for)
    rev = source.git.rev if source.git else ""
    artifact = build_flux(wanted.flux, content.files, content.origin, rev=rev, created=wanted.created)
    if wanted.signer is None:
        there = await current_flux(registry, wanted.flux)
        return FluxRelease(wanted.flux, artifact.manifest.digest, changed=not has_content(there, artifact))
    uploader = session.uploader(wanted.flux)
    publisher = FluxPublisher(registry, uploader, wanted.signer, lambda: datetime.now(UTC), wanted.forms)
    return await publisher.publish(wanted.flux, artifact)


def _flux_place(reference: Reference, text: str | None) -> Reference:
    """Return where the artifact for Flux goes: a reference, or a tag beside the state. Raises FormatError."""
    tag = f"{reference.tag}-flux" if text is None else text
    if "/" in tag:
        place = parse_reference(tag)
    elif not TAG.fullmatch(tag):
        raise FormatError(f"--flux-to {tag!r:.80}: a tag, or a reference as registry.example/flux/edge-17:latest")
    else:
        place = reference.at(tag)
    if place.digest or place == reference:
        raise FormatError(f"--flux-to {place}: a tag of its own is expected")
    return place


def _created(text: str | None) -> str:
    if not text:
        return ""
    try:
        moment = datetime.now(UTC) if text == "now" else datetime.fromisoformat(text)
    except ValueError:
        raise FormatError(f"--created {text!r}: now, or RFC 3339 as in 2026-11-21T09:33:39Z, is expected") from None
    return timestamp(moment.astimezone(UTC))


def _release_json(release: Release, content: Content, dry_run: bool) -> dict[str, Any]:
    sent = "new" if dry_run else "uploaded"
    return {
        "reference": str(release.reference),
        "digest": release.state.manifest.digest,
        "counter": release.state.counter,
        "scope": release.state.scope,
        "changed": release.changed,
        "revision": release.state.origin.revision or None,
        "source": release.state.origin.source or None,
        "missing": list(content.missing),
        "dryRun": dry_run,
        "layers": [
            {
                "deployment": layer.annotations.get(DEPLOYMENT, ""),
                "name": content.names.get(layer.annotations.get(DEPLOYMENT, ""), ""),
                "digest": layer.digest,
                "size": layer.size,
                "status": sent if layer.digest in release.uploaded else "present",
            }
            for layer in release.state.layers
        ],
        "files": [
            {
                "deployment": deployment,
                "path": layer.annotations[TITLE],
                "encrypted": is_secret(layer),
                "digest": layer.digest,
                "size": layer.size,
                "status": sent if layer.digest in release.uploaded else "present",
            }
            for deployment, layers in release.state.files.items()
            for layer in layers
        ],
        "bytesUploaded": 0 if dry_run else release.bytes_uploaded,
    }


def _release_lines(release: Release, content: Content, dry_run: bool) -> Sequence[str]:
    raw = _release_json(release, content, dry_run)
    lines = [f"{one['status']:<8}  {one['digest'][:19]}  {one['size']:>7} B  {one['name']}" for one in raw["layers"]]
    lines += [
        f"{one['status']:<8}  {one['digest'][:19]}  {one['size']:>7} B  "
        f"{content.names.get(one['deployment'], '')}: {one['path']}{' (encrypted)' if one['encrypted'] else ''}"
        for one in raw["files"]
    ]
    verb = ("would publish" if dry_run else "published") if release.changed else "already published"
    lines.append(f"{verb} {release.reference} as counter {release.state.counter} for {release.state.scope}")
    if revision := release.state.origin.revision:
        lines.append(f"made of {said(revision)} of {said(release.state.origin.source)}")
    return [*lines, str(release.pinned)]
