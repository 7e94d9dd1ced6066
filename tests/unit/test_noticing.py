"""What a device notices of its own passes, keeps until it is reported, and writes down for others."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from margo_agent.address import EngineUnavailable
from margo_agent.codes import fault_of
from margo_agent.config import AgentConfig
from margo_agent.outbox import KEPT_DELIVERED, Mark, Outbox
from margo_agent.reporter import BACKOFF_S, Reporter
from margo_agent.reporting import Reporting, destination
from margo_agent.settings import ReportSettings
from margo_agent.stepping import Unmet
from margo_agent.summary import Found
from margo_agent.unready import NoRoom, PullFailed, Unfit
from margo_oci.compose import failed
from margo_oci.content import digest_of
from margo_oci.device_status import DeviceStatus, parse_device_status
from margo_oci.errors import ApplyError
from margo_oci.events import Event, parse_events
from margo_oci.keys import FileKey
from margo_oci.reference import Reference
from margo_oci.reports import DeviceKeys, DeviceReport, ReportReader
from margo_oci.status import CODES, Fault, parse_status_manifest
from tests.simulators.faults import answers
from tests.simulators.plant import NOON, SOURCE, Plant, id_of, running_plant
from tests.simulators.uploader import SimulatedUploader
from tests.unit.headed import headed_plant
from tests.unit.scenes import key
from tests.unit.trusted import DAY

BELOW = Reference(SOURCE.host, f"{SOURCE.repository}/status", "edge-17")


@dataclass
class Reported:
    """A device whose loop has a reporter; what would be a process of its own is done in this one."""

    plant: Plant
    settings: ReportSettings
    monotonic_s: float = 1000.0
    told: list[Mapping[str, Any]] = field(default_factory=list)
    pushes: int = 0
    config: AgentConfig = field(init=False)
    reporter: Reporter = field(init=False)

    def __post_init__(self) -> None:
        self.config = replace(self.plant.device._config(), report=self.settings)
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not on the disk."""
        self.reporter = Reporter(
            outbox=self.outbox,
            record_file=self.plant.device.record_file,
            clock=self.plant.device.clock,
            agent="0.1.0",
            push=self._push,
            look=lambda _: Found(free_bytes=5, total_bytes=9),
            capabilities=lambda _: b'{"properties":{}}',
            tell=self.told.append,
            monotonic_s=lambda: self.monotonic_s,
            chance=lambda: 0.5,
        )

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.plant.device.folder)

    @property
    def key(self) -> FileKey:
        return key("device")

    async def _push(self) -> Mapping[str, Any]:
        self.pushes += 1
        return await asyncio.to_thread(self.reporting.send)

    @property
    def reporting(self) -> Reporting:
        return Reporting(
            config=self.config,
            record_file=self.plant.device.record_file,
            outbox=self.outbox,
            clock=self.plant.device.clock,
            agent="0.1.0",
            look=Found,
            capabilities=lambda: b"",
            signer=lambda: self.key,
            registry=self.plant.device.registry,
            uploader=lambda _: SimulatedUploader(self.plant.sim),
        )

    def look(self, result: Mapping[str, Any] | None = None) -> None:
        """Do a pass, or take a result as the loop would, and let what comes of it come to its end."""
        found = self.plant.device.once().to_dict() if result is None else result

        async def looked() -> None:
            self.reporter.after(self.config, found)
            if self.reporter.pushing:
                await self.reporter.pushing

        asyncio.run(looked())

    def publish(self, recipe: str, counter: int, name: str = "pump") -> None:
        self.plant.publish(self.plant.workload(name, recipe), counter=counter)

    @property
    def events(self) -> Sequence[tuple[str, str]]:
        """Kind and state of all events that are kept."""
        return [(one.kind, one.state) for one in self.outbox.load().events]

    def read(self) -> DeviceReport:
        """What an operator reads."""

        async def reading() -> DeviceReport:
            async with self.plant.device.registry() as registry:
                keys = DeviceKeys({"edge-17": self.key.public})
                return await ReportReader(registry, keys, whole=True).read(BELOW)

        return asyncio.run(reading())

    def file(self, name: str) -> bytes:
        return (self.plant.device.folder / "status" / name).read_bytes()


@pytest.fixture
def device(tmp_path: Path) -> Reported:
    return Reported(running_plant(tmp_path), ReportSettings(registry=True, files=tmp_path / "status"))


@pytest.fixture
def silent(tmp_path: Path) -> Reported:
    """A device that reports to no registry."""
    return Reported(running_plant(tmp_path), ReportSettings(files=tmp_path / "status"))


def test_the_first_pass_tells_what_is_there(silent: Reported) -> None:
    silent.look()
    assert silent.events == [
        ("accepted", ""),
        ("applied", ""),
        ("outcome", "applied"),
        ("deployment", "installed"),
    ]
    assert [one.number for one in silent.outbox.load().events] == [1, 2, 3, 4]


def test_the_same_again_is_no_event_and_writes_nothing(silent: Reported) -> None:
    silent.look()
    before = silent.outbox.file.stat().st_mtime_ns, silent.file("device.json")
    silent.restart()
    silent.look()
    assert (silent.outbox.file.stat().st_mtime_ns, silent.file("device.json")) == before


def test_a_failure_and_its_end_are_events(silent: Reported) -> None:
    silent.look()
    silent.plant.device.engine.spoiled.add("b")
    silent.publish("b", 2)
    silent.look()
    silent.publish("c", 3)
    silent.look()
    told = [(one.state, one.counter) for one in silent.outbox.load().events if one.kind == "deployment"]
    assert told == [("installed", 1), ("failed", 2), ("installed", 3)]
    outcomes = [one.state for one in silent.outbox.load().events if one.kind == "outcome"]
    assert outcomes == ["applied", "failed", "applied"]


def test_a_deployment_that_goes_is_removed_once(silent: Reported) -> None:
    silent.plant.publish(silent.plant.workload("pump", "a"), silent.plant.workload("fan", "a"), counter=2)
    silent.look()
    silent.publish("a", 3)
    silent.look()
    gone = [one for one in silent.outbox.load().events if one.state == "removed"]
    assert [(one.name, one.counter) for one in gone] == [("fan", 3)]
    assert not (silent.plant.device.folder / "status" / "deployments" / f"{id_of('fan')}.json").exists()


def test_being_away_and_back_are_two_events_however_often_one_looks(silent: Reported) -> None:
    silent.look()
    silent.plant.sim.fail(answers(503), times=100)
    for _ in range(3):
        silent.look()
    silent.plant.sim.recover()
    silent.look()
    assert silent.events[4:] == [("outcome", "unreachable"), ("outcome", "applied")]


def test_a_refusal_has_its_reason(silent: Reported) -> None:
    silent.look()
    silent.plant.device.key = silent.plant.stranger.public
    silent.look()
    (refused,) = silent.outbox.load().events[4:]
    assert (refused.state, refused.reason) == ("refused", "wrong-key")


def test_stale_trust_is_an_event_and_changes_nothing_that_runs(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    stale = Reported(plant, ReportSettings(files=tmp_path / "status"))
    stale.look()
    running = dict(plant.device.engine.running)
    plant.wait(7 * DAY)
    stale.look()
    assert ("stale", "stale") in stale.events
    assert plant.device.engine.running == running
    assert parse_device_status(stale.file("device.json")).stale.startswith("head version 1 expired")
    plant.issue()
    stale.look()
    assert stale.events[-1] == ("stale", "fresh") or ("stale", "fresh") in stale.events


def test_being_held_and_going_on_are_events(silent: Reported) -> None:
    silent.look()
    waiting = {"outcome": "waiting", "message": "not before 22:00", "deployments": []}
    silent.look(waiting)
    assert parse_device_status(silent.file("device.json")).waiting == "not before 22:00"
    silent.look(waiting)
    silent.look()
    assert silent.events[4:] == [
        ("outcome", "waiting"), ("waiting", "held"), ("outcome", "applied"), ("waiting", "resumed"),
    ]  # fmt: skip
    assert parse_device_status(silent.file("device.json")).waiting == ""


def test_a_pull_that_failed_is_told_until_it_is_done(silent: Reported) -> None:
    silent.look()
    failing = {
        "id": id_of("pump"), "name": "pump", "action": "update", "state": "failed",
        "error": "pull registry.example/images/cell@sha256:0: manifest unknown", "code": "pull-failed",
    }  # fmt: skip
    record = silent.plant.device.record
    silent.plant.device.record_file.save(replace(record, settled=False))
    silent.look({"outcome": "failed", "message": "pump", "deployments": [failing]})
    silent.look({"outcome": "unreachable", "message": "away", "deployments": []})
    (pump,) = parse_device_status(silent.file("device.json")).deployments
    assert (pump.state, pump.error.code if pump.error else "") == ("failed", "pull-failed")
    silent.plant.device.record_file.save(record)
    silent.look()
    assert silent.events[-1] == ("deployment", "installed")


def test_a_deployment_that_waits_is_pending_until_it_is_there(silent: Reported) -> None:
    silent.look()
    waits = {"id": id_of("fan"), "name": "fan", "action": "install", "state": "pending"}
    silent.look({"outcome": "waiting", "message": "not now", "deployments": [waits]})
    silent.look({"outcome": "unreachable", "message": "away"})
    states = {one.name: one.state for one in parse_device_status(silent.file("device.json")).deployments}
    assert states == {"pump": "installed", "fan": "pending"}


def test_what_a_deployment_adopted_is_the_newest_state_that_was_begun(silent: Reported) -> None:
    silent.look()
    record = silent.plant.device.record
    accepted = replace(record.accepted[record.current], counter=2, digest=digest_of(b"newer"), head=None)
    silent.plant.device.record_file.save(record.accept(accepted))
    silent.look({"outcome": "unreachable", "message": "away"})
    (pump,) = parse_device_status(silent.file("device.json")).deployments
    assert pump.adopted == 1
    silent.plant.device.record_file.save(record.accept(accepted).begin(id_of("pump")))
    silent.look({"outcome": "unreachable", "message": "away"})
    (pump,) = parse_device_status(silent.file("device.json")).deployments
    assert (pump.adopted, pump.state) == (2, "installing")


def test_files_say_what_is(silent: Reported) -> None:
    silent.look()
    status = parse_device_status(silent.file("device.json"))
    assert (status.device, status.counter, status.outcome, status.settled) == ("edge-17", 1, "applied", True)
    assert (status.free_bytes, status.last_event, status.heartbeat_s) == (5, 4, 0)
    assert status.applied
    pump = parse_status_manifest(silent.file(f"deployments/{id_of('pump')}.json"))
    assert (pump.id, pump.state, pump.adopted) == (id_of("pump"), "installed", 1)
    assert [one.name for one in pump.components] == [one.name for one in status.deployments[0].components]
    assert silent.file("capabilities.json") == b'{"properties":{}}'


def test_a_disk_that_is_full_is_told_once_and_stops_nothing(silent: Reported, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("in the way")
    silent.look()
    silent.look()
    (told,) = silent.told
    assert told["message"].startswith("the status could not be written:")


def test_what_cannot_be_written_down_is_reported_all_the_same(device: Reported, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("in the way")
    device.look()
    assert device.read().status.outcome == "applied"


def test_a_record_that_is_damaged_is_told_and_nothing_is_made_up(device: Reported) -> None:
    device.plant.device.record_file.path.write_text("{")
    device.look({"outcome": "failed", "message": "not usable JSON"})
    assert (device.pushes, device.events) == (0, [])
    assert device.told[0]["message"].startswith("the status is not known:")


def test_11_11_a_report_is_pushed_when_there_is_news(device: Reported) -> None:
    device.look()
    device.look()
    assert device.pushes == 1
    report = device.read()
    assert (report.status.device, report.status.counter, report.signed_by) == ("edge-17", 1, "device")
    assert [one.number for one in report.events] == [1, 2, 3, 4]
    assert device.outbox.load().pending == 0
    device.publish("b", 2)
    device.look()
    assert device.pushes == 2
    assert [one.number for one in device.read().events] == [1, 2, 3, 4, 5, 6, 7]


def test_11_11_without_news_a_heartbeat_goes_out(device: Reported) -> None:
    device.plant.device.now = NOON + 365 * DAY
    device.look()
    device.plant.device.now += timedelta(seconds=899)
    device.look()
    assert device.pushes == 1
    device.plant.device.now += timedelta(seconds=1)
    device.restart()
    device.look()
    assert device.pushes == 2
    assert device.read().status.heartbeat_s == 900


def test_a_clock_that_was_set_back_does_not_silence_a_device(device: Reported) -> None:
    device.plant.device.now = NOON + 365 * DAY
    device.look()
    device.plant.device.now = NOON + 300 * DAY
    device.look()
    assert device.pushes == 2


def test_a_device_that_was_away_reports_all_that_happened_in_order_and_once(device: Reported) -> None:
    device.look()
    seen = [one.number for one in device.read().events]
    device.plant.sim.fail(answers(503), times=1000)
    device.look()
    for state in ("b", "c", "d"):  # what happened meanwhile, as passes from a mirror or a carried bundle would tell it
        device.look({"outcome": "failed", "reason": state, "message": state})
    assert device.pushes > 1  # each was tried, and none got through
    device.plant.sim.recover()
    device.monotonic_s += 10_000
    device.look()
    report = device.read()
    new = [(one.number, one.state, one.reason) for one in report.events if one.number not in seen]
    assert new == [
        (5, "unreachable", ""), (6, "failed", "b"), (7, "failed", "c"), (8, "failed", "d"), (9, "applied", ""),
    ]  # fmt: skip
    assert device.outbox.load().pending == 0


def test_nobody_is_asked_to_take_a_report_who_did_not_answer_a_look(device: Reported) -> None:
    device.plant.sim.fail(answers(503), times=1000)
    device.look()
    assert device.pushes == 0
    device.plant.sim.recover()
    device.look()
    assert device.pushes == 1


def test_a_report_that_does_not_get_through_is_tried_again_later_and_told_once(device: Reported) -> None:
    device.plant.sim.fail(answers(503), on="none")
    broken = SimulatedUploader(device.plant.sim)
    device.reporter.push = _refused
    for _ in range(3):
        device.look()
    assert broken
    assert device.reporter.counts.reports_failed == 1
    device.monotonic_s += BACKOFF_S + 1
    device.look()
    assert device.reporter.counts.reports_failed == 2
    assert [one["message"] for one in device.told] == ["the report did not get through: nobody answers"]
    device.reporter.push = device._push
    device.monotonic_s += 10 * BACKOFF_S
    device.look()
    assert device.reporter.counts.reports == 1


async def _refused() -> Mapping[str, Any]:
    return {"outcome": "unreachable", "message": "nobody answers"}


def test_a_registry_that_asks_for_patience_gets_it(device: Reported) -> None:
    async def busy() -> Mapping[str, Any]:
        return {"outcome": "unreachable", "message": "busy", "retryAfterSeconds": 500.0}

    device.reporter.push = busy
    device.look()
    assert device.reporter.not_before_s == device.monotonic_s + 500


def test_11_5_a_delivery_whose_answer_was_lost_carries_the_same_numbers_again(device: Reported) -> None:
    device.look()
    first = device.read()
    device.outbox.mark_file.unlink()  # the power went before it was noted
    device.restart()
    device.look()
    assert device.pushes == 2
    assert device.read().events == first.events


def test_11_5_numbers_go_on_after_what_was_delivered_when_the_outbox_is_lost(device: Reported) -> None:
    device.look()
    device.outbox.file.unlink()
    device.restart()
    device.look()
    assert [one.number for one in device.read().events] == [5, 6, 7, 8]


def test_11_9_beside_the_state_there_is_no_heartbeat(tmp_path: Path) -> None:
    beside = Reported(
        running_plant(tmp_path), ReportSettings(registry=True, form="referrer", files=tmp_path / "status")
    )
    beside.look()
    assert beside.pushes == 1
    beside.plant.device.now += 30 * DAY
    beside.look()
    assert beside.pushes == 1
    assert parse_device_status(beside.file("device.json")).heartbeat_s == 0
    mark = beside.outbox.mark()
    assert mark.subject == beside.plant.device.record.digest


def test_11_4_where_reports_go(device: Reported) -> None:
    assert str(destination(device.config)) == "registry.example/fleet/edge-17/status:edge-17"
    elsewhere = replace(device.settings, reference=Reference("other.example", "all", "x"))
    assert str(destination(replace(device.config, report=elsewhere))) == "other.example/all:x"
    beside = replace(device.settings, form="referrer")
    assert destination(replace(device.config, report=beside)) == SOURCE


def event(number: int, **more: Any) -> Event:
    return Event(kind="outcome", state="failed", reason=str(number), **more)


def test_11_5_the_outbox_is_bounded_and_says_how_much_it_dropped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, count_limit=100)
    for number in range(1, 251):
        outbox.add([event(number)], time="2026-11-21T12:00:00Z")
        assert len(outbox.load().events) <= 100
    kept = outbox.load()
    assert kept.last == 250
    assert kept.dropped == 250 - len(kept.events)
    assert [one.number for one in kept.events] == list(range(251 - len(kept.events), 251))


def test_11_5_the_outbox_is_bounded_in_bytes(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, limit_bytes=10_000)
    for number in range(1, 60):
        outbox.add([event(number, message="x" * 1000)], time="2026-11-21T12:00:00Z")
        assert outbox.file.stat().st_size < 12_000
    assert outbox.load().dropped > 0


def test_what_was_delivered_and_dropped_was_not_lost(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, count_limit=10)
    for number in range(1, 9):
        outbox.add([event(number)], time="2026-11-21T12:00:00Z")
    outbox.accept(Mark(delivered=8))
    for number in range(9, 12):
        outbox.add([event(number)], time="2026-11-21T12:00:00Z")
    assert outbox.load().dropped == 0
    assert outbox.load().pending == 3


def test_a_window_has_all_that_is_pending_and_the_newest_of_the_others(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.add([event(number) for number in range(300)], time="2026-11-21T12:00:00Z")
    assert len(outbox.load().window) == 300
    outbox.accept(Mark(delivered=300))
    assert [one.number for one in outbox.load().window] == list(range(301 - KEPT_DELIVERED, 301))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_a_power_cut_tore_costs_that_event_and_no_other(tmp_path: Path, cut: int) -> None:
    outbox = Outbox(tmp_path)
    for number in range(1, 4):
        outbox.add([event(number)], time="2026-11-21T12:00:00Z")
    data = outbox.file.read_bytes()
    outbox.file.write_bytes(data[:-cut])
    there = len(outbox.load().events)
    assert there in (2, 3)
    outbox.add([event(9)], time="2026-11-21T12:00:01Z")
    found = outbox.load()
    assert [one.number for one in found.events] == list(range(1, there + 2))
    assert parse_events(b"".join(one.to_line() for one in found.events))


def test_facts_outlive_the_events_that_told_them(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, count_limit=10)
    fact = Event(kind="accepted", digest=digest_of(b"x"), counter=3)
    outbox.add([fact], time="2026-11-21T12:00:00Z")
    for number in range(50):
        outbox.add([event(number)], time="2026-11-21T12:00:00Z")
    assert fact.says_as(outbox.load().facts["accepted", ""])


@pytest.mark.parametrize("damage", [b"", b"{", b"[]\n", b'{"last":"x"}\n', b'{"facts":[{}]}\n'])
def test_an_outbox_that_cannot_be_read_begins_anew_after_what_was_delivered(tmp_path: Path, damage: bytes) -> None:
    outbox = Outbox(tmp_path)
    outbox.add([event(1), event(2)], time="2026-11-21T12:00:00Z")
    outbox.accept(Mark(delivered=2, digest=digest_of(b""), time="2026-11-21T12:00:00Z"))
    outbox.file.write_bytes(damage)
    assert [one.number for one in outbox.add([event(3)], time="2026-11-21T12:00:01Z").events] == [3]
    outbox.mark_file.write_bytes(damage)
    assert outbox.mark() == Mark()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Error response from daemon: No such image: cell:1", "pull-failed"),
        ("dependency failed to start: container web-1 is unhealthy", "unhealthy"),
        ("service web didn't complete successfully: exited (3)", "exited"),
        ("Bind for 0.0.0.0:80 failed: port is already allocated", "port-taken"),
        ("listen tcp 0.0.0.0:80: bind: address already in use", "port-taken"),
        ("write /var/lib: no space left on device", "no-room"),
        ("Cannot connect to the Docker daemon at unix:///run/x", "engine"),
        ("who knows", "other"),
    ],
)
def test_11_2_what_compose_says_in_words_has_a_stable_code(words: str, code: str) -> None:
    assert failed("up", words).code == code
    assert code in CODES


@pytest.mark.parametrize("kind", [ApplyError, PullFailed, Unfit, NoRoom, Unmet, EngineUnavailable])
def test_11_2_each_kind_of_failure_has_a_stable_code(kind: type[ApplyError]) -> None:
    assert kind("who knows").code in CODES


def test_11_2_the_code_of_a_failure_is_remembered_and_told(silent: Reported) -> None:
    device = silent.plant.device
    device.apply = replace(device.apply, atomic="state")
    device.engine.spoiled = {"c"}
    silent.plant.publish(silent.plant.workload("pump", "b"), silent.plant.workload("tank", "c"), counter=2)
    report = device.once()
    assert {one.name: one.code for one in report.deployments} == {"pump": "rolled-back", "tank": "exited"}
    assert {one.name: one.code for one in device.record.failed.values()} == {"pump": "rolled-back", "tank": "exited"}


def test_the_component_to_blame_is_the_source_and_not_one_of_the_way_back() -> None:
    words = "component pump: service web exited with 1; the last good version did not come back: component old: gone"
    fault = fault_of("exited", words, "line")
    assert (fault.code, fault.source, fault.message) == ("exited", "pump", words)
    assert fault_of("", "who knows; component old: gone", "line") == Fault(
        "other", "line", "who knows; component old: gone"
    )


def test_11_1_only_the_component_to_blame_failed(silent: Reported) -> None:
    silent.plant.device.engine.spoiled.add("b")
    silent.publish("b", 2)
    silent.look()
    (pump,) = parse_device_status(silent.file("device.json")).deployments
    (component,) = pump.components
    assert pump.state == component.state == "failed"
    assert pump.error is not None
    assert component.error is not None
    assert (pump.error.source, component.error.source) == ("pump", component.name)


def test_words_of_workloads_do_no_harm(silent: Reported) -> None:
    silent.look({"outcome": "failed", "message": "\x1b[2J" + "x" * 5000, "reason": "", "deployments": []})
    status: DeviceStatus = parse_device_status(silent.file("device.json"))
    assert status.message.isprintable()
    assert len(json.dumps(status.to_dict())) < 4000


def test_names_of_any_length_make_a_status_that_can_be_read(silent: Reported) -> None:
    silent.look()
    record = silent.plant.device.record
    long = {
        key: replace(one, name="n" * 5000, components=["c" * 5000, *map(str, range(400))])
        for key, one in record.installed.items()
    }
    silent.plant.device.record_file.save(replace(record, installed=long))
    silent.look()
    (pump,) = parse_device_status(silent.file("device.json")).deployments
    assert (len(pump.name), len(pump.components), len(pump.components[0].name)) == (255, 256, 255)
    assert len(parse_status_manifest(silent.file(f"deployments/{id_of('pump')}.json")).components) == 256


def test_while_a_pass_is_under_way_what_it_began_is_told_and_the_heart_goes_on_beating(device: Reported) -> None:
    device.plant.device.now = NOON + 365 * DAY
    device.look()
    record = device.plant.device.record
    accepted = replace(record.accepted[record.current], counter=2, digest=digest_of(b"newer"), head=None)

    async def passing() -> None:
        device.reporter.under_way(device.config)  # nothing is new, and no heartbeat due
        assert device.reporter.pushing is None or device.reporter.pushing.done()
        device.plant.device.record_file.save(record.accept(accepted).begin(id_of("fan")))
        device.reporter.under_way(device.config)
        assert device.reporter.pushing
        await device.reporter.pushing
        device.plant.device.now += timedelta(hours=1)
        device.reporter.under_way(device.config)
        await device.reporter.pushing

    asyncio.run(passing())
    assert device.pushes == 3
    assert device.events[4:] == [("accepted", ""), ("deployment", "installing")]
    report = device.read()
    states = {one.name or one.id: (one.state, one.adopted) for one in report.status.deployments}
    assert states == {"pump": ("installed", 1), id_of("fan"): ("installing", 2)}


def test_what_is_removed_is_removing_first_and_then_removed_or_failed(silent: Reported) -> None:
    silent.look()
    pump, records = id_of("pump"), silent.plant.device.record_file

    def state() -> str:
        (one,) = parse_device_status(silent.file("device.json")).deployments
        assert {component.state for component in one.components} == {one.state}
        return one.state

    records.save(records.load().begin(pump, leaves=True))
    silent.reporter.under_way(silent.config)
    assert state() == "removing"
    undone = {"id": pump, "name": "pump", "action": "remove", "state": "failed", "error": "the engine is away"}
    records.save(replace(records.load(), settled=False))
    silent.look({"outcome": "failed", "deployments": [undone]})
    assert state() == "failed"
    silent.reporter.under_way(silent.config)
    assert state() == "removing"
    records.save(records.load().did_remove(pump))
    silent.look({"outcome": "applied", "deployments": [{**undone, "state": "removed"}]})
    assert parse_device_status(silent.file("device.json")).deployments == ()
    assert [one for one in silent.events if one[0] == "deployment"][1:] == [
        ("deployment", one) for one in ("removing", "failed", "removing", "removed")
    ]


def test_a_pass_is_waited_for_with_an_eye_on_it(device: Reported) -> None:
    seen = asyncio.Event()

    def look(_: AgentConfig) -> Found:
        seen.set()
        return Found()

    async def working() -> Mapping[str, Any]:
        await seen.wait()
        return {"outcome": "applied"}

    device.reporter.look, device.reporter.look_every_s = look, 0.001
    assert asyncio.run(device.reporter.meanwhile(device.config, working())) == {"outcome": "applied"}


def test_what_ends_a_pass_ends_the_waiting(device: Reported) -> None:
    async def broken() -> Mapping[str, Any]:
        raise OSError("no process can be started")

    with pytest.raises(OSError, match="no process"):
        asyncio.run(device.reporter.meanwhile(device.config, broken()))


def test_what_two_noticed_is_one_event(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    gone = Event(kind="deployment", deployment="1", state="removed")
    for _ in range(2):
        outbox.add([Event(kind="deployment", deployment="1", state="installed")], time="2026-11-21T12:00:00Z")
    for _ in range(2):
        outbox.add([gone], time="2026-11-21T12:00:00Z")
    assert [one.state for one in outbox.load().events] == ["installed", "removed"]
