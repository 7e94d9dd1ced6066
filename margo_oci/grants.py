"""What registries accept of us for a while: a password, or a token that was asked for with it. One asks for many."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from margo_oci.access import Access
from margo_oci.auth import TOKEN_MARGIN_S, Challenge, Token, TokenRequest
from margo_oci.reference import Reference


@dataclass(frozen=True)
class Grant:
    """What a registry accepts for a while, and what it asked for then."""

    challenge: Challenge
    authorization: str = field(repr=False)
    until_s: float

    @property
    def header(self) -> dict[str, str]:
        """What a request must carry."""
        return {"Authorization": self.authorization}


@dataclass
class Grants:
    """The grants of all repositories; `fetch` asks a token service, and returns None if it refuses."""

    access: Callable[[str], Access]
    fetch: Callable[[TokenRequest], Awaitable[Token | None]]
    monotonic_s: Callable[[], float]
    _kept: dict[tuple[str, str], Grant] = field(default_factory=dict)
    _asking: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)

    async def header(
        self, home: Reference, challenge: Challenge | None = None, *, refused: dict[str, str] | None = None
    ) -> dict[str, str]:
        """Return the header that says who asks, by a new token if the last one has ended or was refused.

        Raises FormatError or RegistryError where credentials are kept, and for a token service that is not used.
        """
        place = (home.host, home.repository)
        if challenge is None and place not in self._kept:
            return {}
        async with self._asking.setdefault(place, asyncio.Lock()):  # many ask at once, one fetches the token
            grant = self._kept.get(place)
            if grant and grant.until_s > self.monotonic_s() and refused != grant.header:
                return grant.header
            if wanted := challenge or (grant.challenge if grant else None):
                grant = await self._grant(wanted, home)
            if grant is None:
                self._kept.pop(place, None)
                return {}
            self._kept[place] = grant
            return grant.header

    async def _grant(self, challenge: Challenge, home: Reference) -> Grant | None:
        access = self.access(home.host)
        credentials = access.who(home.repository)
        if challenge.scheme == "basic" and credentials and credentials.username:
            return Grant(challenge, credentials.basic, float("inf"))
        if challenge.scheme != "bearer":
            return None
        token = await self.fetch(challenge.token_request(credentials, secure=not access.plain_http))
        if token is None:
            return None
        return Grant(challenge, token.bearer, self.monotonic_s() + token.life_s - TOKEN_MARGIN_S)
