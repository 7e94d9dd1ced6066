"""`margo-oci history` and `margo-oci rollback`."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_cli.session import (
    Session,
    load_public_keys,
    peer_keys_option,
    reference_argument,
    say,
    signature_folder,
    with_session,
)
from margo_cli.trusting import Signing, Trusting, signing_options, trust_options
from margo_oci.desired_state import check_counter
from margo_oci.errors import FormatError, NotFound, said
from margo_oci.publish import Published, Publisher, Release
from margo_oci.publish import history as read_history
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.trust import TrustAnything


@click.command()
@reference_argument
@trust_options
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="At most so many, newest first.",
)
@with_session()
def history(session: Session, reference: Reference, trusting: Trusting, limit: int) -> None:
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
            judge = trusting.judge(reference) if trusting.given else TrustAnything()
            return await read_history(registry, reference, judge, limit=limit)

    found = asyncio.run(work())
    rows = [
        {
            "counter": one.state.counter,
            "digest": one.state.manifest.digest,
            "scope": one.state.scope,
            "deployments": len(one.state.layers),
            "created": one.state.created or None,
            "revision": one.state.origin.revision or None,
            "signedAt": one.signed_at or None,
            "current": one.current,
        }
        for one in found
    ]
    lines = [
        f"{'*' if row['current'] else ' '} {row['counter']!s:>6}  {row['signedAt'] or row['created'] or '-':<20}  "
        f"{row['deployments']!s:>4} deployments  {row['digest']}"
        + (f"  {said(row['revision'], limit_chars=12)}" if row["revision"] else "")
        for row in rows
    ]
    session.show({"reference": str(reference), "releases": rows}, lines or ["nothing was published here"])
    if rows and not trusting.given:
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
@signing_options
@peer_keys_option
@click.option("--scope", default="", help="For whom the release must be. [as what the tag has now]")
@click.option("--counter", type=int, help="Counter of the new release; higher than the last. [the last and one]")
@with_session()
def rollback(
    session: Session,
    reference: Reference,
    to: int,
    signing: Signing,
    peer_files: Sequence[Path],
    scope: str,
    counter: int | None,
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
    signer, peers = signing.required(), load_public_keys(peer_files)

    async def work() -> Release:
        async with session.registry(reference) as registry:
            uploader = session.uploader(reference)
            publisher = Publisher(
                registry, uploader, signer, lambda: datetime.now(UTC), peers, signing.forms, signature_folder()
            )
            return await publisher.rollback(reference, to=to, scope=scope, counter=counter)

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
