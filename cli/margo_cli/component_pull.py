"""`margo-oci component pull`: what lies in a registry, checked before anything is written."""

import asyncio
import posixpath
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from margo_cli.component_check import Source, check_component
from margo_cli.component_validate import type_option
from margo_cli.session import Session, cache, reference_argument, say, with_session
from margo_cli.trusting import Trusting, trust_options
from margo_oci.archive import Entry
from margo_oci.component import fetch_archive
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.errors import FormatError
from margo_oci.manifest import Manifest
from margo_oci.package import (
    COMPONENT_TYPE,
    COMPONENT_VERSION,
    FORMS,
    QUADLET,
    Archive,
    Form,
    archive_layer,
    form_of,
    placed_below,
)
from margo_oci.quadlet import is_unit
from margo_oci.reference import Reference
from margo_oci.store import extract
from margo_oci.transfer import parse_manifest


@dataclass(frozen=True)
class Fetched:
    """A component as it lies in a registry; `reference` has its digest."""

    reference: Reference
    tag: str
    manifest: Manifest
    form: Form
    archive: Archive

    @property
    def annotations(self) -> Mapping[str, str]:
        """Those of the manifest and of its layer, which goes first: publishers use either (format 8.2)."""
        return {**self.manifest.annotations, **self.manifest.layers[0].annotations}

    @property
    def entries(self) -> Sequence[Entry]:
        """The files as they lie in the archive."""
        return placed_below(self.archive.top, {one.path: one for one in self.archive.entries if not one.folder})


def fetch_component(session: Session, reference: Reference, kind: str | None, trusting: Trusting | None) -> Fetched:
    """Fetch a component and hold its archive against every rule; if anybody is trusted, its signature as well.

    Raises FormatError, RegistryError, TrustError.
    """

    async def work() -> Fetched:
        async with session.registry(reference) as registry:
            received = await registry.manifest(reference)
            assert received is not None  # noqa: S101  (nothing was known before)
            pinned = reference.at(received.digest)
            manifest = parse_manifest(received.data)
            if trusting and trusting.given:
                await trusting.component_judge(reference).signers(registry, pinned, manifest.descriptor)
            form = FORMS[kind] if kind else form_of(manifest, what=str(reference))
            archive_layer(manifest, what=str(reference), form=form)
            archive = await fetch_archive(registry, pinned, cache(), form=form)
            return Fetched(pinned, reference.tag, manifest, form, archive)

    return asyncio.run(work())


def odd(fetched: Fetched) -> Sequence[str]:
    """Return what others would stumble over, though it can be read."""
    said = fetched.annotations
    found = []
    if fetched.tag and (version := said.get(COMPONENT_VERSION, fetched.tag)) != fetched.tag:
        found.append(f"tag {fetched.tag} is not its version {version:.80}, as the standard wants it")
    if not said.get(COMPONENT_TYPE, fetched.form.name).startswith(fetched.form.name):
        found.append(f"it says of itself that it is of type {said[COMPONENT_TYPE]!r:.80}, and is {fetched.form.name}")
    name = posixpath.basename(fetched.reference.repository)
    if fetched.form is QUADLET and fetched.archive.top != name:
        found.append(f"a component {name} needs a folder of that name, and its folder is {fetched.archive.top!r:.80}")
    return found


@click.command("pull")
@reference_argument
@click.option("--output-dir", "-o", "folder", type=click.Path(path_type=Path), required=True, help="Where to write.")
@type_option
@trust_options
@click.option("--force", is_flag=True, help="Replace a folder that holds a component.")
@with_session(short=False)
def pull_component(
    session: Session, reference: Reference, folder: Path, kind: str | None, trusting: Trusting, force: bool
) -> None:
    """Write the files of a component; with --key (or another), only if it is signed.

    Its archive is held against every rule before the first file is written. The folder is there whole, or not at all.

    \b
    Example:
      margo-oci component pull registry.example/components/hello:1.0.0 -o hello --key vendor.pub
    """
    check_place(folder, force=force)
    fetched = fetch_component(session, reference, kind, trusting)
    checked = check_component(Source(fetched.entries), kind=fetched.form.name)
    if checked.errors and not checked.missing:
        raise FormatError(*(f"{reference}: {fault}" for fault in checked.errors))
    for words in [*odd(fetched), *map(str, checked.faults)]:
        say(f"warning: {reference}: {words}")
    write_folder(fetched.archive.entries, folder, force=force)
    files = [str(folder / one.path) for one in fetched.archive.entries if not one.folder]
    raw = {
        "reference": str(fetched.reference),
        "type": fetched.form.name,
        "verified": trusting.given,
        "files": files,
    }
    session.show(raw, files)
    if not trusting.given:
        say("nothing of this was verified: --key asks for a signature")


def check_place(folder: Path, *, force: bool) -> None:
    """Raise FormatError if a folder is not to be written: what is there, and is no component, never is."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FormatError(f"{folder} is there and is no folder: nothing was written")
    if folder.resolve() == Path.cwd():
        raise FormatError(f"{folder}: this is where you are: name a folder to be made")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise FormatError(f"{folder} is there and not empty: nothing was written; --force replaces it")
    if not any(one.name == COMPOSE_FILE or is_unit(one.name) for one in folder.iterdir()):
        raise FormatError(f"{folder} is there and holds no component: it is not replaced, name another one")


def write_folder(entries: Sequence[Entry], folder: Path, *, force: bool) -> None:
    """Write checked entries as a folder: beside it first, then in its place. Raises FormatError as `check_place`."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        extract(entries, beside / "new")
        check_place(folder, force=force)
        if folder.is_dir() and any(folder.iterdir()):
            folder.rename(beside / "old")
        (beside / "new").rename(folder)
    finally:
        if (beside / "old").exists() and not folder.exists():
            (beside / "old").rename(folder)
        shutil.rmtree(beside, ignore_errors=True)
