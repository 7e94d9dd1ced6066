"""The simulated Sigstore behind HTTP, where Sigstore's own library talks to it: certificates and log entries."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from margo_oci.identity import Identity
from tests.simulators.sigstore import SimulatedSigstore


class SigstoreServer(ThreadingHTTPServer):
    """One instance on this machine; `refusing` makes the log answer 500."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.instance = SimulatedSigstore(datetime.now(UTC))
        self.refusing = False

    @property
    def client_config(self) -> Mapping[str, Any]:
        """What its clients know."""
        return self.instance.client_config(f"http://127.0.0.1:{self.server_port}")

    def answer(self, path: str, login: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do what Fulcio and Rekor do."""
        if path == "/api/v2/signingCert":
            csr = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
            key = csr.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            claims = json.loads(base64.urlsafe_b64decode(login.split(".")[1] + "=="))
            made = self.instance.certificate(key, Identity(claims["sub"], claims["iss"]))
            chain = [one.public_bytes(Encoding.PEM).decode() for one in (made, self.instance.ca)]
            return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}
        assert path == "/api/v1/log/entries"
        proposed = request["spec"]["proposedContent"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(proposed["verifiers"][0]))
        return self.instance.entry(json.loads(proposed["envelope"]), certificate)


class _Handler(BaseHTTPRequestHandler):
    server: SigstoreServer

    def do_POST(self) -> None:
        """Answer."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = self.server.refusing and "log" in self.path
        login = self.headers.get("Authorization", "").removeprefix("Bearer ")
        answer = {} if refused else self.server.answer(self.path, login, request)
        data = json.dumps(answer).encode()
        self.send_response(500 if refused else 201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def sigstore_server() -> Iterator[SigstoreServer]:
    """Run one."""
    with SigstoreServer() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
