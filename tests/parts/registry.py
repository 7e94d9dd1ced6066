"""A local registry: Debian's `docker-registry` (CNCF distribution) with the configurations of registry-config/.

By hand: python -m tests.parts.registry --kind tls --port 5000
"""

import argparse
import base64
import http.client
import itertools
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from tests.parts import child
from tests.parts.certs import Authority, Pair
from tests.parts.place import temporary_place

Kind = Literal["plain", "tls", "auth", "mtls", "token", "mirror"]

CONFIGURATIONS = Path(__file__).parents[2] / "registry-config"
START_LIMIT_S = 15.0
STOP_LIMIT_S = 5.0
_MARK = "/v2/?margo-parts-mark="
_ACCESS = re.compile(r'^\S+ \S+ \S+ \[[^]]*\] "(?P<method>\S+) (?P<path>\S+) \S+" (?P<status>\d+) (?P<bytes>\d+) ')


@dataclass(frozen=True)
class Request:
    """One line of the registry's access log; `bytes` counts the body of the answer."""

    method: str
    path: str
    status: int
    bytes: int


class LocalRegistry:
    """A registry on 127.0.0.1 for as long as the `with` block lasts; port 0 picks a free one."""

    def __init__(self, root: Path, kind: Kind = "plain", port: int = 0, *, upstream: str = "") -> None:
        """`upstream` is the URL of the registry that a `mirror` copies, or of the token service that `token` asks."""
        self.kind = kind
        self.root = root
        self.upstream = upstream
        self.storage = root / "storage"
        self.host = f"127.0.0.1:{port or _free_port()}"
        self.url = f"{'http' if kind in ('plain', 'mirror') else 'https'}://{self.host}"
        self.ca_file = None if kind in ("plain", "mirror") else root / "certs" / "ca.pem"
        self.client = Pair(root / "certs" / "client.pem", root / "certs" / "client.key") if kind == "mtls" else None
        self.username = "margo" if kind == "auth" else ""
        self.password = "margo-test" if kind == "auth" else ""
        self._access_log = root / "access.log"
        self._log = root / "registry.log"
        self._forgotten_bytes = 0
        self._marks = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the registry, also again after `stop()`: same address, same content."""
        self.storage.mkdir(parents=True, exist_ok=True)
        self._process = child.start(
            ["docker-registry", "serve", str(CONFIGURATIONS / f"{self.kind}.yml")],
            stdout=self._access_log,
            stderr=self._log,
            environment=self._environment(),
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the registry; its content stays where it is."""
        if self._process:
            child.stop(self._process, within_s=STOP_LIMIT_S)
            self._process = None

    def requests(self) -> list[Request]:
        """Return what was asked of the registry since `forget()`, in the order it was answered."""
        mark = f"{_MARK}{next(self._marks)}"
        self._get(mark)
        # An answer may reach its reader a moment before the log; the mark's own line comes after it.
        deadline = time.monotonic() + 2
        while f" {mark} " not in (log := self._new_log()) and time.monotonic() < deadline:
            time.sleep(0.005)
        found = [_ACCESS.match(line) for line in log.splitlines()]
        return [_request(match) for match in found if match and not match["path"].startswith(_MARK)]

    def forget(self) -> None:
        """Forget the requests so far."""
        self.requests()
        self._forgotten_bytes = self._access_log.stat().st_size

    def _new_log(self) -> str:
        return self._access_log.read_bytes()[self._forgotten_bytes :].decode(errors="replace")

    def _environment(self) -> dict[str, str]:
        """The configuration's open ends. Foreign REGISTRY_ variables would change it, too."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
        environment["REGISTRY_HTTP_ADDR"] = self.host
        environment["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"] = str(self.storage)
        if self.ca_file:
            pair = self._certificates()
            environment["REGISTRY_HTTP_TLS_CERTIFICATE"] = str(pair / "server.pem")
            environment["REGISTRY_HTTP_TLS_KEY"] = str(pair / "server.key")
        if self.kind == "auth":
            environment["REGISTRY_AUTH_HTPASSWD_PATH"] = str(CONFIGURATIONS / "htpasswd")
        if self.kind == "mtls":
            environment["REGISTRY_HTTP_TLS_CLIENTCAS"] = f"[{self.ca_file}]"
        if self.kind == "token":
            environment["REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE"] = str(self.ca_file)
            environment["REGISTRY_AUTH_TOKEN_REALM"] = self.upstream or "https://127.0.0.1:5001/token"
        if self.kind == "mirror":
            environment["REGISTRY_PROXY_REMOTEURL"] = self.upstream or "http://127.0.0.1:5001"
        return environment

    def _certificates(self) -> Path:
        directory = self.root / "certs"
        if not (directory / "server.key").exists():
            authority = Authority.create(directory)
            authority.for_server("server")
            authority.for_client("client")
            authority.for_server("tokens")  # what a token service signs with
        return directory

    def _wait_until_it_answers(self) -> None:
        assert self._process
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                status = self._get(f"{_MARK}start")
            except OSError as error:
                status, seen = 0, str(error)
            if status == (401 if self.kind == "token" else 200):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                answer = f"answered {status}" if status else f"did not answer: {seen}"
                log = child.last_lines(self._log)
                raise RuntimeError(f"the {self.kind} registry at {self.host} {answer}\n{log}")
            time.sleep(0.02)

    def _get(self, path: str) -> int:
        connection = self._connection()
        try:
            login = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            connection.request("GET", path, headers={"Authorization": f"Basic {login}"} if self.username else {})
            return connection.getresponse().status
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.ca_file:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.client:
                context.load_cert_chain(self.client.certificate, self.client.key)
            return http.client.HTTPSConnection(self.host, timeout=5, context=context)
        return http.client.HTTPConnection(self.host, timeout=5)


def _request(match: re.Match[str]) -> Request:
    return Request(match["method"], match["path"], int(match["status"]), int(match["bytes"]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def how_to_reach(registry: LocalRegistry) -> str:
    """Say where the registry is, and what margo-oci must be told to use it."""
    flags = f"--ca-file {registry.ca_file}" if registry.ca_file else "--plain-http"
    if registry.client:
        client = f"{registry.client.certificate} {registry.client.key}"
        flags += f", and as client.cert and client.key in ~/.docker/certs.d/{registry.host}: {client}"
    lines = [f"registry  {registry.url}", f"flags     {flags}", f"content   {registry.storage}"]
    if registry.username:
        lines.append(f"login     user {registry.username}, password {registry.password}")
    return "\n".join(lines)


def main() -> None:
    """Run a registry until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.parts.registry", description=main.__doc__)
    parser.add_argument("--kind", choices=get_args(Kind), default="plain")
    parser.add_argument("--port", type=int, default=5000, help="0 picks a free one")
    parser.add_argument("--upstream", default="", help="URL of what a mirror copies, or of a token service")
    parser.add_argument("--root", type=Path, help="where content and certificates are kept")
    arguments = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with ExitStack() as stack:
        root = (arguments.root or stack.enter_context(temporary_place())).resolve()
        registry = stack.enter_context(LocalRegistry(root, arguments.kind, arguments.port, upstream=arguments.upstream))
        print(how_to_reach(registry), "stop      Ctrl-C", sep="\n", flush=True)
        done.wait()


if __name__ == "__main__":
    main()
