"""`margo-agent doctor` and `why` at a real registry and a real engine, well and ill."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.site import Site, web
from tests.parts.engine import Engine
from tests.parts.images import Images, Recipe, broken
from tests.parts.images import web as web_recipe
from tests.parts.registry import LocalRegistry


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine) -> Site:
    """A site whose device is provisioned."""
    return Site(tmp_path, plain_registry, engine)


def publish(site: Site, images: Images, recipe: Recipe) -> None:
    """Publish a state with one deployment of an image."""
    images.push("images/doctor", "1.0", recipe)
    site.component("hello", "1.0.0", web(site.ref("images/doctor:1.0"), 18300))
    site.deployment("hello")
    site.push()


def doctor(site: Site, *more: str, expect: int) -> Mapping[str, Any]:
    """Return what doctor says, by the name of the check; the first word of each counts."""
    done = site.run("margo_agent", "doctor", "--config", "agent.yaml", "-o", "json", *more)
    assert done.code == expect, done
    found: dict[str, Any] = {}
    for check in done.json["checks"]:
        found.setdefault(check["name"], check)
        assert (check["todo"] is None) == (check["status"] == "ok"), check
    return found


def why(site: Site, *more: str) -> list[str]:
    """Return what is held back: element and category."""
    done = site.run("margo_agent", "why", "--config", "agent.yaml", "-o", "json", *more)
    assert done.code == 0, done
    return [f"{one['element']}: {one['category']}" for one in done.json["held"]]


def test_on_a_device_that_works_nothing_fails(site: Site, images: Images) -> None:
    publish(site, images, web_recipe())
    site.agent("once")
    found = doctor(site, expect=1)  # nobody runs the loop here
    assert not [one for one in found.values() if one["status"] == "fail"]
    assert found["engine"]["status"] == found["compose"]["status"] == found["images"]["status"] == "ok"
    assert found["tag"]["seen"].startswith(f"{site.state} is sha256:")
    assert found["state"]["seen"].startswith("counter 1 for edge-17 verifies, signed by fleet.pub")
    assert found["clock skew"]["status"] == "ok"
    assert "state" not in doctor(site, "--offline", expect=1)
    assert why(site) == ["state: not running"]
    site.take_down()


def test_a_state_that_is_refused_leads_to_the_rule_and_what_to_do(site: Site, images: Images) -> None:
    publish(site, images, web_recipe())
    site.keygen("stranger")
    site.configure(trust="{keys: [stranger.pub]}")
    found = doctor(site, expect=5)
    assert found["state"]["seen"].startswith("refused (wrong-key, format 6.4): ")
    assert "trust.keys" in found["state"]["todo"]
    site.agent("once", expect=4)
    assert why(site) == ["state: not running", "state: refused, wrong-key"]
    assert doctor(site, "--offline", expect=1)["last report"]["seen"].startswith("refused since ")


def test_an_engine_that_is_not_there_and_a_closed_port_are_found(site: Site) -> None:
    site.configure(engine="unix:///run/margo-nobody.sock", source="127.0.0.1:9/fleet/edge-17:latest")
    found = doctor(site, expect=5)
    assert (found["engine"]["status"], found["registry"]["status"]) == ("fail", "fail")
    assert "start the engine" in found["engine"]["todo"]
    assert "state" in found
    site.agent("once", expect=3)
    assert why(site)[-1] == "state: unreachable"


def test_a_configuration_with_faults_is_all_there_is_to_see(site: Site) -> None:
    site.configure(interval="soon")
    found = doctor(site, expect=5)
    assert list(found) == ["configuration"]
    assert "agent.yaml:6: interval: 'soon'" in found["configuration"]["seen"]


def test_a_deployment_that_failed_is_told_with_what_to_do(site: Site, images: Images) -> None:
    publish(site, images, broken())
    site.agent("once", expect=5)
    (one,) = [line for line in why(site, "hello") if not line.startswith("state")]
    assert one.endswith(": failed")
    done = site.run("margo_agent", "why", "helo", "--config", "agent.yaml")
    assert (done.code, "'helo' is not known here (known: hello)" in done.err) == (2, True)
    site.take_down()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found(site: Site) -> None:
    (site.folder / "state").mkdir(mode=0o500)
    assert doctor(site, "--offline", expect=5)["state dir"]["status"] == "fail"
