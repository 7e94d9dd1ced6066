"""The one door to registries for writing: oras carries the bytes, we say which and in what order."""

import io
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
from oras.container import Container
from oras.provider import Registry as OrasRegistry
from oras.utils import append_url_params

from margo_oci.access import Access, proxy_words, remedied
from margo_oci.answers import retry_after_s, same_host
from margo_oci.auth import TOKEN_LIMIT_BYTES, TOKEN_MARGIN_S, Challenge, TokenRequest, token_of
from margo_oci.content import Descriptor, digest_of
from margo_oci.errors import RegistryError, said, shown
from margo_oci.manifest import IMAGE_MANIFEST
from margo_oci.reference import Reference

TIMEOUT_S = (10.0, 60.0)
ANSWER_LIMIT_BYTES = 64 * 1024  # what a registry says to a push: an error document at most
_REPOSITORY = re.compile(r"/v2/(?P<repository>.+)/(?:blobs|manifests)/")
_FOUND = (200, 301, 302, 303, 307, 308)  # where blobs are in a storage beside the registry, it redirects there
AdapterFor = Callable[[Access], requests.adapters.BaseAdapter]
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "margo-oci"}


class Uploader:
    """Pushes to one registry host; safe to use from several threads at once."""

    def __init__(
        self,
        host: str,
        access: Access,
        elsewhere: Callable[[str], Access] = lambda _: Access(),
        *,
        adapter_for: AdapterFor | None = None,
    ) -> None:
        """Push to `host`; `elsewhere` says how another host is reached where the registry has uploads go on there."""
        self.oras = _Oras(host, access, elsewhere, adapter_for or _Adapter)

    def blob(self, reference: Reference, descriptor: Descriptor, data: bytes) -> bool:
        """Push a blob unless it is there; tell whether it was sent. Raises RegistryError."""
        container = self._container(reference)
        layer = descriptor.to_dict()
        if self.oras.has(f"{self.oras.prefix}://{container.get_blob_url(descriptor.digest)}"):
            return False
        with tempfile.NamedTemporaryFile() as file:  # oras reads blobs from files
            file.write(data)
            file.flush()
            _expect(
                self.oras.put_upload(file.name, container, layer),
                f"push of blob {descriptor.digest}",
            )
        return True

    def send(self, reference: Reference, descriptor: Descriptor, data: bytes) -> bool:
        """Push a blob that is most likely new; tell whether it was sent. Raises RegistryError.

        It is asked for in the same request (distribution-spec v1.1 "Mounting a blob", out of the very repository): a
        registry that has it answers 201, and any other begins an upload.
        """
        url = f"{self.oras.prefix}://{self._container(reference).upload_blob_url()}"
        asked = append_url_params(url, {"mount": descriptor.digest, "from": reference.repository})
        begun = self.oras.do_request(asked, "POST")
        if begun.status_code == requests.codes.created:
            return False
        self._put(reference, descriptor, begun, data)
        return True

    def has(self, reference: Reference, descriptor: Descriptor) -> bool:
        """Tell whether the registry has a blob. Raises RegistryError."""
        return self.oras.has(f"{self.oras.prefix}://{self._container(reference).get_blob_url(descriptor.digest)}")

    def file(self, reference: Reference, descriptor: Descriptor, file: BinaryIO) -> None:
        """Push a blob out of a file, which is not held in memory as oras does it. Raises RegistryError."""
        container = self._container(reference)
        begun = self.oras.do_request(f"{self.oras.prefix}://{container.upload_blob_url()}", "POST")
        self._put(reference, descriptor, begun, file if descriptor.size else b"")  # an empty file would go in chunks

    def _put(
        self, reference: Reference, descriptor: Descriptor, begun: requests.Response, body: BinaryIO | bytes
    ) -> None:
        """Send the content of an upload that the registry let begin."""
        place = urljoin(f"{self.oras.prefix}://{reference.host}/", begun.headers["Location"])
        url = append_url_params(place, {"digest": descriptor.digest})
        headers = {"Content-Type": "application/octet-stream"}
        _expect(self.oras.do_request(url, "PUT", data=body, headers=headers), f"push of blob {descriptor.digest}")

    def manifest(self, reference: Reference, data: bytes, media_type: str = IMAGE_MANIFEST) -> bool:
        """Push a manifest at `reference` (tag or digest); tell whether the registry listed it as a referrer.

        distribution-spec v1.1 "Pushing Manifests with Subject": `OCI-Subject` in the answer says so.
        """
        url = f"{self.oras.prefix}://{self._container(reference).manifest_url()}"
        # Not oras' upload_manifest: it would serialise again, and the signature is over these bytes.
        response = self.oras.do_request(url, "PUT", data=data, headers={"Content-Type": media_type})
        _expect(response, f"push of {reference}")
        named = response.headers.get("Docker-Content-Digest", "")
        if named and named != digest_of(data):
            raise RegistryError(
                f"push of {reference}: the registry keeps it as {said(named)}, sent was {digest_of(data)}"
            )
        return "OCI-Subject" in response.headers

    def delete(self, reference: Reference) -> None:
        """Delete a manifest by its digest. Raises RegistryError; many registries do not allow it."""
        url = f"{self.oras.prefix}://{self._container(reference).manifest_url()}"
        _expect(self.oras.do_request(url, "DELETE"), f"delete {reference}")

    def _container(self, reference: Reference) -> Container:
        container = Container(f"{reference.host}/{reference.repository}")
        container.registry, container.tag, container.digest = (
            reference.host,
            reference.tag,
            reference.digest,
        )
        container.namespace, _, container.repository = reference.repository.rpartition("/")
        return container


@dataclass(frozen=True)
class _Grant:
    """What the registry accepts for a while, and what it asked for then."""

    challenge: Challenge
    authorization: str = field(repr=False)
    until_s: float


class _Oras(OrasRegistry):  # type: ignore[misc]  # oras has no types
    """oras without its blanket retries (it repeats a refused push for two minutes), with our logins."""

    def __init__(self, host: str, access: Access, elsewhere: Callable[[str], Access], adapter_for: AdapterFor) -> None:
        super().__init__(host, insecure=access.plain_http)
        self.adapter_for = adapter_for
        self.access = access
        self.elsewhere = elsewhere
        self.grants: dict[str, _Grant] = {}
        self.repository = ""  # the last one in an address: an upload may go on at one without
        self._mounting = Lock()
        self._mounted: set[str] = set()
        self.session.trust_env = False  # proxies and CAs are the same as for reading; ~/.netrc is for others
        self.session.headers.update(_HEADERS)

    def has(self, url: str) -> bool:
        """Tell whether the registry has a blob."""
        return self.do_request(url, "HEAD").status_code in _FOUND

    def do_request(self, url: str, method: str = "GET", headers: dict[str, str] | None = None, **body: Any) -> Any:
        """Send one request, and answer a 401 once."""
        headers = dict(headers or {})
        self.repository = _repository(url) or self.repository
        response = self._send(url, method, headers, body)
        if response.status_code == requests.codes.unauthorized and self._is_home(url) and self._log_in(response, url):
            response = self._send(url, method, headers, body)
        if method == "POST":  # oras goes on from a refused upload as if it had been granted
            _expect(response, f"POST {shown(url)}")
        if method == "POST" and response.status_code != requests.codes.created:  # that one is done, and goes on nowhere
            self._check_next(response.headers.get("Location", ""), url)
        return response

    def _check_next(self, location: str, url: str) -> None:
        """A registry may have the upload go on at another host, but not out of TLS, and not with a login of its own."""
        try:
            parts = urlsplit(location)
            if not location.startswith("http"):  # oras takes it as a path here
                usable = location.startswith("/")
            else:
                plain = self._is_home(location) or self.elsewhere(parts.netloc).plain_http
                usable = "@" not in parts.netloc and (parts.scheme == "https" or plain)
        except ValueError:
            usable = False
        if not usable:
            raise RegistryError(f"POST {shown(url)}: the upload is to go on at {shown(location)!r}: not followed")

    def _is_home(self, url: str) -> bool:
        return same_host(url, f"{self.prefix}://{self.hostname}/")

    def _send(self, url: str, method: str, headers: dict[str, str], body: dict[str, Any]) -> requests.Response:
        # A registry may let the upload go on at another host: our login is not for that one.
        if self._is_home(url) and (authorization := self._authorization(url)):
            headers = headers | {"Authorization": authorization}
        return self._exchange(method, url, headers, ANSWER_LIMIT_BYTES, **body)

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], limit_bytes: int, **body: Any
    ) -> requests.Response:
        """Send, and read the answer: no redirect is followed, no more than `limit_bytes` is read."""
        what = f"{method} {shown(url)}"
        host = urlsplit(url).netloc
        access = self.access if self._is_home(url) else self.elsewhere(host)
        proxy = access.proxy_for(host)
        self._mount(url, access)
        try:
            response: requests.Response = self.session.request(
                method, url, headers=dict(headers), timeout=TIMEOUT_S, allow_redirects=False, auth=_no_netrc,
                stream=True, proxies={"http": proxy, "https": proxy} if proxy else {}, **body,
            )  # fmt: skip
            data = response.raw.read(limit_bytes + 1, decode_content=False)
        except (requests.RequestException, OSError, ValueError) as error:
            raise RegistryError(f"{what}: {_reason(error, proxy)}") from None
        except Exception as error:  # what urllib3 raises while a body is read has no ancestor in common
            if type(error).__module__.startswith("urllib3"):
                raise RegistryError(f"{what}: {_reason(error, proxy)}") from None
            raise
        if len(data) > limit_bytes:
            response.close()
            raise RegistryError(f"{what}: the answer is longer than {limit_bytes} bytes")
        response.raw = io.BytesIO(data)
        return response

    def _mount(self, url: str, access: Access) -> None:
        """Have each host reached by its own TLS settings: our client certificate is for the registry alone."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}/"
        with self._mounting:
            if origin not in self._mounted:
                self.session.mount(origin, self.adapter_for(access))
                self._mounted.add(origin)

    def _authorization(self, url: str) -> str:
        """Return what is sent with a request, by a new token where the last one is about to expire."""
        place = _repository(url) or self.repository
        if (known := self.grants.get(place)) and known.until_s <= time.monotonic():
            self._grant(known.challenge, place)
        return self.grants[place].authorization if place in self.grants else ""

    def _log_in(self, response: requests.Response, url: str) -> bool:
        return self._grant(
            Challenge.parse(response.headers.get("WWW-Authenticate", "")), _repository(url) or self.repository
        )

    def _grant(self, challenge: Challenge, place: str) -> bool:
        credentials = self.access.who(place)
        if challenge.scheme == "basic" and credentials and credentials.username:
            self.grants[place] = _Grant(challenge, credentials.basic, float("inf"))
            return True
        if challenge.scheme != "bearer":
            return False
        asked = challenge.token_request(credentials, secure=self.prefix == "https")
        answer = self._ask_for_token(asked)
        if answer.status_code in (400, 401, 403):
            return False
        if answer.status_code != requests.codes.ok:
            raise RegistryError(
                f"{asked.method} {shown(asked.url)}: the token service answered {answer.status_code}",
                retry_after_s=retry_after_s(answer.headers),
            )
        token = token_of(answer.content)
        until_s = time.monotonic() + token.life_s - TOKEN_MARGIN_S
        self.grants[place] = _Grant(challenge, token.bearer, until_s)
        return True

    def _ask_for_token(self, asked: TokenRequest) -> requests.Response:
        body = {"data": asked.body} if asked.body else {}
        return self._exchange(asked.method, asked.url, asked.headers, TOKEN_LIMIT_BYTES, **body)


class _Adapter(requests.adapters.HTTPAdapter):
    """Reaches one host with the TLS settings of `margo_oci.registry`, through a proxy or not."""

    def __init__(self, access: Access) -> None:
        self.access = access
        super().__init__(pool_connections=1, pool_maxsize=16)

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        """Use our TLS settings."""
        super().init_poolmanager(*arguments, **settings, ssl_context=self.access.tls())

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:
        """Use our TLS settings, and those for the proxy."""
        if proxy.startswith("https:") and proxy not in self.proxy_manager:
            settings["proxy_ssl_context"] = self.access.proxy_tls()
        return super().proxy_manager_for(proxy, **settings, ssl_context=self.access.tls())

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave it to the context: this would add the CAs that come with requests."""


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what stands in ~/.netrc: credentials come from auth files alone."""
    return request


def _repository(url: str) -> str:
    found = _REPOSITORY.search(urlsplit(url).path)
    return found["repository"] if found else ""


def _expect(response: requests.Response, what: str) -> None:
    status = response.status_code
    if status in (200, 201, 202, 204):
        return
    if status in (401, 403):
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        right = challenge.scope or f"repository:{_repository(response.url or '')}:push"
        raise RegistryError(
            f"{what}: {status}: not allowed to push: the right {said(right)} is missing: "
            "log in with `margo-oci login`, or ask for the right"
        )
    if status == requests.codes.proxy_authentication_required:
        raise RegistryError(f"{what}: {proxy_words('in between', '407')}")
    raise RegistryError(
        f"{what}: the registry answered {status}: {_detail(response)}", retry_after_s=retry_after_s(response.headers)
    )


def _detail(response: requests.Response) -> str:
    """Return the registry's own words (distribution-spec "Error Codes"), or the status' name."""
    try:
        error = response.json()["errors"][0]
        return shown(f"{error['code']} {error.get('message', '')} {error.get('detail') or ''}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return said(response.reason)


def _reason(error: BaseException, proxy: str) -> str:
    """Return the innermost cause: what urllib3 wraps three times says little at the top."""
    causes = [error]
    while causes[-1].__context__ and isinstance(causes[-1].__context__, Exception):
        causes.append(causes[-1].__context__)
    words = remedied(shown(str(causes[-1]) or type(causes[-1]).__name__))
    if not proxy:
        return words
    if refused := re.search(r"Tunnel connection failed: (\d{3}[^'\")]*)", words):
        return proxy_words(proxy, refused[1])
    return f"{words} (through the proxy {shown(proxy)})"
