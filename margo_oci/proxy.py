"""Through which proxy a host is reached: rules without I/O, the same for reading and for pushing."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from margo_oci.errors import FormatError, shown

_EXPECTED = "http://host:port or https://host:port is expected, with user:password@ in front of the host if need be"


@dataclass(frozen=True)
class Proxies:
    """The proxies for hosts with TLS and without, and the hosts that are reached directly. "" is no proxy."""

    https: str = field(default="", repr=False)
    http: str = field(default="", repr=False)
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Proxies":
        """Return what the environment says, as `urllib.request.getproxies_environment` reads it.

        HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY count, also in lower case. Raises FormatError.
        """
        every = check_proxy(environment.get("all", ""), what="ALL_PROXY")
        return cls(
            check_proxy(environment.get("https", ""), what="HTTPS_PROXY") or every,
            check_proxy(environment.get("http", ""), what="HTTP_PROXY") or every,
            tuple(part.strip() for part in environment.get("no", "").split(",") if part.strip()),
        )

    def for_host(self, host: str, *, plain_http: bool) -> str:
        """Return the proxy's URL for `host` or `host:port`; "" if it is reached directly."""
        url = self.http if plain_http else self.https
        name, port = _parts(host)
        return "" if any(_covers(entry, name, port) for entry in self.no_proxy) else url


def check_proxy(url: str, *, what: str) -> str:
    """Return a proxy's URL, with http:// in front if it has no scheme. Raises FormatError; it shows no login."""
    if not url:
        return ""
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise FormatError(f"{what}: {shown(url)!r}: {_EXPECTED}")
    return url


def proxy_host(url: str) -> str:
    """Return `host:port` of a proxy's URL."""
    parts = urlsplit(url)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{name}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _parts(host: str) -> tuple[str, str]:
    """Split `host:port`, `[::1]:port` or a bare IPv6 address."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name.lower(), port.removeprefix(":")
    if host.count(":") > 1:
        return host.lower(), ""
    name, _, port = host.partition(":")
    return name.lower(), port


def _covers(entry: str, name: str, port: str) -> bool:
    """Tell whether one part of NO_PROXY is about a host: a name with all below it, an address, or a network."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return ipaddress.ip_address(name) in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    wanted, wanted_port = _parts(entry)
    if wanted_port and wanted_port != port:
        return False
    below = wanted.removeprefix("*")
    if below.startswith("."):
        return name.endswith(below)
    return name == below or name.endswith(f".{below}")
