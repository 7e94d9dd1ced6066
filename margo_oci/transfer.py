"""Where registry, trust and store meet: resolve, verify, fetch. Used by devices and operators alike."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from margo_oci.content import BLOB_LIMIT_BYTES, SIGNATURE_LIMIT_BYTES, Descriptor, digest_of
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError
from margo_oci.manifest import Manifest, kind_of, parse_index
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.trust import Policy, Seen, TrustAnything, Verified, verify

SIGNATURE_COUNT_LIMIT = 16
FETCHES_AT_ONCE = 100  # over HTTP/2, what registries allow as streams at once; over HTTP/1.1 connections are the limit
BLOB_ATTEMPTS = 3
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


async def check_trust(
    registry: Registry,
    reference: Reference,
    manifest: Manifest,
    policy: Policy | TrustAnything,
    *,
    last: Seen | None = None,
) -> Verified:
    """Fetch the signatures of `manifest` and hold them against `policy`. Raises TrustError, RegistryError."""
    if isinstance(policy, TrustAnything):
        return verify(manifest, (), policy)
    return verify(manifest, await bundles(registry, reference, manifest.digest), policy, last=last)


async def open_state(
    registry: Registry,
    reference: Reference,
    policy: Policy | TrustAnything,
    *,
    last: Seen | None = None,
) -> Verified:
    """Resolve and verify in one go."""
    manifest = await resolve(registry, reference)
    assert manifest is not None  # noqa: S101  (nothing was known before)
    return await check_trust(registry, reference, manifest, policy, last=last)


async def bundles(registry: Registry, reference: Reference, digest: str) -> Sequence[bytes]:
    """Return the Sigstore bundles that refer to `digest`, at most SIGNATURE_COUNT_LIMIT of them.

    Raises what the first unusable one raised, if not one was usable.
    """
    found: list[bytes] = []
    errors: list[TrustError] = []
    for candidate in await _candidates(registry, reference, digest):
        try:
            if (data := await _bundle(registry, reference, candidate, digest)) is not None:
                found.append(data)
        except TrustError as error:
            errors.append(error)
        except FormatError as error:
            errors.append(TrustError("malformed-signature", f"{digest}: {error}"))
        except NotFound:
            continue
    if errors and not found:
        raise errors[0]
    return found


async def referrers(registry: Registry, reference: Reference, digest: str) -> Sequence[Descriptor]:
    """Return what refers to `digest`: by the API, and by the tag that stands in for it.

    distribution-spec v1.1 "Listing Referrers" and "Referrers Tag Schema". No security rests on which way it was.
    """
    at = reference.at(digest)
    try:
        # Both at once: a device far from its registry waits for one round trip, not for two.
        listed, tagged = await asyncio.gather(registry.referrers(at), _tagged_referrers(registry, at))
    except FormatError as error:
        raise TrustError("malformed-signature", f"{digest}: {error}") from None
    return list({one.digest: one for one in (*listed, *tagged)}.values())


async def _tagged_referrers(registry: Registry, at: Reference) -> Sequence[Descriptor]:
    try:
        index = await registry.manifest(at.at(at.digest.replace(":", "-")))
    except NotFound:
        return ()
    assert index is not None  # noqa: S101
    return parse_index(index.data, what=f"referrers of {at.digest[:19]}")


async def _candidates(registry: Registry, reference: Reference, digest: str) -> Sequence[Descriptor]:
    """Signatures first; what does not say its type may be one too (old clients wrote odd ones)."""
    listed = await referrers(registry, reference, digest)
    likely = [one for one in listed if kind_of(one.artifact_type) == "sigstore-bundle"]
    unclear = [one for one in listed if one.artifact_type in ("", "application/vnd.oci.empty.v1+json")]
    return (likely + unclear)[:SIGNATURE_COUNT_LIMIT]


async def _bundle(registry: Registry, reference: Reference, candidate: Descriptor, digest: str) -> bytes | None:
    """Return the bundle a referrer carries; None if it carries something else. Its own subject counts."""
    received = await registry.manifest(reference.at(candidate.digest), limit_bytes=SIGNATURE_LIMIT_BYTES)
    assert received is not None  # noqa: S101
    manifest = Manifest.from_bytes(received.data, what=f"signature {candidate.digest[:19]}")
    if len(manifest.layers) != 1 or kind_of(manifest.layers[0].media_type) != "sigstore-bundle":
        return None
    if not manifest.subject or manifest.subject.digest != digest:
        named = manifest.subject.digest if manifest.subject else "nothing"
        raise TrustError("moved-signature", f"{digest}: a listed signature is for {named}: moved here from there")
    return await registry.small_blob(reference, manifest.layers[0], limit_bytes=SIGNATURE_LIMIT_BYTES)


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
    gate = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def one(layer: Descriptor) -> None:
        async with gate:
            await pull_blob(registry, reference, layer, store, sleep=sleep)
            progress(layer)

    await _all([one(layer) for layer in missing])
    return Fetched(len(missing), len(layers) - len(missing))


async def _all(coroutines: Sequence[Awaitable[None]]) -> None:
    """Run side by side; the first error ends the others and is the one that is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(_awaited(coroutine))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


async def pull_blob(
    registry: Registry,
    reference: Reference,
    descriptor: Descriptor,
    store: Store,
    *,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Bring one blob into the store, going on where an earlier attempt ended.

    Raises RegistryError after BLOB_ATTEMPTS, TrustError `digest-mismatch` for content that is wrong from its start.
    """
    if descriptor.size > BLOB_LIMIT_BYTES:
        raise TrustError(
            "too-large", f"{descriptor.digest}: {descriptor.size} bytes, at most {BLOB_LIMIT_BYTES} are read"
        )
    for attempts_left in reversed(range(BLOB_ATTEMPTS)):
        resumed = store.has_part(descriptor)
        try:
            return await _receive(registry, reference, descriptor, store)
        except TrustError:
            if not resumed:  # what an earlier attempt left may be what was wrong: it is gone now
                raise
        except NotFound:
            raise
        except RegistryError as error:
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
