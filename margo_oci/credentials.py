"""Credentials where Docker's and Podman's tools keep them; no store of our own."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_oci.auth import Credentials
from margo_oci.errors import FormatError
from margo_oci.helper import ask_helper, erase_login, store_login
from margo_oci.reference import DOCKER_HUB
from margo_oci.store import write_whole

AUTH_FILE_LIMIT_BYTES = 1024 * 1024
_HUB_KEY = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # a program on PATH, not a path


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

    def find(self, host: str, repository: str = "") -> Credentials | None:
        """Return what is kept for `repository` of `host`: the longest key that is about it, of the first file.

        Raises FormatError for an unusable file or helper.
        """
        for path in self.files:
            content = _read(path)
            helper = _helper(content, host)
            kept = ask_helper(_program(helper, path), _key(host), what=str(path)) if helper else None
            if found := kept or _from_auths(content, host, repository, path):
                return found
        return None

    def save(self, host: str, credentials: Credentials) -> Path:
        """Keep credentials, with the helper the file names or in the file itself; return the file."""
        path = self.files[0]
        content = _read(path)
        if helper := _helper(content, host):
            store_login(_program(helper, path), _key(host), credentials, what=str(path))
            return path
        content.setdefault("auths", {})[_key(host)] = {"auth": credentials.basic.removeprefix("Basic ")}
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps(content, indent=2).encode())
        return path

    def remove(self, host: str) -> bool:
        """Forget `host` everywhere, but not what is kept for parts of it; tell whether anything was known."""
        known = False
        for path in self.files:
            content = _read(path)
            if helper := _helper(content, host):
                known = erase_login(_program(helper, path), _key(host), what=str(path)) or known
            mine = [key for key in content["auths"] if _place_of(key) == (host, "")]
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
    except RecursionError:
        raise FormatError(f"{path}: not a usable auth file: nested too deep") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: not a usable auth file: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("auths"), dict | None):
        raise FormatError(f"{path}: not a usable auth file: an object with auths is expected")
    return {**content, "auths": content.get("auths") or {}}


def _from_auths(content: Mapping[str, Any], host: str, repository: str, path: Path) -> Credentials | None:
    """Return the entry with the longest key that is about the repository (containers-auth.json(5))."""
    about = {
        _place_of(key)[1]: entry
        for key, entry in content["auths"].items()
        if isinstance(entry, dict) and _is_about(key, host, repository)
    }
    for place in sorted(about, key=len, reverse=True):
        try:
            if found := _entry(about[place]):
                return found
        except (ValueError, TypeError, AttributeError, binascii.Error):
            where = f"{host}/{place}" if place else host
            raise FormatError(f"{path}: the entry for {where} is not usable: log in again") from None
    return None


def _is_about(key: str, host: str, repository: str) -> bool:
    where, place = _place_of(key)
    return where == host and (not place or repository == place or repository.startswith(f"{place}/"))


def _entry(entry: Mapping[str, Any]) -> Credentials | None:
    username, _, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
    username, password = username or entry.get("username") or "", password or entry.get("password") or ""
    token = entry.get("identitytoken") or ""
    if not all(isinstance(text, str) for text in (username, password, token)):
        raise TypeError
    (username + password + token).encode()  # half a surrogate pair could not be sent on
    return Credentials(username, password.rstrip("\0"), token) if username or token else None


def _helper(content: Mapping[str, Any], host: str) -> str:
    helpers = content.get("credHelpers")
    names = helpers if isinstance(helpers, dict) else {}
    helper = names.get(_key(host)) or names.get(host) or content.get("credsStore") or ""
    return helper if isinstance(helper, str) else ""


def _program(helper: str, path: Path) -> str:
    if not _HELPER.fullmatch(helper):
        raise FormatError(f"{path}: credential helper {helper!r:.80}: NAME is expected, as in docker-credential-NAME")
    return f"docker-credential-{helper}"


def _key(host: str) -> str:
    return _HUB_KEY if host == DOCKER_HUB else host


def _place_of(key: str) -> tuple[str, str]:
    """Return host and repository (or the beginning of one) that a key is about; older tools wrote URLs for hosts."""
    bare = key.removeprefix("https://").removeprefix("http://")
    host, _, place = bare.partition("/")
    if bare != key or place.rstrip("/") in ("v1", "v2"):
        place = ""
    return DOCKER_HUB if host in ("index.docker.io", "docker.io") else host, place.rstrip("/")
