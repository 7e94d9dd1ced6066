"""`margo-oci lock`: what a published state is locked to, and what would move."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from margo_cli.folder import Document, read_deployments, replace_file
from margo_cli.session import Session, cache, compose, reference_argument, say, with_session
from margo_cli.trusting import Trusting, trust_options
from margo_oci.deploying import APPLICATION, read_before
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError, NotFound
from margo_oci.lock import Locker
from margo_oci.locks import Move, Update, locks_of, moves, updates
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.revising import revised
from margo_oci.transfer import open_state
from margo_oci.trust import TrustAnything
from margo_oci.versions import STEPS

_SHOWN = len("sha256:") + 12


@click.group("lock")
def lock() -> None:
    """Show what a state is locked to, and what a push would move."""


@lock.command("show")
@reference_argument
@trust_options
@with_session()
def show(session: Session, reference: Reference, trusting: Trusting) -> None:
    """Show what each deployment of a published state is locked to.

    It is only looked at, unless --key or another option says whose signature it must have.

    \b
    Example:
      margo-oci lock show registry.example/fleet/edge-17:latest
    """

    async def work() -> Mapping[str, Lock]:
        async with session.registry(reference) as registry:
            return await _published(registry, reference, trusting)

    found = asyncio.run(work())
    raw = [
        {"deployment": name, "components": dict(one.components), "images": dict(one.images)}
        for name, one in found.items()
    ]
    lines = [
        f"{name}  {kind:<9}  {source}  {digest}"
        for name, one in found.items()
        for kind, locked in (("component", one.components), ("image", one.images))
        for source, digest in locked.items()
    ]
    session.show({"reference": str(reference), "locks": raw}, lines or ["nothing is locked here"])


@dataclass(frozen=True)
class News:
    """What would move, and what is newer; `allowed` are the steps that are wanted."""

    documents: Sequence[Document]
    moves: Sequence[Move]
    updates: Mapping[str, Update]
    allowed: Sequence[str]

    def best(self, source: str) -> str:
        """Return the newest version that is allowed for a component; "" if there is none."""
        found = self.updates[source].found if source in self.updates else ()
        return next((one.version for one in reversed(found) if one.step in self.allowed), "")

    @property
    def anything(self) -> bool:
        """Whether a push moves something, or an allowed version is newer."""
        return bool(self.moves) or any(map(self.best, self.updates))

    def name_of(self, deployment: str) -> str:
        """Return a deployment's name."""
        return next(one.deployment.name for one in self.documents if one.deployment.id == deployment)


@lock.command("update")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@reference_argument
@click.option("--allow", type=click.Choice(STEPS), default="minor", show_default=True,
              help="How far a newer version of a component may be away.")  # fmt: skip
@click.option("--write", is_flag=True, help="Write the newest allowed versions into the documents; all else stays.")
@trust_options
@with_session()
def update(session: Session, folder: Path, reference: Reference, allow: str, write: bool, trusting: Trusting) -> int:
    """Show what a push of DIR to REFERENCE would lock anew, and which newer versions of components there are.

    That is what tags lead to now against what is published. A version whose content moved is a warning: find out why.
    Versions that are not finished are passed over, unless the one in use is not. Nothing is published.

    Exit code: 0 nothing moves, 1 something would (also if it was written).

    \b
    Examples:
      margo-oci lock update states/edge-17 registry.example/fleet/edge-17:latest
      margo-oci lock update states/edge-17 registry.example/fleet/edge-17:latest --allow patch --write
    """
    documents = read_deployments(folder, allow_empty=True)

    async def work() -> News:
        async with session.registry(reference) as registry:
            published = await _published(registry, reference, trusting)
            async with Locker(registry, cache(), compose) as locker:
                now = await locker.lock_all(
                    {str(one.file): one.deployment for one in documents},
                    {str(one.file): one.files for one in documents},
                )
            for warning in sorted(locker.warnings):
                say(f"warning: {warning}")
            found = moves(published, {one.deployment.id: it for one, it in zip(documents, now, strict=True)})
            newer = await updates(registry, [one.deployment for one in documents])
            return News(documents, found, newer, STEPS[: STEPS.index(allow) + 1])

    news = asyncio.run(work())
    for move in news.moves:
        if move.is_alarming:
            say(f"warning: {move.source} is a version, and leads to something else now: ask its publisher why")
    written = _write(news) if write else []
    session.show(_json(reference, news, written), [*_lines(news), *(f"wrote {file}" for file in written)])
    return 1 if news.anything else 0


async def _published(registry: Registry, reference: Reference, trusting: Trusting) -> Mapping[str, Lock]:
    judge = trusting.judge(reference) if trusting.given else TrustAnything()
    try:
        verified = await open_state(registry, reference, judge)
    except NotFound:
        raise FormatError(f"{reference}: nothing is published there yet: `margo-oci push` locks all of it") from None
    return locks_of(verified.state, what=str(reference))


def _write(news: News) -> list[Path]:
    """Write newer versions into documents; one that a package made is that package's matter."""
    written = []
    for document in news.documents:
        wanted = {part.name: best for part in document.deployment.components if (best := news.best(part.source))}
        if not wanted:
            continue
        data = document.deployment.data
        if read_before(data, what=str(document.file)).note(APPLICATION):
            say(f"{document.file}: was made of an application package: `margo-oci deploy --upgrade` moves it")
            continue
        replace_file(document.file, revised(data, wanted, what=str(document.file)))
        written.append(document.file)
    return written


def _lines(news: News) -> Iterator[str]:
    for move in news.moves:
        old = move.old[:_SHOWN] if move.old else "(not locked)"
        yield f"{news.name_of(move.deployment)}  {move.kind:<9}  {move.source}  {old} → {move.new[:_SHOWN]}"
    for source, found in news.updates.items():
        versions = ", ".join(
            f"{one.version} ({one.step}{'' if one.step in news.allowed else ', not allowed'})" for one in found.found
        )
        yield f"newer  {source}: {versions}"
    if not news.moves and not news.updates:
        yield "nothing moves"


def _json(reference: Reference, news: News, written: Sequence[Path]) -> dict[str, Any]:
    return {
        "reference": str(reference),
        "changed": news.anything,
        "moves": [
            {
                "deployment": one.deployment,
                "name": news.name_of(one.deployment),
                "kind": one.kind,
                "reference": one.source,
                "old": one.old or None,
                "new": one.new,
                "releaseMoved": one.is_alarming,
            }
            for one in news.moves
        ],
        "newer": [
            {
                "reference": source,
                "versions": [{"version": one.version, "step": one.step} for one in found.found],
                "allowed": news.best(source) or None,
            }
            for source, found in news.updates.items()
        ],
        "written": [str(file) for file in written],
    }
