"""Reading heads and the chain of roots from a registry: what devices and operators share. Nothing is verified here
but what a step of the chain needs; `head` and `root` have the rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from margo_oci.carrier import parse_carrier, parse_chain
from margo_oci.content import SIGNATURE_LIMIT_BYTES, Descriptor, digest_of
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError
from margo_oci.freshness import CARRIER_LIMIT_BYTES, head_tag
from margo_oci.head import HEAD_LIMIT_BYTES
from margo_oci.manifest import Manifest
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.root import CHAIN_LIMIT, ROOT_LIMIT_BYTES, Advanced, Root


@dataclass(frozen=True)
class Carried:
    """A head and the bundles beside it, as bytes; `digest` is the carrier's, for the next look."""

    digest: str
    head: bytes
    bundles: Sequence[bytes]


async def read_head(registry: Registry, reference: Reference, *, known: str = "") -> Carried | None:
    """Return what lies under the head's tag; None if it is still `known` (a carrier's digest): one request, no body.

    Raises NotFound, RegistryError, and TrustError `malformed`, `too-large`, `digest-mismatch`.
    """
    at = head_tag(reference)
    received = await registry.manifest(at, known=known, limit_bytes=CARRIER_LIMIT_BYTES)
    if received is None or received.digest == known:
        return None
    return await open_carrier(registry, reference, received.data)


async def open_carrier(registry: Registry, reference: Reference, data: bytes) -> Carried:
    """Return what the manifest `data`, received from the head's tag, carries. Raises as `read_head`."""
    if len(data) > CARRIER_LIMIT_BYTES:
        raise TrustError(
            "too-large", f"{head_tag(reference)}: {len(data)} bytes, at most {CARRIER_LIMIT_BYTES} are read"
        )
    try:
        carrier = parse_carrier(Manifest.from_bytes(data, what=f"head {head_tag(reference)}"))
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None
    head = await _content(registry, reference, carrier.head, HEAD_LIMIT_BYTES)
    bundles = [await _content(registry, reference, one, SIGNATURE_LIMIT_BYTES) for one in carrier.bundles]
    return Carried(digest_of(data), head, bundles)


async def _content(registry: Registry, reference: Reference, layer: Descriptor, limit_bytes: int) -> bytes:
    if layer.data is not None:
        return layer.data
    return await registry.small_blob(reference, layer, limit_bytes=limit_bytes)


async def read_chain(registry: Registry, reference: Reference, *, known: str = "") -> tuple[str, dict[int, Descriptor]]:
    """Return the digest of what lists the roots, and the roots by version; nothing listed if it is still `known`.

    Raises NotFound, RegistryError, TrustError.
    """
    received = await registry.manifest(reference, known=known)
    if received is None or received.digest == known:
        return known, {}
    try:
        return received.digest, dict(parse_chain(Manifest.from_bytes(received.data, what=f"roots {reference}")))
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None


async def newer_roots(registry: Registry, reference: Reference, root: Root) -> Advanced:
    """Return where the chain at `reference` leads from `root`: the same root if there is no newer one.

    `reference` is the chain's tag. Only roots after `root` are fetched, and no more than CHAIN_LIMIT. What was reached
    before something wrong counts; the next look says what is wrong. The root that comes out may be expired:
    `Root.check_fresh` says so. Raises RegistryError, TrustError; a 404 leads nowhere.
    """
    reached = Advanced(root)
    try:
        _, listed = await read_chain(registry, reference)
    except NotFound:
        return reached
    for version in range(root.version + 1, root.version + 1 + CHAIN_LIMIT):
        if version not in listed:
            break
        try:
            data = await registry.small_blob(reference, listed[version], limit_bytes=ROOT_LIMIT_BYTES)
            reached = reached.then(data)
        except (TrustError, RegistryError):
            if reached.root is root:
                raise
            break
    return reached
