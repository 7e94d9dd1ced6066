"""A layout over HTTP: the standard library's server around what `offering` answers. Nothing can be written."""

import socket
import ssl
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from margo_oci.errors import FormatError, MargoError
from margo_oci.offering import Answer, Offer, unsupported

CONNECTION_LIMIT = 64
IDLE_TIMEOUT_S = 30.0  # for a request to come, and for each piece to be taken
_VERSION = ("Docker-Distribution-Api-Version", "registry/2.0")


class Server(ThreadingHTTPServer):
    """Serves one layout at `address`; at most CONNECTION_LIMIT connections at once, the others wait.

    `tls` has the certificate. Raises OSError if the address is taken.
    """

    daemon_threads = True
    request_queue_size = CONNECTION_LIMIT

    def __init__(self, address: tuple[str, int], offer: Offer, tls: ssl.SSLContext | None = None) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.offer = offer
        self.tls = tls
        self._free = BoundedSemaphore(CONNECTION_LIMIT)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread of its own, once there is room."""
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake here, where it holds up nobody else, and answer until the client goes."""
        try:
            request.settimeout(IDLE_TIMEOUT_S)
            if self.tls:
                request = self.tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            request.close()
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes in the middle of an answer is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "margo-oci"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    server: Server

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that nobody reads would be taken for the next request
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.server.offer.answer(self.path, headers)
        except (MargoError, OSError):  # a layout that changed under us, a stick that was pulled
            answer = Answer(500)
            self.close_connection = True
        self._tell(answer, body=body)

    def send_error(self, code: int, *_: object, **__: object) -> None:
        """Answer what the standard library would refuse in HTML; 501 is its word for a method that is not here."""
        self.close_connection = True  # a body that comes after this is not read
        self._tell(unsupported() if code == HTTPStatus.NOT_IMPLEMENTED else Answer(code), body=self.command != "HEAD")

    def _tell(self, answer: Answer, *, body: bool) -> None:
        self.send_response(answer.status)
        for name, value in (_VERSION, *answer.headers.items()):
            self.send_header(name, value)
        if answer.status != 304:
            self.send_header("Content-Length", str(answer.size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        sent = 0
        try:
            for piece in answer.pieces:
                self.wfile.write(piece)
                sent += len(piece)
        except (MargoError, OSError):
            self.close_connection = True
        if sent < answer.size:
            self.close_connection = True  # so that the client sees that this was not all

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (its name there)
        """Log nothing."""


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return TLS with a certificate (PEM, its chain after it) and its key. Raises FormatError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise FormatError(f"{certificate}, {key}: not usable as certificate and key: {error}") from None
    return context
