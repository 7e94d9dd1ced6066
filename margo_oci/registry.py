"""The one door to registries for reading: distribution-spec v1.1 over one kept connection a host.

Nothing that comes back is trusted here; what is asked for by digest is checked by whoever keeps it.
"""

import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from urllib.parse import urljoin

import httpx2

from margo_oci.access import Access as Access  # whoever reads says how: both are found here
from margo_oci.access import proxy_words, remedied
from margo_oci.answers import next_page, retry_after_s
from margo_oci.auth import TOKEN_LIMIT_BYTES, Challenge, Token, TokenRequest, token_of
from margo_oci.bulk import BulkTransport
from margo_oci.content import MANIFEST_LIMIT_BYTES, Descriptor, Verifier, check, digest_of, is_digest, parse_json
from margo_oci.errors import NotFound, RegistryError, TrustError, said, shown
from margo_oci.grants import Grants
from margo_oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    REFERRER_COUNT_LIMIT,
    parse_index,
)
from margo_oci.mirrors import Mirrors
from margo_oci.pace import Pace
from margo_oci.reference import REPOSITORY, Reference

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
KEEPALIVE_S = 120.0  # a device that looks every half minute keeps its connection
REQUESTS_PER_CONNECTION = 1000
CONNECTION_LIMIT = 16  # HTTP/1.1 only: over HTTP/2 one connection carries everything
REDIRECT_LIMIT = 5
PAGE_LIMIT = 100
PAGE_LIMIT_BYTES = 1024 * 1024
LARGE_BYTES = 4 * 1024 * 1024  # from there on a blob gets a connection of its own
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "margo-oci"}
_MANIFESTS = ", ".join((IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


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

    `mirrors` are asked first, where `access` names any. Blobs come at the `pace`; manifests and all that is small as
    fast as they can. `heard` is told of each answer that begins, with the host that was asked.
    """

    access: Callable[[str], Access]
    transport_for: TransportFor | None = None
    traffic: Traffic = field(default_factory=Traffic)
    pace: Pace = field(default_factory=Pace)
    monotonic_s: Callable[[], float] = time.monotonic
    heard: Callable[[str, httpx2.Response], None] = lambda *_: None
    mirrors: Mirrors = field(init=False)
    _grants: Grants = field(init=False, repr=False)
    _clients: dict[str, httpx2.AsyncClient] = field(default_factory=dict)
    _bulk_clients: dict[str, httpx2.AsyncClient] = field(default_factory=dict)
    _fresh_at: int = 0  # requests that were made before the connections of now

    def __post_init__(self) -> None:
        self.mirrors = Mirrors(self.access, self.monotonic_s)
        self._grants = Grants(self.access, self._token, self.monotonic_s)

    async def __aenter__(self) -> "Registry":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in (*self._clients.values(), *self._bulk_clients.values()):
            await client.aclose()
        self._clients.clear()
        self._bulk_clients.clear()

    async def manifest(
        self, reference: Reference, *, known: str = "", limit_bytes: int = MANIFEST_LIMIT_BYTES
    ) -> Received | None:
        """Return the manifest at `reference`; None if it is still `known` (a digest): one request, no body.

        Raises NotFound, RegistryError, and TrustError `digest-mismatch` if the bytes are not what was asked for.
        """
        return await self.mirrors.read(reference, lambda at: self._manifest(at, known, limit_bytes))

    async def _manifest(self, reference: Reference, known: str, limit_bytes: int) -> Received | None:
        headers = {"Accept": _MANIFESTS, **({"If-None-Match": f'"{known}"'} if known else {})}
        async with self._get(reference, f"manifests/{reference.target}", headers) as response:
            if response.status_code == httpx2.codes.NOT_MODIFIED:
                return None
            data = await self._read(response, limit_bytes)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            named = reference.digest or response.headers.get("Docker-Content-Digest", "")
        if named:
            check(data, Descriptor(media_type=media_type, digest=said(named), size=len(data)))
        return Received(data, digest_of(data), media_type)

    async def digest(self, reference: Reference) -> str:
        """Return the digest that a tag leads to, without its content where the registry says it."""
        return await self.mirrors.read(reference, self._digest)

    async def _digest(self, reference: Reference) -> str:
        headers = {"Accept": _MANIFESTS}
        async with self._get(reference, f"manifests/{reference.target}", headers, method="HEAD") as response:
            named: str = response.headers.get("Docker-Content-Digest", "")
        if is_digest(named):
            return named
        received = await self._manifest(reference, "", MANIFEST_LIMIT_BYTES)
        assert received is not None  # noqa: S101  (only a known digest makes it None)
        return received.digest

    @asynccontextmanager
    async def blob(self, reference: Reference, descriptor: Descriptor, *, offset: int = 0) -> AsyncIterator["Body"]:
        """Open a blob's bytes from `offset` on (RFC 9110 range; `Body.offset` is what the registry granted).

        The bytes are raw: whoever keeps them runs them through a `Verifier`. What a mirror gets wrong is a
        RegistryError, so that the next attempt asks the next one.
        """
        async with AsyncExitStack() as opened:
            yield await self.mirrors.read(
                reference, lambda at: opened.enter_async_context(self._blob(at, descriptor, offset, home=reference))
            )

    @asynccontextmanager
    async def _blob(
        self, reference: Reference, descriptor: Descriptor, offset: int, *, home: Reference
    ) -> AsyncIterator["Body"]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            large = descriptor.size - offset >= LARGE_BYTES
            async with self._get(reference, f"blobs/{descriptor.digest}", headers, large=large) as response:
                partial = response.status_code == httpx2.codes.PARTIAL_CONTENT
                if partial and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                    raise RegistryError(
                        f"GET {shown(response.url)}: the registry sent another range than was asked for"
                    )
                chunks = self._paced(response)
                from_start = not (partial and offset)
                checked = _checked(chunks, descriptor) if from_start and reference != home else chunks
                yield Body(offset if partial else 0, checked)
        except _RangeError:
            async with self._blob(reference, descriptor, 0, home=home) as body:  # from the start, then
                yield body
        except TrustError as error:
            if reference == home:
                raise
            self.mirrors.pause(reference, error)
            raise RegistryError(f"mirror {reference.host}: {error}") from None
        except RegistryError as error:
            if reference != home and not isinstance(error, NotFound):
                self.mirrors.pause(reference, error)
            raise

    async def small_blob(self, reference: Reference, descriptor: Descriptor, *, limit_bytes: int) -> bytes:
        """Return a small blob, checked. Raises TrustError `digest-mismatch` or `too-large`."""
        if descriptor.size > limit_bytes:
            raise TrustError(
                "too-large",
                f"{descriptor.digest}: {descriptor.size} bytes, at most {limit_bytes} are read",
            )

        async def read(at: Reference) -> bytes:
            async with self._get(at, f"blobs/{descriptor.digest}", {}) as response:
                return check(await self._read(response, descriptor.size), descriptor)

        return await self.mirrors.read(reference, read)

    async def referrers(self, reference: Reference) -> Sequence[Descriptor]:
        """Return what the referrers API lists for a digest; nothing where the registry has no such API."""
        try:
            return await self.mirrors.read(reference, self._referrers)
        except NotFound:
            return ()
        except RegistryError:
            # A mirror without the API has the tag that stands in for it; a registry that is away adds nothing.
            if self.mirrors.to_ask(reference):
                return ()
            raise

    async def _referrers(self, reference: Reference) -> Sequence[Descriptor]:
        found: list[Descriptor] = []
        headers = {"Accept": IMAGE_INDEX}
        async for media_type, page in self._pages(reference, f"referrers/{reference.digest}", headers):
            if media_type != IMAGE_INDEX:
                return ()
            found += parse_index(page, what=f"referrers of {reference.digest[:19]}")
            if len(found) > REFERRER_COUNT_LIMIT:
                break
        return found

    async def tags(self, reference: Reference) -> Sequence[str]:
        """Return all tags of a repository, page by page. Raises RegistryError after too many pages."""
        found: list[str] = []
        async for _, page in self._pages(reference, "tags/list?n=1000", {}):
            tags = parse_json(page, what=f"tags of {reference.name}").get("tags") or []
            found += [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
        return found

    async def repositories(self, host: str) -> Sequence[str]:
        """Return the names of all repositories of a registry that lists them (`_catalog`, of no standard).

        Raises NotFound or RegistryError where it does not, or not for us, and after too many pages.
        """
        found: list[str] = []
        async for _, page in self._pages(Reference(host, ""), "_catalog?n=1000", {}):
            names = parse_json(page, what=f"repositories of {host}").get("repositories") or []
            found += [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return [name for name in found if REPOSITORY.fullmatch(name)]

    async def _pages(
        self, reference: Reference, path: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Yield media type and body of each page of a list (distribution-spec, `Link`)."""
        asked = urljoin(self._base(reference), path)
        for _ in range(PAGE_LIMIT):
            async with self._get(reference, asked, headers) as response:
                page = await self._read(response, PAGE_LIMIT_BYTES)
                following = response.links.get("next", {}).get("url")
            yield response.headers.get("Content-Type", "").partition(";")[0].strip(), page
            if not following:
                return
            asked = next_page(following, asked=asked)
        raise RegistryError(f"{reference.name}: a list does not end after {PAGE_LIMIT} pages")

    async def ping(self, host: str) -> None:
        """Ask whether `host` is a registry that lets us in. Raises RegistryError."""
        async with self._get(Reference(host, ""), "", {}):
            pass

    def _base(self, reference: Reference) -> str:
        scheme = "http" if self.access(reference.host).plain_http else "https"
        return f"{scheme}://{reference.host}/v2/" + (f"{reference.repository}/" if reference.repository else "")

    @asynccontextmanager
    async def _get(
        self, reference: Reference, path: str, headers: dict[str, str], *, method: str = "GET", large: bool = False
    ) -> AsyncIterator[httpx2.Response]:
        address = urljoin(self._base(reference), path)
        what = f"{method} {shown(address)}"
        try:
            async with self._follow(method, httpx2.URL(address), headers, home=reference, large=large) as response:
                await self._raise_for(response, reference, what)
                yield response
        except httpx2.TimeoutException:
            raise RegistryError(f"{what}: {remedied(f'no answer in time{self._via(reference.host)}')}") from None
        except httpx2.ProxyError as error:
            raise RegistryError(f"{what}: {proxy_words(self._proxy(reference.host), str(error))}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ssl.SSLError) as error:
            raise RegistryError(f"{what}: {shown(_words(error))}{self._via(reference.host)}") from None

    @asynccontextmanager
    async def _follow(
        self, method: str, url: httpx2.URL, headers: dict[str, str], *, home: Reference, large: bool
    ) -> AsyncIterator[httpx2.Response]:
        """Send, and follow redirects; credentials stay with the host they were given for."""
        for _ in range(REDIRECT_LIMIT):
            at_home = url.netloc == httpx2.URL(f"{url.scheme}://{home.host}").netloc
            response = await self._send(method, url, headers, home if at_home else None, large=large)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                url = self._next(response, url)
            finally:
                await response.aclose()
        raise RegistryError(f"{method} {shown(url)}: more than {REDIRECT_LIMIT} redirects")

    async def _send(
        self, method: str, url: httpx2.URL, headers: dict[str, str], home: Reference | None, *, large: bool
    ) -> httpx2.Response:
        """Send one request; answer a 401 once, with what was given for this host."""
        if not home:
            return await self._exchange(method, url, headers, url.netloc.decode(), large=large)
        sent = await self._grants.header(home)
        response = await self._exchange(method, url, headers | sent, home.host, large=large)
        if response.status_code != httpx2.codes.UNAUTHORIZED:
            return response
        await response.aclose()
        challenge = Challenge.parse(*response.headers.get_list("WWW-Authenticate"))
        granted = await self._grants.header(home, challenge, refused=sent)
        if not granted:
            return response
        return await self._exchange(method, url, headers | granted, home.host, large=large)

    async def _token(self, asked: TokenRequest) -> Token | None:
        """Ask a token service; None if it does not accept who asks."""
        url = httpx2.URL(asked.url)
        answer = await self._exchange(asked.method, url, dict(asked.headers), url.netloc.decode(), asked.body)
        try:
            if answer.status_code in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
                return None
            if asked.body and answer.status_code == httpx2.codes.BAD_REQUEST:  # RFC 6749 5.2: the token is not valid
                return None
            if answer.status_code != httpx2.codes.OK:
                raise _unexpected(answer, f"{asked.method} {shown(url)}")
            return token_of(await self._read(answer, TOKEN_LIMIT_BYTES))
        finally:
            await answer.aclose()

    async def _exchange(
        self,
        method: str,
        url: httpx2.URL,
        headers: dict[str, str],
        host: str,
        body: bytes = b"",
        *,
        large: bool = False,
    ) -> httpx2.Response:
        client = self._bulk_client(host) if large else self._client(host)
        self.traffic.requests += 1
        request = client.build_request(method, url, headers=headers, content=body or None)
        response = await client.send(request, stream=True)
        self.heard(host, response)
        return response

    def _next(self, response: httpx2.Response, url: httpx2.URL) -> httpx2.URL:
        following = url.join(response.headers["Location"])
        allowed = following.scheme == "https" or (
            following.scheme == "http" and self.access(following.netloc.decode()).plain_http
        )
        if not allowed or following.userinfo:
            to = said(f"{following.scheme}://{following.host}")
            raise RegistryError(f"GET {shown(url)}: redirected to {to}, which is not followed")
        return following

    async def leave(self, *, but: Reference) -> None:
        """Close connections to all hosts but that of `but` and its mirrors: redirects may have led to ever new ones.

        Once in many requests all are closed: h2 remembers each stream that a connection ever had.
        """
        kept = {but.host, *(mirror.host for mirror in self.access(but.host).mirrors)}
        if self.traffic.requests - self._fresh_at >= REQUESTS_PER_CONNECTION:
            kept, self._fresh_at = set(), self.traffic.requests
        for clients in (self._clients, self._bulk_clients):
            for host in [host for host in clients if host not in kept]:
                await clients.pop(host).aclose()

    def _client(self, host: str) -> httpx2.AsyncClient:
        if host not in self._clients:
            access = self.access(host)
            self._clients[host] = httpx2.AsyncClient(
                transport=self.transport_for(host) if self.transport_for else None,
                verify=True if self.transport_for else access.tls(),
                proxy=self._proxy_transport(access, host),
                trust_env=False,
                http2=not access.plain_http,
                timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
                limits=httpx2.Limits(max_connections=CONNECTION_LIMIT, keepalive_expiry=KEEPALIVE_S),
                headers=_HEADERS,
                cookies=_no_cookies(),
            )
        return self._clients[host]

    def _bulk_client(self, host: str) -> httpx2.AsyncClient:
        """Return what large bodies come by. What goes through a proxy comes as everything else."""
        if self.transport_for or self._proxy(host):
            return self._client(host)
        if host not in self._bulk_clients:
            access = self.access(host)
            tls = None if access.plain_http else access.tls()
            self._bulk_clients[host] = httpx2.AsyncClient(
                transport=BulkTransport(tls, CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                trust_env=False,
                timeout=None,
                headers=_HEADERS,
                cookies=_no_cookies(),
            )
        return self._bulk_clients[host]

    def _proxy_transport(self, access: Access, host: str) -> httpx2.Proxy | None:
        url = self._proxy(host)
        return httpx2.Proxy(url, ssl_context=access.proxy_tls() if url.startswith("https:") else None) if url else None

    def _proxy(self, host: str) -> str:
        return "" if self.transport_for else self.access(host).proxy_for(host)

    def _via(self, host: str) -> str:
        return f" (through the proxy {shown(proxy)})" if (proxy := self._proxy(host)) else ""

    async def _chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RegistryError(f"GET {shown(response.url)}: compressed on the way, which was not asked for")
        async for chunk in response.aiter_raw():
            self.traffic.bytes_in += len(chunk)
            yield chunk

    async def _paced(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        body = self.pace.body(f"GET {shown(response.url)}")
        async for chunk in self._chunks(response):
            await body.take(len(chunk))
            yield chunk

    async def _read(self, response: httpx2.Response, limit_bytes: int) -> bytes:
        """Return the body, and stop as soon as it is longer than `limit_bytes`."""
        data = bytearray()
        async for chunk in self._chunks(response):
            data += chunk
            if len(data) > limit_bytes:
                raise TrustError("too-large", f"GET {shown(response.url)}: more than {limit_bytes} bytes")
        return bytes(data)

    async def _raise_for(self, response: httpx2.Response, reference: Reference, what: str) -> None:
        status = response.status_code
        asked_for = status == httpx2.codes.NOT_MODIFIED and "If-None-Match" in response.request.headers
        if status < 300 or asked_for:
            return
        if status == httpx2.codes.NOT_FOUND:
            raise NotFound(f"{what}: the registry does not have it")
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            raise RegistryError(f"{what}: {status}: {self._refusal(response, reference)}")
        if status == httpx2.codes.PROXY_AUTHENTICATION_REQUIRED:
            raise RegistryError(f"{what}: {proxy_words(self._proxy(reference.host), '407')}")
        if status == httpx2.codes.RANGE_NOT_SATISFIABLE and "Range" in response.request.headers:
            raise _RangeError(f"{what}: the registry answered {status}")
        raise _unexpected(response, what)

    def _refusal(self, response: httpx2.Response, reference: Reference) -> str:
        challenge = Challenge.parse(*response.headers.get_list("WWW-Authenticate"))
        known = self.access(reference.host).who(reference.repository)
        if challenge.parameters.get("error") == "insufficient_scope" and challenge.scope:
            return f"the right {challenge.scope} is missing: ask for it, or log in as somebody who has it"
        words = "these credentials are not accepted" if known else "no credentials"
        return f"{words}: log in with `margo-oci login {reference.host}`"


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # a loop would carry them for years


class _RangeError(RegistryError):
    """There is nothing from this offset on (416): the part that is here is wrong, or what the registry has."""


async def _checked(chunks: AsyncIterator[bytes], descriptor: Descriptor) -> AsyncIterator[bytes]:
    verifier = Verifier(descriptor)
    async for chunk in chunks:
        verifier.feed(chunk)
        yield chunk
    verifier.finish()


@dataclass(frozen=True)
class Body:
    """An open body: from which offset on, and its bytes."""

    offset: int
    chunks: AsyncIterator[bytes]


def _unexpected(response: httpx2.Response, what: str) -> RegistryError:
    return RegistryError(
        f"{what}: the registry answered {response.status_code}", retry_after_s=retry_after_s(response.headers)
    )


def _words(error: Exception) -> str:
    """Return the cause in words."""
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else inner
    words = str(cause) or str(error) or type(error).__name__
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and (cause.errno or 0) > 0:
        words = os.strerror(cause.errno or 0)  # asyncio puts its own words in place of the system's
    return remedied(words)
