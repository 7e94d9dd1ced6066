"""Pulls from registries that get nowhere, by a real engine."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from margo_agent.engine import Engine, EngineUnavailable, PullFailed
from margo_agent.generation import Generation, Part
from margo_agent.runtime import Runtime
from margo_oci.compose import Compose
from margo_oci.content import canonical_json, digest_of
from margo_oci.manifest import DOCKER_MANIFEST
from margo_oci.registry import Access
from tests.parts.engine import Engine as EnginePart

pytestmark = pytest.mark.each_engine

SIZE = 1_000_000
LAYER = digest_of(b"a layer")

CONFIG = canonical_json({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [LAYER]}})


def described(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": f"application/vnd.docker.{kind}", "digest": digest, "size": size}


MANIFEST = canonical_json({
    "schemaVersion": 2,
    "mediaType": DOCKER_MANIFEST,
    "config": described("container.image.v1+json", digest_of(CONFIG), len(CONFIG)),
    "layers": [described("image.rootfs.diff.tar.gzip", LAYER, SIZE)],
})  # fmt: skip


class Dripping(ThreadingHTTPServer):
    """A registry that has one image, and sends next to nothing of its layer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = threading.Event()
        self.left = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Dripping
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.endswith(LAYER):
            self._answer(b"", size=SIZE)
            self._drip()
        elif "/manifests/" in self.path:
            self._answer(MANIFEST)
        else:
            self._answer(CONFIG)

    def _drip(self) -> None:
        """Send a byte now and then, which is too little for the engine to speak of, until nobody listens."""
        self.server.asked.set()
        self.close_connection = True
        try:
            for _ in range(SIZE):
                self.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            self.server.left.set()

    def _answer(self, data: bytes, size: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", DOCKER_MANIFEST)
        self.send_header("Content-Length", str(size or len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def registry() -> Iterator[Dripping]:
    """A registry whose layer never comes."""
    with Dripping() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def generation(registry: Dripping) -> Generation:
    image = f"127.0.0.1:{registry.server_address[1]}/images/web@{digest_of(MANIFEST)}"
    part = Part(name="web", project="web", file=None, images=[image], wait=True, timeout_s=1,  # type: ignore[arg-type]
                variables={})  # fmt: skip
    return Generation(deployment="1", revision="2", name="web", parts=[part])


def test_5_4_a_pull_from_a_dripping_registry_is_given_up_and_the_engine_stops(
    engine: EnginePart, registry: Dripping
) -> None:
    with closing(Engine(engine.docker_host, silence_s=4)) as door:
        runtime = Runtime(Compose((), {}), door, lambda _: Access(), pull_stall_s=2)
        with pytest.raises(PullFailed, match="nothing came for 2 s"):
            runtime.pull_missing(generation(registry))
        assert registry.asked.is_set()
        assert registry.left.wait(10), "the engine still pulls"


def test_a_stop_does_not_wait_for_a_pull(engine: EnginePart, registry: Dripping) -> None:
    with closing(Engine(engine.docker_host, silence_s=4)) as door:
        runtime = Runtime(Compose((), {}), door, lambda _: Access(), stopping=registry.asked.is_set)
        begun_s = time.monotonic()
        with pytest.raises(EngineUnavailable, match="stopped on request"):
            runtime.pull_missing(generation(registry))
        assert time.monotonic() - begun_s < 4
