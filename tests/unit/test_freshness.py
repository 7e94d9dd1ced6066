"""A device's pass with head and root, in small: what it remembers, what it refuses, and how it recovers."""

import asyncio
from datetime import datetime, timedelta

import pytest

from margo_oci.ceremony import Change, publish_root
from margo_oci.errors import TrustError
from margo_oci.freshness import SeenHead, clock
from margo_oci.head import verify_head, verify_release
from margo_oci.heads import newer_roots, read_head
from margo_oci.issue import Issuer
from margo_oci.publish import Publisher
from margo_oci.reference import parse_reference
from margo_oci.registry import Access, Registry
from margo_oci.root import Root
from margo_oci.transfer import resolve
from margo_oci.trust import Seen
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import ID, OTHER_ID, SCOPE, key
from tests.unit.test_issue import layers
from tests.unit.trusted import DAY, NOW, YEAR, root, rotated

STATE = parse_reference("registry.example/fleet/edge-17:latest")
TRUST = parse_reference("registry.example/fleet/trust:trust")
BUILD_TIME = NOW - YEAR


class Plant:
    """A registry, an operator who has all keys, and the time."""

    def __init__(self) -> None:
        self.sim = SimulatedRegistry()
        self.root, self.now = root(), NOW
        self.publish_root()

    @property
    def registry(self) -> Registry:
        return Registry(lambda _: Access(), transport_for=lambda _: self.sim.transport)

    def release(self, *ids: str) -> None:
        publisher = Publisher(self.registry, SimulatedUploader(self.sim), key("fleet"), lambda: self.now)
        asyncio.run(publisher.publish(STATE, layers(*ids), scope=SCOPE))

    def issue(self, *, signer: str = "head", version: int | None = None, at: datetime | None = None) -> None:
        issuer = Issuer(
            self.registry, SimulatedUploader(self.sim), self.root, [key(signer)], lambda: at or self.now, 7 * DAY
        )
        asyncio.run(issuer.issue(STATE, version=version))

    def rotate(self, **changes: Change) -> None:
        self.root = Root.from_bytes(rotated(self.root, "a", "b", expires=NOW + YEAR, **changes))
        self.publish_root()

    def publish_root(self) -> None:
        asyncio.run(publish_root(self.registry, SimulatedUploader(self.sim), TRUST, self.root.data))

    def put_back(self, tag: str, digest: str) -> None:
        self.sim.repositories[STATE.repository].tags[tag] = digest

    def tag(self, tag: str) -> str:
        return self.sim.repositories[STATE.repository].tags[tag]


class Device:
    """What a device keeps, and its pass."""

    def __init__(self, plant: Plant) -> None:
        self.plant, self.root = plant, plant.root
        self.carrier = ""
        self.head: SeenHead | None = None
        self.last: Seen | None = None

    def once(self, rtc: datetime | None = None) -> str:
        """One pass: `accepted`, `unchanged`, or the reason of a refusal. A refusal has the root looked up once."""
        rtc = rtc or self.plant.now
        try:
            return asyncio.run(self._once(rtc))
        except TrustError as refused:
            if not asyncio.run(self._newer_root()):
                return refused.reason
        try:
            return asyncio.run(self._once(rtc))
        except TrustError as refused:
            return refused.reason

    async def _once(self, rtc: datetime) -> str:
        now = clock(rtc, BUILD_TIME, self.root.floor, self.head.issued if self.head else None)
        self.root.check_fresh(now)
        carried = await read_head(self.plant.registry, STATE, known=self.carrier)
        if carried is None:
            assert self.head
            self.head.check_fresh(now)
            return "unchanged"
        head = verify_head(carried.head, self.root, scopes=[SCOPE], now=now, last=self.head)
        if not self.last or head.digest != self.last.digest:
            manifest = await resolve(self.plant.registry, STATE.at(head.digest))
            assert manifest
            verified = verify_release(manifest, carried.bundles, head, self.root, last=self.last)
            self.last = Seen(verified.state.counter, head.digest)
        self.carrier, self.head = carried.digest, head.seen
        return "accepted"

    async def _newer_root(self) -> bool:
        reached = await newer_roots(self.plant.registry, TRUST, self.root)
        found = reached.root.version > self.root.version
        self.root = reached.root
        if reached.heads_changed:
            self.head, self.carrier = None, ""
        if reached.releases_changed:
            self.last = None
        return found


@pytest.fixture
def plant() -> Plant:
    plant = Plant()
    plant.release()
    plant.issue()
    return plant


def test_a_device_follows_heads_and_asks_once_when_nothing_is_new(plant: Plant) -> None:
    device = Device(plant)
    assert device.once() == "accepted"
    plant.sim.forget()
    assert device.once() == "unchanged"
    assert [one.status for one in plant.sim.requests] == [304]
    plant.release(ID, OTHER_ID)
    assert device.once() == "unchanged", "a release without a head is not offered"
    plant.issue()
    assert device.once() == "accepted"
    assert device.last
    assert device.last.counter == 2


def test_a_registry_that_holds_back_is_found_out_when_the_head_expires(plant: Plant) -> None:
    device = Device(plant)
    device.once()
    plant.now += 6 * DAY
    assert device.once() == "unchanged"
    plant.now += DAY
    assert device.once() == "freeze"


def test_a_new_device_is_not_given_an_expired_head(plant: Plant) -> None:
    plant.now += 7 * DAY
    assert Device(plant).once() == "freeze"


def test_an_older_head_is_refused_by_whoever_saw_a_newer_one(plant: Plant) -> None:
    old = plant.tag("latest-head")
    plant.release(ID, OTHER_ID)
    plant.issue()
    device = Device(plant)
    device.once()
    plant.put_back("latest-head", old)
    assert device.once() == "rollback"


def test_a_device_without_a_clock_keeps_time_by_heads(plant: Plant) -> None:
    device, boot = Device(plant), datetime(1970, 1, 1, tzinfo=NOW.tzinfo)
    old = plant.tag("latest-head")
    assert device.once(boot) == "accepted"
    plant.now += 8 * DAY
    plant.issue()
    assert device.once(boot) == "accepted"
    device.head = SeenHead.from_dict({**device.head.to_dict(), "version": 0}, at="record")  # type: ignore[union-attr]
    plant.put_back("latest-head", old)
    assert device.once(boot) == "freeze"


def test_a_stolen_head_key_that_pushed_version_and_clock_far_ahead_is_undone_by_the_root(plant: Plant) -> None:
    device = Device(plant)
    device.once()
    plant.root = root(expires=NOW + 100 * YEAR)  # the thief needs no honest root to sign
    plant.issue(version=900_000, at=NOW + 50 * YEAR)
    plant.root = device.root
    assert device.once() == "accepted"
    assert device.once() == "root-expired", "it is fifty years later, for all it knows"
    plant.rotate(head=Change([key("new").public], ["head"]))
    plant.issue(signer="new", version=1)
    assert device.once() == "accepted"
    assert device.head
    assert (device.head.version, device.head.issued) == (1, NOW)


def test_a_planned_change_of_the_head_key_goes_unnoticed(plant: Plant) -> None:
    device = Device(plant)
    device.once()
    plant.rotate(head=Change([key("new").public]))
    plant.issue(signer="new")
    assert device.once() == "accepted"
    assert device.head
    assert device.head.version == 2


def test_an_expired_root_accepts_nothing_until_there_is_a_newer_one(plant: Plant) -> None:
    device = Device(plant)
    device.once()
    plant.now += YEAR + timedelta(seconds=1)
    assert device.once() == "root-expired"
    plant.root = Root.from_bytes(rotated(plant.root, "b", "c", expires=plant.now + YEAR))
    plant.publish_root()
    plant.issue()
    assert device.once() == "accepted"


def test_a_release_key_that_was_taken_away_says_nothing_more(plant: Plant) -> None:
    device = Device(plant)
    device.once()
    plant.release(ID, OTHER_ID)
    plant.issue()
    plant.rotate(release=Change([key("new").public], ["fleet"]), head=Change([key("spare").public]))
    asyncio.run(device._newer_root())
    assert device.once() == "wrong-key"
