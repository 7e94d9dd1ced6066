"""`margo-oci history` and `margo-oci rollback`."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_cli.session import (
    Session,
    load_public_keys,
    load_signer,
    peer_keys_option,
    reference_argument,
    say,
    with_session,
)
from margo_oci.desired_state import check_counter
from margo_oci.errors import FormatError, NotFound
from margo_oci.publish import Published, Publisher, Release
from margo_oci.publish import history as read_history
from margo_oci.reference import Reference
from margo_oci.registry import Registry


@click.command()
@reference_argument
@click.option("--key", "key_files", type=click.Path(path_type=Path), multiple=True,
              help="Public key: show only releases that it signed. [all, unverified]")  # fmt: skip
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="At most so many, newest first.",
)
@with_session()
def history(session: Session, reference: Reference, key_files: Sequence[Path], limit: int) -> None:
    """Show what was published under a tag, newest first; `*` is what the tag has now.

    \b
    Example:
      margo-oci history registry.example/fleet/edge-17:latest
    """
    if reference.digest:
        raise FormatError(f"{reference}: a tag is expected, not a digest: releases are published under tags")

    async def work() -> Sequence[Published]:
        async with session.registry(reference) as registry:
            await _check_repository(registry, reference)
            return await read_history(registry, reference, limit=limit, keys=load_public_keys(key_files))

    found = asyncio.run(work())
    rows = [
        {
            "counter": one.state.counter,
            "digest": one.state.manifest.digest,
            "scope": one.state.scope,
            "deployments": len(one.state.layers),
            "created": one.state.created or None,
            "signedAt": one.signed_at or None,
            "current": one.current,
        }
        for one in found
    ]
    lines = [
        f"{'*' if row['current'] else ' '} {row['counter']!s:>6}  {row['signedAt'] or row['created'] or '-':<20}  "
        f"{row['deployments']!s:>4} deployments  {row['digest']}"
        for row in rows
    ]
    session.show({"reference": str(reference), "releases": rows}, lines or ["nothing was published here"])
    if rows and not key_files:
        say("nothing of this was verified: --key shows only what was signed with it")


async def _check_repository(registry: Registry, reference: Reference) -> None:
    """Raise NotFound for a repository that is not there: nothing published is something else than a slip."""
    try:
        await registry.tags(reference)
    except NotFound:
        hint = f"the registry has no repository {reference.repository}: check how it is written, or log in"
        raise NotFound(f"{reference.name}: {hint}") from None


@click.command()
@reference_argument
@click.option(
    "--to",
    type=click.IntRange(1),
    required=True,
    help="The release to go back to (see history).",
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    help="Private key, PKCS#8 PEM.",
)
@peer_keys_option
@click.option("--counter", type=int, help="Counter of the new release; higher than the last. [the last and one]")
@with_session()
def rollback(
    session: Session, reference: Reference, to: int, key_file: Path, peer_files: Sequence[Path], counter: int | None
) -> None:
    """Publish an earlier release again: its layers under a new, higher counter; no layer moves.

    The release must be signed by the same key, or by a --peer-key.

    \b
    Example:
      margo-oci rollback registry.example/fleet/edge-17:latest --to 4 --key fleet.key
    """
    if reference.digest:
        raise FormatError(f"{reference}: a tag to move is expected, not a digest")
    if counter is not None:
        check_counter(counter)
    signer, peers = load_signer(key_file), load_public_keys(peer_files)

    async def work() -> Release:
        async with session.registry(reference) as registry:
            uploader = session.uploader(reference)
            publisher = Publisher(registry, uploader, signer, lambda: datetime.now(UTC), peers)
            return await publisher.rollback(reference, to=to, counter=counter)

    release = asyncio.run(work())
    verb = f"release {to} is published again as" if release.changed else "this is what the tag has:"
    session.show(
        {
            "reference": str(reference),
            "digest": release.state.manifest.digest,
            "counter": release.state.counter,
            "scope": release.state.scope,
            "to": to,
            "changed": release.changed,
        },
        [f"{verb} counter {release.state.counter} for {release.state.scope}", str(release.pinned)],
    )
