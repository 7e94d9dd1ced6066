"""The real parts do what other tests rely on."""

import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import docker
import httpx2
import pytest
from docker.models.containers import Container

from tests.parts.engine import DEPLOYMENT_LABEL, Engine
from tests.parts.images import WEB_PORT, Images, Recipe, broken, build_and_push, web
from tests.parts.link import SlowLink
from tests.parts.registry import LocalRegistry, Request

ISOLATED = Path(__file__).parents[1] / "parts" / "isolated"
DELAY_S = 0.020
TOLERANCE_S = 0.015

T = TypeVar("T")
StartContainer = Callable[[Recipe], Container]


@pytest.fixture
def start(engine: Engine, images: Images) -> Iterator[StartContainer]:
    """Start a container from a recipe; gone after the test."""
    with closing(docker.DockerClient(base_url=engine.docker_host)) as client:
        started: list[Container] = []

        def start_one(recipe: Recipe) -> Container:
            network = client.networks.create("parts", labels={DEPLOYMENT_LABEL: "parts"})
            reference = images.push("parts", "latest", recipe)
            client.images.pull(reference)
            container = client.containers.run(
                reference,
                detach=True,
                environment={"GREETING": "good morning"},
                labels={DEPLOYMENT_LABEL: "parts"},
                network=network.name,
                ports={f"{WEB_PORT}/tcp": ("127.0.0.1", 0)},
            )
            started.append(container)
            return container

        yield start_one
        for container in started:
            container.remove(force=True)
            client.images.remove(container.attrs["Config"]["Image"], force=True)
        client.networks.prune({"label": DEPLOYMENT_LABEL})


def test_a_plain_registry_answers_without_asking_who_is_there(plain_registry: LocalRegistry) -> None:
    with httpx2.Client(base_url=plain_registry.url) as client:
        assert client.get("/v2/").status_code == 200


def test_a_tls_registry_speaks_http_2(tls_registry: LocalRegistry) -> None:
    with _trusting(tls_registry) as client:
        assert client.get("/v2/").http_version == "HTTP/2"


def test_an_auth_registry_answers_only_those_it_knows(auth_registry: LocalRegistry) -> None:
    with _trusting(auth_registry) as client:
        assert client.get("/v2/").status_code == 401
        login = (auth_registry.username, auth_registry.password)
        assert client.get("/v2/", auth=login).status_code == 200


def test_a_registry_tells_what_it_was_asked(plain_registry: LocalRegistry) -> None:
    plain_registry.forget()
    httpx2.get(f"{plain_registry.url}/v2/nothing/tags/list")
    [request] = plain_registry.requests()
    assert request == Request("GET", "/v2/nothing/tags/list", 404, request.bytes)
    plain_registry.forget()
    assert plain_registry.requests() == []


def test_a_registry_keeps_its_content_when_it_is_started_again(engine: Engine, tmp_path: Path) -> None:
    with LocalRegistry(tmp_path) as registry:
        digest = build_and_push(engine.docker_host, registry.host, "hello", "1", web())
        registry.stop()
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(registry.url)
        registry.start()
        kept = httpx2.head(f"{registry.url}/v2/hello/manifests/{digest}")
        assert kept.status_code == 200


def test_a_registry_that_cannot_start_says_why(plain_registry: LocalRegistry, tmp_path: Path) -> None:
    taken = int(plain_registry.host.rpartition(":")[2])
    with (
        pytest.raises(RuntimeError, match="address already in use"),
        LocalRegistry(tmp_path, "tls", taken),
    ):
        pass


def test_an_image_can_be_pushed_to_a_registry_with_a_login(engine: Engine, auth_registry: LocalRegistry) -> None:
    login = (auth_registry.username, auth_registry.password)
    digest = build_and_push(engine.docker_host, auth_registry.host, "hello", "1", web(), login=login)
    assert digest.startswith("sha256:")


@pytest.mark.each_engine
def test_a_container_serves_its_greeting(start: StartContainer) -> None:
    container = start(web(version="7"))
    address = _published_address(container)
    assert _eventually_get(f"{address}/").text == "good morning\n"
    assert _eventually_get(f"{address}/version").text == "7\n"


@pytest.mark.each_engine
def test_a_container_stops_at_once(start: StartContainer) -> None:
    container = start(web())
    _eventually_get(_published_address(container))
    began = time.monotonic()
    container.stop(timeout=10)
    assert time.monotonic() - began < 5


@pytest.mark.each_engine
@pytest.mark.parametrize("health", ["healthy", "unhealthy"])
def test_a_container_tells_its_health(start: StartContainer, health: str) -> None:
    container = start(web(health="healthy" if health == "healthy" else "unhealthy"))
    assert _eventually(lambda: _health(container), other_than="starting") == health


@pytest.mark.each_engine
def test_a_broken_container_exits_with_its_status(start: StartContainer) -> None:
    assert start(broken()).wait(timeout=10)["StatusCode"] == 3


def test_a_slow_link_adds_its_delay_both_ways(plain_registry: LocalRegistry) -> None:
    with _link_to(plain_registry) as link, httpx2.Client(base_url=f"http://{link.host}") as client:
        _duration_s(client)
        assert _least(lambda: _duration_s(client)) == pytest.approx(2 * DELAY_S, abs=TOLERANCE_S)
        assert link.connections == 1
        assert 0 < link.bytes_up < 5000
        assert 0 < link.bytes_down < 5000


def test_a_slow_link_delays_connecting_too(plain_registry: LocalRegistry) -> None:
    with _link_to(plain_registry) as link:

        def first_request_s() -> float:
            with httpx2.Client(base_url=f"http://{link.host}") as client:
                return _duration_s(client)

        assert _least(first_request_s) == pytest.approx(4 * DELAY_S, abs=TOLERANCE_S)


def test_a_slow_link_does_not_limit_throughput() -> None:
    size_bytes = 100_000_000
    with _source(size_bytes) as port, SlowLink("127.0.0.1", port, DELAY_S) as link:
        began = time.monotonic()
        assert _read_all(link) == size_bytes
        assert time.monotonic() - began < 5


def test_a_slow_link_can_be_cut_after_so_many_bytes() -> None:
    with _source(10_000_000) as port, SlowLink("127.0.0.1", port, DELAY_S) as link:
        link.cut_after(1_234_567)
        assert _read_all(link) == 1_234_567
        assert _read_all(link) == 10_000_000


def test_a_cut_link_resets_what_is_open(plain_registry: LocalRegistry) -> None:
    with _link_to(plain_registry) as link, httpx2.Client(base_url=f"http://{link.host}") as client:
        client.get("/v2/")
        with socket.create_connection(("127.0.0.1", link.port)) as open_connection:
            _eventually(lambda: link.connections, other_than=1)
            link.cut()
            with pytest.raises(ConnectionResetError):
                open_connection.recv(1)
        assert client.get("/v2/").status_code == 200


def test_isolated_passes_the_exit_status() -> None:
    assert subprocess.run([ISOLATED, "sh", "-c", "exit 42"], check=False).returncode == 42


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_isolated_passes_a_signal_once_and_waits_for_the_end(number: signal.Signals) -> None:
    process = _start_isolated(number)
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert output == "heard\nended\n"
    assert process.returncode == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_isolated_leaves_nothing_behind_when_it_is_killed() -> None:
    marker = str(time.time_ns())
    process = _start_isolated(signal.SIGTERM, marker)
    assert _running(marker)
    process.kill()
    process.communicate(timeout=10)
    assert _eventually(lambda: _running(marker), other_than=True) is False


def _trusting(registry: LocalRegistry) -> httpx2.Client:
    context = ssl.create_default_context(cafile=registry.ca_file)
    return httpx2.Client(base_url=registry.url, verify=context, http2=True)


def _link_to(registry: LocalRegistry) -> SlowLink:
    host, _, port = registry.host.partition(":")
    return SlowLink(host, int(port), DELAY_S)


def _duration_s(client: httpx2.Client) -> float:
    began = time.perf_counter()
    client.get("/v2/")
    return time.perf_counter() - began


def _least(measure: Callable[[], float]) -> float:
    """Return the shortest of several durations: the others tell how busy the machine was."""
    return min(measure() for _ in range(10))


@contextmanager
def _source(size_bytes: int) -> Iterator[int]:
    """Yield the port of a server that sends so many bytes to whoever connects."""

    class Send(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                self.request.sendall(bytes(size_bytes))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Send) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _read_all(link: SlowLink) -> int:
    size_bytes = 0
    with socket.create_connection(("127.0.0.1", link.port)) as connection, suppress(ConnectionResetError):
        while received := connection.recv(1_000_000):
            size_bytes += len(received)
    return size_bytes


def _published_address(container: Container) -> str:
    container.reload()
    [published] = container.ports[f"{WEB_PORT}/tcp"] or []
    return f"http://127.0.0.1:{published['HostPort']}"


def _eventually_get(url: str) -> httpx2.Response:
    """Get from a server that may still be starting."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return httpx2.get(url)
        except httpx2.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _health(container: Container) -> str:
    container.reload()
    return str(container.attrs["State"]["Health"]["Status"])


def _eventually(look: Callable[[], T], *, other_than: T) -> T:
    """Look until something else is seen, and return it."""
    deadline = time.monotonic() + 15
    while (seen := look()) == other_than and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def _start_isolated(awaited: signal.Signals, marker: str = "") -> subprocess.Popen[str]:
    """Start a program that says what it hears; return when it listens."""
    program = f"""
import signal, sys, time
def hear(number, frame):
    print("heard", flush=True)
    time.sleep(0.3)
    print("ended", flush=True)
    sys.exit(5)
signal.signal({int(awaited)}, hear)
print("listening", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([ISOLATED, sys.executable, "-c", program, marker], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "listening\n"
    return process


def _running(marker: str) -> bool:
    """Whether a process with that argument runs; processes in inner namespaces are seen, too."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker in (process / "cmdline").read_text():
                return True
    return False
