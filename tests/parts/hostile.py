"""A registry that means harm: passes on to a real one, and plays its tricks on the answers.

A trick gets what the real registry would answer and returns what the device is to see instead.
"""

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_CHUNK = bytes(64 * 1024)
_DRIP_S = 0.2
_OWN = ("connection", "transfer-encoding", "content-length", "keep-alive")


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """An answer; a `body` that is no bytes ends with the connection, if it ends."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""


Trick = Callable[[Asked, Callable[[], Reply]], Reply]


class HostileRegistry:
    """On 127.0.0.1 in front of `upstream` for as long as the `with` block lasts; without one it has nothing at all."""

    def __init__(self, upstream: str = "") -> None:
        self.upstream = upstream
        self.asked: list[Asked] = []
        self.tricks: list[tuple[str, Trick]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def host(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def plays(self, trick: Trick, *, on: str = "") -> None:
        """Play a trick on every request whose path has `on` in it; the first that fits counts."""
        self.tricks.append((on, trick))

    def behaves(self) -> None:
        """End all tricks, and forget what was asked."""
        self.tricks.clear()
        self.asked.clear()

    def answer(self, asked: Asked) -> Reply:
        """Return what whoever asked is to see."""
        self.asked.append(asked)
        trick = next((trick for on, trick in self.tricks if on in asked.path), None)
        return trick(asked, lambda: self.honest(asked)) if trick else self.honest(asked)

    def honest(self, asked: Asked) -> Reply:
        """Return what the real registry answers."""
        if not self.upstream:
            return Reply(404)
        connection = http.client.HTTPConnection(self.upstream, timeout=10)
        try:
            headers = {name: value for name, value in asked.headers.items() if name not in (*_OWN, "host")}
            connection.request(asked.method, asked.path, headers=headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _OWN}
            return Reply(answer.status, kept, answer.read())
        finally:
            connection.close()


def says(status: int, body: bytes | Iterable[bytes] = b"", **headers: str) -> Trick:
    """Answer this and nothing else; `_` stands for `-` in names of headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _, __: Reply(status, named, body)


def changes(old: bytes, new: bytes) -> Trick:
    """Change what is in the real answer."""

    def changed(_: Asked, honest: Callable[[], Reply]) -> Reply:
        reply = honest()
        assert isinstance(reply.body, bytes)
        assert old in reply.body
        return replace(reply, body=reply.body.replace(old, new))

    return changed


def claims(**headers: str) -> Trick:
    """Say something else in the headers of the real answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def claimed(_: Asked, honest: Callable[[], Reply]) -> Reply:
        reply = honest()
        return replace(reply, headers={**reply.headers, **named})

    return claimed


def goes_on_without_end(_: Asked, honest: Callable[[], Reply]) -> Reply:
    """Send the real answer, and then more for ever."""
    reply = honest()
    assert isinstance(reply.body, bytes)
    return replace(reply, body=itertools.chain([reply.body], itertools.repeat(_CHUNK)))


def drips(_: Asked, honest: Callable[[], Reply]) -> Reply:
    """Send the real answer a byte at a time: never silent, never done."""
    reply = honest()
    assert isinstance(reply.body, bytes)
    return replace(reply, body=_drops(reply.body))


def _drops(body: bytes) -> Iterator[bytes]:
    for byte in body:
        yield bytes([byte])
        time.sleep(_DRIP_S)


def replays() -> Trick:
    """Answer for ever what was answered first."""
    first: dict[tuple[str, str], Reply] = {}

    def replayed(asked: Asked, honest: Callable[[], Reply]) -> Reply:
        key = (asked.method, asked.path)
        if key not in first:
            first[key] = honest()
        return first[key]

    return replayed


def asks_for_a_login(then: Trick) -> Trick:
    """Want a password, and play another trick on whoever has told it."""

    def asked_for(asked: Asked, honest: Callable[[], Reply]) -> Reply:
        if not asked.headers.get("authorization"):
            return Reply(401, {"WWW-Authenticate": 'Basic realm="here"'})
        return then(asked, honest)

    return asked_for


def _handler(registry: HostileRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = registry.answer(Asked(self.command, self.path, headers))
            with suppress(OSError):  # whoever hung up has seen enough
                self._send(reply)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if isinstance(reply.body, bytes):
                self.send_header("Content-Length", str(len(reply.body)))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if self.command != "HEAD":
                for chunk in [reply.body] if isinstance(reply.body, bytes) else reply.body:
                    self.wfile.write(chunk)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
