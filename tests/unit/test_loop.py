"""How long the agent waits between two looks, and what it tells of them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.config import AgentConfig
from margo_agent.events import Due
from margo_agent.loop import BACKOFF_LIMIT_S, CLEAN_EVERY_S, Loop, Result, pause_s
from margo_agent.printing import log, show
from margo_agent.report import DeploymentReport, Report
from margo_agent.watching import Watch
from margo_oci.ceremony import Change
from margo_oci.errors import FormatError
from tests.simulators.engine import PowerCut
from tests.simulators.faults import answers, unreachable
from tests.simulators.plant import Plant, running_plant
from tests.simulators.registry import ALWAYS
from tests.unit.headed import HEAD_TAG, headed_plant
from tests.unit.scenes import key
from tests.unit.test_reconcile import cut_power_after, publish, running
from tests.unit.trusted import DAY


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


class Looking:
    """A loop at a simulated registry; its passes are the device's own, in this process."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.told: list[Result] = []
        self.passes = 0
        self.taken: list[str] = []
        self.becomes: dict[str, list[str]] = {}  # of a bundle, each time it is taken
        self.config = self.plant.device._config()
        self.loop = Loop(
            config=self.config,
            reload=lambda: self.config,
            connect=lambda _: self.plant.device.registry(),
            record_file=self.plant.device.record_file,
            pass_=self._pass,
            restore=self._restore,
            take=self._take,
            interrupt=lambda: None,
            tell=self.told.append,
            chance=lambda: 0.5,
            clock=self.plant.device.clock,
            closed=lambda _, __: self.plant.device.hold,
        )

    async def _pass(self, manifest: bytes | None) -> Result:
        self.passes += 1
        report = await asyncio.to_thread(lambda: self.plant.device.once(offered=manifest or b""))
        return report.to_dict()

    async def _take(self, bundle: Path) -> Result:
        self.taken.append(bundle.name)
        self.loop.stopping.set() if bundle.name == "last.tar" else None
        outcomes = self.becomes.get(bundle.name)
        return {"outcome": outcomes.pop(0) if outcomes else "unchanged", "message": bundle.name}

    async def _restore(self) -> Result:
        return self.plant.device.restore().to_dict()

    def look(self, times: int = 1) -> Sequence[Result]:
        """Look so many times; return what was told."""

        async def looked() -> None:
            async with self.plant.device.registry() as self.loop.registry:
                for _ in range(times):
                    await self.loop.look()

        self.told.clear()
        asyncio.run(looked())
        return self.told


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    """A loop whose device runs pump by recipe a."""
    return Looking(running_plant(tmp_path))


def test_the_first_look_is_a_whole_pass_and_the_next_only_a_look(looking: Looking) -> None:
    looking.look(3)
    assert looking.passes == 1


def test_bundles_that_appear_are_taken_one_after_the_other_before_the_registry_is_asked(looking: Looking) -> None:
    looking.loop.offer([Path("first.tar"), Path("last.tar"), Path("never.tar")])
    assert looking.loop.waking.is_set()
    asyncio.run(looking.loop._look_on())
    assert looking.taken == ["first.tar", "last.tar"]
    assert [one.get("message") for one in looking.told[:2]] == ["first.tar", "last.tar"]


def test_13_10_a_bundle_that_came_before_the_one_it_needs_is_taken_again_once_that_one_came(
    looking: Looking, tmp_path: Path
) -> None:
    for name in ("next.tar", "first.tar"):
        (tmp_path / name).touch()
    looking.becomes = {"next.tar": ["unreachable", "applied"], "gone.tar": ["unreachable"], "first.tar": ["applied"]}
    looking.loop.offer([tmp_path / name for name in ("next.tar", "gone.tar", "first.tar")])
    asyncio.run(looking.loop._take_offered())
    assert looking.taken == ["next.tar", "gone.tar", "first.tar", "next.tar"]
    assert looking.loop.early == []


def test_with_heads_a_pass_looks_for_newer_roots_daily_although_nothing_else_is_new(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    looking = Looking(plant)
    looking.look(3)
    assert looking.passes == 1
    plant.wait(DAY)
    looking.look(2)
    assert looking.passes == 2


def test_with_heads_a_key_that_was_taken_away_ends_to_count_although_its_head_is_still_there(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    looking = Looking(plant)
    looking.look(2)
    plant.rotate(head=Change(add=[key("head2").public], remove=["head"]))
    plant.wait(DAY)
    assert [one["reason"] for one in looking.look(2)] == ["wrong-key"]


def test_a_head_that_expired_is_told_once(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    looking = Looking(plant)
    looking.look(2)
    plant.wait(7 * DAY)
    assert [one["reason"] for one in looking.look(2)] == ["freeze"]
    plant.wait(timedelta(hours=1))
    assert looking.look(2) == []


def test_a_head_that_expired_is_told_once_where_that_is_no_refusal(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    plant.device.freshness = "warn"
    looking = Looking(plant)
    looking.look(2)
    plant.wait(7 * DAY)
    assert [(one["outcome"], "stale" in one) for one in looking.look(2)] == [("unchanged", True)]


def test_a_registry_that_is_away_does_not_hide_that_the_head_expired(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    looking = Looking(plant)
    looking.look(2)
    plant.wait(7 * DAY - timedelta(hours=1))
    looking.look(2)
    plant.sim.fail(answers(503), on=HEAD_TAG, times=20)
    plant.wait(timedelta(hours=1))
    assert [(one["outcome"], "stale" in one) for one in looking.look(2)] == [("unreachable", True)]


def test_the_same_news_is_told_once_with_what_it_cost(looking: Looking) -> None:
    looking.look()
    looking.loop.told = ()
    looking.plant.sim.forget()
    (told,) = looking.look(3)
    assert (told["outcome"], told["counter"], told["requests"], told["bytesIn"]) == ("unchanged", 1, 1, 0)
    assert told["layers"] == {"fetched": 0, "reused": 0}
    assert [one["state"] for one in told["deployments"]] == ["installed"]
    assert looking.passes == 1


def test_a_failure_that_stands_is_never_told_as_unchanged(looking: Looking) -> None:
    looking.plant.device.engine.spoiled.add("b")
    looking.plant.publish(looking.plant.workload("pump", "b"), counter=2)
    told = looking.look(4)
    assert [one["outcome"] for one in told] == ["failed", "failed"]
    assert told[1]["message"].startswith("not tried again until something changes: pump: component pump:")
    assert told[1]["requests"] == 1
    assert looking.passes == 1


def test_a_refusal_that_stands_is_never_told_as_unchanged(looking: Looking) -> None:
    looking.plant.device.key = looking.plant.stranger.public
    assert [one["outcome"] for one in looking.look(3)] == ["refused"]


def test_5_9_what_waits_costs_a_look_and_is_told_once(looking: Looking) -> None:
    looking.plant.device.hold = "held by a person"
    looking.plant.publish(looking.plant.workload("pump", "b"), counter=2)
    looking.look(3)
    assert looking.passes == 1
    assert [one["outcome"] for one in looking.told] == ["waiting"]


@pytest.mark.parametrize("network", [True, False])
def test_5_9_what_waits_is_applied_as_soon_as_it_may(looking: Looking, network: bool) -> None:
    looking.plant.device.hold = "held by a person"
    looking.plant.publish(looking.plant.workload("pump", "b"), counter=2)
    looking.look(2)
    looking.plant.device.hold = ""
    if not network:
        looking.plant.sim.fail(unreachable, times=ALWAYS)
    looking.look()
    assert looking.plant.device.engine.running == {"pump": "b"}


def test_5_9_a_pause_ends_when_what_waits_may_be_applied(looking: Looking) -> None:
    looking.plant.device.hold = "held by a person"
    looking.plant.publish(looking.plant.workload("pump", "b"), counter=2)
    looking.look(2)
    looking.loop.gate_every_s = 0.0

    def ask(*_: object) -> str:
        asked.append(looking.plant.device.hold)
        looking.plant.device.hold = "" if len(asked) == 3 else "held by a person"
        return asked[-1]

    asked: list[str] = []
    looking.loop.closed = ask
    asyncio.run(asyncio.wait_for(looking.loop._wait(600.0), 60))
    assert asked[-1] == ""


def test_a_damaged_record_is_told_and_the_loop_goes_on(looking: Looking) -> None:
    looking.plant.device.record_file.path.write_text("{")
    asyncio.run(looking.loop._restore())
    (told,) = looking.look(2)
    assert (told["outcome"], "not usable JSON" in told["message"]) == ("failed", True)
    assert looking.passes == 0


def test_what_ran_before_a_state_that_was_half_applied_runs_again_at_once(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.device.apply = replace(plant.device.apply, atomic="state")
    running(plant, pump="a")
    publish(plant, 2, tank="a")
    cut_power_after(plant, "up tank")
    with pytest.raises(PowerCut):
        plant.device.once()
    assert not plant.device.record.installed
    looking = Looking(plant)
    asyncio.run(looking.loop._restore())
    assert plant.device.engine.running == {"pump": "a"}


def test_after_a_hang_up_the_configuration_is_another_and_the_first_look_a_whole_pass(looking: Looking) -> None:
    looking.look()
    assert not looking.loop._reloaded()
    looking.config = replace(looking.config, interval_s=7.0)
    looking.loop.hang_up()
    assert looking.loop._reloaded()
    assert looking.loop.config.interval_s == 7.0
    looking.look(2)
    assert looking.passes == 2


def test_a_configuration_with_faults_is_told_and_the_old_one_stays(looking: Looking) -> None:
    def reload() -> AgentConfig:
        raise FormatError("agent.yaml:3: scopes: is missing")

    looking.look()
    looking.loop.reload = reload
    looking.loop.hang_up()
    assert not looking.loop._reloaded()
    assert looking.told[-1] == {
        "outcome": "failed",
        "message": "the configuration stays as it was: agent.yaml:3: scopes: is missing",
    }
    looking.look()
    assert looking.passes == 1


def test_no_terminal_obeys_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "exited: \x1b[2J\x9b1m\x07\u202e\nforged line"
    result = {"outcome": "failed", "message": evil, "deployments": [
        {"id": "1", "name": "pump", "action": "update", "state": "failed", "error": evil}]}  # fmt: skip
    log(result, "text")
    printed = capsys.readouterr().out
    assert all(char.isprintable() for char in printed.replace("\n", ""))
    assert len(printed.splitlines()) == 2
    report = Report("r", "d", outcome="failed", message=evil)
    show(report, "text")
    assert "\n  forged line" in capsys.readouterr().err
    log(result, "json")
    show(report, "json")
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(char.isprintable() for char in out.replace("\n", ""))
    assert json.loads(out.splitlines()[0])["message"] == evil


def test_people_read_that_what_runs_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    log({"outcome": "unreachable", "message": "nobody answers", "stale": "head version 3 expired"}, "text")
    assert capsys.readouterr().out.endswith(
        'level=warning outcome=unreachable message="nobody answers" stale="head version 3 expired"\n'
    )
    show(Report("", "edge-17", stale="head version 3 expired"), "text")
    assert "  stale: head version 3 expired" in capsys.readouterr().out


def test_a_refusal_as_stale_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = "head version 3 expired"
    log({"outcome": "refused", "reason": "freeze", "message": words, "stale": words}, "text")
    assert capsys.readouterr().out.count(words) == 1


class Watching:
    """A loop with a watch at an engine that says nothing; `results` are what looks for drift bring."""

    def __init__(self, looking: Looking, *results: Result) -> None:
        self.looking, self.results = looking, list(results)
        self.dues: list[Due] = []
        self.now_s = 1000.0
        self.watch = Watch(address=lambda: "", device="edge-17", names=dict, monotonic_s=lambda: self.now_s)
        self.loop = looking.loop
        self.loop.watch, self.loop.correct = self.watch, self._correct

    async def _correct(self, due: Due) -> Result:
        assert self.watch.marks.busy
        self.dues.append(due)
        result = self.results.pop(0)
        if not self.results:
            self.loop.waking.set()
        return result

    async def _rest(self) -> None:
        self.loop.waking.clear()
        for _ in range(len(self.results)):
            self.watch.marks.everything(self.now_s)
            self.now_s += 1000
            due = await self.watch.due()
            await self.loop._correct(due)

    def rest(self) -> Sequence[Result]:
        """Rest until all results are in; return what was told."""
        self.looking.told.clear()
        asyncio.run(self._rest())
        return self.looking.told


def test_drift_is_told_once_while_it_stands_and_again_when_it_is_put_right(looking: Looking) -> None:
    drifted = {"outcome": "unchanged", "message": "drift: pump: paused (only reported)"}
    mended = {"outcome": "applied", "message": "drift: pump: paused"}
    calm = {"outcome": "unchanged"}
    told = Watching(looking, calm, drifted, drifted, mended, mended, calm, drifted).rest()
    assert told == [drifted, mended, mended, drifted]


def test_what_changes_on_the_engine_is_looked_at_in_the_middle_of_a_rest(looking: Looking) -> None:
    watching = Watching(looking, {"outcome": "unchanged"})

    async def rest() -> None:
        watching.watch.marks.everything(watching.now_s - 10)
        await watching.loop._rest(3600)

    asyncio.run(rest())
    assert [one.deployments for one in watching.dues] == [set()]
    assert looking.passes == 0


def test_passes_are_known_to_the_watch_as_our_own_doing(looking: Looking) -> None:
    watching = Watching(looking)
    seen: list[bool] = []
    looking.plant.device.engine.after = lambda _: seen.append(watching.watch.marks.busy)
    looking.plant.publish(looking.plant.workload("pump", "b"), counter=2)
    looking.look()
    assert seen
    assert all(seen)
    assert not watching.watch.marks.busy


def test_cleaning_is_daily_and_told_when_something_went(looking: Looking) -> None:
    results: list[Result] = [{"outcome": "unchanged"}, {"outcome": "cleaned", "message": "1 blob"}]

    async def clean() -> Result:
        return results.pop(0)

    looking.loop.clean = clean
    asyncio.run(looking.loop._clean())
    assert len(results) == 2
    for _ in range(2):
        looking.loop.cleaned_s -= CLEAN_EVERY_S
        asyncio.run(looking.loop._clean())
    assert (results, looking.told) == ([], [{"outcome": "cleaned", "message": "1 blob"}])


def test_who_asks_for_a_look_gets_what_came_of_it(looking: Looking) -> None:
    async def asked() -> Result:
        result = looking.loop.wanted()
        assert looking.loop.waking.is_set()
        async with looking.plant.device.registry() as looking.loop.registry:
            await looking.loop.look()
        return await result

    assert asyncio.run(asked())["outcome"] == "unchanged"
    assert not looking.loop.busy
