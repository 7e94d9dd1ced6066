"""`margo-oci push`: a folder of deployments as one signed desired state."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from margo_cli.folder import Document, read_deployments
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
from margo_oci.desired_state import DEPLOYMENT, Layer, build_layer, check_counter, check_scope
from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey, Signer
from margo_oci.lock import Locker
from margo_oci.publish import Publisher, Release, current_state, plan_release
from margo_oci.reference import Reference
from margo_oci.signing import Forms, timestamp


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
