"""Which rule holds a state or a deployment back, and what to do next."""

import ast
import fcntl
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from margo_agent.hold import write_hold
from margo_agent.last import Last
from margo_agent.notnow import NotNow, locked_words, not_now, outside_window
from margo_agent.reasons import REASONS
from margo_agent.record import Accepted, Failure, Installed, Record
from margo_agent.settings import ApplySettings
from margo_agent.why import Finding, about, why
from margo_agent.window import parse_window
from margo_oci.content import digest_of
from margo_oci.errors import FormatError
from tests.simulators.plant import running_plant
from tests.unit.headed import headed_plant
from tests.unit.scenes import ROOT
from tests.unit.test_rooms import TREES

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)  # a Saturday
PUMP = "00000000-0000-4000-8000-000000000001"
GOOD = Record(
    accepted={"edge-17": Accepted(3, digest_of(b"state"), "edge-17")},
    current="edge-17",
    settled=True,
    installed={PUMP: Installed(digest_of(b"a"), "pump", ["pump"], "2026-08-01T11:00:00+00:00")},
)


def last(outcome: str, **more: object) -> Last:
    """Return a report that stands since eleven."""
    return Last("2026-08-01T11:00:00Z", {"outcome": outcome, **more})


def only(record: Record = GOOD, before: Last | None = None, *waiting: NotNow, running: bool = True) -> Finding:
    """Return the one thing that is found."""
    (found,) = why(record, before, waiting, NOON, running=running)
    return found


def test_where_everything_is_applied_nothing_is_held_back() -> None:
    assert why(GOOD, last("unchanged"), (), NOON, running=True) == ()


def test_a_profile_that_this_device_does_not_run_is_no_fault_of_the_deployment() -> None:
    record = GOOD.did_fail(
        "chart", Failure("x", "chart", [], "profile helm is not supported", code="unsupported-profile")
    )
    assert only(record).todo.startswith("publish it for a device that runs this profile")


def test_a_refusal_is_told_with_its_rule_and_since_when() -> None:
    found = only(GOOD, last("refused", reason="rollback", message="counter 2 is lower than 3"))
    assert found.lines == (
        "state: refused, rollback (format 6.8): since 2026-08-01T11:00:00Z: counter 2 is lower than 3",
        "  next: publish again with a higher counter; margo-oci rollback does it with an earlier release",
    )


def test_a_registry_that_is_away_is_told_with_since_when() -> None:
    found = only(GOOD, last("unreachable", message="nobody answers"))
    assert (found.category, found.cause) == ("unreachable", "since 2026-08-01T11:00:00Z: nobody answers")


def test_an_agent_that_does_not_run_is_what_holds_back_first() -> None:
    assert only(running=False).category == "not running"
    assert only(Record()).category == "no state yet"


def test_a_revision_that_failed_is_told_with_what_runs_instead() -> None:
    failure = Failure(
        digest_of(b"b"), "pump", ["pump"], "component pump: exited with 1", "the last good version is back"
    )
    record = GOOD.did_fail(PUMP, failure)
    found = only(record, last("failed", message="…", deployments=[{"id": PUMP, "state": "failed"}]))
    assert (found.element, found.rule) == (PUMP, "5.6")
    assert "is not tried again; the last good revision runs: component pump: exited with 1" in found.cause


def test_a_deployment_that_waits_for_another_leads_to_that_one() -> None:
    failure = Failure(digest_of(b"b"), "job", ["job"], "waits for pump, which is not up", "nothing was changed", PUMP)
    told = [{"id": PUMP, "state": "failed"}, {"id": "job", "state": "pending"}]
    found = only(GOOD.did_fail("job", failure), last("failed", deployments=told))
    assert (found.name, found.category, found.rule) == ("job", "pending", "5.8")
    assert found.todo == "margo-agent why pump says what holds that back"


def test_a_deployment_that_waits_for_what_the_state_does_not_have_is_to_be_mended() -> None:
    failure = Failure(digest_of(b"b"), "job", ["job"], "dependsOn: no such thing", "nothing was changed", "no such")
    found = only(GOOD.did_fail("job", failure), last("failed", deployments=[{"id": "job", "state": "failed"}]))
    assert found.todo == "mend dependsOn, and publish it again"


def test_an_engine_that_was_away_and_a_step_that_nobody_saw_end_are_told_both() -> None:
    found = why(GOOD.begin(PUMP), last("failed", message="engine at x: connect: refused"), (), NOON, running=True)
    assert [(one.element, one.category) for one in found] == [("state", "failed"), (PUMP, "unsure")]


def test_a_step_of_a_pass_that_is_at_work_is_under_way_and_no_accident() -> None:
    (found,) = why(GOOD.begin(PUMP), last("unchanged"), (), NOON, running=True, busy=True)
    assert (found.element, found.category, found.todo) == (PUMP, "under way", "wait for the pass under way")


def test_what_waits_is_told_with_what_it_waits_for() -> None:
    found = only(GOOD, None, NotNow("hold", "held: shift change", "margo-agent resume ends it"))
    assert found.lines == ("state: waiting, hold: held: shift change", "  next: margo-agent resume ends it")


def test_a_deployment_that_waits_is_told_by_its_name() -> None:
    before = last("waiting", message="1 waits", deployments=[{"id": "x", "name": "job", "state": "pending"}])
    found = why(GOOD, before, (), NOON, running=True)
    assert [(one.element, one.category) for one in found] == [("state", "waiting"), ("x", "pending")]


def test_a_state_that_is_not_whole_yet_is_under_way() -> None:
    assert only(Record(accepted=GOOD.accepted, current="edge-17")).category == "under way"


def test_a_head_that_expired_is_told_once(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    plant.device.once()
    record = plant.device.record_file.load()
    later = NOON + timedelta(days=365)
    (alone,) = why(record, None, (), later, running=True)
    (told,) = why(record, last("refused", reason="freeze", message="expired"), (), later, running=True)
    assert (alone.category, alone.rule) == (told.category, told.rule) == ("refused, freeze", "10.11")


def test_one_deployment_is_asked_for_by_id_or_name() -> None:
    record = GOOD.did_fail(PUMP, Failure("x", "pump", [], "e")).did_fail("other", Failure("x", "other", [], "e"))
    found = why(record, last("unreachable", message="away"), (), NOON, running=True)
    for name in (PUMP, "pump"):
        assert [one.element for one in about(found, name, record, None)] == ["state", PUMP]
    with pytest.raises(FormatError, match=r"'pmup' is not known here \(known: other, pump\)"):
        about(found, "pmup", record, None)


def test_nothing_is_held_back_on_a_device_that_is_done(tmp_path: Path) -> None:
    plant = running_plant(tmp_path)
    report = plant.device.once()
    record = plant.device.record_file.load()
    assert why(record, Last("x", report.to_dict()), (), NOON, running=True) == ()


def test_outside_of_every_window_the_next_one_is_told() -> None:
    settings = ApplySettings(windows=(parse_window("Mon-Fri 22:00-04:00"),), timezone=ZoneInfo("Europe/Berlin"))
    assert outside_window(settings, NOON).endswith("the next begins 2026-08-03T22:00+02:00")
    assert outside_window(settings, NOON.replace(day=3, hour=21)) == ""
    assert outside_window(ApplySettings(), NOON) == ""


def test_hold_window_and_lock_are_found_where_they_are(tmp_path: Path) -> None:
    config = running_plant(tmp_path).device._config()
    config.state_dir.mkdir(exist_ok=True)
    assert not_now(config, NOON) == ()
    write_hold(config.state_dir, NOON, for_s=None, reason="")
    assert [one.what for one in not_now(config, NOON)] == ["hold"]


def test_a_lock_on_a_file_is_noticed_and_a_missing_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "busy"
    assert locked_words(file) == ""
    file.touch()
    assert locked_words(file) == ""
    with file.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert locked_words(file) == f"an application holds a lock on {file}"
    with file.open("w") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        code = f"from pathlib import Path; from margo_agent.notnow import *; print(locked_words(Path({str(file)!r})))"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.startswith("an application holds a lock")
    assert locked_words(file) == ""


def reasons_in_the_code() -> set[str]:
    """Every word that a TrustError is raised with, as far as it stands there."""
    return {
        str(node.args[0].value)
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TrustError" and node.args
        if isinstance(node.args[0], ast.Constant)
    }


def test_every_reason_has_a_rule_of_the_format_and_a_next_step() -> None:
    by_name = {"expired-signature", "bad-certificate", "revocation-unknown"}  # raised out of a table (notary)
    of_operators = {"not-a-status"}  # no device reads reports
    assert reasons_in_the_code() - set(REASONS) - of_operators == set()
    assert set(REASONS) - reasons_in_the_code() - by_name == set()
    rules = set(re.findall(r"^(?:\| )?\*\*(\d+\.\d+)\*\*", (ROOT / "docs" / "format.md").read_text(), re.MULTILINE))
    assert {name for name, one in REASONS.items() if one.rule not in rules} == set()
