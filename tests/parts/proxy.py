"""A real proxy: carries TLS connections (CONNECT), over TLS itself and with a password if told so."""

import base64
import contextlib
import selectors
import socket
import ssl
import threading
from typing import Self

from margo_oci.auth import Credentials
from tests.parts.certs import Pair

HEAD_LIMIT_BYTES = 16 * 1024
WAIT_S = 10.0


class ConnectProxy:
    """A proxy on 127.0.0.1 for as long as the `with` block lasts; `asked` says what for, and how it answered."""

    def __init__(self, pair: Pair | None = None, login: Credentials | None = None) -> None:
        self.pair = pair
        self.login = login
        self.asked: list[tuple[str, int]] = []
        self._ends: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Where the proxy is, and its login."""
        login = f"{self.login.username}:{self.login.password}@" if self.login else ""
        return f"{'https' if self.pair else 'http'}://{login}{self.host}"

    @property
    def host(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if self.pair else None
        if self._context and self.pair:
            self._context.load_cert_chain(self.pair.certificate, self.pair.key)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listening, *self._ends):
            _close(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            near.settimeout(WAIT_S)
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        far = None
        try:
            near = self._context.wrap_socket(near, server_side=True) if self._context else near
            self._ends.add(near)
            head = _head(near)
            method, target, _ = head.partition("\r\n")[0].split(" ")
            status = self._status(method, head)
            self.asked.append((target, status))
            near.sendall(f"HTTP/1.1 {status} as you see\r\nContent-Length: 0\r\n\r\n".encode() if status != 200
                         else b"HTTP/1.1 200 Connection established\r\n\r\n")  # fmt: skip
            if status == 200:
                name, _, port = target.rpartition(":")
                far = socket.create_connection((name, int(port)), WAIT_S)
                self._ends.add(far)
                _carry(near, far)
        except (OSError, ValueError):
            pass  # whoever hung up knows why
        finally:
            for end in filter(None, (near, far)):
                _close(end)
                self._ends.discard(end)

    def _status(self, method: str, head: str) -> int:
        if self.login:
            known = base64.b64encode(f"{self.login.username}:{self.login.password}".encode()).decode()
            if f"proxy-authorization: basic {known}".lower() not in head.lower():
                return 407
        return 200 if method == "CONNECT" else 405


def _head(near: socket.socket) -> str:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD_LIMIT_BYTES:
        if not (chunk := near.recv(4096)):
            break
        head += chunk
    return head.decode(errors="replace")


def _carry(near: socket.socket, far: socket.socket) -> None:
    """Carry both directions until one side has ended."""
    with selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        while ready := selector.select(WAIT_S):
            for key, _ in ready:
                source: socket.socket = key.fileobj  # type: ignore[assignment]
                while True:
                    if not (chunk := source.recv(65536)):
                        return
                    key.data.sendall(chunk)
                    # TLS may hold more than the kernel knows of.
                    if not (isinstance(source, ssl.SSLSocket) and source.pending()):
                        break


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
