"""One pass after the other: what is installed, updated, kept and removed, and what becomes of every mishap.

Registry, engine and Compose are simulated; all between them is the agent itself.
"""

from pathlib import Path

import pytest

from margo_oci.archive import Entry
from margo_oci.compose import failed
from margo_oci.content import digest_of
from margo_oci.deployment import parse_deployment
from margo_oci.desired_state import Layer, Lock, build_layer
from margo_oci.errors import ApplyError, FormatError
from margo_oci.package import QUADLET, build_component
from tests.simulators.engine import PowerCut
from tests.simulators.faults import answers, silent, stalls, unreachable
from tests.simulators.plant import (
    HOST,
    IMAGE,
    IMAGE_BYTES,
    IMAGE_DIGEST,
    IMAGE_REPOSITORY,
    LOCAL_IMAGE,
    NOON,
    Plant,
    id_of,
)
from tests.simulators.registry import ALWAYS, SimulatedRegistry

PINNED_IMAGE = f"{IMAGE.rpartition(':')[0]}@{IMAGE_DIGEST}"
LOADED = f"load {LOCAL_IMAGE}"
IMAGE_BLOB = digest_of(IMAGE_BYTES)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device that has seen nothing yet."""
    return Plant(tmp_path)


def running(plant: Plant, **recipes: str) -> Plant:
    """Bring workloads up under counter 1, and forget how."""
    plant.publish(*(plant.workload(name, recipe) for name, recipe in recipes.items()), counter=1)
    report = plant.device.once()
    assert report.outcome == "applied"
    assert plant.device.engine.running == recipes
    plant.device.engine.log.clear()
    plant.sim.forget()
    return plant


def publish(plant: Plant, counter: int, **recipes: str) -> None:
    plant.publish(*(plant.workload(name, recipe) for name, recipe in recipes.items()), counter=counter)


def cut_power_after(plant: Plant, doing: str) -> None:
    """Cut the power when something was just done, once."""

    def after(what: str) -> None:
        if what == doing:
            plant.device.engine.after = lambda _: None
            raise PowerCut

    plant.device.engine.after = after


def lose_engine_after(plant: Plant, doing: str) -> None:
    """Let the engine go away when something was just done, once."""

    def after(what: str) -> None:
        if what == doing:
            plant.device.engine.after = lambda _: None
            plant.device.engine.away = True

    plant.device.engine.after = after


# What a pass does


def test_a_new_workload_is_installed(plant: Plant) -> None:
    state = plant.publish(plant.workload("pump", "a"), counter=1)
    report = plant.device.once()
    assert (report.outcome, report.exit_code, report.counter, report.scope) == ("applied", 0, 1, "edge-17")
    assert report.digest == state.manifest.digest
    assert (report.fetched, report.reused, report.images_pulled) == (1, 0, 1)
    assert [one.to_dict() for one in report.deployments] == [
        {
            "id": id_of("pump"),
            "name": "pump",
            "action": "install",
            "state": "installed",
            "components": [{"name": "pump", "state": "installed"}],
        }
    ]
    assert plant.device.engine.running == {"pump": "a"}
    installed = plant.device.record.installed[id_of("pump")]
    assert (installed.name, installed.since) == ("pump", NOON.isoformat(timespec="seconds"))
    assert plant.device.record.known == state.manifest.digest


def test_5_1_what_changed_is_updated_and_the_rest_keeps_its_very_containers(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    before = plant.device.engine.ids
    publish(plant, 2, pump="b", valve="a")
    report = plant.device.once()
    assert [(one.name, one.action, one.state) for one in report.deployments] == [
        ("pump", "update", "installed"),
        ("valve", "keep", "installed"),
    ]
    assert (report.fetched, report.reused) == (1, 1)
    assert plant.device.engine.running == {"pump": "b", "valve": "a"}
    assert plant.device.engine.log == ["up pump"]
    assert plant.device.engine.ids["valve"] == before["valve"]
    assert plant.device.engine.ids["pump"] != before["pump"]


def test_5_1_what_is_no_longer_desired_is_removed_first(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, mixer="a", valve="b")
    report = plant.device.once()
    assert [(one.name, one.action, one.state) for one in report.deployments] == [
        ("pump", "remove", "removed"),
        ("valve", "update", "installed"),
        ("mixer", "install", "installed"),
    ]
    assert plant.device.engine.log == ["down pump", "up valve", "up mixer"]
    assert not list(plant.device.folder.glob(f"deployments/{id_of('pump')}*"))


def test_an_empty_state_removes_everything(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2)
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {}
    assert plant.device.record.installed == {}


def test_5_4_everything_is_on_the_device_before_the_first_running_thing_is_touched(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.images.clear()
    publish(plant, 2, mixer="a")
    plant.device.once()
    log = plant.device.engine.log
    assert (log[0], set(log[1:3]), log[3]) == (LOADED, {"down pump", "down valve"}, "up mixer")


def test_5_4_an_image_that_cannot_be_pulled_touches_nothing_of_its_deployment(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    publish(plant, 2, pump="b")
    report = plant.device.once()
    assert report.outcome == "failed"
    assert f"pull {PINNED_IMAGE}: GET https://registry.example/v2/images/cell" in report.message
    assert "the registry does not have it; nothing was changed" in report.message
    assert plant.device.engine.running == {"pump": "a"}
    plant.sim.recover()
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_the_same_state_again_is_one_request_without_a_body(plant: Plant) -> None:
    running(plant, pump="a")
    report = plant.device.once()
    assert (report.outcome, report.requests, report.bytes_in, report.fetched) == ("unchanged", 1, 0, 0)
    assert [(one.name, one.action, one.state) for one in report.deployments] == [("pump", "keep", "installed")]
    assert [str(one) for one in plant.sim.requests] == ["GET /v2/fleet/edge-17/manifests/latest 304"]
    assert plant.device.engine.log == []


def test_the_engine_is_not_asked_when_nothing_is_new(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.away = True
    assert plant.device.once().outcome == "unchanged"


@pytest.mark.parametrize("referrers_api", [False, True], ids=["referrers-tag", "referrers-api"])
def test_one_change_among_200_needs_at_most_six_requests(tmp_path: Path, referrers_api: bool) -> None:
    plant = Plant(tmp_path, SimulatedRegistry(referrers_api=referrers_api))
    running(plant, **{f"cell-{number}": "a" for number in range(200)})
    publish(plant, 2, **{f"cell-{number}": "a" for number in range(199)}, **{"cell-199": "b"})
    report = plant.device.once()
    assert (report.outcome, report.fetched, report.reused) == ("applied", 1, 199)
    assert report.requests == len(plant.sim.requests) <= 6
    assert plant.device.engine.log == ["up cell-199"]


def test_an_offered_manifest_is_not_asked_for_again(plant: Plant) -> None:
    running(plant, pump="a")
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once(offered=state.manifest.data).outcome == "applied"
    assert not [one for one in plant.sim.requests if "manifests/latest" in one.path]
    assert plant.device.engine.running == {"pump": "b"}


def test_an_offered_manifest_is_held_against_the_rules_all_the_same(plant: Plant) -> None:
    running(plant, pump="a")
    state = plant.publish(plant.workload("pump", "b"), counter=2, key=plant.stranger)
    assert plant.device.once(offered=state.manifest.data).reason == "wrong-key"
    assert plant.device.engine.log == []


def test_a_release_that_changes_nothing_raises_the_counter_and_touches_nothing(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="a")
    report = plant.device.once()
    assert (report.fetched, report.reused) == (0, 1)
    assert plant.device.counter == 2
    assert plant.device.engine.log == []


def test_2_7_an_operators_rollback_is_a_new_release_over_the_old_layers(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    plant.device.once()
    publish(plant, 3, pump="a")
    report = plant.device.once()
    assert (report.outcome, report.fetched) == ("applied", 0)
    assert plant.device.engine.running == {"pump": "a"}


# A version that does not come up


def test_5_6_the_last_good_version_is_put_back_when_an_update_fails(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, pump="b", valve="c")
    report = plant.device.once()
    assert (report.outcome, report.exit_code) == ("failed", 5)
    error = "component pump: service cell exited with 1: pump: this recipe is spoiled; the last good version is back"
    assert report.message == f"pump: {error}"
    assert {one.name: (one.action, one.state, one.error) for one in report.deployments} == {
        "pump": ("update", "failed", error),
        "valve": ("update", "installed", ""),
    }
    assert plant.device.engine.running == {"pump": "a", "valve": "c"}


def test_5_6_a_failed_revision_is_remembered_and_not_tried_again(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, pump="b", valve="a")
    plant.device.once()
    plant.device.engine.log.clear()
    report = plant.device.once()
    assert (report.outcome, report.requests, report.bytes_in) == ("failed", 1, 0)
    assert report.message.startswith("not tried again until something changes: pump: component pump:")
    publish(plant, 3, pump="b", valve="c")
    report = plant.device.once()
    assert {one.name: (one.action, one.state) for one in report.deployments} == {
        "pump": ("keep", "failed"),
        "valve": ("update", "installed"),
    }
    assert report.outcome == "failed"
    assert plant.device.engine.log == ["up valve"]
    assert plant.device.engine.running == {"pump": "a", "valve": "c"}


def test_5_6_a_new_revision_is_tried_after_a_failure_and_clears_it(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, pump="b")
    plant.device.once()
    publish(plant, 3, pump="c")
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "c"}
    assert plant.device.record.failed == {}
    assert plant.device.once().outcome == "unchanged"


def test_a_failure_is_over_when_the_last_good_version_is_desired_again(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, pump="b")
    plant.device.once()
    publish(plant, 3, pump="a")
    assert plant.device.once().outcome == "applied"
    assert plant.device.record.failed == {}
    assert plant.device.once().outcome == "unchanged"


def test_a_failed_install_is_taken_down_again(plant: Plant) -> None:
    plant.device.engine.spoiled.add("a")
    publish(plant, 1, pump="a", valve="b")
    report = plant.device.once()
    assert report.outcome == "failed"
    assert "pump: this recipe is spoiled; taken down again" in report.message
    assert plant.device.engine.running == {"valve": "b"}
    assert list(plant.device.engine.ids) == ["valve"]
    publish(plant, 2, valve="b")
    assert plant.device.once().outcome == "applied"
    assert plant.device.record.failed == {}


def test_5_6_a_last_good_version_that_does_not_come_back_is_tried_again_and_what_failed_is_not(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.spoiled |= {"a", "b"}
    publish(plant, 2, pump="b")
    report = plant.device.once()
    assert report.outcome == "failed"
    assert "the last good version did not come back: component pump: service cell exited with 1" in report.message
    assert (plant.device.record.unsure, plant.device.record.settled) == ((id_of("pump"),), False)
    again = plant.device.once()
    assert [(one.action, one.state) for one in again.deployments] == [("restore", "failed")]
    assert "did not come back" in again.message
    plant.device.engine.spoiled = {"b"}
    back = plant.device.once()
    assert [(one.action, one.state) for one in back.deployments] == [("restore", "failed")]
    assert back.message.endswith("pump: this recipe is spoiled; the last good version is back")
    assert plant.device.engine.running == {"pump": "a"}
    assert (plant.device.record.unsure, plant.device.record.settled) == ((), True)
    plant.device.engine.log.clear()
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.log == []


def test_5_6_a_failed_install_that_cannot_be_taken_down_is_taken_down_later(plant: Plant) -> None:
    plant.device.engine.spoiled.add("a")
    publish(plant, 1, pump="a")

    def stuck(what: str) -> None:
        if what == "down pump":
            raise ApplyError("compose down: container is stuck")

    plant.device.engine.after = stuck
    assert "it could not be taken down again: compose down: container is stuck" in plant.device.once().message
    assert plant.device.record.unsure == (id_of("pump"),)
    plant.device.engine.after = lambda _: None
    plant.device.engine.networks.add(f"pump-{id_of('pump').replace('-', '')}")
    assert plant.device.once().message.endswith("; taken down again")
    assert plant.device.record.settled


def test_5_6_what_is_unsure_is_put_back_when_the_next_revision_cannot_even_be_prepared(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.spoiled |= {"a", "b"}
    publish(plant, 2, pump="b")
    plant.device.once()
    plant.device.engine.spoiled.clear()
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    publish(plant, 3, pump="c")
    report = plant.device.once()
    assert report.message.endswith("does not have it; the last good version is back")
    assert plant.device.engine.running == {"pump": "a"}
    assert (plant.device.record.unsure, plant.device.record.settled) == ((), False)


def test_5_6_a_port_that_another_workload_gives_up_in_the_same_update_can_be_had(plant: Plant) -> None:
    taker, giver = sorted(["pump", "valve"], key=id_of)  # the one that takes comes first, and finds it held
    plant.device.engine.ports = {"a": 8080, "b": 8081, "c": 8082, "d": 8080}
    running(plant, **{giver: "a", taker: "b"})
    publish(plant, 2, **{giver: "c", taker: "d"})
    report = plant.device.once()
    assert (report.outcome, plant.device.engine.running) == ("applied", {giver: "c", taker: "d"})
    assert [(one.name, one.state) for one in report.deployments] == [(taker, "installed"), (giver, "installed")]
    assert plant.device.record.failed == {}


def test_5_6_what_fails_twice_is_remembered_and_reported_once(plant: Plant) -> None:
    first, second = sorted(["pump", "valve"], key=id_of)
    running(plant, **{first: "a", second: "a"})
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, **{first: "b", second: "c"})
    report = plant.device.once()
    assert [(one.name, one.state) for one in report.deployments] == [(first, "failed"), (second, "installed")]
    assert plant.device.engine.log == [f"up {one}" for one in (first, first, second, first, first)]
    assert plant.device.engine.running == {first: "a", second: "c"}
    assert list(plant.device.record.failed) == [id_of(first)]


def test_5_5_a_component_with_another_name_gets_the_port_of_the_old_one(plant: Plant) -> None:
    plant.device.engine.ports = {"a": 8080}
    running(plant, pump="a")
    plant.publish(plant.workload("pump", "a", component="piston"), counter=2)
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.log == ["down pump", "up piston"]
    assert plant.device.engine.running == {"piston": "a"}


def test_5_4_a_component_that_goes_runs_on_until_what_comes_is_prepared(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    plant.publish(plant.workload("pump", "a", component="piston"), counter=2)
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.running == {"pump": "a"}


def test_what_died_before_it_had_a_container_leaves_no_network(plant: Plant) -> None:
    plant.device.engine.stillborn.add("a")
    publish(plant, 1, pump="a")
    assert "compose up: no such device; taken down again" in plant.device.once().message
    assert plant.device.engine.networks == set()


def test_a_compose_model_that_names_an_unlocked_image_fails_alone(plant: Plant) -> None:
    good, bad = plant.workload("valve", "a"), plant.workload("pump", "a")
    assert bad.lock
    plant.publish(good, type(bad)(bad.deployment, type(bad.lock)(bad.lock.components, {})), counter=1)
    report = plant.device.once()
    assert report.outcome == "failed"
    assert f"services.cell.image: {IMAGE} is not in the lock of this deployment; nothing was changed" in report.message
    assert plant.device.engine.running == {"valve": "a"}


# An engine that is not there


def test_an_engine_that_is_away_is_asked_again_and_no_workload_is_blamed(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    plant.device.engine.away = True
    report = plant.device.once()
    assert (report.outcome, report.message) == ("failed", "engine at simulated: connection refused")
    assert plant.device.record.failed == {}
    assert plant.device.counter == 2
    plant.device.engine.away = False
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_an_engine_that_goes_away_while_a_workload_comes_up_is_no_fault_of_the_workload(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    lose_engine_after(plant, "up pump")
    assert plant.device.once().outcome == "failed"
    assert plant.device.record.failed == {}
    plant.device.engine.away = False
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_an_engine_that_goes_away_on_the_way_back_is_asked_again_for_the_way_back(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, pump="b")
    plant.device.engine.after = lambda _: lose_engine_after(plant, "up pump")  # at the second `up`: the way back
    assert plant.device.once().outcome == "failed"
    plant.device.engine.away = False
    plant.device.engine.all.clear()  # it starts again with nothing
    plant.device.once()
    assert plant.device.engine.running == {"pump": "a"}


def test_an_engine_that_goes_away_while_something_is_removed_is_asked_again(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, valve="a")
    lose_engine_after(plant, "down pump")
    assert plant.device.once().outcome == "failed"
    assert id_of("pump") in plant.device.record.installed
    plant.device.engine.away = False
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"valve": "a"}


def test_5_6_a_workload_that_cannot_be_taken_down_does_not_hold_up_the_others(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, valve="b")

    def stuck(what: str) -> None:
        if what == "down pump":
            raise ApplyError("compose down: container is stuck")

    plant.device.engine.after = stuck
    report = plant.device.once()
    assert report.outcome == "failed"
    assert "compose down: container is stuck" in report.message
    assert plant.device.engine.running["valve"] == "b"


def test_5_6_an_image_that_cannot_be_pulled_does_not_hold_up_the_others(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    publish(plant, 2, pump="b")
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.running == {"pump": "a"}


@pytest.mark.parametrize("doing", [LOADED, "up pump", "down valve", "up mixer"])
def test_an_engine_that_goes_away_in_any_step_leaves_it_to_be_done(plant: Plant, doing: str) -> None:
    running(plant, pump="a", valve="a")
    plant.device.engine.images.clear()
    publish(plant, 2, pump="b", mixer="a")
    lose_engine_after(plant, doing)
    assert plant.device.once().outcome == "failed"
    assert (plant.device.record.failed, plant.device.record.settled) == ({}, False)
    names = {"up pump": ["pump"], "down valve": ["valve"], "up mixer": ["mixer"]}.get(doing, [])
    assert list(plant.device.record.unsure) == [id_of(name) for name in names]
    plant.device.engine.away = False
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b", "mixer": "a"}


@pytest.mark.parametrize("doing", ["up pump", "down valve"])
def test_an_engine_that_was_restarted_under_composes_hands_is_not_the_workloads_fault(plant: Plant, doing: str) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, pump="b")

    def restarted(what: str) -> None:
        if what == doing:
            plant.device.engine.after = lambda _: None
            raise failed("up", 'error during connect: Post "http://docker.sock/v1": EOF')

    plant.device.engine.after = restarted
    assert "error during connect" in plant.device.once().message
    assert plant.device.record.failed == {}
    assert len(plant.device.record.unsure) == 1
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


# Stopping, and waiting that ends


def stop_at(plant: Plant, doing: str) -> None:
    """Ask the agent to stop when something was just done."""

    def after(what: str) -> None:
        plant.device.stopping = plant.device.stopping or what == doing

    plant.device.engine.after = after


def test_a_stop_does_not_wait_for_a_component_to_come_up(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.slow.add("b")
    publish(plant, 2, pump="b")
    stop_at(plant, "up pump")
    begun_s = plant.device.engine.clock.now_s
    report = plant.device.once()
    assert "stopped on request: the next pass goes on from here" in report.message
    assert plant.device.engine.clock.now_s - begun_s < 1
    assert (plant.device.record.unsure, plant.device.record.failed) == ((id_of("pump"),), {})
    plant.device.stopping = False
    plant.device.engine.after = lambda _: None
    plant.device.engine.slow.clear()
    plant.device.engine.all.clear()
    assert plant.device.once().outcome == "applied"


def test_a_stop_does_not_wait_for_a_pull(plant: Plant) -> None:
    plant.sim.fail(stalls(lambda: setattr(plant.device, "stopping", True)), on=IMAGE_BLOB)
    publish(plant, 1, pump="a")
    assert "stopped on request" in plant.device.once().message
    assert plant.device.record.unsure == ()
    assert plant.device.parts == [IMAGE_BYTES[:3]]
    plant.device.stopping = False
    assert plant.device.once().outcome == "applied"
    assert plant.sim.requests[-1].headers["range"] == "bytes=3-"


def test_a_stop_ends_a_restore_as_well(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.stopping = True
    assert "stopped on request" in plant.device.restore().message


def test_5_4_a_pull_that_gets_nowhere_is_given_up_and_tried_again(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.images.clear()
    plant.sim.fail(silent, on=IMAGE_BLOB, times=ALWAYS)
    publish(plant, 2, pump="b")
    report = plant.device.once()
    assert report.message.startswith(f"pump: pull {PINNED_IMAGE}: GET https://registry.example/v2/images/cell/blobs/")
    assert "no answer in time: is there a network" in report.message
    assert report.message.endswith("; nothing was changed")
    assert plant.device.record.failed == {}
    plant.sim.recover()
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


# Power that goes at the wrong moment


def test_6_10_the_counter_is_stored_before_anything_is_applied(plant: Plant) -> None:
    seen = []
    publish(plant, 7, pump="a")
    plant.device.engine.after = lambda what: seen.append((what, plant.device.counter))
    plant.device.once()
    assert seen == [(LOADED, 7), ("up pump", 7)]


def test_a_pass_that_was_cut_off_goes_on_from_its_record(plant: Plant) -> None:
    names = sorted(["pump", "valve", "mixer"], key=id_of)
    publish(plant, 1, **dict.fromkeys(names, "a"))
    cut_power_after(plant, f"up {names[1]}")
    with pytest.raises(PowerCut):
        plant.device.once()
    assert list(plant.device.record.installed) == [id_of(names[0])]
    assert plant.device.record.known == ""
    first = plant.device.engine.ids[names[0]]
    plant.device.engine.log.clear()
    report = plant.device.once()
    assert (report.outcome, report.fetched, report.reused) == ("applied", 0, 3)
    assert plant.device.engine.log == [f"up {names[1]}", f"up {names[2]}"]
    assert plant.device.engine.ids[names[0]] == first
    assert plant.device.once().outcome == "unchanged"


def test_what_was_accepted_before_a_cut_is_not_verified_again(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.sim.forget()
    assert plant.device.once().outcome == "applied"
    assert [str(one) for one in plant.sim.requests] == ["GET /v2/fleet/edge-17/manifests/latest 200"]


def test_a_removal_that_was_cut_off_is_done_again(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, valve="a")
    cut_power_after(plant, "down pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"valve": "a"}
    assert list(plant.device.record.installed) == [id_of("valve")]


def test_a_removal_that_was_cut_off_and_then_taken_back_brings_the_workload_up_again(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    publish(plant, 2, valve="a")
    cut_power_after(plant, "down pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    publish(plant, 3, pump="a", valve="a")
    plant.device.once()
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}


def test_a_failing_update_that_was_cut_off_is_put_back_after_all(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.spoiled.add("b")
    publish(plant, 2, pump="b")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    assert plant.device.engine.running == {}
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.running == {"pump": "a"}


def test_an_update_that_was_cut_off_and_then_withdrawn_leaves_the_old_version_running(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    publish(plant, 3, pump="a")
    plant.device.once()
    assert plant.device.engine.running == {"pump": "a"}


def test_an_install_that_was_cut_off_and_then_withdrawn_leaves_nothing_running(plant: Plant) -> None:
    publish(plant, 1, pump="a")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    publish(plant, 2)
    plant.device.once()
    assert plant.device.engine.running == {}


def test_a_state_that_could_not_be_fetched_is_fetched_next_time(plant: Plant) -> None:
    running(plant, pump="a")
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(answers(404), on=state.layers[0].digest)
    assert plant.device.once().outcome == "unreachable"
    assert plant.device.record.known == ""
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_a_registry_that_is_gone_for_long_changes_nothing(plant: Plant) -> None:
    running(plant, pump="a")
    record = plant.device.record_file.path.read_bytes()
    plant.sim.fail(unreachable, times=ALWAYS)
    assert {plant.device.once().outcome for _ in range(10)} == {"unreachable"}
    assert plant.device.record_file.path.read_bytes() == record
    assert plant.device.engine.running == {"pump": "a"}


def test_a_layer_that_went_bad_on_the_disk_is_fetched_again(plant: Plant) -> None:
    state = plant.publish(plant.workload("pump", "a"), counter=1)
    plant.device.engine.away = True
    assert plant.device.once().outcome == "failed"
    blob = plant.device.folder / "blobs" / "sha256" / state.layers[0].digest.removeprefix("sha256:")
    blob.write_bytes(b"bad".ljust(state.layers[0].size))
    plant.device.engine.away = False
    report = plant.device.once()
    assert (report.outcome, "it is fetched again next time" in report.message) == ("unreachable", True)
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "a"}
    assert digest_of(blob.read_bytes()) == state.layers[0].digest


# Looking ahead


def test_plan_says_what_would_be_done_and_touches_nothing(plant: Plant) -> None:
    running(plant, pump="a", valve="a", mixer="a")
    publish(plant, 2, pump="b", valve="a", heater="a")
    record = plant.device.record_file.path.read_bytes()
    report = plant.device.plan()
    assert (report.outcome, report.planned, report.counter, report.exit_code) == ("applied", True, 2, 0)
    assert {one.name: (one.action, one.state, one.restarts) for one in report.deployments} == {
        "mixer": ("remove", "installed", ["mixer/cell"]),
        "pump": ("update", "pending", ["pump/cell"]),
        "heater": ("install", "pending", ["heater/cell"]),
        "valve": ("keep", "installed", None),
    }
    assert plant.device.engine.log == []
    assert plant.device.record_file.path.read_bytes() == record
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b", "valve": "a", "heater": "a"}


def test_plan_of_a_new_device_writes_no_record(plant: Plant) -> None:
    publish(plant, 1, pump="a")
    assert plant.device.plan().outcome == "applied"
    assert not plant.device.record_file.path.exists()
    assert plant.device.engine.log == []


def test_plan_says_when_there_is_nothing_to_do(plant: Plant) -> None:
    running(plant, pump="a")
    report = plant.device.plan()
    assert (report.outcome, report.requests) == ("unchanged", 1)


def test_plan_refuses_what_a_pass_would_refuse(plant: Plant) -> None:
    running(plant, pump="a")
    plant.publish(plant.workload("pump", "b"), counter=2, key=plant.stranger)
    assert (plant.device.plan().outcome, plant.device.plan().reason) == ("refused", "wrong-key")


def test_a_damaged_record_is_never_replaced_by_an_empty_one(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.record_file.path.write_bytes(b'{"format": 1}')
    with pytest.raises(
        FormatError, match=r"not a usable record \('accepted'\): restore it, or provision the device anew"
    ):
        plant.device.once()
    assert plant.device.engine.running == {"pump": "a"}
    assert plant.sim.requests == []


def test_a_state_is_verified_again_when_the_keys_of_the_policy_change(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.key = plant.stranger.public
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "wrong-key")
    assert plant.device.engine.running == {"pump": "a"}
    plant.device.key = plant.key.public
    assert plant.device.once().outcome == "unchanged"


def test_plan_counts_an_image_that_several_need_once(plant: Plant) -> None:
    plant.image_digest = plant.publish_image(b"1" * 98)
    plant.publish(plant.workload("pump", "a"), plant.workload("valve", "a"), counter=1)
    report = plant.device.plan()
    assert sorted(one.bytes or 0 for one in report.deployments) == [0, 98]


def quadlet(plant: Plant, name: str, profile: str) -> Layer:
    """Publish a component of units, and return a deployment of it, locked as `margo-oci push` locks it."""
    unit = Entry("web.container", f"[Container]\nImage={HOST}/images/units:1\n".encode())
    built = build_component({unit.path: unit}, name=name, version="1.0.0", form=QUADLET)
    plant.sim.put_blob("components/units", built.layer)
    plant.sim.put_manifest("components/units", "1.0.0", built.manifest.data)
    layers = [b"an image that nobody here needs"]
    image = plant.publish_image(*layers)
    plant.sim.put_manifest("images/units", "1", plant.sim.repositories[IMAGE_REPOSITORY].manifests[image])
    source = f"oci://{HOST}/components/units"
    text = plant.workload(name, "a").deployment.data.decode()
    text = text.replace("type: compose", f"type: {profile}").replace(f"oci://{HOST}/components/cell", source)
    one = parse_deployment(text.encode(), what=name)
    return build_layer(one, Lock({f"{source}:1.0.0": built.manifest.digest}, {f"{HOST}/images/units:1": image}))


@pytest.mark.parametrize("profile", ["quadlet", "quadlet.v1"])
def test_8_15_a_quadlet_deployment_is_reported_as_unsupported_and_others_go_on(plant: Plant, profile: str) -> None:
    plant.publish(plant.workload("pump", "a"), quadlet(plant, "units", profile), counter=1)
    report = plant.device.once()
    assert {one.name: one.state for one in report.deployments} == {"pump": "installed", "units": "failed"}
    (failed,) = [one for one in report.deployments if one.name == "units"]
    assert failed.error.startswith("profile quadlet is not supported: this device runs Compose deployments")
    assert failed.code == "unsupported-profile"
    assert plant.device.engine.running == {"pump": "a"}
    assert not [one for one in plant.sim.requests if "images/units" in str(one)]
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.running == {"pump": "a"}
