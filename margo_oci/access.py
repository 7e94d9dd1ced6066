"""How a registry host is reached, and as whom: TLS, certificates, proxies, mirrors. Reading and pushing share it."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import getproxies_environment

import httpx2

from margo_oci.auth import Credentials
from margo_oci.errors import FormatError, said, shown
from margo_oci.proxy import Proxies
from margo_oci.reference import Reference


@dataclass(frozen=True)
class Access:
    """How one registry host is reached, and as whom.

    `ca_file` is trusted instead of the system's CAs, `extra_ca_files` besides them. `login` is asked for the
    credentials of a repository when the registry wants them, and goes before `credentials`. Without `proxies` those
    of the environment count. `mirrors` are asked first; their repositories stand in front of the reference's.
    """

    plain_http: bool = False
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    credentials: Credentials | None = None
    extra_ca_files: tuple[Path, ...] = ()
    login: Callable[[str], Credentials | None] | None = field(default=None, compare=False, repr=False)
    proxies: Proxies | None = None
    proxy_ca_files: tuple[Path, ...] = ()
    mirrors: tuple[Reference, ...] = ()

    def who(self, repository: str) -> Credentials | None:
        """Return who asks for a repository. Raises FormatError or RegistryError where that is kept elsewhere."""
        return self.login(repository) if self.login else self.credentials

    def tls(self) -> ssl.SSLContext:
        """Return what to check the server's certificate with. Raises FormatError for an unusable file."""
        return _context(self.ca_file, self.extra_ca_files, self.client_cert, self.client_key)

    def proxy_for(self, host: str) -> str:
        """Return the URL of the proxy to `host`; "" if there is none. It may hold a password."""
        proxies = Proxies.of(getproxies_environment()) if self.proxies is None else self.proxies
        return proxies.for_host(host, plain_http=self.plain_http)

    def proxy_tls(self) -> ssl.SSLContext:
        """Return what to check the certificate of a proxy with. Raises FormatError for an unusable file."""
        return _context(None, self.proxy_ca_files)


def _context(
    ca_file: Path | None, extra: Sequence[Path], cert: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file) if ca_file else httpx2.create_ssl_context()
        for file in extra:
            context.load_verify_locations(file)
        if cert:
            context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (ca_file, *extra, cert, key) if file)
        raise FormatError(f"{files or 'SSL_CERT_FILE'}: not usable as certificates: {error}") from None
    return context


def proxy_words(proxy: str, answer: str) -> str:
    """Say that a proxy refused, and what to do."""
    words = f"the proxy {shown(proxy)} answered {said(answer)}".rstrip()
    return (
        f"{words}: it wants a login it knows: http://user:password@host:port names one"
        if answer.startswith("407")
        else words
    )


_REMEDIES = {
    "Name or service not known": "is the host's name right?",
    "No address associated with hostname": "is the host's name right?",
    "Temporary failure in name resolution": "is there a network, or a proxy (https_proxy) to ask instead?",
    "Connection refused": "nothing listens there: are host and port right?",
    "Network is unreachable": "is there a network, or a proxy (https_proxy) to ask instead?",
    "No route to host": "is there a network, or a proxy (https_proxy) to ask instead?",
    "no answer in time": "is there a network, or a proxy (https_proxy) to ask instead?",
}


def remedied(words: str) -> str:
    """Return what went wrong on the wire, with the remedy for the commonest mistakes."""
    if any(sign in words for sign in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")):
        return "the registry speaks plain HTTP: --plain-http (plainHttp: true) allows that"
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return f"{words}: --ca-file (caFile) names the CA that signed it; is the clock right?"
    if any(sign in words for sign in ("ALERT_BAD_CERTIFICATE", "CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA")):
        return f"the other side wants a client certificate that it trusts: {words}"
    return next((f"{words}: {todo}" for sign, todo in _REMEDIES.items() if sign in words), words)
