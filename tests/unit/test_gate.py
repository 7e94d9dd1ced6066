"""When applying may begin (format 5.9), and what a newer state does to one that is being applied (format 5.11)."""

import fcntl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from margo_agent.gate import Gate
from margo_agent.interrupted import Superseded
from margo_agent.lookout import Lookout
from margo_agent.settings import ApplySettings
from margo_agent.window import parse_window
from margo_oci.errors import ApplyError
from tests.simulators.engine import PowerCut
from tests.simulators.faults import unreachable
from tests.simulators.plant import NOON, Plant
from tests.simulators.registry import ALWAYS
from tests.unit.test_reconcile import cut_power_after, publish, running


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def gate(settings: ApplySettings, now: datetime = NOON, hold: str = "") -> Gate:
    return Gate(settings=settings, hold=lambda: hold, now=lambda: now)


def test_5_9_without_any_rule_applying_may_begin() -> None:
    assert not gate(ApplySettings()).closed()


def test_5_9_a_hold_comes_before_all_else() -> None:
    assert gate(ApplySettings(), hold="held since noon: filters are changed").closed().startswith("held since noon")


def test_5_9_a_window_counts_in_its_time_zone() -> None:
    settings = ApplySettings(windows=[parse_window("14:00-15:00")], timezone=ZoneInfo("Europe/Berlin"))
    assert not gate(settings, datetime(2026, 8, 1, 12, 30, tzinfo=UTC)).closed()
    closed = gate(settings, datetime(2026, 8, 1, 14, 30, tzinfo=UTC)).closed()
    assert closed == "outside the maintenance window, which opens 2026-08-02T14:00+02:00"


def test_5_9_an_application_says_not_now_by_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "not-now"
    locked = gate(ApplySettings(lock_file=file))
    assert not locked.closed()  # nobody made it
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        assert locked.closed() == f"an application holds {file}: not now"
        with pytest.raises(ApplyError, match="was locked just now"), locked.passing():
            raise AssertionError("nothing is applied")
    assert not locked.closed()


def test_5_9_an_application_can_wait_until_applying_is_over(tmp_path: Path) -> None:
    file = tmp_path / "not-now"
    file.touch()
    with gate(ApplySettings(lock_file=file)).passing(), file.open() as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_lock_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(ApplyError, match=r"apply.lockFile: .*/folder/lock: Not a directory"):
        gate(ApplySettings(lock_file=tmp_path / "folder" / "lock")).closed()


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
