"""Where `push` takes what it publishes from: a folder, a commit of a Git repository, or a state in a layout."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_cli.folder import Document, read_deployments
from margo_cli.layouts import layout_and_name
from margo_cli.look import kept_blob, read_state
from margo_cli.session import Session, git_environment, say
from margo_cli.trusting import Trusting
from margo_oci.desired_state import NO_ORIGIN, Layer, Lock, Origin
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError
from margo_oci.gitsource import GitSource, checked_out
from margo_oci.layout import open_layout
from margo_oci.layout_registry import LayoutTransport
from margo_oci.manifest import Manifest, kind_of
from margo_oci.offering import Offer
from margo_oci.pinned import Pinned
from margo_oci.publish import is_claim
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Source:
    """What is named on the command line: exactly one of the three."""

    folder: Path | None = None
    git: GitSource | None = None
    layout: str = ""

    @contextmanager
    def documents(self, *, allow_empty: bool) -> Iterator[tuple[Sequence[Document], Origin]]:
        """Hand over the documents of a folder or commit, and where they came from, for as long as the block lasts.

        Raises FormatError, RegistryError.
        """
        if self.folder:
            yield read_deployments(self.folder, allow_empty=allow_empty), NO_ORIGIN
        elif self.git:
            with checked_out(self.git, git_environment()) as there:
                # Messages name files as they are called in the repository.
                at = Path(f"{there.origin.revision[:12]}:{self.git.path}")
                try:
                    found = read_deployments(there.folder, allow_empty=allow_empty)
                except FormatError as error:
                    raise FormatError(*(one.replace(str(there.folder), str(at)) for one in error.faults)) from None
                yield [replace(one, file=at / one.file.name) for one in found], there.origin
        else:
            yield (), NO_ORIGIN


def source_options(command: F) -> F:
    """Add the options, and hand over `source` and `reference` for the words `[DIR] REFERENCE`."""

    @click.argument("places", nargs=-1, required=True, metavar="[DIR] REFERENCE")
    @click.option("--from-git", "url", metavar="URL",
                  help="Take the documents out of a Git repository: https, ssh, file or a folder.")  # fmt: skip
    @click.option("--rev", metavar="REV", help="With --from-git: a branch, a tag or a full commit id.")
    @click.option("--path", default="", metavar="FOLDER", help="With --from-git: the folder in it. [its top]")
    @click.option(
        "--from-layout",
        "layout",
        default="",
        metavar="DIR|TAR[:REF]",
        help="Take deployments and locks of a state in an OCI layout, signed by --verify-key or --policy.",
    )
    @functools.wraps(command)
    def called(
        *args: Any, places: tuple[str, ...], url: str | None, rev: str | None, path: str, layout: str, **kwargs: Any
    ) -> Any:
        if bool(url) != bool(rev) or (path and not url):
            raise click.UsageError("--from-git URL and --rev REV go together, and --path with them.")
        if url and layout:
            raise click.UsageError("--from-git and --from-layout are two sources: one is enough.")
        wanted = 1 if url or layout else 2
        if len(places) != wanted:
            raise click.UsageError(
                "Expected: DIR REFERENCE; or REFERENCE alone, with --from-git or --from-layout. "
                f"Got: {' '.join(places)}"
            )
        try:
            reference = parse_reference(places[-1])
        except FormatError as error:
            raise click.BadParameter(str(error), param_hint="REFERENCE") from None
        git = GitSource(url, rev, path) if url and rev else None
        source = Source(Path(places[0]) if wanted > 1 else None, git, layout)
        return command(*args, source=source, reference=reference, **kwargs)

    return called  # type: ignore[return-value]


@dataclass(frozen=True)
class Carried:
    """A state out of a layout: its layers as they are, its deployments with their locks, and its first origin."""

    layers: Sequence[Layer]
    locked: Mapping[str, tuple[Document, Lock]]
    origin: Origin


async def carried(session: Session, layout: str, trusting: Trusting) -> Carried:
    """Read a state out of a layout, and verify it as a device does. Raises FormatError, TrustError, RegistryError."""
    path, name = layout_and_name(layout)
    offer = Offer(open_layout(path.resolve()))
    async with LayoutTransport(offer).registry() as registry:
        reference = parse_reference(name) if name else _only_state(offer, path)
        verified, placed = await read_state(registry, reference, trusting.judge(reference), session)
    locked: dict[str, tuple[Document, Lock]] = {}
    for one in placed.values():
        if one.lock is None:
            raise FormatError(f"{layout}: deployment {one.deployment.name} is not locked: publish it from its folder")
        file = Path(f"{one.deployment.id}.yaml")  # names may repeat, and their letters are free
        locked[f"{path}: {one.deployment.name} {one.deployment.id}"] = (Document(file, one.deployment), one.lock)
    layers = [Layer(layer, kept_blob(layer)) for layer in verified.state.manifest.layers]
    return Carried(layers, locked, verified.state.origin)


def _only_state(offer: Offer, path: Path) -> Reference:
    tags = {one.tag for one in offer.references}
    states = [one for one in offer.references if not is_claim(one.tag, tags) and _is_state(offer, one)]
    if len(states) != 1:
        names = ", ".join(map(str, states)) or "none"
        raise FormatError(f"{path}: one state is expected, there are: {names}; name it: {path}:HOST/REPOSITORY:TAG")
    return states[0]


def _is_state(offer: Offer, reference: Reference) -> bool:
    """Tell whether a name leads to a state; what is no manifest, or not in the layout, is none."""
    found = offer.find(reference)
    try:
        data = offer.layout.small(found.digest) if found else None
        manifest = Manifest.from_bytes(data, what=str(reference)) if data else None
    except (FormatError, TrustError):
        return False
    return manifest is not None and kind_of(manifest.artifact_type) == "desired-state"


async def say_missing(registry: Registry, found: Sequence[Pinned], layout: str) -> Sequence[str]:
    """Name what devices will ask for and the registries do not have; return their references."""
    missing = []
    for one in found:
        try:
            await registry.digest(one.reference)
        except NotFound:
            missing.append(str(one.reference))
        except RegistryError as error:
            say(f"warning: {one.reference}: {error}")
    path, _ = layout_and_name(layout)
    for name in missing:
        say(f"warning: {name} is not in its registry: `margo-oci copy {path} HOST` brings it there")
    return missing
