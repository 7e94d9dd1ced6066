"""Copies between simulated registries: whole, once, and in an order that never shows half of it."""

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from margo_cli.copy import _place
from margo_oci.access import Access
from margo_oci.closure import Closure
from margo_oci.content import EMPTY_JSON, Descriptor, digest_of
from margo_oci.copying import Copied, Copier, below, renamed, take
from margo_oci.errors import FormatError, RegistryError, TrustError
from margo_oci.manifest import Manifest
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import referrers, side_by_side
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader

SOURCE = parse_reference("registry.example/images/web:1.0")
TO = parse_reference("registry.plant/copied/web:stable")
LAYER = b"a layer"
IMAGE = Manifest.build("application/x.image", [Descriptor.of(LAYER, "application/x.layer")])
SIGNATURE = Manifest.build("application/x.signature", [], {"by": "somebody"}, subject=IMAGE.descriptor)
OVER_IT = Manifest.build("application/x.timestamp", [], subject=SIGNATURE.descriptor)
SIG_TAG = IMAGE.digest.replace(":", "-") + ".sig"


def source() -> SimulatedRegistry:
    """A registry with an image, its signature, what is over that, and a signature under a tag."""
    sim = SimulatedRegistry(referrers_api=True)
    for blob in (EMPTY_JSON, LAYER):
        sim.put_blob("images/web", blob)
    sim.put_manifest("images/web", "1.0", IMAGE.data)
    sim.put_manifest("images/web", SIG_TAG, Manifest.build("application/x.simple", []).data)
    for one in (SIGNATURE, OVER_IT):
        sim.put_manifest("images/web", one.digest, one.data)
    return sim


def copied(
    sim: SimulatedRegistry, to: SimulatedRegistry, store: Path, at: Callable[[Reference], Reference],
    *taken: Reference, uploader: SimulatedUploader | None = None,
) -> Copied:  # fmt: skip
    async def work() -> Copied:
        async with door(sim) as registry, door(to) as destination:
            closure = Closure(registry)
            for one in taken or (SOURCE,):
                await take(closure, one, TO)
            copier = Copier(
                source=registry, destination=destination, uploader=uploader or SimulatedUploader(to),
                store=Store(store), to=at,
            )  # fmt: skip
            return await copier.copy(list(closure.nodes.values()))

    return asyncio.run(work())


def door(sim: SimulatedRegistry) -> Registry:
    return Registry(lambda _: Access(), transport_for=lambda _: sim.transport)


def referring(sim: SimulatedRegistry, digest: str) -> list[str]:
    async def work() -> list[str]:
        async with door(sim) as registry:
            return [one.digest for one in await referrers(registry, TO, digest)]

    return asyncio.run(work())


@pytest.mark.parametrize("api", [False, True], ids=["by the tag", "by the API"])
def test_13_9_what_refers_to_a_copy_is_found_there_too(tmp_path: Path, api: bool) -> None:
    to = SimulatedRegistry(host="registry.plant", referrers_api=api)
    copied(source(), to, tmp_path, renamed(SOURCE, TO))
    assert referring(to, IMAGE.digest) == [SIGNATURE.digest]
    assert referring(to, SIGNATURE.digest) == [OVER_IT.digest]
    tags = to.repositories["copied/web"].tags
    assert tags["stable"] == IMAGE.digest
    assert SIG_TAG in tags
    assert "1.0" not in tags


def test_13_9_what_is_there_is_not_sent_again_and_nothing_is_kept(tmp_path: Path) -> None:
    sim, to = source(), SimulatedRegistry(host="registry.plant")
    first = copied(sim, to, tmp_path, renamed(SOURCE, TO))
    sim.forget()
    again = copied(sim, to, tmp_path, renamed(SOURCE, TO))
    assert (first.sent, first.reused) == (2, 0)
    assert (again.sent, again.reused, again.sent_bytes) == (0, 2, 0)
    assert not any("/blobs/" in one.path for one in sim.requests)
    assert not list((tmp_path / "blobs" / "sha256").iterdir())


def test_13_9_a_copy_that_is_cut_off_shows_nothing(tmp_path: Path) -> None:
    sim, to = source(), SimulatedRegistry(host="registry.plant")
    sim.blobs[digest_of(LAYER)] = b"a l4yer"
    with pytest.raises(TrustError, match="tampered content"):
        copied(sim, to, tmp_path, renamed(SOURCE, TO))
    assert not [tag for place in to.repositories.values() for tag in place.tags]
    sim.blobs[digest_of(LAYER)] = LAYER
    assert copied(sim, to, tmp_path, renamed(SOURCE, TO)).sent >= 1
    assert to.repositories["copied/web"].tags["stable"] == IMAGE.digest


class Watched(SimulatedUploader):
    """Notes how many uploads of large blobs are under way at once."""

    under_way = most = 0

    def file(self, reference: Reference, descriptor: Descriptor, file: BinaryIO) -> None:
        if descriptor.size >= 10:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            for _ in range(10_000):
                os.sched_yield()  # whoever else could begin now does
            self.under_way -= 1
        super().file(reference, descriptor, file)


def test_13_9_large_blobs_go_up_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("margo_oci.copying.LARGE_BYTES", 10)
    sim, to = source(), SimulatedRegistry(host="registry.plant")
    layers = [bytes([number]) * (20 + number) for number in range(6)]
    large = Manifest.build("application/x.image", [Descriptor.of(one, "application/x.layer") for one in layers])
    for layer in layers:
        sim.put_blob("images/web", layer)
    sim.put_manifest("images/web", "1.0", large.data)
    uploader = Watched(to)
    assert copied(sim, to, tmp_path, renamed(SOURCE, TO), uploader=uploader).sent == 7
    assert uploader.most == 1


def test_13_9_what_is_referred_to_goes_before_what_refers_to_it(tmp_path: Path) -> None:
    sim, to = source(), SimulatedRegistry(host="registry.plant")
    taken = [SOURCE.at(one.digest) for one in (OVER_IT, SIGNATURE, IMAGE)]  # as a layout may list them
    copied(sim, to, tmp_path, renamed(SOURCE, TO), *taken)
    sent = list(to.repositories["copied/web"].manifests)
    assert [sent.index(one.digest) for one in (IMAGE, SIGNATURE, OVER_IT)] == sorted(
        sent.index(one.digest) for one in (IMAGE, SIGNATURE, OVER_IT)
    )


def test_13_9_what_a_registry_also_has_under_the_tag_of_its_referrers_is_copied(tmp_path: Path) -> None:
    sim, to = source(), SimulatedRegistry(host="registry.plant")
    sim.put_manifest("images/web", IMAGE.digest.replace(":", "-"), IMAGE.data)
    copied(sim, to, tmp_path, renamed(SOURCE.at(IMAGE.digest), TO), SOURCE.at(IMAGE.digest))
    assert IMAGE.digest in to.repositories["copied/web"].manifests


def test_13_9_what_went_bad_since_a_copy_was_cut_off_is_fetched_again(tmp_path: Path) -> None:
    to, kept = SimulatedRegistry(host="registry.plant"), Store(tmp_path)
    blob = Descriptor.of(LAYER, "application/x.layer")
    kept.add(blob, LAYER)
    kept.path(blob).write_bytes(bytes(len(LAYER)))
    copied(source(), to, tmp_path, renamed(SOURCE, TO))
    assert to.blobs[blob.digest] == LAYER


def test_13_9_what_is_copied_by_its_digest_gets_the_tag_that_was_asked_for(tmp_path: Path) -> None:
    to = SimulatedRegistry(host="registry.plant")
    copied(source(), to, tmp_path, renamed(SOURCE.at(IMAGE.digest), TO), SOURCE.at(IMAGE.digest))
    assert to.repositories["copied/web"].tags["stable"] == IMAGE.digest
    with pytest.raises(FormatError, match="a copy gets its digest by itself: name a tag"):
        _place(str(TO.at(IMAGE.digest)), many=False)


def test_what_did_not_get_its_turn_is_closed_when_another_one_fails() -> None:
    async def failing() -> None:
        raise RegistryError("gone")

    async def waiting() -> None:
        await asyncio.sleep(0)

    work = [failing(), *(waiting() for _ in range(5))]
    with pytest.raises(RegistryError, match="gone"):
        asyncio.run(side_by_side(work, at_once=1))
    assert {inspect.getcoroutinestate(one) for one in work} == {inspect.CORO_CLOSED}


def test_13_9_of_many_each_keeps_its_repository() -> None:
    assert str(below("registry.plant", "mirror")(SOURCE)) == "registry.plant/mirror/images/web:1.0"
    assert str(below("registry.plant")(SOURCE.at(IMAGE.digest))) == f"registry.plant/images/web@{IMAGE.digest}"
