"""Local control of a running agent: one request and one answer, a line of JSON each, over a socket in `stateDir`.

Only root and the agent's own user are heard. Everything is bounded: lines, time, and how many ask at once.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from margo_agent.fields import parse_duration_s
from margo_agent.hold import drop_hold, read_hold, write_hold
from margo_oci.content import parse_json
from margo_oci.errors import FormatError, MargoError

SOCKET_FILE = "control.sock"
LINE_LIMIT_BYTES = 4096
ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
CLIENT_LIMIT = 8
LINE_TIMEOUT_S = 10.0
VERBS = ("look", "status", "hold", "resume", "reload")


class Controlled(Protocol):
    """What can be asked of the loop."""

    busy: bool
    last: Mapping[str, Any]

    def wanted(self) -> Awaitable[Mapping[str, Any]]:
        """Look as soon as possible; what came of it arrives later."""

    def wake(self) -> None:
        """Look as soon as possible."""

    def check_reload(self) -> None:
        """Raise FormatError if the configuration cannot be read again."""

    def hang_up(self) -> None:
        """Read the configuration again, and look."""


@dataclass
class Control:
    """Answers requests; `peers` are the user ids that are heard. `warn` is told why a socket cannot be made."""

    loop: Controlled
    state_dir: Path
    now: Callable[[], datetime]
    peers: frozenset[int]
    warn: Callable[[str], None]
    clients: int = field(default=0, init=False)

    async def answer(self, line: bytes) -> Mapping[str, Any]:
        """Return what to answer to one line; never raises but for being cancelled."""
        try:
            raw = parse_json(line, what="request", limit_bytes=LINE_LIMIT_BYTES)
            verb = raw.get("do")
            if verb not in VERBS:
                raise FormatError(f"request: do: one of {', '.join(VERBS)} is expected, got {verb!r:.80}")
            found: Mapping[str, Any] = await getattr(self, f"_{verb}")(raw)
        except (MargoError, OSError) as error:
            return {"ok": False, "message": str(error)}
        return {"ok": True, **found}

    async def _look(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        asked = self.loop.wanted()
        return {"result": dict(await asked)} if raw.get("wait") is True else {}

    async def _status(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        held = read_hold(self.state_dir, self.now())
        return {
            "pid": os.getpid(),
            "stateDir": str(self.state_dir),
            "busy": self.loop.busy,
            "hold": held.words if held else None,
            "last": dict(self.loop.last) or None,
        }

    async def _hold(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        duration, reason = raw.get("for"), raw.get("reason", "")
        if not isinstance(reason, str) or not isinstance(duration, str | None):
            raise FormatError("request: for, reason: text is expected")
        for_s = None if duration is None else parse_duration_s(duration)
        hold = write_hold(self.state_dir, self.now(), for_s=for_s, reason=reason)
        self.loop.wake()
        return {"hold": hold.words}

    async def _resume(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        dropped = drop_hold(self.state_dir)
        self.loop.wake()
        return {"held": dropped}

    async def _reload(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self.loop.check_reload()
        self.loop.hang_up()
        return {}

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one who connected."""
        self.clients += 1
        try:
            writer.write(json.dumps(await self._heard(reader, writer)).encode() + b"\n")
            await asyncio.wait_for(writer.drain(), LINE_TIMEOUT_S)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # who asked has gone, or we go
        finally:
            self.clients -= 1
            writer.close()

    async def _heard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Mapping[str, Any]:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in self.peers:
            return {"ok": False, "message": f"user {uid} is not heard here: only root and the agent's own user are"}
        if self.clients > CLIENT_LIMIT:
            return {"ok": False, "message": f"{CLIENT_LIMIT} others ask already: try again later"}
        try:
            line = await asyncio.wait_for(reader.readline(), LINE_TIMEOUT_S)
        except (ValueError, TimeoutError):
            return {"ok": False, "message": f"a line of at most {LINE_LIMIT_BYTES} bytes is expected, at once"}
        return await self.answer(line)


def peer_uid(channel: socket.socket) -> int:
    """Return the user at the other end, as the kernel says (SO_PEERCRED)."""
    raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", raw)[1]
    return uid


@asynccontextmanager
async def listening(control: Control, handed: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Answer while the block runs, on the sockets that systemd handed us and on our own in `stateDir`."""
    with _sockets(control, handed) as sockets:
        servers = [await asyncio.start_unix_server(control.hear, sock=one, limit=LINE_LIMIT_BYTES) for one in sockets]
        try:
            yield
        finally:
            for server in servers:
                server.close()


@contextmanager
def _sockets(control: Control, handed: Sequence[socket.socket]) -> Iterator[Sequence[socket.socket]]:
    """Yield what to listen on; a socket of ours is gone afterwards, one of systemd's stays."""
    file = control.state_dir / SOCKET_FILE
    if any(Path(str(one.getsockname())) == file for one in handed):
        yield handed
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as own:
        try:
            _bind(own, control.state_dir)
        except OSError as error:  # a full disk is no reason not to bring up what is installed
            control.warn(f"while opening {file}: {error.strerror}: look, reload and status of the agent do not work")
            yield handed
            return
        try:
            yield (*handed, own)
        finally:
            file.unlink(missing_ok=True)


def _bind(own: socket.socket, state_dir: Path) -> None:
    file = state_dir / SOCKET_FILE
    file.unlink(missing_ok=True)  # one that a power cut left; that no other agent runs is known by the lock
    with _at(state_dir) as name:
        own.bind(name)
    file.chmod(0o600)


@contextmanager
def _at(state_dir: Path) -> Iterator[str]:
    """Yield a short name of the socket: addresses have 107 bytes, paths may have more."""
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_FILE}"
    finally:
        os.close(folder)


def ask(state_dir: Path, request: Mapping[str, Any], *, timeout_s: float) -> Mapping[str, Any] | None:
    """Return the answer of the agent that runs; None if none does.

    Raises FormatError with the agent's words if it does not do it, or does not answer in time.
    """
    try:
        with _at(state_dir) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout_s)
            channel.connect(name)
            with suppress(ConnectionError):  # one who is not heard is told so before it has asked
                channel.sendall(json.dumps(request).encode() + b"\n")
            with channel.makefile("rb") as stream:
                line = stream.readline(ANSWER_LIMIT_BYTES + 1)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except TimeoutError:
        raise FormatError(f"control: {state_dir / SOCKET_FILE}: no answer after {timeout_s:.0f} s") from None
    except ConnectionError:
        line = b""
    except OSError as error:
        raise FormatError(f"control: {state_dir / SOCKET_FILE}: {error.strerror}") from None
    if not line:
        raise FormatError("control: the agent ended before it answered: ask again when it is back")
    answer = parse_json(line, what="control: answer", limit_bytes=ANSWER_LIMIT_BYTES)
    if answer.get("ok") is not True:
        raise FormatError(f"control: {answer.get('message')}")
    return answer


def tell(state_dir: Path, request: Mapping[str, Any], *, timeout_s: float) -> bool:
    """Ask, where an answer does not matter; tell whether an agent heard it."""
    with suppress(FormatError):
        return ask(state_dir, request, timeout_s=timeout_s) is not None
    return False
