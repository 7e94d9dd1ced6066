"""Release tags do not move (format 6.14)."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from margo_agent.pins import check_pin, is_release
from margo_agent.record import PINS_LIMIT, Record
from margo_oci.errors import TrustError
from margo_oci.reference import Reference
from tests.simulators.plant import COMPONENT, HOST, Plant

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def tagged(tag: str) -> Reference:
    return Reference(HOST, "fleet/edge-17", tag)


@pytest.mark.parametrize("tag", ["1.4.0", "v1.4.0", "2.0.0-rc1", "1.0.0_build.7"])
def test_6_14_a_version_names_a_release(tag: str) -> None:
    assert is_release(tagged(tag))


@pytest.mark.parametrize("tag", ["latest", "1", "1.4", "stable", "v1", "20261121", "latest-counter-3"])
def test_6_14_any_other_tag_may_move(tag: str) -> None:
    assert not is_release(tagged(tag))
    assert check_pin(tagged(tag), B, {str(tagged(tag)): A}) == {}


def test_6_14_a_release_that_moved_is_told_with_both_digests() -> None:
    pins: Mapping[str, str] = check_pin(tagged("1.4.0"), A, {})
    assert check_pin(tagged("1.4.0"), A, pins) == pins
    with pytest.raises(TrustError, match=f"seen as {A}, leads to {B} now: somebody moved it") as refused:
        check_pin(tagged("1.4.0"), B, pins)
    assert refused.value.reason == "tag-moved"


def test_6_14_a_moved_component_is_an_alarm_where_the_device_resolves_tags_itself(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.device.lock_resolve = True
    plant.publish(plant.workload("pump", "a", locked=False), counter=1)
    assert plant.device.once().outcome == "applied"
    assert plant.device.record.pins == {f"{HOST}/{COMPONENT}:1.0.0": plant.component}
    plant.sim.put_manifest(COMPONENT, "1.0.0", b'{"schemaVersion": 2}')
    plant.publish(plant.workload("pump", "b", locked=False), counter=2)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "tag-moved")
    assert plant.device.engine.running == {"pump": "a"}


def test_what_was_pinned_first_stays_and_there_is_an_end_to_it() -> None:
    assert Record(pins={"r": A}).pin({"r": B}).pins == {"r": A}
    assert len(Record().pin({f"r{number}": A for number in range(PINS_LIMIT + 1)}).pins) == PINS_LIMIT
