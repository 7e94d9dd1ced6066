"""How a state is applied, and when: as a whole, in order, not now, and given up for a newer one; on real parts."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.site import IDS, Site, page, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

HELLO, PUMP, JOB = 18601, 18602, 18603
DEPENDS_ON = "org.margo.oci.dependsOn"
NEVER_HEALTHY = '    healthcheck: {test: ["CMD", "/bin/busybox", "false"], interval: 1s, retries: 500}\n'


@pytest.fixture(scope="session")
def web_image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image that serves GREETING."""
    Images(engine.docker_host, tls_registry.host).push("images/web", "1.0", images.web())
    return f"{tls_registry.host}/images/web:1.0"


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, web_image: str) -> Iterator[Site]:
    """A site on which hello and pump run."""
    site = Site(tmp_path, tls_registry, engine)
    site.component("hello", "1.0.0", web(web_image, HELLO))
    site.component("pump", "1.0.0", web(web_image, PUMP))
    site.deployment("hello", GREETING="one")
    site.deployment("pump", GREETING="one")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    yield site
    site.take_down()


def needs(site: Site, name: str, *others: str) -> None:
    """Have a deployment depend on others."""
    file = site.folder / "states" / f"{name}.yaml"
    annotations = json.dumps({DEPENDS_ON: ", ".join(others)})
    file.write_text(file.read_text().replace("namespace: test", f"namespace: test, annotations: {annotations}"))


def image_of(site: Site) -> str:
    return site.ref("images/web:1.0")


def wait_for(what: Callable[[], bool], limit_s: float = 60.0) -> None:
    until_s = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until_s, "it did not come to that"
        time.sleep(0.2)


def says(port: int) -> str:
    try:
        return page(port)
    except OSError:
        return ""


@pytest.mark.each_engine
def test_5_10_a_state_with_one_failure_is_put_back_whole(site: Site) -> None:
    site.configure(apply="{atomic: state, settle: 1s}")
    site.component(
        "job", "1.0.0", f"services: {{web: {{image: '{image_of(site)}', entrypoint: [/bin/busybox, 'false']}}}}"
    )
    site.deployment("hello", GREETING="two")
    site.remove("pump")
    site.deployment("job", timeout="0m10s")
    needs(site, "job", "hello")
    site.push()
    report = site.agent("once", expect=5)
    assert "exited with 1" in report["message"]
    assert (says(HELLO), says(PUMP)) == ("one", "one")
    assert set(site.containers()) == {"hello", "pump"}
    before = site.containers()
    assert site.agent("once", expect=5)["requests"] == 1
    assert site.containers() == before


def test_5_8_what_depends_on_a_failure_waits_for_its_fix(site: Site) -> None:
    site.component("pump", "2.0.0", web(image_of(site), PUMP, NEVER_HEALTHY))
    site.deployment("pump", "2.0.0", timeout="0m4s", GREETING="two")
    site.deployment("hello", GREETING="two")
    needs(site, "hello", "pump")
    site.push()
    report = site.agent("once", expect=5)
    assert {one["name"]: one["state"] for one in report["deployments"]} == {"hello": "pending", "pump": "failed"}
    assert (says(HELLO), says(PUMP)) == ("one", "one")
    site.deployment("pump", "1.0.0", GREETING="three")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    assert (says(HELLO), says(PUMP)) == ("two", "three")


def test_5_8_an_unknown_name_and_a_circle_are_refused_when_publishing(site: Site) -> None:
    needs(site, "hello", "pomp")
    assert "dependsOn: 'pomp' is no deployment of this state" in site.push(expect=2)
    site.deployment("hello", GREETING="one")
    needs(site, "hello", "pump")
    needs(site, "pump", IDS["hello"])
    assert "dependsOn: it waits for itself" in site.push(expect=2)


def test_5_9_a_hold_delays_applying_and_its_end_needs_no_network(site: Site) -> None:
    with site.running_agent() as agent:
        assert agent.stdout
        assert json.loads(agent.stdout.readline())["outcome"] in ("applied", "unchanged")
        site.run("margo_agent", "hold", "--config", "agent.yaml", "--reason", "shift change")
        site.deployment("hello", GREETING="two")
        site.push()
        while (told := json.loads(agent.stdout.readline()))["outcome"] != "waiting":
            pass
        assert "shift change" in told["message"]
        assert says(HELLO) == "one"
        with cut_off(site):
            site.run("margo_agent", "resume", "--config", "agent.yaml")
            wait_for(lambda: says(HELLO) == "two")


@contextmanager
def cut_off(site: Site) -> Iterator[None]:
    """Leave a device without its registry."""
    site.registry.stop()
    try:
        yield
    finally:
        site.registry.start()


def test_5_9_an_application_says_not_now(site: Site) -> None:
    busy = site.folder / "busy"
    busy.touch()
    site.configure(apply="{settle: 0s, lockFile: busy}")
    site.deployment("hello", GREETING="two")
    site.push()
    with busy.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert site.agent("once")["outcome"] == "waiting"
        assert says(HELLO) == "one"
    assert site.agent("once")["outcome"] == "applied"
    assert says(HELLO) == "two"


@pytest.mark.each_engine
def test_5_11_a_fix_does_not_wait_for_what_it_mends(site: Site) -> None:
    site.component("hello", "2.0.0", web(image_of(site), HELLO, NEVER_HEALTHY))
    with site.running_agent():
        site.deployment("hello", "2.0.0", timeout="10m0s", GREETING="two")
        site.push()
        wait_for(lambda: says(HELLO) == "two")
        site.deployment("hello", "1.0.0", GREETING="three")
        site.push()
        wait_for(lambda: says(HELLO) == "three")


def test_6_14_a_release_tag_that_moves_is_refused(site: Site) -> None:
    release = site.ref(f"{site.folder.name}/edge-17:1.0.0")
    site.oci("push", "states", release, "--key", "fleet.key", "--scope", "edge-17", "--counter", "7", *site.flags)
    site.configure(source=release)
    assert site.agent("once")["outcome"] in ("applied", "unchanged")
    site.deployment("hello", GREETING="two")
    site.oci("push", "states", release, "--key", "fleet.key", "--scope", "edge-17", "--counter", "8", *site.flags)
    report = site.agent("once", expect=4)
    assert report["reason"] == "tag-moved"
    assert says(HELLO) == "one"
