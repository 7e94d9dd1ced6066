"""Everything that hangs on a digest: referrers, and the tags that stand beside it. Nothing here is verified."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from margo_oci.attestation import PREDICATES, TYPES
from margo_oci.carrier import HEAD_ARTIFACT, TRUST_ARTIFACT
from margo_oci.content import Descriptor
from margo_oci.cosign import PREDICATE_TYPE, RELEASE
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError, said
from margo_oci.freshness import head_tag
from margo_oci.manifest import CREATED, Manifest, kind_of
from margo_oci.publish import claim_prefix
from margo_oci.reference import Reference
from margo_oci.registry import Received, Registry
from margo_oci.transfer import referrers

DEPTH_LIMIT = 4
NODE_LIMIT = 256
COUNTERS_SHOWN = 10
_SUFFIXES = {".sig": "cosign v2 signatures", ".att": "cosign v2 attestations", ".sbom": "cosign v2 SBOM"}
_DOCUMENTS = {kind.media_type: kind.name for kind in TYPES.values()} | {"text/spdx+json": "sbom-spdx"}
_KINDS = {
    "desired-state": "desired state",
    "compose": "component",
    "compose-archive": "component",
    "quadlet": "component",
    "quadlet-archive": "component",
    "notary": "Notary signature",
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """One manifest, what it seems to be, and what hangs on it; `tag` is its tag if that is how it was found.

    `note` says what could not be read, or what is left out.
    """

    what: str
    digest: str
    size: int
    artifact_type: str = ""
    created: str = ""
    tag: str = ""
    note: str = ""
    children: Sequence["Node"] = ()


async def tree(registry: Registry, reference: Reference) -> Node:
    """Return what hangs on what `reference` leads to: at most NODE_LIMIT nodes, DEPTH_LIMIT deep.

    Raises RegistryError, NotFound, TrustError.
    """
    received = await registry.manifest(reference)
    assert received is not None  # noqa: S101  (nothing was known before)
    walk = _Walk(registry, reference)
    root = replace(_node(received), tag=reference.tag)
    below = await walk.referring(root.digest, 1)
    beside = [await walk.tagged(f"{root.digest.replace(':', '-')}{suffix}", suffix) for suffix in _SUFFIXES]
    of_state = await walk.state_tags() if root.what.startswith(_KINDS["desired-state"]) and reference.tag else []
    note = f"only {NODE_LIMIT} are shown" if walk.left <= 0 else ""
    return replace(root, children=[*below, *(one for one in beside if one), *of_state], note=note)


@dataclass
class _Walk:
    registry: Registry
    reference: Reference
    left: int = NODE_LIMIT
    seen: set[str] = field(default_factory=set)

    async def referring(self, digest: str, depth: int) -> Sequence[Node]:
        """Return what refers to a digest, and to that."""
        self.seen.add(digest)
        try:
            listed = await referrers(self.registry, self.reference, digest)
        except (FormatError, TrustError) as error:
            return [Node(what="referrers", digest="", size=0, note=said(error))]
        new = [one for one in listed if one.digest not in self.seen][: max(0, self.left)]
        self.left -= len(new)
        self.seen |= {one.digest for one in new}
        nodes = await asyncio.gather(*(self._read(one, digest) for one in new))
        if depth >= DEPTH_LIMIT:
            return nodes
        return [replace(one, children=await self.referring(one.digest, depth + 1)) for one in nodes]

    async def tagged(self, tag: str, suffix: str) -> Node | None:
        """Return what lies under a tag beside the digest; None if there is nothing."""
        received = await self._get(self.reference.at(tag))
        if received is None:
            return None
        node = _node(received)
        count = len(_manifest(received).layers)
        return replace(node, what=f"{_SUFFIXES[suffix]}: {count}", tag=tag)

    async def state_tags(self) -> Sequence[Node]:
        """Return the head of a state's tag, and the newest of the tags that keep its releases."""
        found: list[Node] = []
        try:
            head = await self._get(head_tag(self.reference))
            found += [replace(_node(head), tag=head_tag(self.reference).tag)] if head else []
        except FormatError:
            pass  # a tag so long has no head
        prefix = claim_prefix(self.reference)
        kept = sorted((int(number), f"{prefix}{number}") for number in await self._counters(prefix))[::-1]
        for counter, tag in kept[:COUNTERS_SHOWN]:
            received = await self._get(self.reference.at(tag))
            found += [replace(_node(received), what=f"release {counter}", tag=tag)] if received else []
        if len(kept) > COUNTERS_SHOWN:
            left_out = f"{len(kept) - COUNTERS_SHOWN} older ones are not shown: `margo-oci history` lists them"
            found.append(Node(what="releases", digest="", size=0, note=left_out))
        return found

    async def _counters(self, prefix: str) -> Sequence[str]:
        rests = [tag.removeprefix(prefix) for tag in await self.registry.tags(self.reference) if tag.startswith(prefix)]
        return [rest for rest in rests if rest.isascii() and rest.isdigit() and len(rest) <= 20]

    async def _read(self, listed: Descriptor, subject: str) -> Node:
        plain = Node(
            what=said(listed.artifact_type) or "no type", digest=listed.digest, size=listed.size,
            artifact_type=listed.artifact_type, created=listed.annotations.get(CREATED, ""),
        )  # fmt: skip
        try:
            received = await self.registry.manifest(self.reference.at(listed.digest))
            assert received is not None  # noqa: S101  (nothing was known before)
        except (FormatError, TrustError, RegistryError) as error:
            return replace(plain, note=said(error))
        node = _node(received)
        return (
            node if _refers(received, subject) else replace(node, note="listed here, but it refers to something else")
        )

    async def _get(self, at: Reference) -> Received | None:
        try:
            return await self.registry.manifest(at)
        except NotFound:
            return None


def _node(received: Received) -> Node:
    try:
        manifest = _manifest(received)
    except FormatError as error:
        index = "index" in received.media_type or "manifest.list" in received.media_type
        note = "" if index else said(error)
        what = "image index" if index else "not a manifest"
        return Node(what=what, digest=received.digest, size=len(received.data), note=note)
    size = len(received.data) + sum(one.size for one in manifest.layers)
    return Node(
        what=_words(manifest) + _files(manifest), digest=received.digest, size=size,
        artifact_type=manifest.artifact_type, created=manifest.annotations.get(CREATED, ""),
    )  # fmt: skip


def _refers(received: Received, subject: str) -> bool:
    try:
        named = _manifest(received).subject
    except FormatError:
        return True  # its note says already what is wrong with it
    return named is not None and named.digest == subject


def _manifest(received: Received) -> Manifest:
    return Manifest.from_bytes(received.data, what=f"manifest {received.digest[:19]}")


def _files(manifest: Manifest) -> str:
    """Say how many extra files a state has (format section 14)."""
    kinds = [
        kind_of(layer.media_type) for layer in manifest.layers if kind_of(manifest.artifact_type) == "desired-state"
    ]
    count, secrets = sum(kind in ("file", "secret") for kind in kinds), kinds.count("secret")
    return f" with {count} files, {secrets} encrypted" if count else ""


def _words(manifest: Manifest) -> str:
    """Say what a manifest seems to be, by its type and its annotations."""
    kind = kind_of(manifest.artifact_type)
    if kind == "sigstore-bundle":
        predicate_type = manifest.annotations.get(PREDICATE_TYPE, "")
        if not predicate_type:
            return "Sigstore bundle"
        if predicate_type == RELEASE:
            return "Sigstore bundle: release signature"
        return f"Sigstore bundle: attestation of {PREDICATES.get(predicate_type) or said(predicate_type)}"
    if manifest.artifact_type in (HEAD_ARTIFACT, TRUST_ARTIFACT):
        return "head" if manifest.artifact_type == HEAD_ARTIFACT else "roots"
    if document := _DOCUMENTS.get(manifest.artifact_type):
        return f"{document}, unsigned"
    if "image.config" in manifest.artifact_type or "container.image" in manifest.artifact_type:
        return "image"
    return _KINDS.get(kind) or said(manifest.artifact_type) or "no type"
