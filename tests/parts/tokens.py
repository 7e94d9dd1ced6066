"""A token service (registry token authentication, also by OAuth2): gives tokens for the rights that somebody has."""

import base64
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from margo_oci.auth import Credentials
from tests.parts.certs import Pair

SERVICE = ISSUER = "margo"


@dataclass(frozen=True)
class Asked:
    """One request for a token: how, as whom, and for which rights."""

    method: str
    who: str
    scope: str
    form: dict[str, str] = field(default_factory=dict)


class TokenService:
    """A token service on 127.0.0.1; `rights` are what each user may do with every repository, as in `pull,push`."""

    def __init__(self, pair: Pair, rights: dict[Credentials, str]) -> None:
        """`pair` signs the tokens, and is the server's certificate as well."""
        self.pair = pair
        self.rights = rights
        self.life_s = 300
        self.asked: list[Asked] = []

    @property
    def realm(self) -> str:
        """Where tokens are."""
        return f"https://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pair.certificate, self.pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def token(self, asked: Asked, credentials: Credentials | None) -> str | None:
        """Return a token with those of the rights asked for that somebody has; None for nobody known."""
        if credentials not in self.rights:
            return None
        kind, name, actions = asked.scope.rsplit(":", 2) if asked.scope.count(":") > 1 else ("", "", "")
        given = [action for action in actions.split(",") if action in self.rights[credentials].split(",")]
        access = [{"type": kind, "name": name, "actions": given}] if kind else []
        now = int(time.time())
        claims = {
            "iss": ISSUER, "sub": "somebody", "aud": SERVICE, "exp": now + self.life_s, "nbf": now - 10, "iat": now,
            "jti": str(len(self.asked)), "access": access,
        }  # fmt: skip
        return self._signed(claims)

    def _signed(self, claims: dict[str, Any]) -> str:
        pem = self.pair.certificate.read_text()
        der = "".join(line for line in pem.splitlines() if "-----" not in line)
        text = f"{_part({'typ': 'JWT', 'alg': 'ES256', 'x5c': [der]})}.{_part(claims)}"
        key = serialization.load_pem_private_key(self.pair.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class _Handler(BaseHTTPRequestHandler):
    service: TokenService
    timeout = 5

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        login = self.headers.get("Authorization", "")
        decoded = base64.b64decode(login.removeprefix("Basic ")).decode() if login else ""
        name, _, password = decoded.partition(":")
        self._answer(Asked("GET", name, query.get("scope", [""])[0]), Credentials(name, password) if login else None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {key: values[0] for key, values in parse_qs(body).items()}
        usable = form.get("grant_type") == "refresh_token" and form.get("client_id") and form.get("service") == SERVICE
        credentials = Credentials("", "", form.get("refresh_token", "")) if usable else None
        self._answer(Asked("POST", "", form.get("scope", ""), form), credentials)

    def _answer(self, asked: Asked, credentials: Credentials | None) -> None:
        self.service.asked.append(asked)
        token = self.service.token(asked, credentials)
        name = "access_token" if asked.method == "POST" else "token"
        content = json.dumps({name: token, "expires_in": self.service.life_s} if token else {}).encode()
        self.send_response(200 if token else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def _part(value: dict[str, Any]) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
