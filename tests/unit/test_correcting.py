"""What becomes of drift on a device: found, put right, told; and what is left alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.address import EngineUnavailable
from margo_agent.drift import Seen
from margo_agent.interrupted import Stopped
from margo_agent.noticed import NoticedFile
from margo_agent.record import Record
from margo_oci.content import digest_of
from tests.simulators.engine import SERVICE
from tests.simulators.plant import Plant, id_of

STRANGER = Seen(
    id="s1", name="stray", device="edge-17", deployment=id_of("gone"), project="gone-1", service="x", status="running"
)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device that runs pump and valve, and looked once since."""
    plant = Plant(tmp_path)
    plant.publish(plant.workload("pump", "a"), plant.workload("valve", "a"), counter=1)
    assert plant.device.once().outcome == "applied"
    assert plant.device.correct().outcome == "unchanged"
    plant.device.engine.log.clear()
    return plant


def pump(plant: Plant) -> str:
    return plant.device.engine.ids["pump"]


def test_what_runs_as_it_should_is_left_alone(plant: Plant) -> None:
    report = plant.device.correct()
    assert (report.outcome, report.message, report.deployments) == ("unchanged", "", [])
    assert plant.device.engine.log == []
    assert (report.counter, report.exit_code) == (1, 0)


def test_what_died_is_started_again_and_told(plant: Plant) -> None:
    before = plant.device.engine.ids["valve"]
    plant.device.engine.change(pump(plant), status="exited", exit_code=137)
    report = plant.device.correct()
    assert (report.outcome, report.message) == ("applied", f"drift: pump: service {SERVICE}: exited with 137")
    assert [(one.name, one.action, one.state) for one in report.deployments] == [("pump", "correct", "installed")]
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}
    assert (plant.device.engine.ids["valve"], plant.device.engine.log) == (before, ["up pump"])


def test_what_was_removed_is_made_again(plant: Plant) -> None:
    plant.device.engine.remove_container(pump(plant))
    assert plant.device.correct().message == f"drift: pump: service {SERVICE}: 0 of 1 containers are there"
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}


def test_what_was_paused_goes_on_in_the_same_container(plant: Plant) -> None:
    before = pump(plant)
    plant.device.engine.change(before, status="paused")
    assert plant.device.correct().outcome == "applied"
    assert (pump(plant), plant.device.engine.log) == (before, ["unpause"])


def test_what_was_set_by_hand_gets_a_new_container(plant: Plant) -> None:
    before = pump(plant)
    plant.device.engine.change(before, settings={"Memory": "64"})
    assert plant.device.correct().message == f"drift: pump: service {SERVICE}: Memory none -> 64"
    assert pump(plant) != before
    assert plant.device.correct().outcome == "unchanged"


def test_what_was_set_while_nobody_looked_is_found_later(plant: Plant) -> None:
    plant.device.engine.change(pump(plant), settings={"Memory": "64"})
    assert NoticedFile(plant.device.folder / "drift.json").load().settings[pump(plant)] == {}
    assert plant.device.correct().outcome == "applied"


def test_a_job_that_ended_well_is_left_alone_unless_somebody_stopped_it(plant: Plant) -> None:
    plant.device.engine.change(pump(plant), status="exited", exit_code=0)
    assert plant.device.correct().outcome == "unchanged"
    assert plant.device.correct(stopped={pump(plant)}).outcome == "applied"


def test_what_somebody_stopped_is_still_known_when_a_hold_is_over(plant: Plant) -> None:
    plant.device.engine.change(pump(plant), status="exited", exit_code=0)
    assert plant.device.correct(stopped={pump(plant)}, leave="only reported: on hold").message
    assert plant.device.correct().outcome == "applied"
    assert plant.device.correct().outcome == "unchanged"


def test_what_cannot_be_put_right_is_told_as_failed_and_the_others_are(plant: Plant) -> None:
    plant.device.engine.remove_container(pump(plant))
    plant.device.engine.remove_container(plant.device.engine.ids["valve"])
    plant.device.engine.stillborn.add("a")
    report = plant.device.correct()
    assert (report.outcome, report.exit_code) == ("failed", 5)
    assert "pump: component pump: compose up: no such device" in report.message
    plant.device.engine.stillborn.clear()
    assert plant.device.correct().outcome == "applied"
    assert plant.device.record.failed == {}


def test_an_engine_that_goes_away_meanwhile_ends_the_look(plant: Plant) -> None:
    plant.device.engine.remove_container(pump(plant))
    plant.device.engine.away = True
    with pytest.raises(EngineUnavailable):
        plant.device.correct()


def test_a_stop_ends_the_look_and_no_workload_is_blamed(plant: Plant) -> None:
    plant.device.engine.change(pump(plant), status="exited", exit_code=137)
    plant.device.stopping = True
    with pytest.raises(Stopped):
        plant.device.correct()
    assert plant.device.engine.log == []


def test_a_stop_meanwhile_ends_the_look_and_blames_no_workload(plant: Plant) -> None:
    plant.device.engine.remove_container(pump(plant))
    plant.device.engine.after = lambda what: setattr(plant.device, "stopping", what == "up pump")
    with pytest.raises(Stopped, match=r"^stopped on request"):
        plant.device.correct()


def test_with_a_reason_to_leave_it_drift_is_only_reported_and_stands_in_the_notes(plant: Plant) -> None:
    plant.device.engine.change(pump(plant), status="paused")
    report = plant.device.correct(leave="only reported: on hold", held=True)
    assert report.message == f"drift: pump: service {SERVICE}: paused (only reported: on hold)"
    assert (report.outcome, report.to_dict()["held"], plant.device.engine.log) == ("unchanged", True, [])
    found = NoticedFile(plant.device.folder / "drift.json").load().found
    assert found == {id_of("pump"): [f"service {SERVICE}: paused"]}
    plant.device.correct()
    assert NoticedFile(plant.device.folder / "drift.json").load().found == {}


def test_a_change_that_is_only_reported_is_not_taken_for_good_the_next_time(plant: Plant) -> None:
    plant.device.engine.change(pump(plant), settings={"Memory": "64"})
    for _ in range(2):
        assert "Memory none -> 64" in plant.device.correct(leave="only reported").message


def test_an_image_name_that_somebody_moved_is_given_back_before_compose_is_asked(plant: Plant) -> None:
    engine = plant.device.engine
    (name,) = engine.images
    good = digest_of(name.encode())
    plant.device.given.gave(name, good)
    engine.named[name] = digest_of(b"another image")
    engine.remove_container(pump(plant))
    assert plant.device.correct().outcome == "applied"
    assert engine.image_id(name) == good
    assert engine.log.index(f"name {name}") < engine.log.index("up pump")


def test_an_image_that_is_gone_is_fetched_again(plant: Plant) -> None:
    (name,) = plant.device.engine.images
    plant.device.engine.images.clear()
    report = plant.device.correct()
    assert (report.outcome, list(plant.device.engine.images)) == ("applied", [name])


def test_orphans_of_ours_go_and_nothing_else(plant: Plant) -> None:
    theirs = replace(STRANGER, id="s2", device="edge-18")
    plant.device.engine.strangers = [STRANGER, theirs]
    report = plant.device.correct()
    assert [(one.action, one.state) for one in report.deployments] == [("remove", "removed")]
    assert plant.device.engine.strangers == [theirs]
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}


def test_a_network_that_a_removed_deployment_left_goes(plant: Plant) -> None:
    (project,) = [name for name in plant.device.engine.networks if name.startswith("pump")]
    plant.publish(plant.workload("valve", "a"), counter=2)
    plant.device.once()
    plant.device.engine.networks.add(project)
    plant.device.engine.networks.add("foreign")
    assert plant.device.correct().outcome == "applied"
    assert project not in plant.device.engine.networks
    assert "foreign" in plant.device.engine.networks


@pytest.mark.parametrize("changes", [{"settled": False}, {"current": ""}, {"unsure": (id_of("valve"),)}])
def test_nothing_is_an_orphan_while_a_state_is_under_way(plant: Plant, changes: dict[str, object]) -> None:
    plant.device.engine.strangers = [STRANGER]
    plant.device.record_file.save(replace(plant.device.record, **changes))  # type: ignore[arg-type]
    assert plant.device.correct().outcome == "unchanged"
    assert plant.device.engine.strangers == [STRANGER]


def test_a_deployment_with_a_step_under_way_is_for_a_pass_to_end(plant: Plant) -> None:
    plant.device.record_file.save(plant.device.record.begin(id_of("pump")))
    plant.device.engine.remove_container(pump(plant))
    assert plant.device.correct().outcome == "unchanged"


def test_a_generation_that_went_bad_is_told(plant: Plant) -> None:
    revision = plant.device.record.installed[id_of("pump")].revision.removeprefix("sha256:")
    (plant.device.folder / "deployments" / id_of("pump") / revision / "generation.json").unlink()
    report = plant.device.correct()
    assert (report.outcome, "is not usable" in report.message) == ("failed", True)


def test_a_device_without_a_state_looks_at_nothing(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.device.engine.strangers = [STRANGER]
    assert plant.device.record == Record()
    assert plant.device.correct().outcome == "unchanged"
    assert plant.device.engine.strangers == [STRANGER]


def test_damaged_notes_cost_no_more_than_what_was_noted(plant: Plant) -> None:
    for text in ("{", "[]", '{"settings":7}', '{"settings":{"c":7},"projects":{},"names":{},"found":{}}'):
        (plant.device.folder / "drift.json").write_text(text)
        assert plant.device.correct().outcome == "unchanged"
