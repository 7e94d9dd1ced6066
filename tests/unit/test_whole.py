"""Applying a state as a whole: all of it comes up, or what ran before runs again (format 5.10)."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulators.engine import PowerCut
from tests.simulators.faults import answers
from tests.simulators.plant import Plant, id_of
from tests.simulators.registry import ALWAYS
from tests.unit.test_reconcile import cut_power_after, publish, running


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    plant = Plant(tmp_path)
    plant.device.apply = replace(plant.device.apply, atomic="state")
    return plant


def test_5_10_all_of_a_state_comes_up(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, pump="b", tank="a")
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b", "tank": "a"}
    assert (plant.device.record.before, plant.device.record.settled) == (None, True)


def test_5_10_one_failure_puts_the_whole_state_back_removed_ones_included(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled = {"c"}
    publish(plant, 2, pump="b", tank="c")
    report = plant.device.once()
    assert (report.outcome, plant.device.engine.running) == ("failed", {"pump": "a", "valve": "a"})
    assert "tank: component tank: service cell exited with 1" in report.message
    errors = {one.name: one.error for one in report.deployments}
    assert errors["pump"].startswith("put back with the whole state, as tank: component tank")
    assert {one.name: one.state for one in report.deployments} == {
        "pump": "failed",
        "tank": "failed",
        "valve": "installed",
    }


def test_5_10_a_state_that_was_put_back_is_not_tried_again(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled = {"c"}
    publish(plant, 2, pump="b", tank="c")
    plant.device.once()
    plant.device.engine.log.clear()
    ids = plant.device.engine.ids
    report = plant.device.once()
    assert (report.outcome, report.requests, plant.device.engine.ids) == ("failed", 1, ids)
    assert not plant.device.engine.log


def test_5_10_a_plan_says_that_the_next_state_is_tried_with_everything_in_it(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled = {"c"}
    publish(plant, 2, pump="b", tank="c")
    plant.device.once()
    publish(plant, 3, pump="b", tank="c", valve="b")
    assert {one.name: one.action for one in plant.device.plan().deployments} == {
        "pump": "update",
        "tank": "install",
        "valve": "update",
    }


def test_5_10_the_next_state_is_tried_with_everything_in_it(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled = {"c"}
    publish(plant, 2, pump="b", tank="c")
    plant.device.once()
    plant.device.engine.spoiled = set()
    publish(plant, 3, pump="b", tank="c", valve="b")
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b", "tank": "c", "valve": "b"}


def test_5_10_an_image_that_cannot_be_had_touches_nothing_and_is_asked_for_again(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    ids = plant.device.engine.ids
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    publish(plant, 2, pump="b", tank="a")
    report = plant.device.once()
    assert (report.outcome, plant.device.engine.ids) == ("failed", ids)
    assert {one.name: one.state for one in report.deployments} == {
        "pump": "failed",
        "tank": "failed",
        "valve": "pending",
    }
    plant.sim.recover()
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b", "tank": "a"}


def test_5_10_a_deployment_that_can_never_run_touches_nothing(plant: Plant) -> None:
    running(plant, pump="a")
    ids = plant.device.engine.ids
    good, bad = plant.workload("pump", "b"), plant.workload("tank", "a")
    assert bad.lock
    plant.publish(good, replace(bad, lock=replace(bad.lock, images={})), counter=2)
    report = plant.device.once()
    assert "is not in the lock of this deployment" in report.message
    assert {one.name: one.state for one in report.deployments} == {"pump": "failed", "tank": "failed"}
    assert plant.device.engine.ids == ids


@pytest.mark.parametrize("cut", ["up pump", "up tank", "down valve"])
def test_a_cut_in_mid_state_is_gone_on_from(plant: Plant, cut: str) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, pump="b", tank="a")
    cut_power_after(plant, cut)
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.device.engine.after = lambda _: None
    assert plant.device.once().outcome in ("applied", "unchanged")
    assert plant.device.engine.running == {"pump": "b", "tank": "a"}
    assert plant.device.record.before is None


@pytest.mark.parametrize("cut", ["up pump", "up tank", "down valve", "down tank"])
def test_a_cut_in_mid_state_that_fails_ends_with_what_ran_before(plant: Plant, cut: str) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled = {"c"}
    publish(plant, 2, pump="b", tank="c")
    cut_power_after(plant, cut)
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.device.engine.after = lambda _: None
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}
    assert (plant.device.record.before, plant.device.record.settled) == (None, True)


def test_a_restart_in_mid_state_without_a_network_brings_the_last_good_state_back(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, pump="b", tank="a")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.device.engine.after = lambda _: None
    plant.device.restore()
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b", "tank": "a"}


def test_a_way_back_that_is_blocked_is_gone_in_the_next_pass(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled = {"a", "c"}  # neither comes up, and the old one does not come back either
    publish(plant, 2, pump="c", valve="a")
    report = plant.device.once()
    assert report.outcome == "failed"
    assert plant.device.record.before is not None
    plant.device.engine.spoiled = {"c"}
    plant.device.once()
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}
    assert plant.device.record.before is None


def test_going_back_to_each_for_itself_forgets_what_was_begun(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b", tank="a")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.device.engine.after = lambda _: None
    plant.device.apply = replace(plant.device.apply, atomic="deployment")
    plant.device.once()
    assert plant.device.record.before is None
    assert set(plant.device.record.installed) == {id_of("pump"), id_of("tank")}


def test_what_does_not_come_back_at_a_restart_is_left_to_the_next_pass(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, pump="b", valve="a")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.device.engine.after = lambda _: None
    plant.device.engine.spoiled = {"a"}
    report = plant.device.restore()
    assert report.outcome == "failed"
    assert plant.device.record.before is not None
    assert "the last good version did not come back" in report.message
