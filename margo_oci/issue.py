"""Issuing heads: the operator's word on which release a device is to have now, renewed before it expires."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from margo_oci.carrier import BUNDLE_COUNT_LIMIT, build_carrier
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON
from margo_oci.desired_state import DesiredState, parse_state
from margo_oci.errors import ConflictError, FormatError, MargoError, NotFound, TrustError
from margo_oci.freshness import format_moment, head_tag
from margo_oci.head import Head, open_head, release_signers, sign_head, verify_release
from margo_oci.heads import Carried, read_head
from margo_oci.keys import Signer
from margo_oci.manifest import Manifest
from margo_oci.publish import current_state
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.root import Root
from margo_oci.signatures import SignedBy
from margo_oci.transfer import resolve, signatures

if TYPE_CHECKING:
    from margo_oci.upload import Uploader


@dataclass(frozen=True)
class Issued:
    """A head that lies in the registry now; `changed` says whether it was made just now."""

    reference: Reference
    head: Head
    changed: bool = True


@dataclass(frozen=True)
class Attended:
    """What one look of a watch led to: a new head, a refusal, or neither. A refusal does not stop renewing."""

    issued: Issued | None = None
    refused: MargoError | None = None


Behind = Literal["same", "newer", "older", "other", "none"]


@dataclass(frozen=True)
class Issuer:
    """Issues heads under `root`, signed by `signers`, which live for `lifetime`.

    A head that is there counts on if `root` or one of the `earlier` roots verifies it.
    """

    registry: Registry
    uploader: "Uploader"
    root: Root
    signers: Sequence[Signer]
    now: Callable[[], datetime]
    lifetime: timedelta = timedelta(days=7)
    earlier: Sequence[Root] = ()

    async def issue(self, reference: Reference, *, scope: str = "", version: int | None = None) -> Issued:
        """Issue a head for what the tag has now, after checking it as a device would.

        `version` overrides the count where the previous head cannot be verified. Raises TrustError for a release
        that is not fully signed, is for another scope or goes back, ConflictError when somebody else issued meanwhile.
        """
        carried, previous = await self._previous(reference, version)
        manifest = await resolve(self.registry, reference)
        assert manifest is not None  # noqa: S101  (nothing was known before)
        state = _state(manifest, reference)
        _check_scope(state, scope, previous, reference)
        if previous:
            _check_counter(state, previous)
        signatures = await self._bundles(reference, manifest)
        return await self._push(reference, carried, previous, state, signatures, version)

    async def renew(
        self, reference: Reference, *, within: timedelta | None = None, version: int | None = None
    ) -> Issued:
        """Issue the same head again with a later expiry, if it expires `within` that time.

        Raises as `issue`, and TrustError `freeze` for one that expired: an old head that somebody put back is not to
        be made a new one by a timer.
        """
        carried = await read_head(self.registry, reference)
        assert carried is not None  # noqa: S101  (nothing was known before)
        previous = self._open(carried, reference)
        self._check_in_date(previous, reference)
        if within is not None and previous.expires - self.now() > within:
            return Issued(reference, previous, changed=False)
        manifest = await resolve(self.registry, reference.at(previous.digest))
        assert manifest is not None  # noqa: S101  (nothing was known before)
        signatures = carried.bundles
        if len(self._signers(manifest, signatures)) < self.root.releases.threshold:
            signatures = await self._bundles(reference, manifest)  # signed again since, it may be
        return await self._push(reference, carried, previous, _state(manifest, reference), signatures, version)

    async def attend(self, reference: Reference, *, within: timedelta) -> Attended:
        """Issue when the tag moved on, renew in time. Raises RegistryError.

        The first head is left to a person, and so is one that expired: who can write to the registry must not choose
        what is vouched for.
        """
        refused: MargoError | None = None
        try:
            if await self._has_moved(reference):
                return Attended(await self.issue(reference))
        except (FormatError, TrustError, ConflictError) as error:
            refused = error
        try:
            renewed = await self.renew(reference, within=within)
            return Attended(renewed if renewed.changed else None, refused)
        except NotFound:
            return Attended(None, refused)
        except (FormatError, TrustError, ConflictError) as error:
            return Attended(None, refused or error)

    async def _has_moved(self, reference: Reference) -> bool:
        _, previous = await self._previous(reference, None)
        if previous is None:
            raise FormatError(f"{reference} has no head yet: begin with `margo-oci head issue`")
        self._check_in_date(previous, reference)
        if await self.registry.digest(reference) == previous.digest:
            return False
        manifest = await resolve(self.registry, reference)  # a header alone does not say that it moved
        return manifest is not None and manifest.digest != previous.digest

    def _check_in_date(self, previous: Head, reference: Reference) -> None:
        if self.now() >= previous.expires:
            raise TrustError(
                "freeze",
                f"{head_tag(reference)}: version {previous.version} expired at {format_moment(previous.expires)}: an "
                "old one that was put back, or nobody renewed it. Look with `margo-oci head show`; if its release "
                "is the one that is meant, `margo-oci head issue`",
            )

    async def _previous(self, reference: Reference, version: int | None) -> tuple[Carried | None, Head | None]:
        try:
            carried = await read_head(self.registry, reference)
        except NotFound:
            return None, None
        assert carried is not None  # noqa: S101  (nothing was known before)
        try:
            return carried, self._open(carried, reference)
        except TrustError:
            if version is None:
                raise
            return carried, None

    def _open(self, carried: Carried, reference: Reference) -> Head:
        refused: TrustError | None = None
        for root in (self.root, *self.earlier):
            try:
                return open_head(carried.head, root)
            except TrustError as error:
                refused = refused or error
        assert refused is not None  # noqa: S101  (there is a root at least, and none opened it)
        raise TrustError(
            refused.reason,
            f"{head_tag(reference)}: {refused}. If the root replaced the head key, give the root before it as well "
            "(--previous-root), or begin anew with `margo-oci head issue --version N`: N is higher than any that "
            "devices saw, or 1 if the key that signed those is no head key any more",
        )

    async def _push(
        self,
        reference: Reference,
        carried: Carried | None,
        previous: Head | None,
        state: DesiredState,
        signatures: Sequence[bytes],
        version: int | None,
    ) -> Issued:
        head = self._next(state, previous, version)
        counting = [one for one in signatures if self._signers(state.manifest, [one])][:BUNDLE_COUNT_LIMIT]
        verify_release(state.manifest, counting or signatures, head, self.root)
        document = sign_head(head, self.root, self.signers)
        carrier, at = build_carrier(document, counting), head_tag(reference)
        await asyncio.to_thread(self.uploader.blob, at, EMPTY_CONFIG, EMPTY_JSON)
        for layer, data in zip(carrier.layers, (document, *counting), strict=True):
            await asyncio.to_thread(self.uploader.blob, at, layer, data)
        if await self._digest(at) != (carried.digest if carried else ""):
            raise ConflictError(f"{at}: somebody else issued a head meanwhile: {_ADVICE}")
        await asyncio.to_thread(self.uploader.manifest, at, carrier.data)
        if await self._digest(at) != carrier.digest:
            raise ConflictError(f"{at}: somebody else issued a head right after: {_ADVICE}")
        return Issued(reference, open_head(document, self.root))

    def _signers(self, manifest: Manifest, signatures: Sequence[bytes]) -> Sequence[SignedBy]:
        return release_signers(manifest.descriptor, signatures, self.root)

    async def _bundles(self, reference: Reference, manifest: Manifest) -> Sequence[bytes]:
        """Return the bundles of a release: what a head carries along."""
        found = await signatures(self.registry, reference, manifest.digest, enough=0)
        return [one.data for one in found.attached if one.format == "bundle"]

    def _next(self, state: DesiredState, previous: Head | None, version: int | None) -> Head:
        now = self.now().replace(microsecond=0)
        self.root.check_fresh(now)
        behind = max((one for one in (previous and previous.issued, self.root.floor) if one), default=now)
        if behind > now:
            raise FormatError(
                f"the head before, or the root, is of {behind}, and here it is {now}: set the clock first"
            )
        following = previous.version + 1 if previous else 1
        if previous and version is not None and version < following:
            raise FormatError(f"--version {version}: the head there has version {previous.version}")
        return Head(
            scope=state.scope,
            version=version or following,
            issued=now,
            expires=now + self.lifetime,
            digest=state.manifest.digest,
            length=len(state.manifest.data),
            counter=state.counter,
        )

    async def _digest(self, at: Reference) -> str:
        try:
            return await self.registry.digest(at)
        except NotFound:
            return ""


_ADVICE = "look with `margo-oci head show`, then issue again"


def _state(manifest: Manifest, reference: Reference) -> DesiredState:
    state = parse_state(manifest, what=str(reference))
    if not state.scope:
        raise FormatError(f"{reference}: this state has no scope: push it with --scope")
    return state


def _check_scope(state: DesiredState, scope: str, previous: Head | None, reference: Reference) -> None:
    for expected, where in ((scope, "asked for was"), (previous.scope if previous else "", "the head before is for")):
        if expected and expected != state.scope:
            raise TrustError("wrong-scope", f"{reference} is for scope {state.scope!r}, {where} {expected!r}")


def _check_counter(state: DesiredState, previous: Head) -> None:
    if state.counter < previous.counter:
        raise TrustError(
            "rollback",
            f"counter {state.counter} is lower than {previous.counter}, which the head before names: the tag was put "
            "back by somebody; `margo-oci rollback` goes back in a way that devices take",
        )
    if state.counter == previous.counter and state.manifest.digest != previous.digest:
        raise TrustError(
            "counter-reused",
            f"counter {state.counter} is {previous.digest} in the head before, and {state.manifest.digest} now",
        )


async def what_is_behind(registry: Registry, reference: Reference, head: Head) -> Behind:
    """Return how the state that the tag has now stands to the head: by digest, and by counter. Nothing is verified."""
    try:
        state = await current_state(registry, reference)
    except (FormatError, TrustError):
        return "other"
    if state is None:
        return "none"
    if state.manifest.digest == head.digest:
        return "same"
    return "newer" if state.counter > head.counter else "older" if state.counter < head.counter else "other"
