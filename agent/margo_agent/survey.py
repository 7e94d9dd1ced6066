"""How much of a state still has to come, summed from manifests before the first byte of it."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from margo_agent.address import EngineUnavailable
from margo_agent.generation import Generations
from margo_agent.images import Images
from margo_agent.model import by_digest, local_name
from margo_oci.content import Descriptor
from margo_oci.desired_state import LOCK, Lock
from margo_oci.errors import FormatError, NotFound
from margo_oci.manifest import Manifest
from margo_oci.package import archive_layer
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import side_by_side


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Sums layers, archives and images of a state, and holds the sum against the room there is.

    What cannot be known here is left out: it is told where it is fetched, with the deployment it is of.
    """

    store: Store
    generations: Callable[[], Generations]
    images: Callable[[], Images]

    async def check(self, registry: Registry, layers: Sequence[Descriptor], locks: Sequence[Lock]) -> None:
        """Raise NoRoom unless all that these layers and locks lead to fits."""
        content_bytes = sum(self.store.missing_bytes(layer) for layer in layers)
        try:
            archive_bytes, others = await self._archive_bytes(registry, locks)
            content_bytes += archive_bytes
            images = self.images()
            run_here = [lock for lock in locks if not others & set(lock.components.values())]
            to_come = (await images.look(registry, images.lacking(_named(run_here)))).layers
            if content_bytes or to_come:
                images.check_room(to_come, content_bytes)
        except EngineUnavailable:
            return

    async def _archive_bytes(self, registry: Registry, locks: Sequence[Lock]) -> tuple[int, set[str]]:
        """Return the size of the archives that are not here; each counts twice, packed and unpacked.

        And the digests of those that are none of Compose's: neither they nor their images come here.
        """
        generations = self.generations()
        named = {digest: name for lock in locks for name, digest in lock.components.items()}
        new = {digest: name for digest, name in named.items() if not generations.has_component(digest)}
        sizes: list[int] = []
        others: set[str] = set()

        async def add(name: str, digest: str) -> None:
            try:
                sizes.append(await self._archive(registry, parse_reference(name).at(digest)))
            except FormatError:
                others.add(digest)
            except NotFound:
                return

        await side_by_side([add(name, digest) for digest, name in new.items()])
        return sum(sizes), others

    async def _archive(self, registry: Registry, reference: Reference) -> int:
        received = await registry.manifest(reference)
        assert received is not None  # noqa: S101  (nothing was known before)
        layer = archive_layer(Manifest.from_bytes(received.data, what=reference.name), what=reference.name)
        return self.store.missing_bytes(layer) + layer.size


def _named(locks: Sequence[Lock]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for lock in locks:
        for image in lock.images:
            with contextlib.suppress(FormatError):
                found[local_name(by_digest(image, lock))] = by_digest(image, lock)
    return found


def locks_of(layers: Sequence[Descriptor]) -> Sequence[Lock]:
    """Return the locks of these layers, as far as they can be read."""
    found: list[Lock] = []
    for layer in layers:
        with contextlib.suppress(FormatError):
            found.append(Lock.from_json(layer.annotations.get(LOCK, "{}"), at="lock"))
    return found
