"""What doctor makes of what it sees."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from margo_agent.clock import BUILT
from margo_agent.config import AgentConfig
from margo_agent.device_identity import make_identity
from margo_agent.doctor import engine as engines
from margo_agent.doctor import here, trust
from margo_agent.doctor.check import Check, days_left, run_checks, worst
from margo_agent.doctor.engine import LEAST_API
from margo_agent.doctor.registry import Heard, _certificate, _remedy, _skew
from margo_agent.doctor.secrets import secrets
from margo_oci.errors import TrustError
from margo_oci.registry import Access, Registry
from tests.simulators.plant import NOON, running_plant
from tests.simulators.registry import SimulatedRegistry
from tests.unit.headed import headed_plant

MEMINFO = "MemTotal:  8000000 kB\nMemAvailable:  {} kB\n"


def test_one_that_hangs_does_not_hold_the_others() -> None:
    for_ever = threading.Event()

    def hangs() -> Iterator[Check]:
        yield Check("engine", "ok", "answers")
        for_ever.wait()

    assert [(one.name, one.status) for one in run_checks("engine", hangs, limit_s=0.05)] == [
        ("engine", "ok"),
        ("engine", "fail"),
    ]
    for_ever.set()


def test_secrets_need_a_key_and_a_place_in_memory(tmp_path: Path) -> None:
    config = replace(running_plant(tmp_path / "plant").device._config(), secrets_dir=Path("/dev/shm/margo-doctor"))  # noqa: S108

    def look(now: datetime = NOON, config: AgentConfig = config) -> Check:
        (one,) = secrets(config, {}, now)
        return one

    assert look().seen.startswith("no identity")
    make_identity(config, NOON, days=30)
    assert (look().status, look(NOON + timedelta(days=31)).status) == ("ok", "warn")
    assert "30 days left" in look().seen
    on_disk = look(config=replace(config, secrets_dir=Path("/proc/margo-doctor")))
    assert (on_disk.status, "not in memory" in on_disk.seen) == ("fail", True)
    (config.state_dir / "identity" / "device.crt").write_text("not a certificate")
    assert look().status == "fail"


def test_a_place_for_bundles_that_cannot_be_looked_into_is_a_finding(tmp_path: Path) -> None:
    config = running_plant(tmp_path / "plant").device._config()
    assert list(here.inbox(config)) == []
    for folder, status in ((tmp_path, "ok"), (tmp_path / "gone", "warn")):
        (one,) = here.inbox(replace(config, inbox=folder))
        assert (one.name, one.status) == ("inbox", status)


def test_one_that_breaks_is_a_finding() -> None:
    def breaks() -> Iterator[Check]:
        yield Check("trust", "ok", "so far")
        raise TrustError("wrong-key", "not this one")

    found = run_checks("trust", breaks)
    assert [one.seen for one in found] == ["so far", "not this one"]


def test_the_worst_decides() -> None:
    fine, odd, bad = (Check("x", status, "") for status in ("ok", "warn", "fail"))
    assert (worst([]), worst([fine]), worst([fine, odd]), worst([odd, bad, fine])) == ("ok", "ok", "warn", "fail")


def test_people_read_what_was_seen_and_what_to_do() -> None:
    assert Check("disk", "warn", "3 MiB free", "free some room").lines == (
        "warn  disk           3 MiB free",
        "                     next: free some room",
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(-86400, "expired 1.0 days ago"), (5400, "1.5 hours left"), (864000, "10 days left")]
)
def test_how_long_something_holds_is_said_in_words(seconds: float, words: str) -> None:
    assert days_left(seconds) == words


@pytest.mark.parametrize(("kib", "status"), [(50_000, "fail"), (100_000, "warn"), (2_000_000, "ok")])
def test_memory_is_held_against_what_a_pass_wants(kib: int, status: str) -> None:
    (check,) = here.memory(MEMINFO.format(kib))
    assert check.status == status


def test_a_clock_from_before_this_software_is_wrong() -> None:
    (check,) = here.clock(datetime(1970, 1, 1, tzinfo=UTC), synchronized=True)
    assert (check.status, "is before this software was built" in check.seen) == ("warn", True)


def test_a_clock_that_nobody_keeps_right_deserves_a_look() -> None:
    (check,) = here.clock(BUILT + timedelta(days=1), synchronized=False)
    assert (check.status, check.todo.startswith("run a time service")) == ("warn", True)
    (check,) = here.clock(BUILT + timedelta(days=1), synchronized=None)
    assert check.status == "ok"


def test_a_folder_that_others_can_write_is_found(tmp_path: Path) -> None:
    config = running_plant(tmp_path).device._config()
    tmp_path.chmod(0o777)
    (check,) = here.state_dir(config)
    assert (check.status, "others can write to it" in check.seen) == ("fail", True)
    tmp_path.chmod(0o700)
    assert {one.name: one.status for one in here.state_dir(config)}["state dir"] == "ok"
    assert not (tmp_path / ".doctor").exists()


def test_a_damaged_record_is_found(tmp_path: Path) -> None:
    config = running_plant(tmp_path).device._config()
    (tmp_path / "record.json").write_text("{")
    assert {one.name: one.status for one in here.state_dir(config)}["record"] == "fail"


def test_a_clock_that_differs_from_the_registrys_is_found() -> None:
    check = _skew("Sat, 01 Aug 2026 12:00:00 GMT", "registry.example", NOON + timedelta(hours=1))
    assert check
    assert (check.status, check.seen) == ("warn", "our clock is 3600 s ahead of that of registry.example")
    check = _skew("Sat, 01 Aug 2026 12:00:00 GMT", "registry.example", NOON + timedelta(seconds=2))
    assert check
    assert check.status == "ok"
    assert _skew("soon", "registry.example", NOON) is None
    assert _skew("Sat, 01 Aug 2026 12:00:00", "registry.example", NOON) is None  # without a zone it says nothing


def test_the_time_of_a_registry_is_heard_from_its_answers() -> None:
    sim, heard = SimulatedRegistry(), Heard()

    async def asked() -> None:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport, heard=heard.note) as registry:
            await registry.ping("registry.example")

    asyncio.run(asked())
    assert heard == Heard({"registry.example": ""}, {})
    heard.note("registry.example", httpx2.Response(200, headers={"Date": "Sat, 01 Aug 2026 12:00:00 GMT"}))
    assert heard.dates == {"registry.example": "Sat, 01 Aug 2026 12:00:00 GMT"}


def test_a_certificate_of_the_registry_that_ends_soon_is_found() -> None:
    check = _certificate("Aug  5 12:00:00 2026 GMT", NOON)
    assert check
    assert (check.status, check.seen) == ("warn", "the registry's certificate: 4 days left")
    assert _certificate(None, NOON) is None


@pytest.mark.parametrize(
    ("words", "todo"),
    [
        ("GET x: 401: no credentials", "passwordFile"),
        ("GET x: certificate verify failed: unable to get local issuer certificate", "caFile"),
        ("GET x: Name or service not known", "name servers"),
        ("GET x: Connection refused", "firewall"),
    ],
)
def test_a_registry_that_fails_leads_to_what_to_do(words: str, todo: str) -> None:
    assert todo in _remedy(words)


def test_an_engine_that_is_too_old_is_found() -> None:
    check = engines._version("unix:///x", {"ApiVersion": "1.39", "Version": "18"})
    assert (check.status, str(LEAST_API[1]) in check.todo) == ("fail", True)
    check = engines._version("unix:///x", {"ApiVersion": "1.41", "SecurityOptions": ["name=rootless"]})
    assert (check.status, check.seen.endswith(", rootless")) == ("ok", True)


def test_podman_is_called_by_its_name_and_vfs_deserves_a_look() -> None:
    about = {"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}], "Driver": "vfs"}
    assert engines._version("unix:///x", about).seen.startswith("Podman ")
    assert engines._storage(about).status == "warn"
    assert engines._load("403 forbidden").status == "fail"


def test_head_and_root_are_told_with_the_time_they_have_left(tmp_path: Path) -> None:
    plant = headed_plant(tmp_path)
    plant.device.once()
    config, record = plant.device._config(), plant.device.record_file.load()
    found = list(trust._head_and_root(config, record, NOON))
    assert [one.name for one in found] == ["root", "head"]
    late = list(trust._head_and_root(config, record, NOON + timedelta(days=10_000)))
    assert [one.status for one in late] == ["fail", "fail"]
