"""How a registry is told who asks: Basic and Bearer, as rules without I/O (RFC 7235, registry token auth)."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from margo_oci.content import parse_json
from margo_oci.errors import FormatError, RegistryError, said, shown

TOKEN_LIMIT_BYTES = 64 * 1024
CHALLENGE_LIMIT_CHARS = 8 * 1024
CLIENT_ID = "margo-oci"
TOKEN_LIFE_S = 60.0  # where the service does not say (registry token authentication, `expires_in`)
TOKEN_LIFE_LIMIT_S = 24 * 3600.0
TOKEN_MARGIN_S = 5.0  # a token that is about to expire is not sent any more
# What RFC 7235 has in a challenge: a parameter, quoted or not, or a word that names a scheme.
_ITEM = re.compile(r"""([\w!#$%&'*+.^`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([\w!#$%&'*+.^`|~:/-]+)))?""", re.ASCII)


@dataclass(frozen=True)
class Credentials:
    """Who asks: a name with a password, or an identity token that a token service takes for it. Nothing is shown."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class TokenRequest:
    """How a token is asked for; `body` is a form, and where there is one it is sent by POST."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def method(self) -> str:
        """GET, or POST with a form (distribution, token authentication by OAuth2)."""
        return "POST" if self.body else "GET"


@dataclass(frozen=True)
class Token:
    """What a token service gave, and how long it holds from then on."""

    value: str = field(repr=False)
    life_s: float = TOKEN_LIFE_S

    @property
    def bearer(self) -> str:
        """The value of an Authorization header (RFC 6750)."""
        return f"Bearer {self.value}"


@dataclass(frozen=True)
class Challenge:
    """What a 401 asks for."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, *headers: str) -> "Challenge":
        """Parse WWW-Authenticate headers: Bearer if one of their challenges is, else Basic, else scheme ""."""
        found = [challenge for header in headers for challenge in _challenges(header[:CHALLENGE_LIMIT_CHARS])]
        for scheme in ("bearer", "basic"):
            for challenge in found:
                if challenge.scheme == scheme:
                    return challenge
        return cls("", {})

    @property
    def scope(self) -> str:
        """The rights that are asked for, as in `repository:fleet/edge-17:pull`; fit for a message."""
        return said(self.parameters.get("scope", ""))

    def token_url(self, *, secure: bool) -> str:
        """Return where to fetch the token. Raises RegistryError for an address we do not ask."""
        realm, query = self._realm(secure=secure), self._query()
        return f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query)}"

    def token_request(self, credentials: Credentials | None, *, secure: bool) -> TokenRequest:
        """Return how to ask for a token, as whom. Raises RegistryError for an address we do not ask.

        Credentials of a TLS registry are not sent to a token service without TLS (format 7.8).
        """
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                **self._query(),
                "client_id": CLIENT_ID,
                "refresh_token": credentials.identity_token,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return TokenRequest(self._realm(secure=secure), headers, urlencode(form).encode())
        headers = {"Authorization": credentials.basic} if credentials else {}
        return TokenRequest(self.token_url(secure=secure), headers)

    def _realm(self, *, secure: bool) -> str:
        realm = self.parameters.get("realm", "")
        try:
            parts = urlsplit(realm)
        except ValueError:
            parts = urlsplit("")
        if (
            parts.scheme not in (("https",) if secure else ("https", "http"))
            or not parts.hostname
            or "@" in parts.netloc
        ):
            raise RegistryError(f"the registry names a token service that is not used: {shown(realm)!r}")
        return realm

    def _query(self) -> dict[str, str]:
        return {key: self.parameters[key] for key in ("service", "scope") if self.parameters.get(key)}


def token_of(body: bytes) -> Token:
    """Return the token in a token service's answer. Raises RegistryError.

    `issued_at` plays no part: the clock of a device may be wrong, and a token that is refused is fetched anew.
    """
    try:
        raw = parse_json(body, what="token", limit_bytes=TOKEN_LIMIT_BYTES)
    except FormatError as error:
        raise RegistryError(f"the token service answered nonsense: {error}") from None
    token = raw.get("token") or raw.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryError("the token service answered without a token")
    life_s = raw.get("expires_in")
    usable = isinstance(life_s, int) and not isinstance(life_s, bool) and life_s > 0
    # The smaller one first: a number of hundreds of digits fits into no float.
    return Token(token, float(min(life_s, TOKEN_LIFE_LIMIT_S)) if usable and life_s else TOKEN_LIFE_S)


def _challenges(header: str) -> list[Challenge]:
    """Return the challenges of one header, in their order; what is none of ours is among them."""
    found: list[tuple[str, dict[str, str]]] = []
    for item in _ITEM.finditer(header):
        name, quoted, bare = item.groups()
        if quoted is None and bare is None:
            found.append((name.lower(), {}))
        elif found:
            found[-1][1].setdefault(name.lower(), bare or re.sub(r"\\(.)", r"\1", quoted or ""))
    return [Challenge(scheme, parameters) for scheme, parameters in found]
