"""The one door to registries for reading: distribution-spec v1.1 over one kept connection a host.

Nothing that comes back is trusted here; what is asked for by digest is checked by whoever keeps it.
"""

import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urljoin

import httpx2

from margo_oci.auth import TOKEN_LIMIT_BYTES, Challenge, Credentials, token_of
from margo_oci.content import MANIFEST_LIMIT_BYTES, Descriptor, check, digest_of, is_digest, parse_json
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError
from margo_oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    REFERRER_COUNT_LIMIT,
    parse_index,
)
from margo_oci.reference import Reference

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
KEEPALIVE_S = 120.0  # a device that looks every half minute keeps its connection
CONNECTION_LIMIT = 16  # HTTP/1.1 only: over HTTP/2 one connection carries everything
REDIRECT_LIMIT = 5
PAGE_LIMIT = 100
PAGE_LIMIT_BYTES = 1024 * 1024
RETRY_AFTER_LIMIT_S = 3600.0
_MANIFESTS = ", ".join((IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


@dataclass(frozen=True)
class Access:
    """How one registry host is reached, and as whom. A CA file is trusted instead of the system's CAs."""

    plain_http: bool = False
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    credentials: Credentials | None = None

    def tls(self) -> ssl.SSLContext | bool:
        """Return what to check the server's certificate with. Raises FormatError for an unusable file."""
        if not self.ca_file and not self.client_cert:
            return True
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.client_cert:
                context.load_cert_chain(self.client_cert, self.client_key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(file) for file in (self.ca_file, self.client_cert, self.client_key) if file)
            raise FormatError(f"{files}: not usable as certificates: {error}") from None
        return context


@dataclass
class Traffic:
    """What one pass cost: requests sent (also those for tokens) and bytes of bodies received."""

    requests: int = 0
    bytes_in: int = 0


@dataclass(frozen=True)
class Received:
    """A manifest or index as it came: bytes, their digest, and what the registry calls them."""

    data: bytes
    digest: str
    media_type: str


TransportFor = Callable[[str], httpx2.AsyncBaseTransport]


@dataclass
class Registry:
    """Reads from registries. Use as `async with`; `access` says how a host is reached.

    Proxies come from the environment (HTTPS_PROXY, NO_PROXY), as everywhere.
    """

    access: Callable[[str], Access]
    transport_for: TransportFor | None = None
    traffic: Traffic = field(default_factory=Traffic)
    _clients: dict[str, httpx2.AsyncClient] = field(default_factory=dict)
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    async def __aenter__(self) -> "Registry":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def manifest(
        self, reference: Reference, *, known: str = "", limit_bytes: int = MANIFEST_LIMIT_BYTES
    ) -> Received | None:
        """Return the manifest at `reference`; None if it is still `known` (a digest): one request, no body.

        Raises NotFound, RegistryError, and TrustError `digest-mismatch` if the bytes are not what was asked for.
        """
        headers = {"Accept": _MANIFESTS, **({"If-None-Match": f'"{known}"'} if known else {})}
        async with self._get(reference, f"manifests/{reference.target}", headers) as response:
            if response.status_code == httpx2.codes.NOT_MODIFIED:
                return None
            data = await self._read(response, limit_bytes)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            named = reference.digest or response.headers.get("Docker-Content-Digest", "")
        if named:
            check(data, Descriptor(media_type=media_type, digest=named, size=len(data)))
        return Received(data, digest_of(data), media_type)

    async def digest(self, reference: Reference) -> str:
        """Return the digest that a tag leads to, without its content where the registry says it."""
        headers = {"Accept": _MANIFESTS}
        async with self._get(reference, f"manifests/{reference.target}", headers, method="HEAD") as response:
            named: str = response.headers.get("Docker-Content-Digest", "")
        if is_digest(named):
            return named
        received = await self.manifest(reference)
        assert received is not None  # noqa: S101  (only a known digest makes it None)
        return received.digest

    @asynccontextmanager
    async def blob(self, reference: Reference, descriptor: Descriptor, *, offset: int = 0) -> AsyncIterator["Body"]:
        """Open a blob's bytes from `offset` on (RFC 9110 range; `Body.offset` is what the registry granted).

        The bytes are raw: whoever keeps them runs them through a `Verifier`.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get(reference, f"blobs/{descriptor.digest}", headers) as response:
            partial = response.status_code == httpx2.codes.PARTIAL_CONTENT
            if partial and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                raise RegistryError(f"GET {response.url}: the registry sent another range than was asked for")
            yield Body(offset if partial else 0, self._chunks(response))

    async def small_blob(self, reference: Reference, descriptor: Descriptor, *, limit_bytes: int) -> bytes:
        """Return a small blob, checked. Raises TrustError `digest-mismatch` or `too-large`."""
        if descriptor.size > limit_bytes:
            raise TrustError(
                "too-large",
                f"{descriptor.digest}: {descriptor.size} bytes, at most {limit_bytes} are read",
            )
        async with self._get(reference, f"blobs/{descriptor.digest}", {}) as response:
            return check(await self._read(response, descriptor.size), descriptor)

    async def referrers(self, reference: Reference) -> Sequence[Descriptor]:
        """Return what the referrers API lists for a digest; nothing where the registry has no such API."""
        found: list[Descriptor] = []
        headers = {"Accept": IMAGE_INDEX}
        try:
            async for media_type, page in self._pages(reference, f"referrers/{reference.digest}", headers):
                if media_type != IMAGE_INDEX:
                    return ()
                found += parse_index(page, what=f"referrers of {reference.digest[:19]}")
                if len(found) > REFERRER_COUNT_LIMIT:
                    break
        except NotFound:
            return ()
        return found

    async def tags(self, reference: Reference) -> Sequence[str]:
        """Return all tags of a repository, page by page. Raises RegistryError after too many pages."""
        found: list[str] = []
        async for _, page in self._pages(reference, "tags/list?n=1000", {}):
            tags = parse_json(page, what=f"tags of {reference.name}").get("tags") or []
            found += [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
        return found

    async def _pages(
        self, reference: Reference, path: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Yield media type and body of each page of a list (distribution-spec, `Link`)."""
        for _ in range(PAGE_LIMIT):
            async with self._get(reference, path, headers) as response:
                page = await self._read(response, PAGE_LIMIT_BYTES)
                following = response.links.get("next", {}).get("url")
            yield response.headers.get("Content-Type", "").partition(";")[0].strip(), page
            if not following:
                return
            path = following
        raise RegistryError(f"{reference.name}: a list does not end after {PAGE_LIMIT} pages")

    async def ping(self, host: str) -> None:
        """Ask whether `host` is a registry that lets us in. Raises RegistryError."""
        async with self._get(Reference(host, ""), "", {}):
            pass

    @asynccontextmanager
    async def _get(
        self, reference: Reference, path: str, headers: dict[str, str], *, method: str = "GET"
    ) -> AsyncIterator[httpx2.Response]:
        scheme = "http" if self.access(reference.host).plain_http else "https"
        base = f"{scheme}://{reference.host}/v2/" + (f"{reference.repository}/" if reference.repository else "")
        what = f"{method} {urljoin(base, path)}"
        try:
            url = httpx2.URL(urljoin(base, path))
            if url.scheme != "https" and url.scheme != scheme:
                raise RegistryError(f"{what}: the registry names a next page without TLS, which is not asked for")
            async with self._follow(method, url, headers, home=reference) as response:
                await self._raise_for(response, reference, what)
                yield response
        except httpx2.TimeoutException:
            raise RegistryError(f"{what}: no answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise RegistryError(f"{what}: {_words(error)}") from None

    @asynccontextmanager
    async def _follow(
        self, method: str, url: httpx2.URL, headers: dict[str, str], *, home: Reference
    ) -> AsyncIterator[httpx2.Response]:
        """Send, and follow redirects; credentials stay with the host they were given for."""
        for _ in range(REDIRECT_LIMIT):
            at_home = url.netloc == httpx2.URL(f"{url.scheme}://{home.host}").netloc
            response = await self._send(method, url, headers, home if at_home else None)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                url = self._next(response, url)
            finally:
                await response.aclose()
        raise RegistryError(f"{method} {url}: more than {REDIRECT_LIMIT} redirects")

    async def _send(
        self, method: str, url: httpx2.URL, headers: dict[str, str], home: Reference | None
    ) -> httpx2.Response:
        """Send one request; answer a 401 once, with what was given for this host."""
        place = (home.host, home.repository) if home else ("", "")
        if place in self._tokens:
            headers = headers | {"Authorization": self._tokens[place]}
        host = home.host if home else url.netloc.decode()
        response = await self._exchange(method, url, headers, host)
        if response.status_code != httpx2.codes.UNAUTHORIZED or not home:
            return response
        await response.aclose()
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        authorization = await self._authorization(challenge, self.access(home.host))
        if authorization is None:
            return response
        self._tokens[place] = authorization
        return await self._exchange(method, url, headers | {"Authorization": authorization}, host)

    async def _authorization(self, challenge: Challenge, access: Access) -> str | None:
        credentials = access.credentials
        if challenge.scheme == "basic" and credentials:
            return credentials.basic
        if challenge.scheme != "bearer":
            return None
        url = httpx2.URL(challenge.token_url(secure=not access.plain_http))
        headers = {"Authorization": credentials.basic} if credentials else {}
        answer = await self._exchange("GET", url, headers, url.netloc.decode())
        try:
            if answer.status_code in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
                return None
            if answer.status_code != httpx2.codes.OK:
                raise _unexpected(answer, f"GET {url.copy_with(query=None)}")
            return f"Bearer {token_of(await self._read(answer, TOKEN_LIMIT_BYTES))}"
        finally:
            await answer.aclose()

    async def _exchange(self, method: str, url: httpx2.URL, headers: dict[str, str], host: str) -> httpx2.Response:
        client = self._client(host)
        self.traffic.requests += 1
        return await client.send(client.build_request(method, url, headers=headers), stream=True)

    def _next(self, response: httpx2.Response, url: httpx2.URL) -> httpx2.URL:
        following = url.join(response.headers["Location"])
        allowed = following.scheme == "https" or (
            following.scheme == "http" and self.access(following.netloc.decode()).plain_http
        )
        if not allowed or following.userinfo:
            raise RegistryError(
                f"GET {url}: redirected to {following.scheme}://{following.host}, which is not followed"
            )
        return following

    def _client(self, host: str) -> httpx2.AsyncClient:
        if host not in self._clients:
            access = self.access(host)
            self._clients[host] = httpx2.AsyncClient(
                transport=self.transport_for(host) if self.transport_for else None,
                verify=access.tls(),
                http2=not access.plain_http,
                timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
                limits=httpx2.Limits(max_connections=CONNECTION_LIMIT, keepalive_expiry=KEEPALIVE_S),
                headers={"Accept-Encoding": "identity", "User-Agent": "margo-oci"},
            )
        return self._clients[host]

    async def _chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RegistryError(f"GET {response.url}: compressed on the way, which was not asked for")
        async for chunk in response.aiter_raw():
            self.traffic.bytes_in += len(chunk)
            yield chunk

    async def _read(self, response: httpx2.Response, limit_bytes: int) -> bytes:
        """Return the body, and stop as soon as it is longer than `limit_bytes`."""
        data = bytearray()
        async for chunk in self._chunks(response):
            data += chunk
            if len(data) > limit_bytes:
                raise TrustError("too-large", f"GET {response.url}: more than {limit_bytes} bytes")
        return bytes(data)

    async def _raise_for(self, response: httpx2.Response, reference: Reference, what: str) -> None:
        status = response.status_code
        asked_for = status == httpx2.codes.NOT_MODIFIED and "If-None-Match" in response.request.headers
        if status < 300 or asked_for:
            return
        if status == httpx2.codes.NOT_FOUND:
            raise NotFound(f"{what}: the registry does not have it")
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            known = (
                "these credentials are not accepted" if self.access(reference.host).credentials else "no credentials"
            )
            raise RegistryError(f"{what}: {status}: {known}: log in with `margo-oci login {reference.host}`")
        raise _unexpected(response, what)


@dataclass(frozen=True)
class Body:
    """An open body: from which offset on, and its bytes."""

    offset: int
    chunks: AsyncIterator[bytes]


def _unexpected(response: httpx2.Response, what: str) -> RegistryError:
    return RegistryError(
        f"{what}: the registry answered {response.status_code}", retry_after_s=_retry_after_s(response)
    )


def _words(error: Exception) -> str:
    """Return the cause in words; the commonest mistake gets its remedy."""
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else inner
    words = str(cause) or str(error) or type(error).__name__
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and (cause.errno or 0) > 0:
        words = os.strerror(cause.errno or 0)  # asyncio puts its own words in place of the system's
    plain = any(sign in words for sign in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"))
    return "the registry speaks plain HTTP: --plain-http (plainHttp: true) allows that" if plain else words


def _retry_after_s(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), RETRY_AFTER_LIMIT_S) if value.isascii() and value.isdigit() else None
