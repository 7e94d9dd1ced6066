"""What locked deployments lead to, held against a policy and platforms before it is published (format 4.6, 4.7).

Each component and each image is asked for once, however many deployments use it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from margo_oci.content import Descriptor
from margo_oci.deployment import Deployment
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError, TrustError
from margo_oci.images import platforms_of
from margo_oci.platforms import Platform, worded_platforms
from margo_oci.reference import Reference, parse_image, parse_reference
from margo_oci.registry import Registry
from margo_oci.transfer import Judge

CHECKS_AT_ONCE = 16
USERS_SHOWN = 3
Kind = Literal["component", "image"]
T = TypeVar("T")


@dataclass(frozen=True)
class Pinned:
    """A component or an image at the digest that a lock has for it, and the documents that lead to it."""

    kind: Kind
    reference: Reference
    users: Sequence[str]

    def __str__(self) -> str:
        users = ", ".join(self.users[:USERS_SHOWN])
        more = f" and {len(self.users) - USERS_SHOWN} more" if len(self.users) > USERS_SHOWN else ""
        return f"{users}{more}: {self.kind} {self.reference.name}@{self.reference.digest}"


def pinned(locked: Mapping[str, tuple[Deployment, Lock]]) -> Sequence[Pinned]:
    """Return everything that is locked, once each; the keys are what messages call the documents.

    What one repository has under two tags at one digest is one.
    """
    users: dict[tuple[Kind, Reference], list[str]] = {}
    for what, (deployment, lock) in locked.items():
        for part in deployment.components:
            if digest := lock.components.get(part.source):
                at = parse_reference(part.source).at(digest)
                users.setdefault(("component", at), []).append(f"{what}: component {part.name}")
        for image, digest in lock.images.items():
            users.setdefault(("image", parse_image(image).at(digest)), []).append(what)
    return [Pinned(kind, at, tuple(dict.fromkeys(names))) for (kind, at), names in users.items()]


async def check_signed(registry: Registry, found: Sequence[Pinned], judge_for: Callable[[Reference], Judge]) -> None:
    """Ask for a signature that the policy accepts of each.

    Raises TrustError with every one that has none (its reason is the first one's), RegistryError, FormatError for a
    policy that cannot be used.
    """

    async def one(it: Pinned) -> TrustError | None:
        try:
            judge = judge_for(it.reference)
        except FormatError as error:
            return TrustError("unsigned", f"{it}: {error}")
        received = await registry.manifest(it.reference)
        assert received is not None  # noqa: S101  (nothing was known before)
        subject = Descriptor.of(received.data, received.media_type)
        try:
            await judge.signers(registry, it.reference, subject)
        except TrustError as error:
            todo = f"sign it with `margo-oci sign {it.reference}`, or name the key of its signer"
            return TrustError(error.reason, f"{it}: {error}; {todo}")
        return None

    errors = [error for error in await _each(found, one) if error]
    if errors:
        raise TrustError(errors[0].reason, "\n".join(map(str, errors)))


async def check_platforms(registry: Registry, found: Sequence[Pinned], platforms: Sequence[Platform]) -> None:
    """Ask each image whether it runs on all of `platforms`. Raises FormatError with every one that does not."""

    async def one(it: Pinned) -> str:
        try:
            offered = await platforms_of(registry, it.reference)
        except FormatError as error:
            return f"{it}: {error}"
        lacking = [str(platform) for platform in platforms if not platform.runs_one_of(offered)]
        return f"{it}: no image for {', '.join(lacking)}: it has {worded_platforms(offered)}" if lacking else ""

    images = [it for it in found if it.kind == "image"]
    if faults := [fault for fault in await _each(images, one) if fault]:
        raise FormatError(*faults)


async def _each(found: Sequence[Pinned], check: Callable[[Pinned], Awaitable[T]]) -> Sequence[T]:
    gate = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def gated(it: Pinned) -> T:
        async with gate:
            return await check(it)

    return await asyncio.gather(*map(gated, found))
