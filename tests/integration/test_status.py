"""Devices report to a real registry, and an operator sees from there who runs what."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.site import Site, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

PORT = 18151


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine, images: Images) -> Iterator[Site]:
    """A site whose device reports; one state is published."""
    site = Site(tmp_path, plain_registry, engine)
    images.push("images/web", "1.0", recipe())
    site.component("hello", "1.0.0", web(f"{plain_registry.host}/images/web:1.0", PORT))
    site.deployment("hello", GREETING="hello")
    site.configure(report="{registry: true, heartbeat: 10m}")
    site.push()
    yield site
    site.take_down()


def recipe() -> images.Recipe:
    """The same image in every test."""
    return images.web()


def keep_key(site: Site) -> None:
    """Collect the device's public key, as an operator does when it is provisioned."""
    folder = site.folder / "devices"
    folder.mkdir(exist_ok=True)
    (folder / "edge-17.pub").write_text(site.agent("identity")["publicKey"])


def seen(site: Site, *more: str, expect: int = 0) -> Any:
    """What the operator sees of the one state."""
    done = site.oci("status", site.state, "-o", "json", *more, *site.flags, expect=expect)
    (found,) = done.json["references"]
    return found


def until(condition: Callable[[], Any], *, within_s: float = 60) -> Any:
    """Wait until something is so, and return it."""
    deadline_s = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, "it did not come to it"
        time.sleep(0.2)
    return found


def reported(site: Site) -> int:
    """Up to which event the registry has all."""
    file = site.folder / "state" / "reported.json"
    return int(json.loads(file.read_text())["delivered"]) if file.exists() else 0


def test_the_operator_sees_what_the_device_runs(site: Site) -> None:
    keep_key(site)
    with site.running_agent() as agent:
        assert agent.stdout
        assert json.loads(agent.stdout.readline())["outcome"] == "applied"
        until(lambda: reported(site) >= 4)
        first = seen(site, "--device-keys", "devices")
        site.deployment("hello", GREETING="newer")
        site.push()
        until(lambda: reported(site) > 5)  # not only that it was accepted
        second = seen(site, "--device-keys", "devices", "--show-events")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
    (device,) = first["devices"]
    assert (device["device"], device["standing"], device["counter"], device["verified"]) == (
        "edge-17", "up-to-date", 1, True,
    )  # fmt: skip
    assert device["deployments"][0]["state"] == "installed"
    assert device["engine"]["kind"] in ("docker", "podman")
    assert device["capabilities"]["properties"]["id"] == "edge-17"
    (device,) = second["devices"]
    assert (device["counter"], second["counter"], device["standing"]) == (2, 2, "up-to-date")
    numbers = [one["number"] for one in device["newestEvents"]]
    assert numbers == list(range(1, len(numbers) + 1))
    table = site.oci("status", site.state, "--device-keys", "devices", *site.flags).out
    assert "edge-17  up-to-date  2" in table
    wide = site.oci("status", site.state, "-o", "wide", "--show-events", *site.flags).out
    assert "HEAD UNTIL" in wide
    assert "deployment installed  hello" in wide


def test_a_device_is_behind_until_it_applied_what_is_new(site: Site) -> None:
    site.agent("once")
    site.agent("report")
    site.deployment("hello", GREETING="newer")
    site.push()
    (device,) = seen(site, expect=1)["devices"]
    assert (device["standing"], device["doubt"]) == ("behind", "unverified")


def test_a_failure_is_seen_with_its_code(site: Site) -> None:
    site.agent("once")
    ends = '    entrypoint: ["/bin/busybox", "false"]\n'
    site.component("hello", "2.0.0", web(f"{site.registry.host}/images/web:1.0", PORT, ends))
    site.deployment("hello", "2.0.0", GREETING="x")
    site.push()
    with site.running_agent():
        until(lambda: reported(site) > 4)
        found = until(lambda: [one for one in seen(site, expect=1)["devices"] if one["standing"] == "failed"])
    (device,) = found
    (hello,) = device["deployments"]
    assert (hello["state"], hello["error"]["code"], hello["adoptedManifestVersion"]) == ("failed", "exited", 2)
    assert device["words"].startswith("hello: exited: component hello: service web exited with 1")


def test_a_device_that_was_away_tells_all_that_happened_in_order_and_once(site: Site) -> None:
    keep_key(site)
    with site.running_agent() as agent:
        assert agent.stdout
        lines = agent.stdout
        assert json.loads(lines.readline())["outcome"] == "applied"
        before = until(lambda: reported(site) >= 4 and reported(site))  # all of the first state
        site.registry.stop()
        try:
            until(lambda: json.loads(lines.readline())["outcome"] == "unreachable")
            site.stop("hello")
        finally:
            site.registry.start()
        until(lambda: reported(site) > before + 1)
    (device,) = seen(site, "--device-keys", "devices", "--show-events")["devices"]
    numbers = [one["number"] for one in device["newestEvents"]]
    assert numbers == list(range(1, device["events"]["last"] + 1))
    outcomes = [one["state"] for one in device["newestEvents"] if one["kind"] == "outcome"]
    assert outcomes == ["applied", "unreachable", "applied"]


def test_a_report_by_another_key_is_doubtful(site: Site) -> None:
    site.agent("once")
    site.agent("report")
    site.keygen("stranger")
    (site.folder / "edge-17.pub").write_bytes((site.folder / "stranger.pub").read_bytes())
    (device,) = seen(site, "--device-key", "edge-17.pub", expect=1)["devices"]
    assert (device["standing"], device["doubt"], device["verified"]) == ("doubtful", "wrong-key", False)
    assert "doubtful" in site.oci("status", site.state, "--device-key", "edge-17.pub", *site.flags, expect=1).out


def test_a_hostile_report_is_shown_as_none_and_hides_no_other(site: Site) -> None:
    site.agent("once")
    site.agent("report")
    repository = site.state.removesuffix(":latest") + "/status"
    site.oci("component", "push", "components/hello", f"{repository}:1.0.0", *site.flags)
    found = seen(site)
    assert [one["device"] for one in found["devices"]] == ["edge-17"]
    (unreadable,) = found["unreadable"]
    assert "device-status.v1+json is expected" in unreadable["why"]


def test_a_report_beside_the_state_is_found_as_well(site: Site) -> None:
    keep_key(site)
    site.configure(report="{registry: true, as: referrer}")
    site.agent("once")
    first = site.agent("report")
    second = site.agent("report")
    (device,) = seen(site, "--device-keys", "devices")["devices"]
    assert (device["standing"], device["verified"]) == ("up-to-date", True)
    assert device["at"].endswith(second["digest"])
    assert first["outcome"] == second["outcome"] == "reported"
    assert site.oci("verify", site.state, "--key", "fleet.pub", "-o", "json", *site.flags).json["verified"]
    assert site.agent("once")["outcome"] == "unchanged"


def test_devices_lists_all_below_a_prefix(site: Site) -> None:
    keep_key(site)
    site.agent("once")
    site.agent("report")
    prefix = site.ref(site.folder.name)
    found = site.oci("devices", prefix, "--device-keys", "devices", "-o", "json", *site.flags).json
    assert [(one["device"], one["standing"], one["verified"]) for one in found["devices"]] == [
        ("edge-17", "up-to-date", True)
    ]
    nobody = site.oci("devices", site.ref("nobody/here"), *site.flags, expect=1)
    assert "no device reports here" in nobody.out


def test_a_registry_that_lists_nothing_is_told_with_the_other_way(site: Site, auth_registry: LocalRegistry) -> None:
    done = site.oci("devices", f"{auth_registry.host}/fleet", "--ca-file", str(auth_registry.ca_file), expect=3)
    assert "does not list its repositories for you" in done.err
    assert f"margo-oci status {auth_registry.host}/fleet/" in done.err


def test_watching_prints_a_round_after_the_other(site: Site) -> None:
    site.agent("once")
    site.agent("report")
    command = [sys.executable, "-m", "margo_cli", "status", site.state, "--watch", "--interval", "1s", "-o", "json"]
    with subprocess.Popen(
        [*command, *site.flags], cwd=site.folder, env=site.environment, stdout=subprocess.PIPE, text=True
    ) as watching:
        try:
            assert watching.stdout
            rounds = [json.loads(watching.stdout.readline()) for _ in range(2)]
        finally:
            watching.kill()
    assert [one["well"] for one in rounds] == [True, True]


def test_the_device_itself_says_the_same(site: Site) -> None:
    site.agent("once")
    status = site.agent("status")
    assert (status["settled"], status["engine"], status["counter"]) == (True, "ok", 1)
    assert status["deployments"][0]["components"] == [{"name": "hello", "state": "installed"}]
    assert status["disk"]["totalBytes"] > status["disk"]["freeBytes"] > 0
    assert site.agent("capabilities")["properties"]["cpus"][0]["cores"] >= 1


def test_no_registry_takes_the_report_of_a_device_that_nobody_lets_in(site: Site, auth_registry: LocalRegistry) -> None:
    site.agent("once")
    guarded = f'"{auth_registry.host}": {{caFile: {auth_registry.ca_file}}}'
    access = f'registries: {{"{site.registry.host}": {{plainHttp: true}}, {guarded}}}'
    text = (site.folder / "agent.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("registries", "report"))]
    report = f"report: {{registry: true, reference: '{auth_registry.host}/status:edge-17'}}"
    (site.folder / "agent.yaml").write_text("\n".join([*lines, access, report]) + "\n")
    told = site.agent("report", expect=3)
    assert told["outcome"] == "unreachable"
    assert "not allowed to push" in told["message"]
