"""Making, signing, changing and publishing a root: the operator's side, with the documents made by python-tuf.

The keys may be on different machines; the file travels. What python-tuf made is always read again by `root`, as devices
read it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from securesystemslib.signer import Signature, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Role
from tuf.api.metadata import Root as TufRoot
from tuf.api.serialization.json import JSONSerializer

from margo_oci.carrier import TUF_TYPE, build_chain
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor
from margo_oci.errors import ConflictError, FormatError, NotFound, TrustError
from margo_oci.freshness import format_moment
from margo_oci.heads import read_chain
from margo_oci.keys import PublicKey, Signer
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.root import FLOOR, RELEASE, ROLES, ROOT_LIMIT_BYTES, Root, advance, parse_root
from margo_oci.tuf import NAME, Document, Key, Quorum, key_dict, key_id

if TYPE_CHECKING:
    from margo_oci.upload import Uploader

RoleName = Literal["root", "head", "release"]


@dataclass(frozen=True)
class Change:
    """What becomes of a role: keys that join, keys that leave (name, or beginning of an id), another threshold."""

    add: Sequence[PublicKey] = ()
    remove: Sequence[str] = ()
    threshold: int | None = None


@dataclass(frozen=True)
class Part:
    """One signature quorum of a ceremony: whose keys, who signed, who may still."""

    whose: str
    quorum: Quorum
    signed: Sequence[Key]

    @property
    def missing(self) -> int:
        """How many signatures are still to come."""
        return max(0, self.quorum.threshold - len(self.signed))

    @property
    def waiting_for(self) -> Sequence[Key]:
        """Who did not sign."""
        return tuple(key for key in self.quorum.keys if key.der not in {one.der for one in self.signed})


@dataclass(frozen=True)
class Standing:
    """How far a ceremony is. `complete` says nothing about the previous root where that was not at hand."""

    root: Root
    parts: Sequence[Part]

    @property
    def complete(self) -> bool:
        """Whether every quorum that was looked at has signed."""
        return not any(part.missing for part in self.parts)


def begin(changes: Mapping[RoleName, Change], *, expires: datetime, floor: datetime | None = None) -> bytes:
    """Return version 1 of a root, unsigned. Raises FormatError for a threshold that its keys cannot reach."""
    return _make(TufRoot(expires=expires, consistent_snapshot=True), changes, floor)


def rotate(
    data: bytes, changes: Mapping[RoleName, Change], *, expires: datetime, floor: datetime | None = None
) -> bytes:
    """Return the next version of a root, unsigned. Raises FormatError, TrustError."""
    Root.from_bytes(data)
    root = _read(data).signed
    root.version += 1
    root.expires = expires
    return _make(root, changes, floor)


def _make(root: TufRoot, changes: Mapping[RoleName, Change], floor: datetime | None) -> bytes:
    more = dict(root.unrecognized_fields.get(ROLES, {}))
    release = Role.from_dict(dict(more.get(RELEASE, {"keyids": [], "threshold": 1})))
    roles = {"root": root.roles["root"], "head": root.roles["targets"], "release": release}
    for name, role in roles.items():
        _change(root, role, changes.get(name, Change()), name)  # type: ignore[call-overload]
    for name in ("snapshot", "timestamp"):
        root.roles[name] = Role.from_dict(roles["head"].to_dict())
    root.unrecognized_fields[ROLES] = {**more, RELEASE: release.to_dict()}
    if floor:
        root.unrecognized_fields[FLOOR] = format_moment(floor)
    used = {keyid for role in roles.values() for keyid in role.keyids}
    root.keys = {keyid: key for keyid, key in root.keys.items() if keyid in used}
    data = _write(Metadata(root))
    read_unsigned(data)
    return data


def _change(root: TufRoot, role: Role, change: Change, name: str) -> None:
    for text in change.remove:
        gone = [one for one in role.keyids if _is_called(root.keys[one], text)]
        if len(gone) != 1:
            raise FormatError(f"{name} key {text!r}: {len(gone)} keys are called so: see `margo-oci root show`")
        role.keyids.remove(gone[0])
    for public in change.add:
        keyid, key = key_id(public), key_dict(public)
        name_of_key = {NAME: public.name.removesuffix(".pub").removesuffix(".key")}
        root.keys[keyid] = SSlibKey(keyid, key["keytype"], key["scheme"], key["keyval"], name_of_key)
        role.keyids += [] if keyid in role.keyids else [keyid]
    role.threshold = change.threshold or role.threshold


def _is_called(key: object, text: str) -> bool:
    assert isinstance(key, SSlibKey)  # noqa: S101  (python-tuf makes no others of the keys that `root` reads)
    return key.unrecognized_fields.get(NAME) == text or (len(text) >= 8 and key.keyid.startswith(text))


def add_signature(data: bytes, signer: Signer, *, previous: Root | None = None) -> bytes:
    """Return the root with one signature more. Raises FormatError if the key has no part in it."""
    root = read_unsigned(data)
    quorums = [root.holders, *([previous.holders] if previous else [])]
    key = next((key for quorum in quorums if (key := quorum.key_of(signer.public))), None)
    if key is None:
        more = "" if previous or root.version == 1 else ", or give the version before with --previous"
        raise FormatError(
            f"{signer.public.name}: no root key of version {root.version}: {root.holders.labels} may sign{more}"
        )
    document = _read(data)
    document.signatures[key.id] = Signature(key.id, signer.sign(document.signed_bytes).hex())
    return _write(document)


def standing(data: bytes, *, previous: Root | None = None) -> Standing:
    """Return who signed a root, and who did not. Raises FormatError."""
    root = read_unsigned(data)
    if previous and previous.version + 1 != root.version:
        raise FormatError(f"version {root.version} does not follow version {previous.version}")
    document = Document.from_bytes(data, what="root", limit_bytes=ROOT_LIMIT_BYTES)
    asked = [(f"version {previous.version}", previous.holders)] if previous else []
    asked.append((f"version {root.version}", root.holders))
    return Standing(root, [Part(whose, quorum, quorum.signers(document)) for whose, quorum in asked])


def read_unsigned(data: bytes) -> Root:
    """Return what a root file says, whoever signed it. Raises FormatError."""
    return parse_root(Document.from_bytes(data, what="root", limit_bytes=ROOT_LIMIT_BYTES).signed, data)


def _read(data: bytes) -> Metadata[TufRoot]:
    try:
        return Metadata[TufRoot].from_bytes(data)
    except RepositoryError as error:
        raise FormatError(f"root: not usable: {error.__cause__ or error}") from None


def _write(document: Metadata[TufRoot]) -> bytes:
    return document.to_bytes(JSONSerializer(compact=False)) + b"\n"


async def read_roots(registry: Registry, reference: Reference) -> tuple[str, Sequence[Root]]:
    """Return the whole chain under a tag, each root verified by the one before, and the digest of what lists it.

    Raises ConflictError for anything that is no chain from version 1 on; nothing is there: no digest, no roots.
    """
    try:
        digest, listed = await read_chain(registry, reference)
    except NotFound:
        return "", ()
    gate = asyncio.Semaphore(8)

    async def one(descriptor: Descriptor) -> bytes:
        async with gate:
            return await registry.small_blob(reference, descriptor, limit_bytes=ROOT_LIMIT_BYTES)

    files = await asyncio.gather(*(one(listed[version]) for version in sorted(listed)))
    if not files or sorted(listed) != list(range(1, len(listed) + 1)):
        raise ConflictError(f"{reference} holds something else than versions 1 to n of a root: choose another tag")
    try:
        return digest, tuple(_linked(files))
    except TrustError as error:
        raise ConflictError(f"{reference}: what is there is no chain of roots: {error}") from None


def _linked(files: Sequence[bytes]) -> Iterable[Root]:
    root = Root.from_bytes(files[0])
    yield root
    for data in files[1:]:
        root = advance(root, data).root
        yield root


async def publish_root(registry: Registry, uploader: "Uploader", reference: Reference, data: bytes) -> bool:
    """Append a root to the chain at `reference`; tell whether it is new there.

    Raises TrustError if signatures are missing, FormatError for a gap, ConflictError for another history.
    """
    digest, chain = await read_roots(registry, reference)
    root = read_unsigned(data)
    if root.version <= len(chain):
        if _content(chain[root.version - 1].data) != _content(data):
            raise ConflictError(f"{reference} has another version {root.version}: its history is not overwritten")
        return False
    if root.version > len(chain) + 1:
        raise FormatError(
            f"{reference}: version {len(chain) + 1} comes before version {root.version}: publish it first"
        )
    root = advance(chain[-1], data).root if chain else Root.from_bytes(data)
    descriptors = {one.version: Descriptor.of(one.data, TUF_TYPE) for one in (*chain, root)}
    manifest = build_chain(descriptors)
    await asyncio.to_thread(uploader.blob, reference, EMPTY_CONFIG, EMPTY_JSON)
    await asyncio.to_thread(uploader.blob, reference, descriptors[root.version], data)
    if (await read_roots(registry, reference))[0] != digest:
        raise ConflictError(f"{reference}: somebody else published a root meanwhile: look with `margo-oci root show`")
    await asyncio.to_thread(uploader.manifest, reference, manifest.data)
    if await registry.digest(reference) != manifest.digest:
        raise ConflictError(f"{reference}: somebody else published a root meanwhile: look with `margo-oci root show`")
    return True


def _content(data: bytes) -> bytes:
    return Document.from_bytes(data, what="root", limit_bytes=ROOT_LIMIT_BYTES).signed_bytes
