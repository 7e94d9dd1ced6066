"""What is changed by hand on the engine: noticed by the loop and put right, and nothing that is not ours is touched."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from margo_agent.state_folder import locked
from tests.integration.site import IDS, Site, ours, page, web
from tests.parts import images
from tests.parts.dockerd import PrivateDocker
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry

HELLO, PUMP = 18131, 18132
LIMIT_S = 60.0
ID = IDS["pump"].replace("-", "")


@pytest.fixture(scope="session")
def image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image that serves GREETING."""
    Images(engine.docker_host, tls_registry.host).push("images/drift", "1.0", images.web())
    return f"{tls_registry.host}/images/drift:1.0"


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, image: str) -> Iterator[Site]:
    """A site with two deployments, published and not yet applied."""
    site = Site(tmp_path, tls_registry, engine)
    site.configure(interval="1h")
    site.component("hello", "1.0.0", web(image, HELLO))
    site.component("pump", "1.0.0", web(image, PUMP))
    site.deployment("hello", GREETING="hello")
    site.deployment("pump", GREETING="pump")
    site.push()
    yield site
    site.take_down()


class Loop:
    """A running agent, and what it tells."""

    def __init__(self, agent: "subprocess.Popen[str]") -> None:
        assert agent.stdout
        self.agent, self.out = agent, agent.stdout
        os.set_blocking(self.out.fileno(), False)

    def told(self, within_s: float = LIMIT_S) -> Any:
        """Return the next line it tells; None if it tells nothing."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if line := self.out.readline():
                return json.loads(line)
            time.sleep(0.1)
        return None


@pytest.fixture
def loop(site: Site) -> Iterator[Loop]:
    """A running agent that applied both deployments and looked at the engine once."""
    with site.running_agent() as agent:
        loop = Loop(agent)
        told = loop.told()
        assert told["outcome"] == "applied", told
        wait_for(lambda: (site.folder / "state" / "drift.json").exists())
        time.sleep(2)  # what it did itself is looked at by now
        yield loop


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def container(client: docker.DockerClient, component: str) -> Any:
    """Return the one container of a component."""
    return next(one for one in ours(client, stopped=True) if one.labels["org.margo.component"] == component)


def by_hand(site: Site, what: str) -> None:
    """Do something to the container of pump."""
    with site.looking() as client:
        pump = container(client, "pump")
        network = client.networks.get(f"pump-{ID}_default")
        if what == "network":
            network.disconnect(pump, force=True)
            network.remove()
        else:
            {
                "stop": pump.stop,
                "kill": pump.kill,
                "remove": lambda: pump.remove(force=True),
                "pause": pump.pause,
                "update": lambda: pump.update(mem_limit="64m", memswap_limit="64m"),
                "rename": lambda: pump.rename("something-else"),
                "disconnect": lambda: network.disconnect(pump),
            }[what]()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("stop", "service web: stopped by hand"),
        ("kill", "service web: stopped by hand"),
        ("remove", "service web: 0 of 1 containers are there"),
        ("pause", "service web: paused"),
        ("update", "service web: Memory none -> 67108864, MemorySwap none -> 67108864"),
        ("rename", f"service web: name pump-{ID}-web-1 -> something-else"),
        ("disconnect", f"service web: is not in network pump-{ID}_default"),
        ("network", f"service web: network pump-{ID}_default is gone"),
    ],
)
def test_what_is_changed_by_hand_is_put_right_and_nothing_else_is_touched(
    site: Site, loop: Loop, what: str, words: str
) -> None:
    before = site.containers()["hello"]
    by_hand(site, what)
    told = loop.told()
    assert told["outcome"] == "applied"
    assert [(one["name"], one["action"], one["state"]) for one in told["deployments"]] == [
        ("pump", "correct", "installed")
    ]
    assert told["deployments"][0]["drift"][0].startswith(words)
    assert page(PUMP) == "pump"
    assert site.containers()["hello"] == before
    with site.looking() as client:
        pump = container(client, "pump")
        assert (pump.status, pump.name, pump.attrs["HostConfig"]["Memory"]) == ("running", f"pump-{ID}-web-1", 0)
        assert list(pump.attrs["NetworkSettings"]["Networks"]) == [f"pump-{ID}_default"]
    assert loop.told(within_s=6) is None
    assert site.agent("status")["deployments"][1]["drift"] == []


def test_what_is_made_by_hand_from_another_model_is_made_anew(site: Site, loop: Loop, image: str) -> None:
    with site.looking() as client:
        pump = container(client, "pump")
        labels = {**pump.labels, "com.docker.compose.config-hash": "0" * 64}
        name, used = pump.name, pump.attrs["Config"]["Image"]
        pump.remove(force=True)
        client.containers.run(used, name=name, labels=labels, network=f"pump-{ID}_default", detach=True)
    told = loop.told()
    assert told["deployments"][0]["drift"] == ["service web: was made from another model"]
    assert page(PUMP) == "pump"


def test_with_report_drift_is_told_once_and_left_alone(site: Site) -> None:
    site.configure(interval="1h", drift="report")
    with site.running_agent() as agent:
        loop = Loop(agent)
        assert loop.told()["outcome"] == "applied"
        wait_for(lambda: (site.folder / "state" / "drift.json").exists())
        time.sleep(2)
        by_hand(site, "kill")
        told = loop.told()
        assert (told["outcome"], told["message"]) == (
            "unchanged",
            "drift: pump: service web: stopped by hand (only reported: drift: report)",
        )
        assert loop.told(within_s=6) is None
        assert site.agent("status")["deployments"][1]["drift"] == ["service web: stopped by hand"]
        assert set(site.containers()) == {"hello"}


def test_on_hold_drift_is_told_and_put_right_later(site: Site, loop: Loop) -> None:
    hold = site.folder / "state" / "hold"
    hold.write_text("{}")
    by_hand(site, "kill")
    assert loop.told()["message"] == "drift: pump: service web: stopped by hand (only reported: on hold)"
    hold.unlink()
    told = loop.told()
    assert (told["outcome"], page(PUMP)) == ("applied", "pump")


def test_what_is_not_ours_stays_and_orphans_of_ours_go(site: Site, loop: Loop) -> None:
    with site.looking() as client:
        used = container(client, "pump").attrs["Config"]["Image"]
        label = {"org.margo.deployment": "11111111-0000-4000-8000-000000000000", "org.margo.component": "x"}
        foreign = client.containers.run(used, name="foreign", detach=True, network="none")
        other = client.containers.run(
            used, name="other", detach=True, network="none", labels={**label, "org.margo.device": "edge-18"}
        )
        unnamed = client.containers.run(used, name="unnamed", detach=True, network="none", labels=label)
        foreign_network = client.networks.create("foreign", labels={"com.docker.compose.project": "foreign"})
        client.containers.run(
            used, name="orphan", detach=True, network="none", labels={**label, "org.margo.device": "edge-17"},
            volumes={"precious": {"bind": "/data"}},
        )  # fmt: skip
        told = loop.told()
        assert [(one["action"], one["state"]) for one in told["deployments"]] == [("remove", "removed")]
        assert told["message"].endswith("container orphan is of no deployment of this device")
        there = {one.name for one in client.containers.list(all=True)}
        assert {"foreign", "other", "unnamed"} <= there
        assert "orphan" not in there
        assert client.volumes.get("precious")
        assert client.networks.get("foreign")
        assert set(site.containers()) == {"hello", "pump", "x"}
        for one in (foreign, other, unnamed):
            one.remove(force=True)
        foreign_network.remove()


def test_nothing_is_an_orphan_before_a_state_was_accepted_nor_by_a_damaged_record(site: Site) -> None:
    site.agent("once")
    record = site.folder / "state" / "record.json"
    kept = record.read_bytes()
    record.unlink()
    assert site.agent("correct")["outcome"] == "unchanged"
    record.write_text("{")
    assert site.agent("correct", expect=2)["outcome"] == "failed"
    record.write_bytes(kept)
    assert site.agent("correct")["outcome"] == "unchanged"
    assert set(site.containers()) == {"hello", "pump"}


def test_a_job_that_is_done_is_no_drift(site: Site, image: str) -> None:
    job = f'services:\n  job:\n    image: {image}\n    entrypoint: ["/bin/sh", "-c", "exit 0"]\n'
    site.component("job", "1.0.0", job)
    site.deployment("job")
    site.push()
    site.agent("once")
    assert site.agent("correct")["outcome"] == "unchanged"
    site.stop("pump")
    with site.looking() as client:
        before = container(client, "job").attrs["State"]["StartedAt"]
        assert site.agent("correct")["outcome"] == "applied"
        assert container(client, "job").attrs["State"]["StartedAt"] == before


def test_while_another_agent_is_at_work_a_look_waits_without_a_word(site: Site) -> None:
    site.agent("once")
    site.stop("pump")
    with locked(site.folder / "state" / "pass.lock"):
        told = site.agent("correct")
        assert (told["outcome"], told["held"]) == ("unchanged", True)
        assert site.agent("gc", expect=2)["outcome"] == "unchanged"
    assert site.agent("correct")["outcome"] == "applied"


def test_a_crash_loop_is_left_to_its_restart_policy(site: Site, loop: Loop, image: str) -> None:
    site.component("pump", "1.1.0", web(image, PUMP, "    restart: always\n"))
    site.deployment("pump", "1.1.0", GREETING="pump")
    site.push()
    loop.agent.send_signal(signal.SIGHUP)
    assert loop.told()["counter"] == 2
    with site.looking() as client:
        before = container(client, "pump").id
        for _ in range(3):
            wait_for(lambda: bool(container(client, "pump").status == "running"))
            container(client, "pump").exec_run(["/bin/sh", "-c", "kill 1"])
            assert loop.told(within_s=4) is None
        assert container(client, "pump").id == before


def test_after_an_engine_restart_everything_is_back(
    tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, image: str
) -> None:
    if not isinstance(engine, PrivateDocker):
        pytest.skip("only a private engine is restarted")
    with temporary_place() as place, PrivateDocker(place / "own") as mine:
        (tmp_path / "site").mkdir()
        site = Site(tmp_path / "site", tls_registry, mine)
        site.configure(interval="1h")
        site.component("pump", "1.0.0", web(image, PUMP))
        site.deployment("pump", GREETING="pump")
        site.push()
        with site.running_agent() as agent:
            loop = Loop(agent)
            told = loop.told()
            assert told["outcome"] == "applied", told
            wait_for(lambda: (site.folder / "state" / "drift.json").exists())
            time.sleep(2)
            assert mine._process
            mine._process.terminate()
            mine._process.wait(30)
            time.sleep(3)
            with suppress(FileNotFoundError):
                (mine.root / "dockerd.pid").unlink()
            mine.__enter__()
            while (told := loop.told())["outcome"] != "applied":
                assert told["outcome"] == "failed"
            assert told["deployments"][0]["drift"]
            assert page(PUMP) == "pump"
        site.take_down()


def test_an_idle_agent_is_small_and_cool(site: Site, loop: Loop) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    process = Path(f"/proc/{loop.agent.pid}")

    def used_s() -> float:
        return sum(int(one) for one in (process / "stat").read_text().rsplit(")", 1)[1].split()[11:13]) / ticks

    before_s = used_s()
    time.sleep(10)
    resident = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
    assert used_s() - before_s <= 0.05
    assert int(resident.split()[1]) < 40 * 1024
