"""`margo-oci inspect` and `pull`: look at a published state, as a device would or as it is."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from margo_cli.folder import FILES
from margo_cli.session import (
    Session,
    cache,
    human_bytes,
    reference_argument,
    say,
    with_session,
)
from margo_cli.trusting import Trusting, need_trust, trust_options
from margo_oci.content import Descriptor
from margo_oci.desired_state import DesiredState, Placed, read_layers
from margo_oci.errors import FormatError, RegistryError, said
from margo_oci.files import SUFFIX, ExtraFile, read_file_layer
from margo_oci.manifest import CREATED
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.transfer import Judge, fetch, open_state, referrers
from margo_oci.trust import TrustAnything, Verified


async def read_state(
    registry: Registry, reference: Reference, judge: Judge | TrustAnything, session: Session
) -> tuple[Verified, Mapping[str, Placed]]:
    """Resolve, verify, fetch and read a state. Raises TrustError, RegistryError, FormatError."""
    verified = await open_state(registry, reference, judge)
    with session.progress("fetching", len(verified.state.manifest.layers)) as progress:
        await fetch(verified, registry, reference, cache(), progress=progress)
    placed = read_layers([(layer, kept_blob(layer)) for layer in verified.state.layers], verified.state.files)
    return verified, placed


def extra_files(one: Placed) -> Sequence[ExtraFile]:
    """Return the files of a deployment that was read before. Raises FormatError, RegistryError."""
    return [read_file_layer(layer, kept_blob(layer), what=f"layer {layer.digest[:19]}") for layer in one.files]


def kept_blob(layer: Descriptor) -> bytes:
    """Return a blob that was fetched into the cache before. Raises RegistryError if it went bad there."""
    data = cache().read(layer)
    if data is None:
        raise RegistryError(f"{layer.digest}: its copy in the cache went bad and was dropped: run the command again")
    return data


def read(session: Session, reference: Reference, judge: Judge | TrustAnything) -> tuple[Verified, Mapping[str, Placed]]:
    """Do the same from a command."""

    async def work() -> tuple[Verified, Mapping[str, Placed]]:
        async with session.registry(reference) as registry:
            return await read_state(registry, reference, judge, session)

    return asyncio.run(work())


@click.command()
@reference_argument
@with_session()
def inspect(session: Session, reference: Reference) -> None:
    """Show a published state: counter, scope, deployments, locks, signatures, sizes. Nothing is verified.

    \b
    Examples:
      margo-oci inspect registry.example/fleet/edge-17:latest
      margo-oci inspect registry.example/fleet/edge-17@sha256:… -o json
    """

    async def work() -> tuple[DesiredState, Mapping[str, Placed], Sequence[Descriptor]]:
        async with session.registry(reference) as registry:
            verified, placed = await read_state(registry, reference, TrustAnything(), session)
            found = await referrers(registry, reference, verified.state.manifest.digest)
            return verified.state, placed, found

    state, placed, found = asyncio.run(work())
    session.show(_inspected(reference, state, placed, found), list(_lines(state, placed, found)))
    say("nothing of this was verified: `margo-oci verify` does")


def _inspected(
    reference: Reference,
    state: DesiredState,
    placed: Mapping[str, Placed],
    found: Sequence[Descriptor],
) -> dict[str, Any]:
    return {
        "reference": str(reference.at(state.manifest.digest)),
        "digest": state.manifest.digest,
        "artifactType": state.manifest.artifact_type,
        "counter": state.counter,
        "scope": state.scope,
        "created": state.created or None,
        "revision": state.origin.revision or None,
        "source": state.origin.source or None,
        "sizes": {
            "manifest": len(state.manifest.data),
            "layers": sum(layer.size for layer in state.manifest.layers),
        },
        "deployments": [
            {
                "id": one.deployment.id,
                "name": one.deployment.name,
                "namespace": one.deployment.namespace,
                "applicationId": one.deployment.application_id,
                "profile": one.deployment.profile,
                "components": [
                    {
                        "name": component.name,
                        "repository": component.repository,
                        "revision": component.revision,
                    }
                    for component in one.deployment.components
                ],
                "layer": {"digest": one.layer.digest, "size": one.layer.size},
                "lock": {"components": dict(one.lock.components), "images": dict(one.lock.images)}
                if one.lock
                else None,
                "files": [_file_json(layer, file) for layer, file in zip(one.files, extra_files(one), strict=True)],
            }
            for one in placed.values()
        ],
        "referrers": [
            {
                "artifactType": one.artifact_type,
                "digest": one.digest,
                "size": one.size,
                "created": one.annotations.get(CREATED),
            }
            for one in found
        ],
    }


def _file_json(layer: Descriptor, file: ExtraFile) -> dict[str, Any]:
    """Return what a file is, never what is in it."""
    raw = {"path": file.path, "size": len(file.data), "digest": layer.digest}
    return raw | ({"encryptedFor": list(_kids(file))} if file.secret else {})


def _kids(file: ExtraFile) -> Sequence[str]:
    # Imported when one is met: a state without secrets needs none of it.
    from margo_oci.jwe import parse_envelope

    return parse_envelope(file.data, what=file.path).kids


def _file_line(layer: Descriptor, file: ExtraFile) -> str:
    line = f"  file {file.path}  {human_bytes(len(file.data))}  {layer.digest}"
    return f"{line}  encrypted for {', '.join(one or '(unnamed)' for one in _kids(file))}" if file.secret else line


def _lines(state: DesiredState, placed: Mapping[str, Placed], found: Sequence[Descriptor]) -> Sequence[str]:
    layers = sum(layer.size for layer in state.manifest.layers)
    lines = [
        f"digest    {state.manifest.digest}",
        f"counter   {state.counter}",
        f"scope     {state.scope or '(none)'}",
        f"size      manifest {human_bytes(len(state.manifest.data))}, layers {human_bytes(layers)}",
        *([f"created   {state.created}"] if state.created else []),
        *([f"commit    {said(state.origin.revision)}"] if state.origin.revision else []),
        *([f"source    {said(state.origin.source)}"] if state.origin.source else []),
    ]
    for one in placed.values():
        lines.append(f"deployment {one.deployment.id}  {one.deployment.name}  {human_bytes(one.layer.size)}")
        lines += [f"  component {part.name}  {part.source}" for part in one.deployment.components]
        lines += [_file_line(layer, file) for layer, file in zip(one.files, extra_files(one), strict=True)]
        if one.lock is None:
            lines.append("  not locked: tags decide what it leads to")
            continue
        lines += [f"  locked {name} = {digest}" for name, digest in {**one.lock.components, **one.lock.images}.items()]
    lines += [
        f"referrer  {one.artifact_type or '(no type)'}  {one.digest}  {one.annotations.get(CREATED, '')}".rstrip()
        for one in found
    ] or ["referrer  none: nobody signed this"]
    return lines


@click.command()
@reference_argument
@click.option(
    "--output-dir",
    "-o",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="Where to write.",
)
@trust_options
@click.option("--force", is_flag=True, help="Replace files that are there with other content.")
@with_session(short=False)
def pull(session: Session, reference: Reference, folder: Path, trusting: Trusting, force: bool) -> None:
    """Write the documents of a published state as files, byte for byte, after verifying it.

    The files of a deployment go into ID.files/ beside ID.yaml; encrypted ones stay encrypted, and get .jwe back.

    \b
    Example:
      margo-oci pull registry.example/fleet/edge-17:latest -o states/edge-17 --key fleet.pub
    """
    need_trust(trusting)
    verified, placed = read(session, reference, trusting.judge(reference))
    files = {folder / f"{name}.yaml": one.deployment.data for name, one in placed.items()}
    extra = {
        folder / f"{name}{FILES}" / f"{file.path}{SUFFIX if file.secret else ''}": file
        for name, one in placed.items()
        for file in extra_files(one)
    }
    files |= {path: file.data for path, file in extra.items()}
    taken = [str(file) for file, data in files.items() if file.exists() and file.read_bytes() != data]
    if taken and not force:
        raise FormatError(
            *(f"{file} is there with other content: nothing was written; --force replaces it" for file in taken)
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if file in extra and extra[file].executable:
            file.chmod(0o755)
    state = verified.state
    raw = {
        "reference": str(reference.at(state.manifest.digest)),
        "digest": state.manifest.digest,
        "counter": state.counter,
        "scope": state.scope,
        "files": [str(file) for file in files],
    }
    session.show(raw, [str(file) for file in files])
    with_files = f" and {len(extra)} files" if extra else ""
    say(f"{len(placed)} deployments{with_files} of counter {verified.state.counter} for {verified.state.scope}")
