"""A closure on its way into a layout: blobs fetched side by side and resumed, then a folder or a tar (format 13.4)."""

import asyncio
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from margo_oci.closure import Closure, Node
from margo_oci.content import SIGNATURE_LIMIT_BYTES, Descriptor
from margo_oci.desired_state import DesiredState
from margo_oci.errors import FormatError
from margo_oci.images import LAYER_LIMIT_BYTES
from margo_oci.layout import NAME, Layout, frame, index_of, open_layout, tar_of
from margo_oci.manifest import DOCKER_LIST, IMAGE_INDEX
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.store import Store, remove_folder, replaced, sync_folder
from margo_oci.transfer import pull_blob, side_by_side

FETCHES_AT_ONCE = 6
_BEGUN = {"blobs", "ingest"}  # what is written before the index is
KIND = "kind"
_COSIGN = "dev.cosignproject.cosign/"
_BESIDE = {"sig": "sigs", "att": "atts"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes into a bundle: manifests, and the blobs that none of the `bases` has, each with where it is.

    `first` is the digest of what was asked for first.
    """

    nodes: Sequence[Node]
    blobs: Sequence[tuple[Reference, Descriptor]]
    states: Sequence[DesiredState] = ()
    first: str = ""

    @property
    def content(self) -> Sequence[Descriptor]:
        """Manifests and blobs, each once, by digest."""
        found = (*(node.descriptor for node in self.nodes), *(blob for _, blob in self.blobs))
        return sorted(found, key=lambda one: one.digest)

    @property
    def size_bytes(self) -> int:
        """How many bytes of content it is."""
        return sum(one.size for one in self.content)

    @property
    def entries(self) -> Sequence[Descriptor]:
        """What the layout's index lists."""
        return [_of_kind(entry, self._kind(node)) for node in self.nodes for entry in node.entries()]

    def _kind(self, node: Node) -> str:
        """Return what a manifest is to `cosign verify --local-image`, which verifies one of a layout: the first."""
        if node.descriptor.digest == self.first:
            return "imageIndex" if node.descriptor.media_type in (IMAGE_INDEX, DOCKER_LIST) else "image"
        beside = {f"{self.first.replace(':', '-')}.{suffix}": kind for suffix, kind in _BESIDE.items()}
        return next((beside[tag] for name in node.names if (tag := name.rpartition(":")[2]) in beside), "")


def plan_bundle(closure: Closure, bases: Sequence[Layout] = ()) -> Plan:
    """Return what of a closure is to be carried, if `bases` are where it goes already (format 13.7)."""
    named = {(one.digest, one.annotations.get(NAME)) for base in bases for one in base.entries}
    nodes = [node for node in closure.nodes.values() if node.travels or not _has(bases, named, node)]
    blobs: dict[str, tuple[Reference, Descriptor]] = {}
    for node in nodes:
        judged = node.travels and node.kind in ("signature", "head", "roots")
        for blob in node.blobs:
            if (judged and blob.size <= SIGNATURE_LIMIT_BYTES) or not is_in(bases, blob.digest):
                blobs.setdefault(blob.digest, (node.reference, blob))
    digests = {node.descriptor.digest for node in nodes}
    return Plan(
        nodes=sorted(nodes, key=lambda node: node.descriptor.digest),
        blobs=[blobs[digest] for digest in sorted(blobs.keys() - digests)],
        states=closure.states,
        first=next(iter(closure.nodes), ""),
    )


def is_in(bases: Sequence[Layout], digest: str) -> bool:
    """Tell whether one of `bases` has a blob."""
    return any(base.size_bytes(digest) is not None for base in bases)


def _has(bases: Sequence[Layout], named: Collection[tuple[str, str | None]], node: Node) -> bool:
    """Tell whether a base has a manifest under all its names."""
    digest = node.descriptor.digest
    return is_in(bases, digest) and all((digest, name) in named for name in node.names)


async def write_bundle(
    registry: Registry,
    plan: Plan,
    output: Path,
    *,
    progress: Callable[[Descriptor], None] = lambda _: None,
    others: Sequence[Descriptor] = (),
) -> int:
    """Fetch what is missing, and write the layout; return its size in bytes. `others` are entries that it has already.

    Every byte is held against its digest before it is written. What a cut-off attempt left is gone on from: for a tar
    it lies in the folder `<output>.part`. Raises RegistryError, TrustError; FormatError for more than a layout has.
    """
    tar = is_tar(output)
    entries = joined(others, plan.entries)
    index_of(entries)  # too many are refused before anything is fetched
    place = output.with_name(f"{output.name}.part") if tar else output
    _check_no_links([*([place] if tar else []), place / "ingest", place / "blobs", place / "blobs" / "sha256"])
    store = Store(place)
    for node in plan.nodes:
        store.add(node.descriptor, node.data)

    async def fetch(at: Reference, blob: Descriptor) -> None:
        if blob.data is not None:
            store.add(blob, blob.data)
        elif not await asyncio.to_thread(store.holds, blob):
            await pull_blob(registry, at, blob, store, limit_bytes=LAYER_LIMIT_BYTES)
        progress(blob)

    await side_by_side([fetch(at, blob) for at, blob in plan.blobs], at_once=FETCHES_AT_ONCE)
    if tar:
        _write_tar(plan, store, output)
        remove_folder(place)
        return output.stat().st_size
    for one in plan.content:
        store.sync(one)
    sync_folder(store.blobs)
    frame(output, entries)
    if store.ingest.is_dir() and not any(store.ingest.iterdir()):
        store.ingest.rmdir()
    return plan.size_bytes


def is_tar(output: Path) -> bool:
    """Tell whether a layout is written as a tar. Raises FormatError for the name of a compressed one."""
    suffix = output.suffix.lower()
    if suffix in (".gz", ".tgz", ".zst"):
        raise FormatError(f"{output}: a bundle is a folder or a .tar: what is in it is compressed already")
    return suffix == ".tar"


def open_existing(output: Path, *, replace_tar: bool = False, otherwise: str = "name another") -> Layout | None:
    """Return the layout in a folder, which is added to; None if there is none yet, or one that a cut-off attempt began.

    With `replace_tar` a file that is there makes way for a tar. Raises FormatError for anything else that is there;
    `otherwise` is what to do then.
    """
    tar = is_tar(output)
    if output.is_dir():
        if tar:
            raise FormatError(f"{output}: a folder is there, and a name with .tar is a file's: name another")
        names = {entry.name for entry in output.iterdir()}
        return None if names <= _BEGUN else open_layout(output)
    if os.path.lexists(output) and not (tar and replace_tar and output.is_file()):
        raise FormatError(f"{output}: it is there already, and only a folder is added to: {otherwise}")
    return None


def _check_no_links(folders: Sequence[Path]) -> None:
    """Raise FormatError where a folder for blobs is a link: whoever made a stick does not say where we write."""
    for folder in folders:
        if folder.is_symlink():
            raise FormatError(f"{folder}: this is a link: remove it, or name another place")


def joined(before: Sequence[Descriptor], new: Sequence[Descriptor]) -> Sequence[Descriptor]:
    """Return the entries of a layout that gets new ones: a name leads to the new one, what it led to loses it.

    cosign verifies what was asked for last, if that is among the new.
    """
    taken = {(one.digest, one.annotations.get(NAME)) for one in new}
    names = {name for _, name in taken}
    gone = [KIND] if any(KIND in one.annotations for one in new) else []
    kept = [_without(one, *gone, *([NAME] if one.annotations.get(NAME) in names else [])) for one in before
            if (one.digest, one.annotations.get(NAME)) not in taken]  # fmt: skip
    return [*kept, *new]


def _of_kind(entry: Descriptor, kind: str) -> Descriptor:
    return replace(entry, annotations={**entry.annotations, KIND: _COSIGN + kind}) if kind else entry


def _without(entry: Descriptor, *keys: str) -> Descriptor:
    return replace(entry, annotations={key: value for key, value in entry.annotations.items() if key not in keys})


def _write_tar(plan: Plan, store: Store, output: Path) -> None:
    pieces = ((one, _last_pieces(store, one)) for one in plan.content)
    with replaced(output) as file:
        for piece in tar_of(plan.entries, pieces):
            file.write(piece)


def _last_pieces(store: Store, descriptor: Descriptor) -> Iterator[bytes]:
    """Yield a blob, checked, and drop it: of what is in the tar no second copy takes room."""
    yield from store.pieces(descriptor)
    store.drop(descriptor)


def kinds(nodes: Collection[Node]) -> dict[str, int]:
    """Return how many nodes there are of each kind."""
    found: dict[str, int] = {}
    for node in nodes:
        found[node.kind] = found.get(node.kind, 0) + 1
    return dict(sorted(found.items()))
