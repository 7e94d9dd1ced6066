"""Everything that a desired state leads to: components, images, signatures, heads, roots, claims (format 13.6).

What hangs on an artifact is found whichever way it was attached. Nothing but the state itself is judged here: devices
judge all of it again.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from margo_oci.carrier import TRUST_TAG
from margo_oci.content import EMPTY_CONFIG, MANIFEST_LIMIT_BYTES, Descriptor, parse_json
from margo_oci.desired_state import LOCK, DesiredState, Lock, parse_state
from margo_oci.errors import FormatError, NotFound
from margo_oci.freshness import head_tag
from margo_oci.images import IMAGE_CONFIGS, index_entries, media_type_of
from margo_oci.layout import NAME
from margo_oci.manifest import DOCKER_LIST, IMAGE_INDEX, Manifest, kind_of
from margo_oci.platforms import Platform, worded_platforms
from margo_oci.publish import claim
from margo_oci.reference import Reference, parse_image, parse_reference
from margo_oci.registry import Received, Registry
from margo_oci.transfer import Judge, referrers

LIST_TAG = re.compile(r"sha256-[0-9a-f]{64}")
SUFFIXES = ("", ".sig", ".att", ".sbom")  # of the tags beside a digest: referrers, and what cosign v2 writes
DEPTH_LIMIT = 4
NODE_LIMIT = 100_000
CONTENT_LIMIT_BYTES = 2**30  # of all manifests: they are held until they are written
LOOKS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Node:
    """One manifest or index, where it is, and the blobs it needs; `kind` is a word for a person.

    `names` are the references by tag that lead to it. What is `below` an index is listed by that. What `travels` is
    small, and asked for again with each new release.
    """

    reference: Reference
    kind: str
    data: bytes
    descriptor: Descriptor
    blobs: Sequence[Descriptor] = ()
    names: frozenset[str] = frozenset()
    below: bool = False
    subject: str = ""
    travels: bool = False

    @property
    def is_list(self) -> bool:
        """Whether it is a list of referrers alone, under the tag that stands in for the API."""
        return bool(self.names) and all(LIST_TAG.fullmatch(name.rpartition(":")[2]) for name in self.names)

    def entries(self) -> Iterator[Descriptor]:
        """Yield what an index of a layout says of it: once for each name."""
        if self.below and not self.names:
            return
        for name in sorted(self.names) or [f"{self.reference.name}@{self.descriptor.digest}"]:
            yield replace(self.descriptor, annotations={NAME: name})


@dataclass
class Closure:
    """Walks from references to all they lead to; `nodes` are by digest, as they were found.

    `platforms` bound which images of an index are taken; none means all. `judge_for` returns what judges a state,
    `is_known` tells whether a blob is where all of this goes already.
    """

    registry: Registry
    platforms: Sequence[Platform] = ()
    judge_for: Callable[[Reference], Judge] | None = None
    roots: Reference | None = None
    is_known: Callable[[str], bool] = lambda _: False
    found: Callable[[Node], None] = lambda _: None
    nodes: dict[str, Node] = field(default_factory=dict)
    states: list[DesiredState] = field(default_factory=list)
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE))
    _hung: set[tuple[str, str, bool]] = field(default_factory=set)
    _named: set[str] = field(default_factory=set)
    _content_bytes: int = 0

    async def take(self, reference: Reference) -> Node:
        """Take one reference: a desired state with everything it leads to, else itself and what hangs on it.

        Raises FormatError for a state with something unlocked in it, TrustError for one that is refused, RegistryError.
        """
        node = await self._node(reference, "")
        manifest = _manifest(node)
        if manifest is None or kind_of(manifest.artifact_type) != "desired-state":
            return await self._whole(node, travels=False)
        # Without its signatures a device would take a state for one that nobody signed, and not name what is missing.
        node = await self._whole(self._keep(replace(node, travels=True)), travels=True)
        await self._state(reference, manifest)
        return node

    async def artifact(self, reference: Reference, kind: str = "", *, travels: bool = False) -> Node:
        """Take a manifest or an index, and what hangs on it. Raises RegistryError, TrustError, FormatError."""
        return await self._whole(await self._node(reference, kind, travels=travels), travels=travels)

    async def _whole(self, node: Node, *, travels: bool) -> Node:
        await self._hanging(node, travels=travels, depth=0)
        if not node.is_list:  # what it lists was taken with what that refers to, as far as it is still there
            await self._platforms(node)
        return node

    async def _state(self, reference: Reference, manifest: Manifest) -> None:
        state = parse_state(manifest, what=str(reference))
        if self.judge_for:
            await self.judge_for(reference).state(self.registry, reference, manifest)
        self.states.append(state)
        if reference.tag:
            await self._optional(claim(reference, state.counter), "claim", travels=True)
            await self._optional(head_tag(reference), "head", travels=True)
        await self._optional(self.roots or reference.at(TRUST_TAG), "roots", travels=True)
        components: dict[tuple[str, str], bool] = {}
        images: set[tuple[str, str]] = set()
        for layer in state.layers:
            lock = _lock(layer, reference)
            images |= set(lock.images.items())
            for one in lock.components.items():  # what is new asks for its components again, to judge them
                components[one] = components.get(one, False) or not self.is_known(layer.digest)
        await _all(
            [self._locked(parse_reference(name), digest, "component", travels=travels)
             for (name, digest), travels in components.items()]
            + [self._locked(parse_image(name), digest, "image") for name, digest in sorted(images)]
        )  # fmt: skip

    async def _locked(self, reference: Reference, digest: str, kind: str, *, travels: bool = False) -> None:
        node = await self.artifact(reference.at(digest), kind, travels=travels)
        if reference.tag:
            self.name(node.descriptor.digest, f"{reference.name}:{reference.tag}")

    def name(self, digest: str, name: str) -> None:
        """Let a name lead to what was taken, if it leads nowhere yet: of two digests one alone can have it."""
        if name not in self._named:
            node = self.nodes[digest]
            self._keep(replace(node, names=node.names | {name}))

    async def _optional(self, reference: Reference, kind: str, *, travels: bool) -> Node | None:
        try:
            return await self._node(reference, kind, travels=travels)
        except NotFound:
            return None

    async def _node(self, reference: Reference, kind: str, *, travels: bool = False, below: bool = False) -> Node:
        known = self.nodes.get(reference.digest)
        if known is None:
            async with self._gate:
                received = await self.registry.manifest(reference)
            assert received is not None  # noqa: S101  (nothing was known before)
            known = self.nodes.get(received.digest) or _read(reference, kind, received)
            below = below and received.digest not in self.nodes
            known = replace(known, below=below)
        # Some registries take the tag for a list of referrers for another name of the subject itself: it is none.
        own = known.descriptor.digest.replace(":", "-")
        names = {str(reference)} if reference.tag not in ("", own) and not reference.digest else set[str]()
        return self._keep(replace(known, names=known.names | names, travels=known.travels or travels))

    def _keep(self, node: Node) -> Node:
        digest = node.descriptor.digest
        if digest not in self.nodes:
            self._content_bytes += node.descriptor.size
            if len(self.nodes) >= NODE_LIMIT or self._content_bytes > CONTENT_LIMIT_BYTES:
                raise FormatError(
                    f"more than {NODE_LIMIT} manifests, or than {CONTENT_LIMIT_BYTES} bytes of them: take fewer "
                    "references at once"
                )
            self.found(node)
        self.nodes[digest] = node
        self._named |= node.names
        return node

    async def _hanging(self, node: Node, *, travels: bool, depth: int) -> None:
        """Take what refers to a node, and to that; and what stands beside it under tags of its digest."""
        digest = node.descriptor.digest
        place = (node.reference.name, digest)
        if not {(*place, True), (*place, travels)}.isdisjoint(self._hung) or depth >= DEPTH_LIMIT:
            return
        self._hung.add((*place, travels))
        beside = [node.reference.at(digest.replace(":", "-") + suffix) for suffix in SUFFIXES]
        await _all([self._optional(tag, "signature", travels=travels) for tag in beside])
        async with self._gate:
            listed = await referrers(self.registry, node.reference, digest)
        for one in listed:
            try:
                referring = await self._node(node.reference.at(one.digest), "signature", travels=travels)
            except NotFound:
                continue  # listed by a tag that nobody mended since it went
            await self._hanging(referring, travels=travels, depth=depth + 1)

    async def _platforms(self, node: Node) -> None:
        """Take what an index lists, for the platforms that are wanted."""
        listed = index_entries(node.data, str(node.reference))
        if listed is None:
            await self._check_single(node)
            return
        wanted = [one for one in listed if self._is_wanted(one.get("platform"))]
        if not wanted:
            raise self._none_for(node, [one.get("platform") for one in listed])
        children = [Descriptor.from_dict(one, at=f"{node.reference}: manifests") for one in wanted]
        await _all([self._child(node, one) for one in children])

    async def _child(self, node: Node, child: Descriptor) -> None:
        below = await self._node(node.reference.at(child.digest), node.kind, below=True)
        await self._hanging(below, travels=False, depth=0)

    async def _check_single(self, node: Node) -> None:
        """Hold an image that no index lists against the platforms, by what its configuration says."""
        config = Manifest.from_bytes(node.data, what=str(node.reference)).config
        if not self.platforms or config.media_type not in IMAGE_CONFIGS or node.kind == "signature":
            return
        async with self._gate:
            data = await self.registry.small_blob(node.reference, config, limit_bytes=MANIFEST_LIMIT_BYTES)
        raw = parse_json(data, what=f"{node.reference}: config")
        if not self._is_wanted(raw):
            raise self._none_for(node, [raw])

    def _none_for(self, node: Node, offered: Sequence[object]) -> FormatError:
        names = ", ".join(map(str, self.platforms))
        return FormatError(f"{node.reference}: no image for {names}: it has {worded_platforms(offered)}")

    def _is_wanted(self, raw: object) -> bool:
        return not self.platforms or any(platform.runs_one_of([raw]) for platform in self.platforms)


async def _all(work: Sequence[object]) -> None:
    for found in await asyncio.gather(*work, return_exceptions=True):  # type: ignore[call-overload]
        if isinstance(found, BaseException):
            raise found


def _read(reference: Reference, kind: str, received: Received) -> Node:
    """Return what was received as a node. Raises FormatError."""
    what = f"{reference.name}@{received.digest[:19]}"
    at = reference.at(received.digest)
    if index_entries(received.data, what) is not None:
        descriptor = Descriptor.of(received.data, media_type_of(received, (IMAGE_INDEX, DOCKER_LIST)))
        return Node(reference=at, kind=kind or "index", data=received.data, descriptor=descriptor)
    manifest = Manifest.from_bytes(received.data, what=what)
    descriptor = Descriptor.of(received.data, media_type_of(received))
    blobs = {one.digest: one for one in (manifest.config, *manifest.layers)}
    return Node(
        reference=at,
        kind=kind or ("state" if kind_of(manifest.artifact_type) == "desired-state" else "artifact"),
        data=received.data,
        descriptor=replace(descriptor, artifact_type=_artifact_type(manifest)),
        blobs=tuple(blobs.values()),
        subject=manifest.subject.digest if manifest.subject else "",
    )


def _artifact_type(manifest: Manifest) -> str:
    return manifest.artifact_type if manifest.config.digest == EMPTY_CONFIG.digest else ""


def _manifest(node: Node) -> Manifest | None:
    if index_entries(node.data, str(node.reference)) is not None:
        return None
    return Manifest.from_bytes(node.data, what=str(node.reference))


def _lock(layer: Descriptor, reference: Reference) -> Lock:
    if LOCK not in layer.annotations:
        raise FormatError(
            f"{reference}: layer {layer.digest[:19]} has no lock, so nothing says which digests belong to it: publish "
            "it with `margo-oci push`"
        )
    return Lock.from_json(layer.annotations[LOCK], at=f"{reference}: lock of {layer.digest[:19]}")
