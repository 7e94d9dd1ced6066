"""Where registry, trust and store meet: resolve, verify, fetch. Used by devices and operators alike."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from margo_oci import envelopes, notary, simple_signing
from margo_oci.content import BLOB_LIMIT_BYTES, SIGNATURE_LIMIT_BYTES, Descriptor, digest_of
from margo_oci.cosign import PREDICATE_TYPE, RELEASE, is_keyless
from margo_oci.errors import FormatError, NotFound, RegistryError, TooSlow, TrustError
from margo_oci.identity import Identity
from margo_oci.manifest import Manifest, kind_of, parse_index
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.signatures import Attached, Found, SignedBy
from margo_oci.store import Store
from margo_oci.trust import Policy, Seen, TrustAnything, Verified, look_at, signers_of, verify

SIGNATURE_COUNT_LIMIT = 16
FETCHES_AT_ONCE = 100  # over HTTP/2, what registries allow as streams at once; over HTTP/1.1 connections are the limit
BLOB_ATTEMPTS = 3
PROGRESS_BYTES = 64 * 1024  # an attempt that brought so much was none in vain
PAUSE_LIMIT_S = 5.0


@dataclass(frozen=True)
class Fetched:
    """What a fetch moved: layers that came over the network, layers that were here."""

    fetched: int
    reused: int


async def resolve(registry: Registry, reference: Reference, *, known: str = "") -> Manifest | None:
    """Return the manifest that `reference` leads to now; None if it is still `known`.

    Raises RegistryError, or TrustError `malformed` or `digest-mismatch`.
    """
    received = await registry.manifest(reference, known=known)
    if received is None or received.digest == known:
        return None
    return parse_manifest(received.data)


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in `data`. Raises TrustError `malformed`."""
    try:
        return Manifest.from_bytes(data, what=f"manifest {digest_of(data)[:19]}")
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None


# Asks a checker of identities about a keyless bundle over a digest: who signed, and the statement. Raises TrustError.
Voucher = Callable[[str, bytes, Sequence[Identity]], Awaitable[tuple[str, bytes]]]


@dataclass(frozen=True)
class Judge:
    """A policy, and what it needs to be applied: what time it is, and who checks identities if it names some."""

    policy: Policy
    now: Callable[[], datetime]
    vouch: Voucher | None = None

    async def signers(self, registry: Registry, reference: Reference, subject: Descriptor) -> Sequence[SignedBy]:
        """Return who signed `subject`, by this policy. Raises TrustError, RegistryError."""
        found = await self.signatures(registry, reference, subject.digest)
        return signers_of(subject, found, self.policy, now=self.now())

    async def state(
        self, registry: Registry, reference: Reference, manifest: Manifest, *, last: Seen | None = None
    ) -> Verified:
        """Fetch the signatures of a state and hold them against the policy. Raises TrustError, RegistryError."""
        found = await self.signatures(registry, reference, manifest.digest)
        return verify(manifest, found, self.policy, now=self.now(), last=last)

    async def signatures(self, registry: Registry, reference: Reference, digest: str) -> Found:
        """Return what is attached to `digest`; keyless ones are vouched for."""
        found = await signatures(registry, reference, digest, enough=self.policy.threshold)
        return await self.vouched(digest, found)

    async def vouched(self, digest: str, found: Found) -> Found:
        """Replace keyless bundles by what the checker of identities says of them.

        Raises FormatError if it cannot work here at all.
        """
        if not (self.vouch and self.policy.identities):
            return found
        attached: list[Attached] = []
        refused = list(found.refused)
        for one in found.attached:
            try:
                keyless = one.format == "bundle" and is_keyless(one.data)
            except FormatError as error:
                refused.append(TrustError("malformed-signature", f"{digest}: {error}"))
                continue
            if not keyless:
                attached.append(one)
                continue
            try:
                name, statement = await self.vouch(digest, one.data, self.policy.identities)
                attached.append(Attached("keyless", statement, vouched_for=name))
            except TrustError as error:
                refused.append(error)
        return Found(attached, refused)


async def open_state(
    registry: Registry,
    reference: Reference,
    judge: Judge | TrustAnything,
    *,
    last: Seen | None = None,
) -> Verified:
    """Resolve and verify in one go."""
    manifest = await resolve(registry, reference)
    assert manifest is not None  # noqa: S101  (nothing was known before)
    if isinstance(judge, TrustAnything):
        return look_at(manifest, judge)
    return await judge.state(registry, reference, manifest, last=last)


async def signatures(registry: Registry, reference: Reference, digest: str, *, enough: int = 1) -> Found:
    """Return the signatures attached to `digest`, at most SIGNATURE_COUNT_LIMIT of them, in every format.

    The tag of cosign v2 is only looked at when its referrers have fewer than `enough`, as cosign itself does it.
    """
    try:
        candidates = await _candidates(registry, reference, digest)
    except FormatError as error:
        return Found(refused=[TrustError("malformed-signature", f"{digest}: {error}")])
    found = await carried_signatures(registry, reference, candidates, digest)
    attached, refused = list(found.attached), list(found.refused)
    releases = sum(kind_of(one.artifact_type) == "sigstore-bundle" and _may_be_release(one) for one in candidates)
    if min(sum(one.format == "bundle" for one in attached), releases) < enough:
        simple = await _simple_signatures(registry, reference, digest)
        attached += simple.attached
        refused += simple.refused
    return Found(attached[:SIGNATURE_COUNT_LIMIT], refused)


async def carried_signatures(
    registry: Registry, reference: Reference, candidates: Sequence[Descriptor], digest: str
) -> Found:
    """Return the signatures of `digest` that the referrers `candidates` carry. Raises RegistryError."""
    return _sorted_out(await asyncio.gather(*(_read(registry, reference, one, digest) for one in candidates)))


async def _read(
    registry: Registry, reference: Reference, candidate: Descriptor, digest: str
) -> Attached | TrustError | None:
    try:
        return await _signature(registry, reference, candidate, digest)
    except TrustError as error:
        return error
    except FormatError as error:
        return TrustError("malformed-signature", f"{digest}: {error}")
    except NotFound:
        return None


async def _signature(registry: Registry, reference: Reference, candidate: Descriptor, digest: str) -> Attached | None:
    """Return the signature a referrer carries; None if it carries something else. Its own subject counts."""
    received = await registry.manifest(reference.at(candidate.digest), limit_bytes=SIGNATURE_LIMIT_BYTES)
    assert received is not None  # noqa: S101  (nothing was known before)
    manifest = Manifest.from_bytes(received.data, what=f"signature {candidate.digest[:19]}")
    layer = manifest.layers[0] if len(manifest.layers) == 1 else None
    is_bundle = layer is not None and kind_of(layer.media_type) == "sigstore-bundle"
    is_notary = layer is not None and layer.media_type in (envelopes.JWS, envelopes.COSE)
    if layer is None or not (is_bundle or is_notary):
        return None
    if not manifest.subject or manifest.subject.digest != digest:
        named = manifest.subject.digest if manifest.subject else "nothing"
        raise TrustError("moved-signature", f"{digest}: a listed signature is for {named}: moved here from there")
    data = await registry.small_blob(reference, layer, limit_bytes=SIGNATURE_LIMIT_BYTES)
    return Attached("bundle", data) if is_bundle else Attached("notary", data, layer.media_type)


async def _simple_signatures(registry: Registry, reference: Reference, digest: str) -> Found:
    try:
        image = await simple_image(registry, reference, digest)
    except TrustError as error:
        return Found(refused=[error])
    return await simple_signatures(registry, reference, digest, image) if image else Found()


async def simple_image(registry: Registry, reference: Reference, digest: str) -> Manifest | None:
    """Return the image under cosign v2's tag for `digest`, whose layers are signatures; None if there is none.

    Raises TrustError `malformed-signature`, `too-large`, RegistryError.
    """
    try:
        tag = reference.at(simple_signing.tag_of(digest))
        received = await registry.manifest(tag, limit_bytes=SIGNATURE_LIMIT_BYTES)
    except NotFound:
        return None
    assert received is not None  # noqa: S101  (nothing was known before)
    try:
        return Manifest.from_bytes(received.data, what=f"signatures of {digest[:19]}")
    except FormatError as error:
        raise TrustError("malformed-signature", f"{digest}: {error}") from None


async def simple_signatures(registry: Registry, reference: Reference, digest: str, image: Manifest) -> Found:
    """Return the signatures that are the layers of `image`; one that cannot be read is refused on its own.

    Raises RegistryError.
    """

    async def read(layer: Descriptor) -> Attached | TrustError | None:
        try:
            blob = await registry.small_blob(reference, layer, limit_bytes=simple_signing.PAYLOAD_LIMIT_BYTES)
            signature = simple_signing.read_signature(layer, blob)
        except TrustError as error:
            return error
        except FormatError as error:
            return TrustError("malformed-signature", f"{digest}: {error}")
        except NotFound:
            return None
        return Attached("simple-signing", signature.payload, signature=signature.signature)

    return _sorted_out(await asyncio.gather(*map(read, simple_signing.signature_layers(image))))


def _sorted_out(read: Sequence[Attached | TrustError | None]) -> Found:
    attached = [one for one in read if isinstance(one, Attached)]
    return Found(attached, [one for one in read if isinstance(one, TrustError)])


async def referrers(registry: Registry, reference: Reference, digest: str) -> Sequence[Descriptor]:
    """Return what refers to `digest`: by the API, and by the tag that stands in for it.

    distribution-spec v1.1 "Listing Referrers" and "Referrers Tag Schema". No security rests on which way it was.
    """
    at = reference.at(digest)
    # Both at once: a device far from its registry waits for one round trip, not for two.
    listed, tagged = await asyncio.gather(registry.referrers(at), tagged_referrers(registry, at))
    return list({one.digest: one for one in (*listed, *tagged)}.values())


async def tagged_referrers(registry: Registry, at: Reference) -> Sequence[Descriptor]:
    """Return what is listed under the tag that stands in for the API ("Referrers Tag Schema")."""
    try:
        index = await registry.manifest(at.at(at.digest.replace(":", "-")))
    except NotFound:
        return ()
    assert index is not None  # noqa: S101  (nothing was known before)
    if index.digest == at.digest:
        return ()  # some registries take the tag for another name of the subject itself
    return parse_index(index.data, what=f"referrers of {at.digest[:19]}")


async def _candidates(registry: Registry, reference: Reference, digest: str) -> Sequence[Descriptor]:
    """Signatures first, those that say they are attestations last; what does not say its type may be one too.

    What an annotation says decides on the order alone.
    """
    listed = await referrers(registry, reference, digest)
    likely = [one for one in listed if kind_of(one.artifact_type) == "sigstore-bundle"]
    likely += [one for one in listed if one.artifact_type == notary.ARTIFACT_TYPE]
    unclear = [one for one in listed if one.artifact_type in ("", "application/vnd.oci.empty.v1+json")]
    return sorted(likely + unclear, key=lambda one: not _may_be_release(one))[:SIGNATURE_COUNT_LIMIT]


def _may_be_release(candidate: Descriptor) -> bool:
    return candidate.annotations.get(PREDICATE_TYPE, RELEASE) == RELEASE


Progress = Callable[[Descriptor], None]
Sleep = Callable[[float], Awaitable[None]]


async def fetch(
    verified: Verified,
    registry: Registry,
    reference: Reference,
    store: Store,
    *,
    progress: Progress = lambda _: None,
    sleep: Sleep = asyncio.sleep,
) -> Fetched:
    """Bring every layer of a verified state into the store, missing ones only, side by side.

    Raises RegistryError after BLOB_ATTEMPTS tries without a new byte, TrustError for wrong content.
    """
    layers = list({layer.digest: layer for layer in verified.state.manifest.layers}.values())
    missing = [layer for layer in layers if not store.has(layer)]

    async def one(layer: Descriptor) -> None:
        await pull_blob(registry, reference, layer, store, sleep=sleep)
        progress(layer)

    await side_by_side([one(layer) for layer in missing])
    return Fetched(len(missing), len(layers) - len(missing))


async def side_by_side(coroutines: Sequence[Coroutine[Any, Any, None]], *, at_once: int = FETCHES_AT_ONCE) -> None:
    """Run so many `at_once`; the first error ends the others and is the one that is raised."""
    gate = asyncio.Semaphore(at_once)
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(_gated(coroutine, gate))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for coroutine in coroutines:  # those whose turn did not come
            coroutine.close()


async def _gated(coroutine: Coroutine[Any, Any, None], gate: asyncio.Semaphore) -> None:
    async with gate:
        await coroutine


async def pull_blob(
    registry: Registry,
    reference: Reference,
    descriptor: Descriptor,
    store: Store,
    *,
    sleep: Sleep = asyncio.sleep,
    limit_bytes: int = BLOB_LIMIT_BYTES,
) -> None:
    """Bring one blob into the store, going on where an earlier attempt ended.

    Raises RegistryError after BLOB_ATTEMPTS in a row that brought next to nothing, TrustError `digest-mismatch` for
    content that is wrong from its start.
    """
    if descriptor.size > limit_bytes:
        raise TrustError("too-large", f"{descriptor.digest}: {descriptor.size} bytes, at most {limit_bytes} are read")
    attempts_left = BLOB_ATTEMPTS
    while attempts_left:
        attempts_left -= 1
        resumed, missing_bytes = store.has_part(descriptor), store.missing_bytes(descriptor)
        try:
            return await _receive(registry, reference, descriptor, store)
        except TrustError:
            if not resumed:  # what an earlier attempt left may be what was wrong: it is gone now
                raise
        except NotFound:
            raise
        except RegistryError as error:
            came_bytes = missing_bytes - store.missing_bytes(descriptor)
            if came_bytes >= PROGRESS_BYTES and not isinstance(error, TooSlow):
                attempts_left = BLOB_ATTEMPTS - 1
            if not attempts_left:
                raise
            await sleep(min(error.retry_after_s or 0.1 * 2 ** (BLOB_ATTEMPTS - attempts_left), PAUSE_LIMIT_S))
    raise RegistryError(f"{descriptor.digest}: {BLOB_ATTEMPTS} attempts ended early")


async def _receive(registry: Registry, reference: Reference, descriptor: Descriptor, store: Store) -> None:
    with store.receive(descriptor) as part:
        async with registry.blob(reference, descriptor, offset=part.have_bytes) as body:
            if body.offset != part.have_bytes:
                part.restart()
            async for chunk in body.chunks:
                part.write(chunk)
        if part.have_bytes < descriptor.size:
            raise RegistryError(
                f"{descriptor.digest}: the body ended after {part.have_bytes} of {descriptor.size} bytes"
            )
