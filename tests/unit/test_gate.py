"""When applying may begin (format 5.9), and what a newer state does to one that is being applied (format 5.11)."""

import fcntl
from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.gate import Gate
from margo_agent.interrupted import Superseded
from margo_agent.lookout import Lookout
from margo_agent.notnow import NotNow
from margo_oci.errors import ApplyError
from tests.simulators.engine import PowerCut
from tests.simulators.faults import answers, unreachable
from tests.simulators.plant import Plant
from tests.simulators.registry import ALWAYS
from tests.unit.test_reconcile import cut_power_after, publish, running


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_5_9_applying_waits_for_all_that_delays_it() -> None:
    assert Gate().closed == ""
    gate = Gate(lambda: [NotNow("hold", "held by a person", ""), NotNow("window", "outside of every window", "")])
    assert (gate.closed, gate.held) == ("held by a person; outside of every window", True)


def test_5_9_nothing_is_begun_if_an_application_was_faster(tmp_path: Path) -> None:
    file = tmp_path / "not-now"
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        with pytest.raises(ApplyError, match="was locked just now"), Gate(lock_file=file).passing():
            raise AssertionError("nothing is applied")


def test_5_9_an_application_can_wait_until_applying_is_over(tmp_path: Path) -> None:
    file = tmp_path / "not-now"
    file.touch()
    with Gate(lock_file=file).passing(), file.open() as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_lock_file_that_is_not_there_is_locked_by_nobody(tmp_path: Path) -> None:
    with Gate(lock_file=tmp_path / "not-now").passing():
        assert not (tmp_path / "not-now").exists()


def test_a_lock_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    gate = Gate(lock_file=tmp_path / "folder" / "lock")
    with pytest.raises(ApplyError, match=r"apply.lockFile: .*/folder/lock: Not a directory"), gate.passing():
        raise AssertionError("nothing is applied")


def test_5_9_what_waits_is_fetched_and_touches_nothing(plant: Plant) -> None:
    running(plant, pump="a", valve="a")
    ids = plant.device.engine.ids
    plant.device.hold = "held by a person"
    publish(plant, 2, pump="b", tank="a")
    report = plant.device.once()
    assert (report.outcome, report.message, report.exit_code) == ("waiting", "held by a person", 0)
    assert {one.name: one.state for one in report.deployments} == {
        "pump": "pending",
        "tank": "pending",
        "valve": "pending",
    }
    assert (plant.device.engine.ids, plant.device.record.waiting) == (ids, "held by a person")


def test_5_9_a_hold_that_comes_while_it_is_fetched_counts(plant: Plant) -> None:
    def then_hold(what: str) -> None:
        if what.startswith("load"):
            plant.device.hold = "held by a person"

    plant.device.engine.after = then_hold
    publish(plant, 1, pump="a")
    assert plant.device.once().outcome == "waiting"
    assert plant.device.engine.running == {}


def test_5_9_what_waits_is_applied_when_the_hold_ends(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.hold = "held by a person"
    publish(plant, 2, pump="b")
    plant.device.once()
    plant.device.hold = ""
    assert plant.device.once().outcome == "applied"
    assert (plant.device.engine.running, plant.device.record.waiting) == ({"pump": "b"}, "")


def test_5_9_what_waited_needs_no_network_to_be_applied(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.hold = "held by a person"
    publish(plant, 2, pump="b", tank="a")
    plant.device.once()
    plant.device.hold = ""
    plant.sim.fail(unreachable, times=ALWAYS)
    report = plant.device.once()
    assert (report.outcome, report.counter) == ("applied", 2)
    assert plant.device.engine.running == {"pump": "b", "tank": "a"}
    assert "connection refused" in report.message


def test_5_9_what_was_begun_is_ended_although_a_hold_came(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    cut_power_after(plant, "up pump")
    with pytest.raises(PowerCut):
        plant.device.once()
    plant.device.hold = "held by a person"
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_5_9_what_could_not_be_fetched_is_asked_for_again_while_it_waits(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.hold = "held by a person"
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    publish(plant, 2, pump="b")
    assert (plant.device.once().outcome, plant.device.record.waiting) == ("waiting", "")
    plant.sim.recover()
    assert plant.device.once().outcome == "waiting"
    assert (plant.device.record.waiting, len(plant.device.engine.images)) == ("held by a person", 1)


def test_a_newer_state_replaces_one_that_waits(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.hold = "held by a person"
    publish(plant, 2, pump="b")
    plant.device.once()
    publish(plant, 3, pump="c")
    assert plant.device.once().counter == 3
    plant.device.hold = ""
    plant.device.once()
    assert plant.device.engine.running == {"pump": "c"}


def test_5_11_a_newer_state_does_not_wait_for_an_older_one_to_come_up(plant: Plant) -> None:
    running(plant, pump="a")
    plant.device.engine.slow = {"b"}
    publish(plant, 2, pump="b")

    def then_publish(what: str) -> None:
        if what == "up pump":
            plant.device.engine.after = lambda _: None
            publish(plant, 3, pump="c")

    plant.device.engine.after = then_publish
    plant.device.watches_for_newer = True
    report = plant.device.once()
    assert (report.outcome, report.counter) == ("applied", 3)
    assert [one.name for one in report.deployments] == ["pump"]
    assert plant.device.engine.running == {"pump": "c"}
    assert not plant.device.record.failed


def test_5_11_a_tag_that_moves_to_something_else_does_not_interrupt(plant: Plant) -> None:
    running(plant, pump="a")
    publish(plant, 2, pump="b")
    plant.device.watches_for_newer = True
    plant.device.engine.after = lambda _: plant.put_bytes(b"{}")
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_what_is_newer_is_asked_now_and_then_and_once_known_no_more() -> None:
    asked: list[str] = []
    clock = [0.0]

    def newest() -> str:
        asked.append("!")
        return "sha256:b"

    found = Lookout(newest, every_s=10, monotonic_s=lambda: clock[0])
    found.begin("sha256:a")
    found.check()
    assert not asked
    clock[0] = 11.0
    for _ in range(2):
        with pytest.raises(Superseded, match="a newer state is there: sha256:b"):
            found.check()
    assert len(asked) == 1


@pytest.mark.parametrize("found", ["", "sha256:a"])
def test_nothing_newer_and_nobody_to_ask_are_no_reason_to_stop(found: str) -> None:
    lookout = Lookout(lambda: found, every_s=0, monotonic_s=lambda: 0.0)
    lookout.begin("sha256:a")
    lookout.check()


def test_5_5_settling_notices_what_is_restarted_in_its_first_moments(plant: Plant) -> None:
    plant.device.apply = replace(plant.device.apply, settle_s=10)
    running(plant, pump="a")
    plant.device.engine.nervous = {"b"}
    publish(plant, 2, pump="b")
    report = plant.device.once()
    assert report.outcome == "failed"
    assert "component pump: service cell was restarted 1 times" in report.message
    assert plant.device.engine.running == {"pump": "a"}
