"""Artifacts with all that hangs on them, from one place into a registry; tags move last (format 13.9)."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from margo_oci.closure import LIST_TAG, Closure, Node
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError
from margo_oci.images import LAYER_LIMIT_BYTES
from margo_oci.manifest import IMAGE_INDEX, REFERRER_COUNT_LIMIT, Manifest, build_index
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import pull_blob, referrers, side_by_side
from margo_oci.upload import Uploader

AT_ONCE = 6
LARGE_BYTES = 4 * 2**20  # goes up alone: of an upload that is cut off nothing stays


@dataclass(frozen=True)
class Copied:
    """What a copy moved: blobs and bytes that were sent, blobs that were there."""

    sent: int
    reused: int
    sent_bytes: int


@dataclass(frozen=True, kw_only=True)
class Copier:
    """Copies from `source` to the registry behind `uploader`, whose content `destination` reads.

    `to` says where what is at a reference goes. `store` keeps what a cut-off copy had fetched.
    """

    source: Registry
    destination: Registry
    uploader: Uploader
    store: Store
    to: Callable[[Reference], Reference]
    progress: Callable[[Descriptor], None] = lambda _: None
    _line: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def copy(self, nodes: Sequence[Node]) -> Copied:
        """Send what is not there: blobs, small ones first, then manifests, what is referred to first, then tags.

        Small blobs go side by side. Large ones are fetched so, too, and sent one by one: each that went is there for
        good, however often a copy is cut off.

        Raises RegistryError, TrustError, FormatError.
        """
        moves: dict[tuple[str, str], tuple[Reference, Reference, Descriptor]] = {}
        for node in nodes:
            at = self.to(node.reference)
            for blob in node.blobs:
                moves.setdefault((at.name, blob.digest), (node.reference, at, blob))
        sent: list[int] = []
        fetched: set[str] = set()
        by_size = sorted(moves.values(), key=lambda move: move[2].size)
        await side_by_side([self._blob(*move, sent, fetched) for move in by_size], at_once=AT_ONCE)
        for blob in {blob.digest: blob for _, _, blob in moves.values() if blob.digest in fetched}.values():
            self.store.drop(blob)
        for node in _in_order(nodes):
            await self._manifest(node)
        await side_by_side([self._tag(node, name) for node in nodes for name in node.names], at_once=AT_ONCE)
        return Copied(len(sent), len(moves) - len(sent), sum(sent))

    async def _blob(
        self, source: Reference, to: Reference, blob: Descriptor, sent: list[int], fetched: set[str]
    ) -> None:
        if not await asyncio.to_thread(self.uploader.has, to, blob):
            if not await asyncio.to_thread(self.store.holds, blob):
                fetched.add(blob.digest)
                await pull_blob(self.source, source, blob, self.store, limit_bytes=LAYER_LIMIT_BYTES)
            async with self._line if blob.size >= LARGE_BYTES else nullcontext():
                await asyncio.to_thread(self._send, to, blob)
            sent.append(blob.size)
        self.progress(blob)

    def _send(self, to: Reference, blob: Descriptor) -> None:
        with self.store.path(blob).open("rb") as file:
            self.uploader.file(to, blob, file)

    async def _manifest(self, node: Node) -> None:
        at = self.to(node.reference).at(node.descriptor.digest)
        listed = await asyncio.to_thread(self.uploader.manifest, at, node.data, node.descriptor.media_type)
        if node.subject and not listed:
            await self._list(at, node)

    async def _list(self, at: Reference, node: Node) -> None:
        """List what refers to something under the tag for it, where the registry does not (Referrers Tag Schema)."""
        others = await referrers(self.destination, at, node.subject)
        if any(one.digest == node.descriptor.digest for one in others):
            return
        if len(others) >= REFERRER_COUNT_LIMIT:
            raise FormatError(f"{at.name}: {len(others)} things refer to {node.subject}, no more are read")
        manifest = Manifest.from_bytes(node.data, what=str(at))
        entry = replace(node.descriptor, artifact_type=manifest.artifact_type, annotations=manifest.annotations)
        tag = at.at(node.subject.replace(":", "-"))
        await asyncio.to_thread(self.uploader.manifest, tag, build_index([*others, entry]), IMAGE_INDEX)

    async def _tag(self, node: Node, name: str) -> None:
        reference = parse_reference(name)
        if not LIST_TAG.fullmatch(reference.tag):  # a list is made anew where it is needed
            at = self.to(reference)
            await asyncio.to_thread(self.uploader.manifest, at, node.data, node.descriptor.media_type)


async def take(closure: Closure, source: Reference, to: Reference) -> None:
    """Take an artifact with what hangs on it; what is named by its digest gets the tag of `to` as well.

    Raises RegistryError, TrustError, FormatError.
    """
    node = await closure.artifact(source)
    if source.digest:
        closure.name(node.descriptor.digest, f"{source.name}:{to.tag}")


def _in_order(nodes: Sequence[Node]) -> Sequence[Node]:
    """Return what is sent: what an index lists before it, as registries want it, and subjects before what refers."""
    subjects = {node.descriptor.digest: node.subject for node in nodes}

    def depth(node: Node) -> int:
        steps, at = 0, node.subject
        while at:
            steps, at = steps + 1, subjects.get(at, "")
        return steps

    return sorted((node for node in nodes if not node.is_list), key=lambda node: (not node.below, depth(node)))


def renamed(source: Reference, to: Reference) -> Callable[[Reference], Reference]:
    """Return where a copy of one artifact goes: its own tag is `to`'s, what stands beside it keeps its tags."""

    def at(reference: Reference) -> Reference:
        tag = to.tag if reference.tag and reference.tag == source.tag else reference.tag
        return Reference(to.host, to.repository, tag, reference.digest)

    return at


def below(host: str, prefix: str = "") -> Callable[[Reference], Reference]:
    """Return where copies of many go: their repositories below `host/prefix`."""

    def at(reference: Reference) -> Reference:
        return replace(reference, host=host, repository="/".join(filter(None, (prefix, reference.repository))))

    return at


def counted(copied: Copied) -> Mapping[str, int]:
    """Return the summary for a program."""
    return {"sent": copied.sent, "reused": copied.reused, "sentBytes": copied.sent_bytes}
