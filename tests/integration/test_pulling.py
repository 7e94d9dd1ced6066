"""Images from a real registry into a real engine: cut off, killed, changed, too large, and for another device."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.site import Site, web
from tests.parts.engine import Engine
from tests.parts.link import SlowLink
from tests.parts.oci_image import Layer, push_image
from tests.parts.registry import LocalRegistry

MEBIBYTE = 2**20
PORT = 18471


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine) -> Iterator[Site]:
    """A site of its own, of which nothing runs in the end."""
    found = Site(tmp_path, plain_registry, engine)
    yield found
    found.take_down()


def release(site: Site, *layers: Layer, more: str = "", name: str = "hello", repository: str = "big") -> str:
    """Publish an image of these layers, and a state that runs it; return its repository."""
    path = f"{site.folder.name}/{repository}"
    push_image(site.registry, path, "1", layers)
    site.component(name, "1.0.0", web(site.ref(f"{path}:1"), PORT, more))
    site.deployment(name)
    site.push()
    site.registry.forget()
    return path


def noise(site: Site, size: int, number: int) -> Layer:
    """Return a layer that no other test has: the engine keeps what it got."""
    return Layer.random(size, f"{site.folder.name} {number}")


def layer_bytes(site: Site) -> int:
    """Return how many bytes of large blobs the registry sent since it was asked last."""
    found = sum(one.bytes for one in site.registry.requests() if "/blobs/" in one.path and one.bytes > MEBIBYTE // 4)
    site.registry.forget()
    return found


def images_here(site: Site) -> Sequence[str]:
    with site.looking() as client:
        return [tag for one in client.images.list() for tag in one.tags if site.folder.name in tag]


def parts(site: Site) -> int:
    return sum(file.stat().st_size for file in (site.folder / "state" / "ingest").glob("*"))


def test_4_5_the_agent_brings_the_image_and_keeps_nothing_of_it(site: Site) -> None:
    path = release(site, Layer.base(), noise(site, 2 * MEBIBYTE, 1))
    assert site.agent("once")["imagesPulled"] == 1
    assert all(tag.startswith(f"{site.ref(path)}:sha256-") for tag in images_here(site))
    assert layer_bytes(site) < 4 * MEBIBYTE
    kept = sum(file.stat().st_size for file in (site.folder / "state").glob("blobs/sha256/*"))
    assert kept < MEBIBYTE // 4


def test_5_4_a_changed_top_layer_moves_only_that_layer(site: Site) -> None:
    release(site, Layer.base(), noise(site, 5 * MEBIBYTE, 1), noise(site, MEBIBYTE, 2))
    site.agent("once")
    assert layer_bytes(site) > 6 * MEBIBYTE
    release(site, Layer.base(), noise(site, 5 * MEBIBYTE, 1), noise(site, MEBIBYTE, 3))
    assert site.agent("once")["outcome"] == "applied"
    assert MEBIBYTE <= layer_bytes(site) < 2 * MEBIBYTE


def test_5_4_two_deployments_that_share_layers_fetch_them_once(site: Site) -> None:
    release(site, Layer.base(), noise(site, 3 * MEBIBYTE, 1), noise(site, MEBIBYTE, 2))
    path = f"{site.folder.name}/other"
    push_image(site.registry, path, "1", [Layer.base(), noise(site, 3 * MEBIBYTE, 1), noise(site, MEBIBYTE, 3)])
    site.component("pump", "1.0.0", web(site.ref(f"{path}:1"), PORT + 1))
    site.deployment("pump")
    site.push()
    site.registry.forget()
    assert site.agent("once")["imagesPulled"] == 2
    assert layer_bytes(site) < 7 * MEBIBYTE


def test_5_4_a_link_that_is_cut_again_and_again_costs_little_more_than_the_image(
    tmp_path: Path, plain_registry: LocalRegistry, engine: Engine
) -> None:
    host, _, port = plain_registry.host.partition(":")
    with SlowLink(host, int(port), delay_s=0.001, most_bytes_s=10 * MEBIBYTE) as link:
        far = copy.copy(plain_registry)
        far.host = link.host
        site = Site(tmp_path, far, engine)
        release(site, Layer.base(), noise(site, 30 * MEBIBYTE, 1))
        had, connections = link.bytes_down, link.connections
        with agent(site) as once:
            while once.poll() is None:
                time.sleep(0.8)
                if parts(site) > MEBIBYTE:
                    link.cut()
            assert said(once)["outcome"] == "applied"
        site.take_down()
        assert link.connections - connections > 4
        assert link.bytes_down - had < 40 * MEBIBYTE


def test_5_4_what_came_before_a_kill_is_not_fetched_again(site: Site) -> None:
    release(site, Layer.base(), noise(site, 20 * MEBIBYTE, 1))
    site.configure(bandwidth="5MiB/s")
    with agent(site) as once:
        while parts(site) < 8 * MEBIBYTE:
            assert once.poll() is None
            time.sleep(0.05)
        once.send_signal(signal.SIGKILL)
    had = parts(site)
    site.configure()
    site.registry.forget()
    assert site.agent("once")["outcome"] == "applied"
    assert layer_bytes(site) <= 23 * MEBIBYTE - had


def test_5_4_a_stop_does_not_wait_for_a_download(site: Site) -> None:
    release(site, Layer.base(), noise(site, 20 * MEBIBYTE, 1))
    site.configure(bandwidth="1MiB/s")
    with agent(site) as once:
        while parts(site) < MEBIBYTE:
            assert once.poll() is None
            time.sleep(0.05)
        once.send_signal(signal.SIGTERM)
        begun_s = time.monotonic()
        assert once.wait(10) == 5
        assert time.monotonic() - begun_s < 5
        assert "stopped on request" in said(once)["message"]


def test_5_4_a_rate_limit_is_kept(site: Site) -> None:
    release(site, Layer.base(), noise(site, 4 * MEBIBYTE, 1))
    site.configure(bandwidth="1MiB/s")
    seconds = site.agent("once")["seconds"]["prepare"]
    assert 3.5 <= seconds < 12


def test_5_12_a_state_that_does_not_fit_is_refused_with_the_number_and_nothing_moves(site: Site) -> None:
    release(site, Layer.base(), noise(site, 2 * MEBIBYTE, 1))
    site.configure(clean="{keepFree: 900000GiB}")
    report = site.agent("once", expect=5)
    assert "bytes are needed in" in report["message"]
    assert "are missing" in report["message"]
    assert layer_bytes(site) == 0
    site.configure()
    assert site.agent("once")["outcome"] == "applied"


def test_5_13_a_port_that_is_taken_and_a_device_that_is_missing_are_told_before_anything_comes(site: Site) -> None:
    release(site, Layer.base(), noise(site, 2 * MEBIBYTE, 1), more='    devices: ["/dev/no-such-thing:/dev/x"]\n')
    with socket.create_server(("127.0.0.1", PORT)):
        report = site.agent("once", expect=5)
    assert f"services.web.ports: 127.0.0.1:{PORT}/tcp is taken by a program of this device" in report["message"]
    assert "services.web.devices[0]: /dev/no-such-thing is not there; nothing was changed" in report["message"]
    assert layer_bytes(site) == 0
    release(site, Layer.base(), noise(site, 2 * MEBIBYTE, 1))
    assert site.agent("once")["outcome"] == "applied"


def said(once: subprocess.Popen[Any]) -> Any:
    """Return the report of a pass that ended."""
    assert once.stdout
    return json.loads(once.stdout.read())


def agent(site: Site) -> subprocess.Popen[Any]:
    """Begin a pass."""
    command = [sys.executable, "-m", "margo_agent", "once", "--config", "agent.yaml", "-o", "json"]
    return subprocess.Popen(command, cwd=site.folder, env={**os.environ, **site.environment}, stdout=subprocess.PIPE)
