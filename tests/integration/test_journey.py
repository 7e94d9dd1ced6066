"""From publishing to a running workload and back, with the real commands on real parts."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.site import IDS, Site, page, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

HELLO, PUMP, OTHER = 18101, 18102, 18104


@pytest.fixture(scope="session")
def web_image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image that serves GREETING."""
    Images(engine.docker_host, tls_registry.host).push("images/web", "1.0", images.web())
    return f"{tls_registry.host}/images/web:1.0"


@pytest.fixture(scope="session")
def components(
    tmp_path_factory: pytest.TempPathFactory, tls_registry: LocalRegistry, engine: Engine, web_image: str
) -> None:
    """What every site's deployments refer to, pushed once."""
    site = Site(tmp_path_factory.mktemp("components"), tls_registry, engine)
    site.component("hello", "1.0.0", web(web_image, HELLO))
    site.component("pump", "1.0.0", web(web_image, PUMP))


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, components: None) -> Iterator[Site]:
    """A site with two deployments, published and not yet applied."""
    site = Site(tmp_path, tls_registry, engine)
    site.deployment("hello", GREETING="hello")
    site.deployment("pump", GREETING="pump")
    site.push()
    yield site
    site.take_down()


def answers(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Hold a port as soon as it is free."""
    while answers(port):
        time.sleep(0.1)
    with socket.create_server(("127.0.0.1", port)):
        yield


@pytest.mark.each_engine
def test_a_pushed_state_runs_on_the_device(site: Site) -> None:
    report = site.agent("once")
    assert report["outcome"] == "applied"
    assert [(one["name"], one["action"], one["state"]) for one in report["deployments"]] == [
        ("hello", "install", "installed"),
        ("pump", "install", "installed"),
    ]
    assert (page(HELLO), page(PUMP)) == ("hello", "pump")


def test_the_unchanged_pass_is_one_request_without_a_body(site: Site) -> None:
    site.agent("once")
    site.registry.forget()
    report = site.agent("once")
    requests = site.registry.requests()
    assert (report["outcome"], report["requests"], report["bytesIn"]) == ("unchanged", 1, 0)
    assert [(one.method, one.status, one.bytes) for one in requests] == [("GET", 304, 0)]


@pytest.mark.each_engine
def test_one_changed_parameter_moves_one_layer_and_replaces_one_container(site: Site) -> None:
    site.agent("once")
    before = site.containers()
    site.deployment("hello", GREETING="good evening")
    pushed = site.push()
    report = site.agent("once")
    after = site.containers()
    assert report["layers"] == {"fetched": 1, "reused": 1}
    assert report["requests"] <= 6
    layer = next(one["size"] for one in pushed["layers"] if one["status"] == "uploaded")
    assert report["bytesIn"] <= layer + 8000
    assert after["pump"] == before["pump"]
    assert after["hello"] != before["hello"]
    assert page(HELLO) == "good evening"


def test_plan_says_what_restarts_and_touches_nothing(site: Site) -> None:
    site.agent("once")
    before = site.containers()
    site.deployment("hello", GREETING="changed")
    site.remove("pump")
    site.push()
    report = site.agent("plan")
    assert report["planned"] is True
    assert {one["name"]: (one["action"], one["restarts"]) for one in report["deployments"]} == {
        "pump": ("remove", ["pump/web"]),
        "hello": ("update", ["hello/web"]),
    }
    assert site.containers() == before
    assert site.agent("once")["outcome"] == "applied"


@pytest.mark.each_engine
def test_a_deployment_that_is_not_in_the_state_any_more_is_removed(site: Site) -> None:
    site.agent("once")
    site.remove("pump")
    site.push()
    report = site.agent("once")
    first = report["deployments"][0]
    assert (first["name"], first["action"], first["state"]) == ("pump", "remove", "removed")
    assert set(site.containers()) == {"hello"}


def test_a_state_that_vanishes_from_the_registry_removes_nothing(site: Site) -> None:
    site.agent("once")
    before = site.containers()
    site.configure(source=site.ref("not/there:latest"))
    report = site.agent("once", expect=3)
    assert report["outcome"] == "unreachable"
    assert "does not have it" in report["message"]
    assert site.containers() == before


@pytest.mark.each_engine
def test_a_version_that_does_not_come_up_is_rolled_back_and_not_tried_again(site: Site, web_image: str) -> None:
    site.agent("once")
    broken = '    entrypoint: ["/bin/busybox", "sh", "-c", "echo no pressure; exit 3"]\n'
    site.component("hello", "1.1.0", web(web_image, HELLO, broken))
    site.deployment("hello", "1.1.0", GREETING="new")
    site.push()
    report = site.agent("once", expect=5)
    assert report["outcome"] == "failed"
    assert "exited with 3: no pressure; the last good version is back" in report["message"]
    assert page(HELLO) == "hello"
    again = site.agent("once", expect=5)
    assert (again["requests"], again["bytesIn"]) == (1, 0)
    assert "not tried again until something changes" in again["message"]


@pytest.mark.each_engine
def test_a_failing_deployment_does_not_hold_up_another(site: Site, web_image: str) -> None:
    site.agent("once")
    check = '["CMD", "/bin/busybox", "cat", "/run/pressure"]'
    unhealthy = f"    healthcheck: {{test: {check}, interval: 1s, retries: 1}}\n"
    site.component("hello", "1.2.0", web(web_image, HELLO, unhealthy))
    site.deployment("hello", "1.2.0", GREETING="new")
    site.deployment("pump", GREETING="faster")
    site.push()
    report = site.agent("once", expect=5)
    assert {one["name"]: one["state"] for one in report["deployments"]} == {"hello": "failed", "pump": "installed"}
    assert "is unhealthy: its health check ended with 1" in report["message"]
    assert "cat: can't open '/run/pressure': No such file or directory" in report["message"]
    assert (page(HELLO), page(PUMP)) == ("hello", "faster")


def test_a_fresh_deployment_that_fails_is_taken_down_again(site: Site, web_image: str) -> None:
    site.component("job", "1.0.0", web(web_image, 18103, '    entrypoint: ["/bin/busybox", "false"]\n'))
    site.deployment("job")
    site.push()
    report = site.agent("once", expect=5)
    assert "taken down again" in report["message"]
    assert set(site.containers()) == {"hello", "pump"}


def test_a_job_that_ends_with_0_is_installed(site: Site, web_image: str) -> None:
    site.component("job", "1.0.0", web(web_image, 18103, '    entrypoint: ["/bin/busybox", "true"]\n'))
    site.deployment("job")
    site.push()
    report = site.agent("once")
    assert {one["name"]: one["state"] for one in report["deployments"]}["job"] == "installed"


def test_the_timeout_of_a_component_is_kept(site: Site, web_image: str) -> None:
    slow = '    healthcheck: {test: ["CMD", "/bin/busybox", "false"], interval: 1s, retries: 100}\n'
    site.component("job", "1.0.0", web(web_image, 18103, slow))
    site.deployment("job", timeout="0m3s")
    site.push()
    report = site.agent("once", expect=5)
    assert "not up after 3 s: web is starting" in report["message"]


def test_containers_run_what_the_lock_says_whatever_tags_say_later(site: Site, engine: Engine) -> None:
    inspected = site.oci("inspect", site.state, "-o", "json", *site.flags).json
    locked = inspected["deployments"][0]["lock"]["images"]
    Images(engine.docker_host, site.registry.host).push("images/web", "1.0", images.web(version="moved"))
    site.agent("once")
    with site.looking() as client:
        container = client.containers.list(filters={"label": f"org.margo.deployment={IDS['hello']}"})[0]
        digest = next(iter(locked.values()))
        assert container.attrs["Config"]["Image"] == f"{site.registry.host}/images/web:sha256-{digest[7:]}"
        assert container.labels["org.margo.component"] == "hello"


def test_an_operator_goes_back_with_a_higher_counter_and_no_layer_moves(site: Site) -> None:
    site.agent("once")
    site.deployment("hello", GREETING="second")
    site.push()
    site.agent("once")
    back = site.oci("rollback", site.state, "--to", "1", "--key", "fleet.key", "-o", "json", *site.flags).json
    assert back["counter"] == 3
    report = site.agent("once")
    assert (report["outcome"], report["layers"]["fetched"]) == ("applied", 0)
    assert page(HELLO) == "hello"


@pytest.mark.each_engine
def test_a_pass_that_is_killed_is_finished_by_the_next(site: Site) -> None:
    command = ["margo_agent", "once", "--config", "agent.yaml"]
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=site.folder, env=site.environment, stdout=subprocess.DEVNULL
    ) as agent:
        while not site.containers():
            time.sleep(0.05)
        agent.kill()
    report = site.agent("once")
    assert report["outcome"] == "applied"
    assert {one["state"] for one in report["deployments"]} == {"installed"}
    assert (page(HELLO), page(PUMP)) == ("hello", "pump")


@pytest.mark.each_engine
def test_5_6_a_port_that_one_workload_gives_up_is_had_by_another_in_one_update(site: Site, web_image: str) -> None:
    site.agent("once")
    site.component("hello", "1.5.0", web(web_image, PUMP))  # comes first, and finds the port held
    site.component("pump", "1.5.0", web(web_image, OTHER))
    site.deployment("hello", "1.5.0", GREETING="hello")
    site.deployment("pump", "1.5.0", GREETING="pump")
    site.push()
    report = site.agent("once")
    assert {one["name"]: one["state"] for one in report["deployments"]} == {"hello": "installed", "pump": "installed"}
    assert (page(PUMP), page(OTHER)) == ("hello", "pump")


def test_5_5_a_component_with_another_name_keeps_its_port(site: Site) -> None:
    site.agent("once")
    site.deployment("hello", called="front", GREETING="renamed")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    assert page(HELLO) == "renamed"
    assert set(site.containers()) == {"front", "pump"}


@pytest.mark.each_engine
def test_what_dies_before_it_has_a_container_leaves_no_network(site: Site, web_image: str) -> None:
    site.agent("once")
    before = site.networks()
    site.component("job", "2.0.0", web(web_image, OTHER, "    mem_limit: 1k\n"))  # which no engine takes
    site.deployment("job", "2.0.0")
    site.push()
    assert "; taken down again" in site.agent("once", expect=5)["message"]
    assert site.networks() == before


@pytest.mark.each_engine
def test_a_last_good_version_that_does_not_come_back_is_tried_again(site: Site, web_image: str) -> None:
    site.agent("once")
    site.stop("hello")
    with listening(HELLO):
        site.component("hello", "2.0.0", web(web_image, OTHER + 50, "    mem_limit: 1k\n"))  # which no engine takes
        site.deployment("hello", "2.0.0")
        site.push()
        report = site.agent("once", expect=5)
        assert "the last good version did not come back" in report["message"]
        assert site.agent("status")["settled"] is False
    report = site.agent("once", expect=5)
    assert report["message"].endswith("the last good version is back")
    assert {one["name"]: one["action"] for one in report["deployments"]} == {"hello": "restore", "pump": "keep"}
    assert page(HELLO) == "hello"
    assert site.agent("once", expect=5)["requests"] == 1


def test_a_stop_does_not_wait_for_a_slow_component(site: Site, web_image: str) -> None:
    slow = '    healthcheck: {test: ["CMD", "/bin/busybox", "false"], interval: 1s, retries: 500}\n'
    site.component("job", "1.0.0", web(web_image, OTHER, slow))
    site.deployment("job", timeout="5m0s")
    site.push()
    with site.running_agent() as agent:
        while "job" not in site.containers():
            time.sleep(0.1)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(15) == 0
    record = json.loads((site.folder / "state" / "record.json").read_text())
    assert (IDS["job"] in record["unsure"], record["failed"], record["settled"]) == (True, {}, False)


def test_the_loop_says_failed_as_long_as_a_failure_stands(site: Site, web_image: str) -> None:
    site.component("job", "1.0.0", web(web_image, OTHER, '    entrypoint: ["/bin/busybox", "false"]\n'))
    site.deployment("job")
    site.push()
    with site.running_agent() as agent:
        assert agent.stdout
        first, second = (json.loads(agent.stdout.readline()) for _ in range(2))
    assert (first["outcome"], second["outcome"], second["requests"]) == ("failed", "failed", 1)
    assert second["message"].startswith("not tried again until something changes")


def test_a_hang_up_reads_the_configuration_again(site: Site) -> None:
    site.configure(interval="1h")
    with site.running_agent() as agent:
        assert agent.stdout
        assert json.loads(agent.stdout.readline())["outcome"] == "applied"
        site.configure(interval="rubbish")
        agent.send_signal(signal.SIGHUP)
        while (
            not (told := json.loads(agent.stdout.readline())).get("message", "").startswith("the configuration stays")
        ):
            pass  # a look at the engine may have met the same file
        assert told["outcome"] == "failed"
        site.configure(interval="1h", source=site.ref("not/there:latest"))
        agent.send_signal(signal.SIGHUP)
        told = [json.loads(agent.stdout.readline()) for _ in range(2)]
        assert [one["outcome"] for one in told] == ["unchanged", "unreachable"]
        assert "not/there" in told[1]["message"]


def test_nothing_is_imported_from_where_the_agent_was_started(site: Site) -> None:
    for name in ("docker", "json", "margo_agent"):
        (site.folder / f"{name}.py").write_text("raise SystemExit('imported what lay about')\n")
    program = Path(sys.executable).with_name("margo-agent")
    with subprocess.Popen(
        [str(program), "run", "--config", "agent.yaml", "-o", "json"],
        cwd=site.folder, env=site.environment, stdout=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        try:
            assert agent.stdout
            assert json.loads(agent.stdout.readline())["outcome"] == "applied"
        finally:
            agent.kill()


def test_a_damaged_record_is_told_in_json_as_well(site: Site) -> None:
    site.agent("once")
    (site.folder / "state" / "record.json").write_text("{")
    for command in ("once", "status", "restore", "plan"):
        told = site.agent(command, expect=2)
        assert (told["outcome"], "record.json: not usable JSON" in told["message"]) == ("failed", True)


def test_the_loop_applies_what_is_new_and_stops_on_sigterm(site: Site) -> None:
    site.configure(interval="1h")
    with site.running_agent() as agent:
        assert agent.stdout
        first = json.loads(agent.stdout.readline())
        assert first["outcome"] == "applied"
        site.deployment("hello", GREETING="by signal")
        site.push()
        agent.send_signal(signal.SIGHUP)
        second = json.loads(agent.stdout.readline())
        assert (second["outcome"], second["counter"]) == ("applied", 2)
        assert page(HELLO) == "by signal"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0


def test_a_second_loop_on_one_state_directory_is_refused(site: Site) -> None:
    site.configure(interval="1h")
    with site.running_agent() as agent:
        assert agent.stdout
        agent.stdout.readline()
        done = site.run("margo_agent", "run", "--config", "agent.yaml")
        assert done.code == 2
        assert "another margo-agent is at work here" in done.err


@pytest.mark.each_engine
def test_status_tells_what_runs(site: Site) -> None:
    site.agent("once")
    status = site.agent("status")
    assert (status["counter"], status["settled"], status["engine"]) == (1, True, "ok")
    assert [(one["name"], one["state"], one["containers"][0]["status"]) for one in status["deployments"]] == [
        ("hello", "installed", "running"),
        ("pump", "installed", "running"),
    ]


def test_a_state_without_an_engine_is_tried_again_and_not_remembered_as_failed(site: Site) -> None:
    site.configure(engine="unix:///run/no-such-engine.sock")
    report = site.agent("once", expect=5)
    assert "no-such-engine.sock" in report["message"]
    site.configure()
    assert site.agent("once")["outcome"] == "applied"


def test_5_7_a_changed_config_file_recreates_its_users_alone(site: Site, web_image: str) -> None:
    config = "    configs: [{source: page, target: /www/page.html}]\nconfigs: {page: {file: ./page.html}}\n"
    both = web(web_image, HELLO).replace("services:\n", f"services:\n  aside: {{image: {web_image}}}\n") + config
    site.component("hello", "1.3.0", both, page__html="first")
    site.deployment("hello", "1.3.0")
    site.push()
    site.agent("once")
    before = site.services()
    site.component("hello", "1.4.0", both, page__html="second")
    site.deployment("hello", "1.4.0")
    site.push()
    assert site.agent("plan")["deployments"][0]["restarts"] == ["hello/web"]
    site.agent("once")
    after = site.services()
    assert {name for name in before if before[name] != after[name]} == {"hello/web"}
    with urllib.request.urlopen(f"http://127.0.0.1:{HELLO}/page.html", timeout=5) as answer:
        assert answer.read() == b"second"


@pytest.mark.each_engine
def test_restore_brings_up_what_was_installed_without_a_network(site: Site) -> None:
    site.agent("once")
    before = site.containers()
    site.stop("pump")
    site.registry.stop()
    try:
        report = site.agent("restore")
    finally:
        site.registry.start()
    assert (report["outcome"], report["requests"]) == ("unchanged", 0)
    assert (page(HELLO), page(PUMP)) == ("hello", "pump")
    assert site.containers()["hello"] == before["hello"]
