"""How a registry is told who asks: Basic and Bearer, as rules without I/O (RFC 7235, registry token auth)."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from margo_oci.content import parse_json
from margo_oci.errors import FormatError, RegistryError

TOKEN_LIMIT_BYTES = 64 * 1024
_PARAMETER = re.compile(r'([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Credentials:
    """Who asks. Neither part is ever shown."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Challenge:
    """What a 401 asks for."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> "Challenge":
        """Parse a WWW-Authenticate header; an unusable one has scheme ""."""
        scheme, _, rest = header.partition(" ")
        return cls(
            scheme.lower() if scheme.lower() in ("basic", "bearer") else "",
            dict(_PARAMETER.findall(rest)),
        )

    def token_url(self, *, secure: bool) -> str:
        """Return where to fetch the token. Raises RegistryError for an address we do not ask.

        Credentials of a TLS registry are not sent to a token service without TLS.
        """
        realm = self.parameters.get("realm", "")
        try:
            parts = urlsplit(realm)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in (("https",) if secure else ("https", "http")) or not parts.hostname or parts.username:
            raise RegistryError(f"the registry names a token service that is not used: {realm!r:.200}")
        query = {key: self.parameters[key] for key in ("service", "scope") if self.parameters.get(key)}
        return f"{realm}{'&' if parts.query else '?'}{urlencode(query)}"


def token_of(body: bytes) -> str:
    """Return the token in a token service's answer. Raises RegistryError."""
    try:
        raw = parse_json(body, what="token", limit_bytes=TOKEN_LIMIT_BYTES)
    except FormatError as error:
        raise RegistryError(f"the token service answered nonsense: {error}") from None
    token = raw.get("token") or raw.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryError("the token service answered without a token")
    return token
