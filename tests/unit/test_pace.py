"""How fast bodies may come, and which are too slow."""

import asyncio
from pathlib import Path

import pytest

from margo_oci.content import Descriptor
from margo_oci.errors import TooSlow
from margo_oci.pace import Pace
from margo_oci.reference import Reference
from margo_oci.registry import Access, Registry
from margo_oci.store import Store
from margo_oci.transfer import BLOB_ATTEMPTS, pull_blob
from tests.simulators.faults import drips
from tests.simulators.registry import SimulatedRegistry


class Clock:
    """Time that passes when somebody waits, or when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


def paced(clock: Clock, *, most_bytes_s: int = 0, least_bytes_s: int = 0) -> Pace:
    return Pace(most_bytes_s, least_bytes_s, monotonic_s=clock.monotonic_s, sleep=clock.sleep)


def test_5_4_a_blob_that_drips_is_given_up_and_gone_on_with(tmp_path: Path) -> None:
    clock, sim, store = Clock(), SimulatedRegistry(), Store(tmp_path)
    data = bytes(range(250))
    layer, at = Descriptor.of(data, "text/plain"), Reference(sim.host, "images/web", "1")
    sim.put_blob(at.repository, data)
    sim.fail(drips(lambda: setattr(clock, "now_s", clock.now_s + 1)), on=layer.digest, times=BLOB_ATTEMPTS)

    async def pull() -> None:
        registry = Registry(lambda _: Access(), lambda _: sim.transport, pace=paced(clock, least_bytes_s=100))
        async with registry:
            await pull_blob(registry, at, layer, store, sleep=clock.sleep)

    with pytest.raises(TooSlow, match="60 bytes in 60 s: given up"):
        asyncio.run(pull())
    assert store.missing_bytes(layer) == len(data) - 59 * BLOB_ATTEMPTS
    asyncio.run(pull())
    assert store.read(layer) == data


def test_without_a_limit_nobody_waits() -> None:
    clock = Clock()
    asyncio.run(paced(clock).body("a body").take(10**9))
    assert clock.now_s == 0


def test_5_4_all_bodies_together_keep_the_rate() -> None:
    clock = Clock()
    pace = paced(clock, most_bytes_s=1000)

    async def bring() -> None:
        first, second = pace.body("one"), pace.body("another")
        for _ in range(10):
            await first.take(500)
            await second.take(500)

    asyncio.run(bring())
    assert clock.now_s == pytest.approx(10, abs=0.3)


def test_what_was_not_used_is_not_saved_up_for_long() -> None:
    clock = Clock()
    body = paced(clock, most_bytes_s=1000).body("one")
    clock.now_s = 100
    asyncio.run(body.take(5000))
    assert clock.now_s >= 104


def test_5_4_a_body_that_drips_is_given_up() -> None:
    clock = Clock()
    body = paced(clock, least_bytes_s=100).body("GET a layer")

    async def drip() -> None:
        for _ in range(100):
            clock.now_s += 1
            await body.take(99)

    with pytest.raises(TooSlow, match=r"GET a layer: 5940 bytes in 60 s: given up, as leastRate is 100 B/s"):
        asyncio.run(drip())


def test_5_4_a_body_that_is_slow_but_comes_is_waited_for() -> None:
    clock = Clock()
    body = paced(clock, least_bytes_s=100).body("GET a layer")

    async def come() -> None:
        for _ in range(1000):
            clock.now_s += 1
            await body.take(101)

    asyncio.run(come())


def test_waiting_of_our_own_is_not_held_against_a_body() -> None:
    clock = Clock()
    body = paced(clock, most_bytes_s=100, least_bytes_s=100).body("GET a layer")

    async def come() -> None:
        for _ in range(20):
            clock.now_s += 0.1
            await body.take(1000)

    asyncio.run(come())
    assert clock.now_s == pytest.approx(200, abs=1)
