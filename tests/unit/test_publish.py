"""Whose counter a publisher goes on from: never from a state that no key of its own signed."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from margo_oci.desired_state import COUNTER_LIMIT, Origin
from margo_oci.errors import ConflictError, FormatError
from margo_oci.keys import FileKey
from margo_oci.publish import Publisher, claim
from tests.simulators.plant import SCOPE, SOURCE, Plant
from tests.simulators.uploader import SimulatedUploader

T = TypeVar("T")


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def publisher(plant: Plant, *, peers: tuple[FileKey, ...] = ()) -> Publisher:
    keys = [peer.public for peer in peers]
    uploader = SimulatedUploader(plant.sim)
    return Publisher(plant.device.registry(), uploader, plant.key, lambda: datetime(2026, 8, 1, tzinfo=UTC), keys)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_2_8_a_counter_that_nobody_signed_is_not_counted_on(plant: Plant) -> None:
    plant.publish_unsigned(plant.workload("pump", "evil"), counter=COUNTER_LIMIT - 1)
    with pytest.raises(ConflictError, match="counter 18446744073709551614, which no key of yours signed"):
        run(publisher(plant).publish(SOURCE, [plant.workload("pump", "a").layer], scope=SCOPE))


def test_2_8_the_very_layers_under_a_foreign_counter_are_not_signed(plant: Plant) -> None:
    planted = plant.publish_unsigned(plant.workload("pump", "a"), counter=COUNTER_LIMIT)
    with pytest.raises(ConflictError):
        run(publisher(plant).publish(SOURCE, [plant.workload("pump", "a").layer], scope=SCOPE))
    assert plant.published == planted.manifest.digest


def test_2_8_with_the_counter_given_a_foreign_state_is_replaced(plant: Plant) -> None:
    plant.publish_unsigned(plant.workload("pump", "evil"), counter=COUNTER_LIMIT - 1)
    release = run(publisher(plant).publish(SOURCE, [plant.workload("pump", "a").layer], scope=SCOPE, counter=7))
    assert release.state.counter == 7
    assert plant.device.once().outcome == "applied"


def test_2_12_a_tag_keeps_its_scope_unless_another_one_is_meant(plant: Plant) -> None:
    pump = [plant.workload("pump", "a").layer]
    run(publisher(plant).publish(SOURCE, pump, scope=SCOPE))
    before = plant.published
    with pytest.raises(
        FormatError, match=f"holds a state for {SCOPE}: devices that follow it would refuse one for edge-18"
    ):
        run(publisher(plant).publish(SOURCE, pump, scope="edge-18"))
    assert plant.published == before
    release = run(publisher(plant).publish(SOURCE, pump, scope="edge-18", change_scope=True))
    assert (release.state.scope, release.state.counter) == ("edge-18", 2)


def test_2_8_a_peers_release_is_counted_on_when_its_key_is_named(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "a"), counter=4, key=plant.stranger)
    pump = [plant.workload("pump", "b").layer]
    with pytest.raises(ConflictError, match="--peer-key"):
        run(publisher(plant).publish(SOURCE, pump, scope=SCOPE))
    assert run(publisher(plant, peers=(plant.stranger,)).publish(SOURCE, pump, scope=SCOPE)).state.counter == 5


def test_2_8_a_rollback_counts_on_from_its_own_releases_only(plant: Plant) -> None:
    run(publisher(plant).publish(SOURCE, [plant.workload("pump", "a").layer], scope=SCOPE))
    plant.publish_unsigned(plant.workload("pump", "evil"), counter=COUNTER_LIMIT - 1)
    with pytest.raises(ConflictError, match="which no key of yours signed"):
        run(publisher(plant).rollback(SOURCE, to=1))
    with pytest.raises(FormatError, match="say for whom with --scope"):
        run(publisher(plant).rollback(SOURCE, to=1, counter=2))
    assert run(publisher(plant).rollback(SOURCE, to=1, counter=2, scope=SCOPE)).state.counter == 2


@pytest.mark.parametrize(("counter", "scope"), [(1, "edge-18"), (3, SCOPE)])
def test_a_rollback_takes_no_other_release_that_was_put_in_its_place(plant: Plant, counter: int, scope: str) -> None:
    """Else whoever can move a tag chooses what our key signs anew, and for whom."""
    for recipe in ("a", "b"):
        run(publisher(plant).publish(SOURCE, [plant.workload("pump", recipe).layer], scope=SCOPE))
    current = plant.published
    other = plant.publish(plant.workload("pump", "c"), counter=counter, scope=scope)
    plant.move_tag(current)
    plant.sim.put_manifest(SOURCE.repository, claim(SOURCE, 1).tag, other.manifest.data)
    with pytest.raises(ConflictError, match="somebody moved that tag"):
        run(publisher(plant).rollback(SOURCE, to=1))


def test_a_rollback_to_a_counter_that_does_not_rise_or_is_taken_is_refused(plant: Plant) -> None:
    for recipe in ("a", "b"):
        run(publisher(plant).publish(SOURCE, [plant.workload("pump", recipe).layer], scope=SCOPE))
    with pytest.raises(FormatError, match="counter 2 is not higher than 2"):
        run(publisher(plant).rollback(SOURCE, to=1, counter=2))
    claimed = plant.publish_unsigned(plant.workload("pump", "c"), counter=3)
    plant.sim.put_manifest(SOURCE.repository, claim(SOURCE, 3).tag, claimed.manifest.data)
    plant.move_tag(plant.sim.repositories[SOURCE.repository].tags[claim(SOURCE, 2).tag])
    with pytest.raises(ConflictError, match="counter 3 is taken"):
        run(publisher(plant).rollback(SOURCE, to=1, counter=3))
    assert run(publisher(plant).rollback(SOURCE, to=1)).state.counter == 4


def test_a_registry_with_every_counter_claimed_is_given_up(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("margo_oci.publish.CLAIMS_LIMIT", 3)
    planted = plant.publish_unsigned(plant.workload("pump", "evil"), counter=1)
    for counter in range(1, 5):
        plant.sim.put_manifest(SOURCE.repository, claim(SOURCE, counter).tag, planted.manifest.data)
    del plant.sim.repositories[SOURCE.repository].tags[SOURCE.tag]
    with pytest.raises(ConflictError, match="3 counters in a row are claimed"):
        run(publisher(plant).publish(SOURCE, [plant.workload("pump", "a").layer], scope=SCOPE))


def test_2_9_a_commit_that_changes_no_deployment_publishes_nothing(plant: Plant) -> None:
    first, second, third = (Origin(letter * 40, "https://git.example/plant.git") for letter in "abc")
    pump = [plant.workload("pump", "a").layer]
    published = run(publisher(plant).publish(SOURCE, pump, scope=SCOPE, origin=first))
    again = run(publisher(plant).publish(SOURCE, pump, scope=SCOPE, origin=second))
    assert (again.changed, again.state.manifest.digest) == (False, published.state.manifest.digest)
    assert again.state.origin == first
    valve = [plant.workload("valve", "a").layer]
    assert run(publisher(plant).publish(SOURCE, valve, scope=SCOPE, origin=third)).state.origin == third
    assert run(publisher(plant).rollback(SOURCE, to=1)).state.origin == first
