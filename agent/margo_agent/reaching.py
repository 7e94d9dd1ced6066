"""How the configuration says that registries are reached: `registries` and `proxy`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from margo_agent.fields import Fields
from margo_oci.access import Access
from margo_oci.auth import Credentials
from margo_oci.errors import FormatError, RegistryError
from margo_oci.helper import ask_helper
from margo_oci.proxy import Proxies, check_proxy
from margo_oci.reference import HOST, REPOSITORY, Reference
from margo_oci.yamldoc import Path as FieldPath

SECRET_LIMIT_BYTES = 64 * 1024
_KEYS = (
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


def read_registries(fields: Fields, proxy: ProxySettings) -> Mapping[str, Access]:
    """Return how each host is reached that is named."""
    hosts = fields.map(("registries",))
    for host in hosts:
        if not HOST.fullmatch(host):
            fields.fault(("registries", host), "host or host:port is expected")
    return {host: _registry(fields, ("registries", host), proxy) for host in hosts}


def read_proxy(fields: Fields, path: FieldPath) -> ProxySettings:
    """Return the proxy at `path`."""
    if not fields.section(path, ("url", "noProxy", "caFile")):
        return ProxySettings()
    url = fields.text((*path, "url"))
    try:
        url = check_proxy(url, what="proxy")
    except FormatError as error:
        fields.fault((*path, "url"), str(error).partition(": ")[2])
    no_proxy = tuple(fields.texts((*path, "noProxy"), required=False, example="registry.plant"))
    settings = ProxySettings(Proxies(url, url, no_proxy), fields.file_at((*path, "caFile")))
    if settings.ca_file and settings.ca_file.is_file():
        try:
            settings.on(Access()).proxy_tls()
        except FormatError as error:
            fields.fault((*path, "caFile"), str(error))
    return settings


def _registry(fields: Fields, path: FieldPath, proxy: ProxySettings) -> Access:
    raw = fields.map(path, required=True)
    fields.known(path, raw, _KEYS)
    plain_http = raw.get("plainHttp", False)
    if not isinstance(plain_http, bool):
        fields.fault((*path, "plainHttp"), f"true or false is expected, got {plain_http!r:.80}")
    if ("clientCert" in raw) != ("clientKey" in raw):
        fields.fault(path, "clientCert and clientKey go together")
    access = Access(
        plain_http=plain_http is True,
        ca_file=fields.file_at((*path, "caFile")),
        client_cert=fields.file_at((*path, "clientCert")),
        client_key=fields.file_at((*path, "clientKey")),
        credentials=_credentials(fields, path, raw),
        login=_helper(fields, path, raw),
        mirrors=_mirrors(fields, (*path, "mirrors")),
    )
    access = (read_proxy(fields, (*path, "proxy")) if "proxy" in raw else proxy).on(access)
    files = (access.ca_file, access.client_cert, access.client_key)
    try:
        if all(file is None or file.is_file() for file in files):
            access.tls()
    except FormatError as error:
        fields.fault(path, str(error))
    return access


def _mirrors(fields: Fields, path: FieldPath) -> tuple[Reference, ...]:
    found = []
    for text in fields.texts(path, required=False, example="mirror.plant:5000/cache"):
        host, _, prefix = text.partition("/")
        if not HOST.fullmatch(host) or (prefix and not REPOSITORY.fullmatch(prefix)):
            fields.fault(path, f"{text!r:.80}: host or host/prefix is expected, as in mirror.plant:5000/cache")
        elif host == path[-2]:
            fields.fault(path, f"{text!r:.80}: a registry is no mirror of itself")
        else:
            found.append(Reference(host, prefix))
    return tuple(found)


def _helper(fields: Fields, path: FieldPath, raw: Mapping[str, Any]) -> Callable[[str], Credentials | None] | None:
    program, host = fields.file_at((*path, "credentialHelper")), str(path[-1])
    if program and ("username" in raw or "passwordFile" in raw):
        fields.fault(path, "credentialHelper stands in place of username and passwordFile")
    if not program:
        return None

    def ask(_: str) -> Credentials | None:
        try:
            return ask_helper(program, host, what=f"registries.{host}")
        except FormatError as error:  # a matter of now, not of the configuration: it is asked again later
            raise RegistryError(str(error)) from None

    return ask


def _credentials(fields: Fields, path: FieldPath, raw: Mapping[str, Any]) -> Credentials | None:
    if ("username" in raw) != ("passwordFile" in raw):
        fields.fault(path, "username and passwordFile go together")
    username, file = fields.text((*path, "username"), required=False), fields.file_at((*path, "passwordFile"))
    if not username or not file or not file.is_file():
        return None
    with file.open("rb") as stream:
        return Credentials(username, stream.read(SECRET_LIMIT_BYTES).decode(errors="replace").rstrip("\r\n"))
