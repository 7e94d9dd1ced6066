"""How large bodies come: HTTP/1.1 on a connection of their own, read in a thread, one piece ahead.

An httpx2 transport, so that logins, redirects and errors are the registry's as everywhere. Reading through asyncio,
anyio and h11 costs more for each of the 16 KiB of a TLS record than decrypting them does.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

import httpx2

PIECE_BYTES = 256 * 1024
PIECE_S = 0.5  # a slow link gives smaller pieces


@dataclass
class BulkTransport(httpx2.AsyncBaseTransport):
    """Opens a connection for each request, without a proxy; `tls` is for https."""

    tls: ssl.SSLContext | None
    connect_timeout_s: float
    read_timeout_s: float

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request without a body. Raises what httpx2 raises."""
        connection = self._connection(request.url)
        asking = asyncio.ensure_future(asyncio.to_thread(self._ask, connection, request))
        try:
            with _translated(request):
                taken, answer = await asyncio.shield(asking)
        except BaseException:
            if connection.sock:
                _shut(connection.sock)
            await asyncio.wait({asking})
            if not asking.cancelled() and not asking.exception():
                _close(*asking.result())
            connection.close()
            raise
        return httpx2.Response(
            answer.status, headers=answer.getheaders(), stream=_Body(taken, answer, request), request=request
        )

    def _connection(self, url: httpx2.URL) -> HTTPConnection:
        if url.scheme == "https":
            return HTTPSConnection(url.host, url.port or 443, timeout=self.connect_timeout_s, context=self.tls)
        return HTTPConnection(url.host, url.port or 80, timeout=self.connect_timeout_s)

    def _ask(self, connection: HTTPConnection, request: httpx2.Request) -> tuple[socket.socket, HTTPResponse]:
        connection.connect()
        taken: socket.socket = connection.sock  # the connection forgets it with the head of the answer
        taken.settimeout(self.read_timeout_s)
        connection.putrequest(request.method, request.url.raw_path.decode(), skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() != "connection":
                connection.putheader(name, value)
        connection.putheader("Connection", "close")
        connection.endheaders()
        return taken, connection.getresponse()


class _Body(httpx2.AsyncByteStream):
    """A body on its way; closing it closes its connection."""

    def __init__(self, taken: socket.socket, answer: HTTPResponse, request: httpx2.Request) -> None:
        self.taken = taken
        self.answer = answer
        self.request = request
        self.ahead: asyncio.Future[bytes] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body; the next piece is read while the last one is dealt with."""
        self.ahead = asyncio.ensure_future(asyncio.to_thread(self._piece))
        while True:
            with _translated(self.request):
                piece = await asyncio.shield(self.ahead)
            if not piece:
                break
            self.ahead = asyncio.ensure_future(asyncio.to_thread(self._piece))
            yield piece
        if self.answer.length:
            raise httpx2.RemoteProtocolError("the body ended early", request=self.request)

    async def aclose(self) -> None:
        """Let go of the connection, once the thread that reads from it has."""
        _shut(self.taken)
        if self.ahead:
            await asyncio.wait({self.ahead})
            if not self.ahead.cancelled():
                self.ahead.exception()
        _close(self.taken, self.answer)

    def _piece(self) -> bytes:
        """Return what comes within a moment; b"" at the end."""
        piece = bytearray()
        until_s = time.monotonic() + PIECE_S
        try:
            while len(piece) < PIECE_BYTES and time.monotonic() < until_s:
                read = self.answer.read1(PIECE_BYTES - len(piece))
                if not read:
                    break
                piece += read
        except (OSError, HTTPException):
            if not piece:  # what came before the break counts; the next read tells of it again
                raise
        return bytes(piece)


def _shut(taken: socket.socket) -> None:
    """End a connection under the hands of a thread that reads from it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(taken, socket.SHUT_RDWR)


def _close(taken: socket.socket, answer: HTTPResponse) -> None:
    answer.close()
    taken.close()


@contextlib.contextmanager
def _translated(request: httpx2.Request) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error), request=request) from error
    except (OSError, ValueError, AttributeError) as error:  # closed under the reader's hands, it is no OSError
        raise httpx2.ReadError(str(error), request=request) from error
    except HTTPException as error:
        raise httpx2.RemoteProtocolError(str(error), request=request) from error
