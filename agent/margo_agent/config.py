"""The agent's configuration: one YAML file, checked once, frozen afterwards."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from margo_oci.access import Access
from margo_oci.auth import Credentials
from margo_oci.desired_state import check_scope
from margo_oci.errors import FormatError, RegistryError
from margo_oci.freshness import head_tag
from margo_oci.helper import ask_helper
from margo_oci.proxy import Proxies, check_proxy
from margo_oci.reference import HOST, REPOSITORY, Reference, parse_reference
from margo_oci.trustconfig import TrustConfig, parse_trust
from margo_oci.yamldoc import Document, parse_yaml
from margo_oci.yamldoc import Path as FieldPath

DEFAULT_INTERVAL_S = 30.0
SECRET_LIMIT_BYTES = 64 * 1024
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
_KEYS = (
    "device",
    "source",
    "scopes",
    "trust",
    "registries",
    "interval",
    "stateDir",
    "engine",
    "lock",
    "proxy",
)
_REGISTRY_KEYS = (
    "plainHttp",
    "caFile",
    "username",
    "passwordFile",
    "credentialHelper",
    "clientCert",
    "clientKey",
    "mirrors",
    "proxy",
)


@dataclass(frozen=True)
class ProxySettings:
    """A proxy and the CAs of its own certificate; without one those of the environment count."""

    proxies: Proxies | None = None
    ca_file: Path | None = None

    def on(self, access: Access) -> Access:
        """Return `access` through this proxy."""
        return replace(access, proxies=self.proxies, proxy_ca_files=(self.ca_file,) if self.ca_file else ())


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What a device is told at provisioning; paths are absolute here, units are in the names."""

    file: Path
    device: str
    source: Reference
    scopes: Sequence[str]
    trust: TrustConfig
    registries: Mapping[str, Access]
    interval_s: float
    state_dir: Path
    engine: str
    lock: Literal["enforce", "resolve"]
    proxy: ProxySettings = ProxySettings()

    @property
    def look_at(self) -> Reference:
        """Where a look asks whether anything is new: at the state's tag, or at the head beside it."""
        return head_tag(self.source) if self.trust.mode == "head+release" else self.source

    def access(self, host: str) -> Access:
        """How `host` is reached; one that is not configured is reached over TLS, as nobody."""
        return self.registries.get(host) or self.proxy.on(Access())


def load_config(file: Path) -> AgentConfig:
    """Read and check `file`. Raises FormatError with every fault, each with its line."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}: name the agent's configuration with --config FILE") from None
    return _Reader(parse_yaml(data, what=str(file)), file.absolute()).config()


class _Reader:
    """Walks the file and collects faults."""

    def __init__(self, document: Document, file: Path) -> None:
        self.document = document
        self.file = file
        self.faults: list[tuple[int, str]] = []

    def config(self) -> AgentConfig:
        root = self.document.value
        if not isinstance(root, dict):
            raise FormatError(f"{self.file}: a map with device, source, scopes, trust and stateDir is expected")
        self.known((), root, _KEYS)
        proxy = self.proxy(("proxy",))
        config = AgentConfig(
            file=self.file,
            device=self.text(("device",)),
            source=self.checked(("source",), parse_reference) or Reference("", ""),
            scopes=self.scopes(),
            trust=parse_trust(self.document, self.file.parent, self.fault),
            registries=self.registries(proxy),
            proxy=proxy,
            interval_s=self.duration_s(("interval",)),
            state_dir=self.path(self.text(("stateDir",))),
            engine=self.text(("engine",), required=False),
            lock="resolve" if self.choice(("lock",), ("enforce", "resolve")) == "resolve" else "enforce",
        )
        if self.faults:
            raise FormatError(*(message for _, message in sorted(self.faults)))
        return config

    def fault(self, path: FieldPath, message: str) -> None:
        line = self.document.line(path)
        self.faults.append((line, f"{self.file}:{line}: {'.'.join(map(str, path)) or 'document'}: {message}"))

    def known(self, path: FieldPath, raw: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in raw:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
                self.fault(
                    (*path, key),
                    f"unknown: {f'did you mean {near[0]}?' if near else 'one of ' + ', '.join(keys)}",
                )

    def text(self, path: FieldPath, *, required: bool = True) -> str:
        value = self.document.find(path)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or not value or "\0" in value:
            self.fault(path, "is missing" if value is None else f"text is expected, got {value!r:.80}")
            return ""
        return value

    def texts(self, path: FieldPath, *, required: bool = True, example: str = "edge-17") -> Sequence[str]:
        value = self.document.find(path)
        if value is None and not required:
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            self.fault(path, f"a list with at least one entry is expected, as in [{example}]")
            return ()
        return value

    def scopes(self) -> Sequence[str]:
        scopes = self.texts(("scopes",))
        for scope in scopes:
            try:
                check_scope(scope)
            except FormatError as error:
                self.fault(("scopes",), str(error))
        return scopes

    def map(self, path: FieldPath, *, required: bool = False) -> dict[str, Any]:
        value = self.document.find(path)
        if isinstance(value, dict):
            return value
        if required or value is not None:
            self.fault(path, "a map is expected")
        return {}

    def choice(self, path: FieldPath, choices: Sequence[str]) -> str:
        value = self.text(path, required=False)
        if value and value not in choices:
            self.fault(path, f"{value!r:.80}: one of {', '.join(choices)} is expected")
        return value

    def checked(self, path: FieldPath, parse: Callable[[str], Reference]) -> Reference | None:
        text = self.text(path)
        try:
            return parse(text) if text else None
        except FormatError as error:
            self.fault(path, str(error))
            return None

    def duration_s(self, path: FieldPath) -> float:
        text = self.text(path, required=False)
        if not text:
            return DEFAULT_INTERVAL_S
        found = _DURATION.fullmatch(text)
        hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
        duration_s = float(hours * 3600 + minutes * 60 + seconds)
        if duration_s < 1:
            self.fault(path, f"{text!r:.80}: a duration of at least 1s is expected, as in 30s, 5m or 1h30m")
        return duration_s

    def path(self, text: str) -> Path:
        return self.file.parent / text

    def registries(self, proxy: ProxySettings) -> Mapping[str, Access]:
        hosts = self.map(("registries",))
        for host in hosts:
            if not HOST.fullmatch(host):
                self.fault(("registries", host), "host or host:port is expected")
        return {host: self.registry(("registries", host), proxy) for host in hosts}

    def registry(self, path: FieldPath, proxy: ProxySettings) -> Access:
        raw = self.map(path, required=True)
        self.known(path, raw, _REGISTRY_KEYS)
        plain_http = raw.get("plainHttp", False)
        if not isinstance(plain_http, bool):
            self.fault((*path, "plainHttp"), f"true or false is expected, got {plain_http!r:.80}")
        if ("clientCert" in raw) != ("clientKey" in raw):
            self.fault(path, "clientCert and clientKey go together")
        access = Access(
            plain_http=plain_http is True,
            ca_file=self.file_at((*path, "caFile")),
            client_cert=self.file_at((*path, "clientCert")),
            client_key=self.file_at((*path, "clientKey")),
            credentials=self.credentials(path, raw),
            login=self.helper(path, raw),
            mirrors=self.mirrors((*path, "mirrors")),
        )
        access = (self.proxy((*path, "proxy")) if "proxy" in raw else proxy).on(access)
        files = (access.ca_file, access.client_cert, access.client_key)
        try:
            if all(file is None or file.is_file() for file in files):
                access.tls()
        except FormatError as error:
            self.fault(path, str(error))
        return access

    def file_at(self, path: FieldPath) -> Path | None:
        text = self.text(path, required=False)
        if not text:
            return None
        file = self.path(text)
        try:
            there = file.is_file()
        except OSError:  # a name that is too long
            there = False
        if not there:
            self.fault(path, f"{file!s:.300} is not there")
        return file if there else None

    def mirrors(self, path: FieldPath) -> tuple[Reference, ...]:
        found = []
        for text in self.texts(path, required=False, example="mirror.plant:5000/cache"):
            host, _, prefix = text.partition("/")
            if not HOST.fullmatch(host) or (prefix and not REPOSITORY.fullmatch(prefix)):
                self.fault(path, f"{text!r:.80}: host or host/prefix is expected, as in mirror.plant:5000/cache")
            elif host == path[-2]:
                self.fault(path, f"{text!r:.80}: a registry is no mirror of itself")
            else:
                found.append(Reference(host, prefix))
        return tuple(found)

    def proxy(self, path: FieldPath) -> ProxySettings:
        raw = self.map(path)
        if not raw:
            return ProxySettings()
        self.known(path, raw, ("url", "noProxy", "caFile"))
        url = self.text((*path, "url"))
        try:
            url = check_proxy(url, what="proxy")
        except FormatError as error:
            self.fault((*path, "url"), str(error).partition(": ")[2])
        no_proxy = tuple(self.texts((*path, "noProxy"), required=False, example="registry.plant"))
        settings = ProxySettings(Proxies(url, url, no_proxy), self.file_at((*path, "caFile")))
        if settings.ca_file and settings.ca_file.is_file():
            try:
                settings.on(Access()).proxy_tls()
            except FormatError as error:
                self.fault((*path, "caFile"), str(error))
        return settings

    def helper(self, path: FieldPath, raw: Mapping[str, Any]) -> Callable[[str], Credentials | None] | None:
        program, host = self.file_at((*path, "credentialHelper")), str(path[-1])
        if program and ("username" in raw or "passwordFile" in raw):
            self.fault(path, "credentialHelper stands in place of username and passwordFile")
        if not program:
            return None

        def ask(_: str) -> Credentials | None:
            try:
                return ask_helper(program, host, what=f"registries.{host}")
            except FormatError as error:  # a matter of now, not of the configuration: it is asked again later
                raise RegistryError(str(error)) from None

        return ask

    def credentials(self, path: FieldPath, raw: Mapping[str, Any]) -> Credentials | None:
        if ("username" in raw) != ("passwordFile" in raw):
            self.fault(path, "username and passwordFile go together")
        username, file = (
            self.text((*path, "username"), required=False),
            self.file_at((*path, "passwordFile")),
        )
        if not username or not file or not file.is_file():
            return None
        with file.open("rb") as stream:
            return Credentials(username, stream.read(SECRET_LIMIT_BYTES).decode(errors="replace").rstrip("\r\n"))
