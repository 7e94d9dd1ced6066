"""The wire below pushing, in memory: scripted answers for requests, and what was asked of whom, as whom."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from margo_oci.access import Access
from margo_oci.upload import Uploader
from tests.simulators.registry import SimulatedRegistry

_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/")
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Sent:
    """One request, and the settings it went out with."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any
    access: Access


@dataclass
class Answer:
    """One answer; `body` may be endless."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | io.RawIOBase = b""


Answers = Callable[[Sent], Answer | Exception]


class SimulatedWire:
    """Answers what `answers` says; hand `adapter_for` to an `Uploader`."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.sent: list[Sent] = []

    def adapter_for(self, access: Access) -> BaseAdapter:
        """Reach any host this way."""
        return _Adapter(self, access)


class _Adapter(BaseAdapter):
    def __init__(self, wire: SimulatedWire, access: Access) -> None:
        super().__init__()
        self.wire = wire
        self.access = access

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        sent = Sent(str(request.method), str(request.url), dict(request.headers), request.body, self.access)
        self.wire.sent.append(sent)
        answer = self.wire.answers(sent)
        if isinstance(answer, Exception):
            raise answer
        body = io.BytesIO(answer.body) if isinstance(answer.body, bytes) else answer.body
        raw = HTTPResponse(body=body, headers=dict(answer.headers), status=answer.status, preload_content=False)
        return requests.adapters.HTTPAdapter().build_response(request, raw)

    def close(self) -> None:
        """Nothing is open."""


class Endless(io.RawIOBase):
    """A body without an end; whoever reads too much of it is told."""

    def __init__(self, limit_bytes: int = 16 * 1024 * 1024) -> None:
        super().__init__()
        self.left_bytes = limit_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Give as much as is wanted."""
        self.left_bytes -= size
        assert size >= 0 <= self.left_bytes, "nobody stopped reading"
        return bytes(size)


def wired(sim: SimulatedRegistry, *, mounts: bool = True) -> tuple[Uploader, SimulatedWire]:
    """Return an uploader whose requests go to a simulated registry; one that does not mount begins an upload."""

    def answers(sent: Sent) -> Answer:
        parts = urlsplit(sent.url)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if found := _UPLOAD.fullmatch(parts.path):
            if sent.method == "PUT":
                assert sim.put_blob(found[1], sent.body) == asked["digest"]
                return Answer(201)
            place = sim.repositories.get(found[1])
            is_there = mounts and place is not None and asked.get("mount") in place.blobs
            return Answer(201) if is_there else Answer(202, {"Location": f"{parts.path}?_state=1"})
        if (found := _BLOB.fullmatch(parts.path)) and sent.method == "HEAD":
            return Answer(200 if found[2] in sim.repositories[found[1]].blobs else 404)
        found = _MANIFEST.fullmatch(parts.path)
        assert found
        assert sent.method == "PUT"
        listed = sim.put_manifest(found[1], found[2], sent.body)
        return Answer(201, {"OCI-Subject": "yes"} if listed else {})

    wire = SimulatedWire(answers)
    return Uploader(sim.host, Access(), adapter_for=wire.adapter_for), wire
