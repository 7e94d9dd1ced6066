"""The publishing journey: build, push blobs, manifest, signature; the tag moves last (format section 2).

A registry cannot compare and swap. Each release therefore first claims its counter under a tag of its own,
`<tag>-counter-<n>`, and the claim is looked at again when all is done: of two publishers that use one counter,
at least one always finds out (docs/decisions/0004).
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor
from margo_oci.desired_state import NO_ORIGIN, DesiredState, Layer, Origin, build_state, parse_state
from margo_oci.errors import ConflictError, FormatError, NotFound, TrustError
from margo_oci.keys import PublicKey, Signer, p256_only
from margo_oci.manifest import CREATED, Manifest
from margo_oci.reference import TAG, Reference
from margo_oci.registry import Registry
from margo_oci.signatures import Attached, Found
from margo_oci.signed import SignatureFolder
from margo_oci.signing import DEFAULT_FORMS, Attacher, Forms
from margo_oci.transfer import Judge, open_state, referrers, resolve
from margo_oci.trust import Policy, TrustAnything, signers_of

if TYPE_CHECKING:
    from margo_oci.upload import Uploader  # oras takes a while to load, and reading needs none of it

UPLOADS_AT_ONCE = 8
CLAIMS_LIMIT = 1000


@dataclass(frozen=True, kw_only=True)
class Release:
    """What was published, or would be."""

    reference: Reference
    state: DesiredState = field(repr=False)  # as text it would be as long as a thousand layers
    uploaded: frozenset[str] = field(default_factory=frozenset)
    changed: bool = True
    begun: bool = False  # an earlier push of it was cut off: its claim is there

    @property
    def pinned(self) -> Reference:
        """`host/repository@digest`."""
        return self.reference.at(self.state.manifest.digest)

    @property
    def bytes_uploaded(self) -> int:
        """Bytes of the layers that were sent."""
        sizes = {layer.digest: layer.size for layer in self.state.manifest.layers}
        return sum(sizes[digest] for digest in self.uploaded)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One line of the history: a release, when it was signed, and by whom if a key was given."""

    state: DesiredState
    signed_at: str
    current: bool


Progress = Callable[[Descriptor], None]


@dataclass(frozen=True)
class Publisher:
    """Publishes to the repository of one reference. `peers` are keys of others whose releases count as well."""

    registry: Registry
    uploader: "Uploader"
    signer: Signer
    now: Callable[[], datetime]
    peers: Sequence[PublicKey] = ()
    forms: Forms = DEFAULT_FORMS
    kept: SignatureFolder | None = None

    async def publish(
        self,
        reference: Reference,
        layers: Sequence[Layer],
        *,
        scope: str,
        counter: int | None = None,
        created: str = "",
        origin: Origin = NO_ORIGIN,
        change_scope: bool = False,
        progress: Progress = lambda _: None,
    ) -> Release:
        """Publish `layers` as the state of `scope`; what the registry has is not sent again.

        Raises ConflictError when somebody else published meanwhile, FormatError for a counter that does not rise.
        """
        self._check_signer()
        current = await current_state(self.registry, reference)
        before = await self._counted(reference, current, counter)
        release = await plan_release(
            self.registry, reference, layers, before, scope=scope, counter=counter, created=created, origin=origin,
            change_scope=change_scope,
        )  # fmt: skip
        if not release.changed:
            await self._sign(reference, release.state.manifest)
            return release
        known = {layer.digest for layer in current.manifest.layers} if current else set()
        missing = [layer for layer in layers if layer.descriptor.digest not in known]
        # Another tag there may have the very manifest, and signatures of others with it.
        is_new = not release.begun and await _digest_at(self.registry, release.pinned) is None
        uploaded = await self._push_blobs(reference, missing, progress)
        await self._release(reference, release.state, current, new=is_new)
        return Release(reference=reference, state=release.state, uploaded=uploaded)

    async def rollback(
        self, reference: Reference, *, to: int, scope: str = "", counter: int | None = None, created: str = ""
    ) -> Release:
        """Publish the layers of release `to` again, under the next counter.

        Raises FormatError if there is no such release, ConflictError as `publish` does, or if what stands in its
        place is another release or another scope's, TrustError.
        """
        self._check_signer()
        current = await current_state(self.registry, reference)
        before = await self._counted(reference, current, counter)
        try:
            old = (await open_state(self.registry, claim(reference, to), self._judge)).state
        except NotFound:
            raise FormatError(f"{reference}: release {to} is not there: see `margo-oci history {reference}`") from None
        self._check_place(reference, old, to, scope or (before.scope if before else ""))
        if before and before.manifest.digest == old.manifest.digest:
            return Release(reference=reference, state=before, changed=False)
        last = max(before.counter if before else 0, old.counter)
        _check_rises(reference, counter, last)
        free, _ = await _unclaimed(self.registry, reference, counter or last + 1)
        if counter not in (None, free):
            raise ConflictError(f"{reference}: counter {counter} is taken by another state: {_ADVICE}")
        state = build_state(old.manifest.layers, counter=free, scope=old.scope, created=created, origin=old.origin)
        await self._release(reference, state, current)
        return Release(reference=reference, state=state)

    def _check_signer(self) -> None:
        """States are signed with P-256: their publisher counts on from what that key signed."""
        p256_only(self.signer)
        self._attacher.check(self.signer)

    def _check_place(self, reference: Reference, old: DesiredState, to: int, scope: str) -> None:
        """A tag says nothing: whoever can move it must not choose which of our releases is signed anew, or for whom."""
        if not scope:
            raise FormatError(f"{reference} has no release of yours to go by: say for whom with --scope")
        if (old.counter, old.scope) != (to, scope):
            raise ConflictError(
                f"{claim(reference, to)} is counter {old.counter} for {old.scope or '(none)'}, and counter {to} for "
                f"{scope} is expected: somebody moved that tag"
            )

    @property
    def _attacher(self) -> Attacher:
        return Attacher(self.registry, self.uploader, self.now, self.forms, self.kept)

    @property
    def _judge(self) -> Judge:
        return Judge(Policy((self.signer.public, *self.peers)), self.now)

    async def _counted(
        self, reference: Reference, current: DesiredState | None, counter: int | None
    ) -> DesiredState | None:
        """Return what the next counter is counted from: only a state that one of our keys signed (format 2.8).

        Else whoever can write the tag could have us sign the last counter there is. Raises ConflictError.
        """
        if current is None:
            return None
        try:
            if not self._is_known(current.manifest):
                await self._judge.signers(self.registry, reference, current.manifest.descriptor)
        except TrustError:
            if counter is None:
                raise ConflictError(
                    f"{reference} holds counter {current.counter}, which no key of yours signed: look at it with "
                    "`margo-oci inspect`; then name its publisher's key with --peer-key, or the counter with --counter"
                ) from None
            return None
        return current

    def _is_known(self, manifest: Manifest) -> bool:
        """Tell whether a signature that is kept here says that one of our keys signed `manifest`."""
        bundle = self.kept.bundle(manifest.digest) if self.kept else None
        if bundle is None:
            return False
        try:
            signers_of(manifest.descriptor, Found([Attached("bundle", bundle)]), self._judge.policy, now=self.now())
        except TrustError:
            return False
        return True

    async def _release(
        self, reference: Reference, state: DesiredState, current: DesiredState | None, *, new: bool = False
    ) -> None:
        """Claim the counter, sign, and move the tag; look before and after (format 2.3 to 2.6)."""
        mine, manifest = claim(reference, state.counter), state.manifest
        if current is None or current.manifest.config.digest != EMPTY_CONFIG.digest:
            await asyncio.to_thread(self.uploader.send, reference, EMPTY_CONFIG, EMPTY_JSON)
        await asyncio.to_thread(self.uploader.manifest, mine, manifest.data)
        await self._attacher.sign(reference, manifest.descriptor, self.signer, new=new)
        found = await _digest_at(self.registry, reference)
        if found != (current.manifest.digest if current else None):
            raise ConflictError(f"{reference}: somebody else published {found or 'nothing'} meanwhile: {_ADVICE}")
        await asyncio.to_thread(self.uploader.manifest, reference, manifest.data)
        claimed = await self.registry.digest(mine)
        if claimed != manifest.digest:
            raise ConflictError(f"{reference}: counter {state.counter} was also given to {claimed}: {_ADVICE}")

    async def _push_blobs(self, reference: Reference, layers: Sequence[Layer], progress: Progress) -> frozenset[str]:
        gate = asyncio.Semaphore(UPLOADS_AT_ONCE)

        async def one(layer: Layer) -> str:
            async with gate:
                sent = await asyncio.to_thread(self.uploader.send, reference, layer.descriptor, layer.data)
            progress(layer.descriptor)
            return layer.descriptor.digest if sent else ""

        return frozenset(await asyncio.gather(*map(one, layers))) - {""}

    async def _sign(self, reference: Reference, manifest: Manifest) -> None:
        await self._attacher.sign(reference, manifest.descriptor, self.signer)


_ADVICE = "look with `margo-oci diff` what is there now, then push again"


async def plan_release(
    registry: Registry,
    reference: Reference,
    layers: Sequence[Layer],
    current: DesiredState | None,
    *,
    scope: str,
    counter: int | None,
    created: str,
    origin: Origin = NO_ORIGIN,
    change_scope: bool = False,
) -> Release:
    """Decide what a push would publish: the same again, or a new state under a counter that is free.

    Where the same came from another commit, nothing is new: its first origin stays (format 2.9). Raises FormatError
    for another scope than the tag has, unless to `change_scope`.
    """
    if current and current.scope and current.scope != scope and not change_scope:
        raise FormatError(
            f"{reference} holds a state for {current.scope}: devices that follow it would refuse one for {scope}: name "
            "another tag, or if that is meant, --change-scope"
        )
    descriptors = [layer.descriptor for layer in layers]
    if current and counter in (None, current.counter):
        same = build_state(descriptors, counter=current.counter, scope=scope, created=created or current.created,
                           origin=current.origin)  # fmt: skip
        if same.manifest.digest == current.manifest.digest:
            return Release(reference=reference, state=current, changed=False)
    _check_rises(reference, counter, current.counter if current else 0)
    chosen = counter or (current.counter if current else 0) + 1
    state = build_state(descriptors, counter=chosen, scope=scope, created=created, origin=origin)
    free, begun = await _unclaimed(registry, reference, chosen, mine=state.manifest.digest)
    if free == chosen:
        return Release(reference=reference, state=state, begun=begun)
    if counter is not None:
        raise ConflictError(f"{reference}: counter {counter} is taken by another state: {_ADVICE}")
    state = build_state(descriptors, counter=free, scope=scope, created=created, origin=origin)
    return Release(reference=reference, state=state)


def _check_rises(reference: Reference, counter: int | None, last: int) -> None:
    if counter is not None and counter <= last:
        raise FormatError(f"counter {counter} is not higher than {last}, which {reference} has")


async def _unclaimed(registry: Registry, reference: Reference, counter: int, *, mine: str = "") -> tuple[int, bool]:
    """Return the first counter from `counter` on that no other state has claimed, and whether `mine` has claimed it
    (a push that was cut off).
    """
    for _ in range(CLAIMS_LIMIT):
        found = await _digest_at(registry, claim(reference, counter))
        if found in (None, mine):
            return counter, found is not None
        counter, mine = counter + 1, ""
    raise ConflictError(f"{reference}: {CLAIMS_LIMIT} counters in a row are claimed: {_ADVICE}")


async def _digest_at(registry: Registry, reference: Reference) -> str | None:
    """Return the digest of what is there now; None if nothing is."""
    try:
        return await registry.digest(reference)
    except NotFound:
        return None


async def current_state(registry: Registry, reference: Reference) -> DesiredState | None:
    """Return the state a tag has now; None if there is none yet. Raises FormatError if it is something else."""
    try:
        manifest = await resolve(registry, reference)
    except NotFound:
        return None
    assert manifest is not None  # noqa: S101  (nothing was known before)
    try:
        return parse_state(manifest, what=str(reference))
    except FormatError as error:
        raise FormatError(f"{reference} holds something else, which is not overwritten: {error}") from None


async def history(
    registry: Registry, reference: Reference, judge: Judge | TrustAnything, *, limit: int
) -> Sequence[Published]:
    """Return the newest `limit` releases of a tag, newest first: only those that the policy accepts."""
    current = await current_state(registry, reference)
    prefix = claim_prefix(reference)
    try:
        tags = await registry.tags(reference)
    except NotFound:
        return ()
    counters = sorted((int(tag.removeprefix(prefix)) for tag in tags if _is_claim(tag, prefix)), reverse=True)
    gate = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def one(counter: int) -> Published | None:
        async with gate:
            try:
                state = (await open_state(registry, claim(reference, counter), judge)).state
            except TrustError:
                return None
            signatures = await referrers(registry, reference, state.manifest.digest)
            signed_at = min((one.annotations.get(CREATED, "") for one in signatures), default="")
            return Published(
                state=state,
                signed_at=signed_at,
                current=current is not None and current.manifest.digest == state.manifest.digest,
            )

    return [one for one in await asyncio.gather(*map(one, counters[:limit])) if one]


def claim(reference: Reference, counter: int) -> Reference:
    """Return the tag that keeps release `counter` of a tag reachable. Raises FormatError if it would be too long."""
    tag = f"{claim_prefix(reference)}{counter}"
    if not TAG.fullmatch(tag):
        raise FormatError(f"tag {reference.tag!r} is too long: {tag!r} is needed beside it")
    return reference.at(tag)


def claim_prefix(reference: Reference) -> str:
    """Return what the tags of all releases of a tag begin with."""
    return f"{reference.tag}-counter-"


def is_claim(tag: str, tags: Collection[str]) -> bool:
    """Tell whether a tag keeps a release of another one of `tags`."""
    name, found, counter = tag.rpartition("-counter-")
    return bool(found) and name in tags and counter.isascii() and counter.isdigit()


def _is_claim(tag: str, prefix: str) -> bool:
    rest = tag.removeprefix(prefix)
    return tag.startswith(prefix) and rest.isascii() and rest.isdigit() and len(rest) <= 20
