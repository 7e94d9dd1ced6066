"""How long the agent waits between two looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.loop import BACKOFF_LIMIT_S, pause_s
from margo_agent.report import DeploymentReport, Report


def test_without_failures_it_is_the_interval_give_or_take_a_tenth() -> None:
    assert pause_s(30, 0, None, 0.0) == 27
    assert pause_s(30, 0, None, 0.5) == 30
    assert pause_s(30, 0, None, 1.0) == pytest.approx(33)


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (50, 600), (5000, 600)]
)
def test_every_failure_in_a_row_doubles_it_up_to_a_limit(failures: int, pause: float) -> None:
    assert pause_s(30, failures, None, 0.5) == pause


def test_an_interval_above_the_limit_stays_what_it_is() -> None:
    assert pause_s(3600, 0, None, 0.5) == 3600
    assert pause_s(3600, 9, None, 0.5) == 3600


def test_what_the_registry_asks_for_is_kept() -> None:
    assert pause_s(30, 1, 900, 0.5) == 900
    assert pause_s(30, 1, 5, 0.5) == 60
    assert pause_s(30, 0, 0, 0.5) == 30


@given(st.floats(1, 1e6), st.integers(0, 10**6), st.none() | st.floats(0, 3600), st.floats(0, 1))
def test_it_is_never_hasty_and_never_endless(
    interval_s: float, failures: int, retry_after_s: float | None, chance: float
) -> None:
    pause = pause_s(interval_s, failures, retry_after_s, chance)
    assert pause >= interval_s * 0.9
    assert pause <= max(1.1001 * max(BACKOFF_LIMIT_S, interval_s), retry_after_s or 0)


def test_a_report_leaves_out_what_nobody_knows() -> None:
    report = Report("registry.example/fleet/edge-17:latest", "edge-17")
    assert report.to_dict() == {
        "outcome": "unchanged",
        "device": "edge-17",
        "reference": "registry.example/fleet/edge-17:latest",
        "requests": 0,
        "bytesIn": 0,
        "layers": {"fetched": 0, "reused": 0},
        "imagesPulled": 0,
        "deployments": [],
        "seconds": {},
    }
    one = DeploymentReport("id", "hello", "keep", "installed", bytes=0, restarts=[])
    assert one.to_dict() == {
        "id": "id", "name": "hello", "action": "keep", "state": "installed", "components": [],
        "restarts": [], "bytes": 0,
    }  # fmt: skip


def test_every_outcome_has_its_exit_code() -> None:
    codes = [
        Report("r", "d", outcome=outcome).exit_code
        for outcome in ("applied", "unchanged", "unreachable", "refused", "failed")
    ]
    assert codes == [0, 0, 3, 4, 5]


def test_the_time_of_a_step_is_added_up_even_if_it_fails() -> None:
    clock = iter([10.0, 10.25, 20.0, 21.0])
    report = Report("r", "d", monotonic_s=lambda: next(clock))
    with report.timed("fetch"):
        pass
    with pytest.raises(ValueError, match="broken"), report.timed("fetch"):
        raise ValueError("broken")
    assert report.seconds == {"fetch": 1.25}
