"""Images from their registries into the engine: what is missing of them, fetched, handed over, checked.

The engine is never asked to pull. It is handed what it lacks, under a name that says the locked digest.
"""

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from margo_agent.engine import Engine
from margo_agent.given import GivenNames
from margo_agent.interrupted import Interrupted
from margo_agent.loading import archive
from margo_agent.report import Brought
from margo_agent.room import Room
from margo_agent.unready import NoRoom, PullFailed, Unfit
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError, MargoError, RegistryError, TrustError
from margo_oci.images import LAYER_LIMIT_BYTES, Image, read_image
from margo_oci.platforms import Platform
from margo_oci.reference import parse_image
from margo_oci.registry import Registry, Traffic
from margo_oci.store import Store
from margo_oci.transfer import Sleep, pull_blob, side_by_side

FETCHES_AT_ONCE = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """An image that the engine does not have: its name here, and those of its layers that are to come."""

    name: str
    image: Image
    layers: Sequence[Descriptor]


@dataclass(frozen=True)
class Looked:
    """What was found out about images: what can come, why some cannot run here, and which could not be read."""

    missing: Sequence[Missing] = ()
    faults: Sequence[str] = ()
    unread: Sequence[PullFailed] = ()

    @property
    def layers(self) -> Sequence[Descriptor]:
        """All layers that are to come, each once."""
        return list({layer.digest: layer for one in self.missing for layer in one.layers}.values())


@dataclass(frozen=True, kw_only=True)
class Images:
    """Brings images to `engine`, by way of the `store`."""

    engine: Engine
    registry: Callable[[], Registry]
    store: Store
    room: Room
    given: GivenNames
    go_on: Callable[[], None] = lambda: None
    sleep: Sleep = asyncio.sleep
    look_every_s: float = 0.25
    _read: dict[str, Image] = field(default_factory=dict)

    def bring(self, wanted: Mapping[str, str], faults: Sequence[str] = ()) -> Brought:
        """Have the engine have every image of `wanted` (its name here to its reference by digest).

        `faults` is what else stands in the way. Raises Unfit with all that does, NoRoom and PullFailed; Interrupted.
        """
        names = self.lacking(wanted)
        if not names:
            if faults:
                raise Unfit("; ".join(faults))
            return Brought()
        traffic = self._with_registry(lambda registry: self._bring(registry, names, faults))
        return Brought(len(names), traffic.requests, traffic.bytes_in)

    def to_come(self, wanted: Mapping[str, str]) -> tuple[int, Traffic]:
        """Return how many bytes would have to come, and what finding that out cost. Raises MargoError."""
        names = self.lacking(wanted)
        sums: list[int] = []

        async def look(registry: Registry) -> None:
            looked = await self.look(registry, names)
            for error in (*looked.unread, *(FormatError(fault) for fault in looked.faults)):
                raise error
            sums.append(sum(layer.size for layer in looked.layers))

        traffic = self._with_registry(look)
        return sum(sums), traffic

    def lacking(self, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """Return those of `wanted` that the engine does not have, or has under a name that leads elsewhere by now."""
        given = self.given.load()
        here = {name: self.engine.image_id(name) for name in wanted}
        return {name: wanted[name] for name in wanted if not here[name] or here[name] != given.get(name)}

    def _with_registry(self, work: Callable[[Registry], Coroutine[Any, Any, None]]) -> Traffic:
        async def run() -> Traffic:
            async with self.registry() as registry:
                await self._until_stopped(work(registry))
                return registry.traffic

        return asyncio.run(run())

    async def _until_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """A stop does not wait for a download: what has come is gone on from."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=self.look_every_s)
            try:
                await asyncio.to_thread(self.go_on)
            except Interrupted:
                task.cancel()
                await asyncio.wait({task})
                raise
        return task.result()

    async def _bring(self, registry: Registry, names: Mapping[str, str], faults: Sequence[str]) -> None:
        looked = await self.look(registry, names)
        if faults or looked.faults:
            raise Unfit("; ".join((*faults, *looked.faults)))
        if looked.unread:
            raise looked.unread[0]
        self.check_room(looked.layers)
        await self._fetch(registry, looked.missing, looked.layers)
        for number, one in enumerate(looked.missing, 1):
            await self._load(registry, one)
            self._forget(one, but=looked.missing[number:])

    def check_room(self, layers: Sequence[Descriptor], besides_bytes: int = 0) -> None:
        """Raise NoRoom unless layers of images, and so many bytes besides, fit."""
        to_come = sum(self.store.missing_bytes(layer) for layer in layers)
        self.room.check(besides_bytes + to_come, sum(layer.size for layer in layers), self.engine.facts().root)

    async def look(self, registry: Registry, names: Mapping[str, str]) -> Looked:
        """Find out what is to come of these images. Raises EngineUnavailable."""
        if not names:
            return Looked()
        platform, here = self.engine.facts().platform, self.engine.layer_chains()
        found: dict[str, Missing] = {}
        faults: dict[str, str] = {}
        unread: dict[str, PullFailed] = {}

        async def read(name: str, reference: str) -> None:
            try:
                image = await self._image(registry, reference, platform)
            except FormatError as error:
                faults[name] = str(error)
                return
            except (RegistryError, TrustError) as error:
                unread[name] = PullFailed(f"pull {reference}: {error}")
                return
            if image.is_zstd and not self.engine.facts().knows_zstd:
                faults[name] = f"{reference}: its layers are zstd, which this engine does not read (Docker: since 23.0)"
            have = _common(image.diff_ids, here)
            found[name] = Missing(name, image, image.layers[have:])

        await side_by_side([read(name, reference) for name, reference in names.items()], at_once=FETCHES_AT_ONCE)
        # In their order, not in that of the answers.
        return Looked(_in_order(found, names), _in_order(faults, names), _in_order(unread, names))

    async def _image(self, registry: Registry, reference: str, platform: Platform) -> Image:
        if reference not in self._read:
            self._read[reference] = await read_image(registry, parse_image(reference), platform)
        return self._read[reference]

    async def _fetch(self, registry: Registry, missing: Sequence[Missing], layers: Sequence[Descriptor]) -> None:
        whose = {layer.digest: one.image for one in missing for layer in one.layers}

        async def fetch(layer: Descriptor) -> None:
            image = whose[layer.digest]
            try:
                await pull_blob(
                    registry, image.reference, layer, self.store, sleep=self.sleep, limit_bytes=LAYER_LIMIT_BYTES
                )
            except MargoError as error:
                raise PullFailed(f"pull {image.reference}: {error}") from None

        to_come = [layer for layer in layers if not self.store.has(layer)]
        try:
            await side_by_side([fetch(layer) for layer in to_come], at_once=FETCHES_AT_ONCE)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._full(to_come) from None

    def _full(self, layers: Sequence[Descriptor]) -> NoRoom:
        """Say that the disk filled up. What came is kept to go on from, unless it is what fills the disk."""
        part_bytes = sum(layer.size - self.store.missing_bytes(layer) for layer in layers)
        words = "the disk is full"
        if self.room.is_scarce(part_bytes):
            for layer in layers:
                self.store.drop(layer)
            words = f"the disk is full: the {part_bytes} bytes that had come were dropped"
        return NoRoom(f"{self.room.state_dir}: {words}; images are fetched again when there is room")

    async def _load(self, registry: Registry, one: Missing) -> None:
        """Hand an image over; to an engine that lacks more of it than was thought, with all its layers."""
        try:
            self._hand_over(one)
        except PullFailed as error:
            if "no space left" in str(error).lower():  # Go's words for ENOSPC, whichever engine it is
                raise NoRoom(f"{error}: the layers that came are kept; it is loaded when there is room") from None
            if len(one.layers) == len(one.image.layers):
                raise
            whole = Missing(one.name, one.image, one.image.layers)
            self.check_room(whole.layers)
            await self._fetch(registry, [whole], whole.layers)
            self._hand_over(whole)

    def _hand_over(self, one: Missing) -> None:
        what = f"load {one.image.reference}"
        self.given.gave(one.name, "")  # first, so that the name is known for ours whatever happens now
        try:
            for _ in self.engine.load(lambda: archive(one.image, one.name, one.layers, self.store.pieces), what):
                self.go_on()
        except TrustError as error:
            raise PullFailed(f"{what}: {error}; it is fetched again next time") from None
        if self.engine.layers_of(one.name) != one.image.diff_ids:
            raise PullFailed(f"{what}: the engine does not have it under {one.name} afterwards, or with other layers")
        self.given.gave(one.name, self.engine.image_id(one.name))

    def _forget(self, one: Missing, but: Sequence[Missing]) -> None:
        """Drop the layers: they are in the engine now. Those of images that are still to be loaded stay."""
        kept = {layer.digest for other in but for layer in other.image.layers}
        for layer in one.image.layers:
            if layer.digest not in kept:
                self.store.drop(layer)


def _in_order(found: Mapping[str, T], names: Iterable[str]) -> Sequence[T]:
    return [found[name] for name in names if name in found]


def _common(diff_ids: Sequence[str], chains: Iterable[Sequence[str]]) -> int:
    """Return how many layers, from the lowest on, are the same in one of the images that the engine has."""
    most = 0
    for chain in chains:
        same = 0
        while same < min(len(diff_ids), len(chain)) and diff_ids[same] == chain[same]:
            same += 1
        most = max(most, same)
    return most
