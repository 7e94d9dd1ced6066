"""Credentials where Docker's and Podman's tools keep them; no store of our own."""

import base64
import binascii
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_oci.auth import Credentials
from margo_oci.errors import FormatError
from margo_oci.reference import DOCKER_HUB
from margo_oci.store import write_whole

HELPER_TIMEOUT_S = 30.0
AUTH_FILE_LIMIT_BYTES = 1024 * 1024
_HUB_KEY = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class AuthFiles:
    """The auth files of one user, in the order in which they are asked."""

    files: tuple[Path, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str], home: Path) -> "AuthFiles":
        """Return the files that docker and podman would read in this environment (containers-auth.json(5))."""
        if explicit := environment.get("REGISTRY_AUTH_FILE"):
            return cls((Path(explicit),))
        docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
        runtime = environment.get("XDG_RUNTIME_DIR")
        podman = [Path(runtime) / "containers" / "auth.json"] if runtime else []
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        return cls((docker, *podman, config / "containers" / "auth.json"))

    def find(self, host: str) -> Credentials | None:
        """Return what is kept for `host`. Raises FormatError for an unusable file or helper."""
        for path in self.files:
            content = _read(path)
            if found := _from_helper(content, host, path) or _from_auths(content, host, path):
                return found
        return None

    def save(self, host: str, credentials: Credentials) -> Path:
        """Keep credentials, with the helper the file names or in the file itself; return the file."""
        path = self.files[0]
        content = _read(path)
        if helper := _helper(content, host):
            secret = {
                "ServerURL": _key(host),
                "Username": credentials.username,
                "Secret": credentials.password,
            }
            if _run_helper(helper, "store", json.dumps(secret), path) is None:
                raise FormatError(f"{path}: docker-credential-{helper} could not keep the login")
            return path
        content.setdefault("auths", {})[_key(host)] = {"auth": credentials.basic.removeprefix("Basic ")}
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps(content, indent=2).encode())
        return path

    def remove(self, host: str) -> bool:
        """Forget `host` everywhere; tell whether anything was known."""
        known = False
        for path in self.files:
            content = _read(path)
            if helper := _helper(content, host):
                known = _run_helper(helper, "erase", _key(host), path) is not None or known
            mine = [key for key in content.get("auths", {}) if _host_of(key) == host]
            for key in mine:
                del content["auths"][key]
            if mine:
                write_whole(path, json.dumps(content, indent=2).encode())
                known = True
        return known


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = json.loads(stream.read(AUTH_FILE_LIMIT_BYTES) or b"{}")
    except FileNotFoundError:
        return {"auths": {}}
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: not a usable auth file: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("auths"), dict | None):
        raise FormatError(f"{path}: not a usable auth file: an object with auths is expected")
    return {**content, "auths": content.get("auths") or {}}


def _from_auths(content: Mapping[str, Any], host: str, path: Path) -> Credentials | None:
    for entry in _entries(content, host):
        try:
            username, _, password = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
        except (ValueError, TypeError, binascii.Error):
            raise FormatError(f"{path}: the entry for {host} is not usable: log in again") from None
        username, password = (
            username or entry.get("username", ""),
            password or entry.get("password", ""),
        )
        if username:
            return Credentials(username, password.rstrip("\0"))
    return None


def _entries(content: Mapping[str, Any], host: str) -> Iterator[Mapping[str, Any]]:
    for key, entry in content.get("auths", {}).items():
        if _host_of(key) == host and isinstance(entry, dict):
            yield entry


def _from_helper(content: Mapping[str, Any], host: str, path: Path) -> Credentials | None:
    helper = _helper(content, host)
    answer = _run_helper(helper, "get", _key(host), path) if helper else None
    if not answer:
        return None
    try:
        raw = json.loads(answer)
        return Credentials(raw["Username"], raw["Secret"])
    except (ValueError, KeyError, TypeError):
        raise FormatError(f"docker-credential-{helper}: its answer for {host} is not usable") from None


def _helper(content: Mapping[str, Any], host: str) -> str:
    helper = (content.get("credHelpers") or {}).get(_key(host)) or content.get("credsStore") or ""
    return helper if isinstance(helper, str) else ""


def _run_helper(helper: str, verb: str, text: str, path: Path) -> str | None:
    """Run docker-credential-<helper>; None when it knows nothing of this host."""
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", verb],
            input=text.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FormatError(f"{path}: credential helper docker-credential-{helper}: {error}") from None
    return None if done.returncode else done.stdout.decode(errors="replace")


def _key(host: str) -> str:
    return _HUB_KEY if host == DOCKER_HUB else host


def _host_of(key: str) -> str:
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if host in ("index.docker.io", "docker.io") else host
