"""An OCI registry in memory (distribution-spec v1.1) that answers as CNCF distribution 2.8.2 does.

    sim = SimulatedRegistry()
    registry = Registry(lambda host: Access(), transport_for=lambda host: sim.transport)

It keeps whatever it is given, also what a real registry would refuse, and remembers every request. A test
makes it lie: `sim.blobs[digest] = b"tampered"`, or for the next answers with a fault from `faults.py`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode

import httpx2

from margo_oci.auth import Credentials
from margo_oci.content import Descriptor, digest_of, is_digest
from margo_oci.manifest import IMAGE_INDEX, IMAGE_MANIFEST, build_index

ALWAYS = 1_000_000
Fault = Callable[[httpx2.Request, httpx2.Response], httpx2.Response]

_REFERRERS = re.compile(r"/v2/(?P<repository>.+)/referrers/(?P<target>[^/]+)")
_MANIFEST = re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<target>[^/]+)")
_BLOB = re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<target>[^/]+)")
_TAGS = re.compile(r"/v2/(?P<repository>.+)/tags/list")
_NOTED = ("authorization", "range", "if-none-match", "accept-encoding")


@dataclass(frozen=True)
class Asked:
    """One request: `headers` are those that tests look at, `status` 0 means that the connection broke."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


@dataclass(frozen=True, kw_only=True)
class Login:
    """Who is let in, and how: with the password itself, or with a token that `realm` gives for it."""

    credentials: Credentials
    scheme: Literal["basic", "bearer"] = "basic"
    realm: str = "https://auth.example/token"
    token: str = "token-of-this-day"

    @property
    def authorization(self) -> str:
        """What a request must carry."""
        return self.credentials.basic if self.scheme == "basic" else f"Bearer {self.token}"

    @property
    def challenge(self) -> str:
        """What a 401 asks for."""
        if self.scheme == "basic":
            return 'Basic realm="margo"'
        return f'Bearer realm="{self.realm}",service="registry",scope="repository:fleet/edge-17:pull"'


@dataclass
class Repository:
    """What one repository has; the bytes of its blobs are kept once for all."""

    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class _Planned:
    fault: Fault
    on: str
    times: int


class SimulatedRegistry:
    """Content, tags and the list of requests; `login` and `page_size` may be changed at any time."""

    def __init__(
        self, *, host: str = "registry.example", referrers_api: bool = False, login: Login | None = None
    ) -> None:
        self.host = host
        self.referrers_api = referrers_api
        self.login = login
        self.page_size = 1000
        self.deletes = True
        self.blobs: dict[str, bytes] = {}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Asked] = []
        self.transport = httpx2.MockTransport(self._handle)
        self._planned: list[_Planned] = []

    def put_blob(self, repository: str, data: bytes) -> str:
        """Keep a blob, and return its digest."""
        digest = digest_of(data)
        self.blobs[digest] = data
        self._repository(repository).blobs.add(digest)
        return digest

    def put_manifest(self, repository: str, target: str, data: bytes) -> bool:
        """Keep a manifest under a tag or its digest; tell whether it is listed as a referrer (`OCI-Subject`)."""
        place = self._repository(repository)
        place.manifests[digest_of(data)] = data
        if not is_digest(target):
            place.tags[target] = digest_of(data)
        return self.referrers_api and bool(_parsed(data).get("subject"))

    def fail(self, fault: Fault, *, on: str = "", times: int = 1) -> None:
        """Have the next `times` answers to paths with `on` in them go through `fault`."""
        self._planned.append(_Planned(fault, on, times))

    def recover(self) -> None:
        """Be honest again."""
        self._planned.clear()

    def forget(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def _repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.decode()
        status = 0
        try:
            response = self._honest(request)
            planned = next((one for one in self._planned if one.times and one.on in path), None)
            if planned:
                planned.times -= 1
                response = planned.fault(request, response)
            status = response.status_code
        finally:
            headers = {name: request.headers[name] for name in _NOTED if name in request.headers}
            self.requests.append(Asked(request.method, request.url.netloc.decode(), path, headers, status))
        # As a new response its body is still to be read, as one from a socket is.
        return httpx2.Response(status, headers=response.headers, stream=response.stream)

    def _honest(self, request: httpx2.Request) -> httpx2.Response:
        path, at_home = request.url.path, request.url.netloc.decode() == self.host
        if self.login and path == httpx2.URL(self.login.realm).path:
            return self._token(request, self.login)
        if self.login and at_home and request.headers.get("Authorization") != self.login.authorization:
            return _error(401, "UNAUTHORIZED", {"WWW-Authenticate": self.login.challenge})
        if found := _MANIFEST.fullmatch(path):
            return self._manifest(request, **found.groupdict())
        if found := _BLOB.fullmatch(path):
            return self._blob(request, **found.groupdict())
        if found := _TAGS.fullmatch(path):
            return self._tags(request, **found.groupdict())
        if self.referrers_api and (found := _REFERRERS.fullmatch(path)):
            return self._referrers(**found.groupdict())
        if path == "/v2/_catalog":
            return self._catalog(request)
        if path == "/v2/":
            return httpx2.Response(200, json={})
        return httpx2.Response(404, text="404 page not found\n")

    def _token(self, request: httpx2.Request, login: Login) -> httpx2.Response:
        known = request.headers.get("Authorization") == login.credentials.basic
        if token := login.credentials.identity_token:
            known = request.method == "POST" and f"refresh_token={token}&" in f"{request.content.decode()}&"
        if not known:
            return httpx2.Response(401, json={"details": "incorrect username or password"})
        return httpx2.Response(200, json={"token": login.token})

    def _manifest(self, request: httpx2.Request, repository: str, target: str) -> httpx2.Response:
        place = self.repositories.get(repository, Repository())
        digest = target if is_digest(target) else place.tags.get(target, "")
        if digest not in place.manifests:
            return _error(404, "MANIFEST_UNKNOWN")
        if request.headers.get("If-None-Match") in (f'"{digest}"', digest):
            return httpx2.Response(304)
        data = place.manifests[digest]
        headers = {"Content-Type": _media_type(data), "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        return _body(request, 200, data, headers)

    def _blob(self, request: httpx2.Request, repository: str, target: str) -> httpx2.Response:
        if target not in self.repositories.get(repository, Repository()).blobs:
            return _error(404, "BLOB_UNKNOWN")
        data = self.blobs[target]
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": target,
            "ETag": f'"{target}"',
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if not asked:
            return _body(request, 200, data, headers)
        start = int(asked[1])
        if start >= len(data):
            return httpx2.Response(416, headers={"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return _body(request, 206, data[start:], headers)

    def _tags(self, request: httpx2.Request, repository: str) -> httpx2.Response:
        if repository not in self.repositories:
            return _error(404, "NAME_UNKNOWN")
        page, headers = self._page(request, self.repositories[repository].tags)
        return httpx2.Response(200, json={"name": repository, "tags": page}, headers=headers)

    def _catalog(self, request: httpx2.Request) -> httpx2.Response:
        page, headers = self._page(request, self.repositories)
        return httpx2.Response(200, json={"repositories": page}, headers=headers)

    def _page(self, request: httpx2.Request, names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
        last = request.url.params.get("last", "")
        size = min(int(request.url.params.get("n", self.page_size)), self.page_size)
        rest = sorted(name for name in names if name > last)
        page = rest[:size]
        if len(rest) <= size:
            return page, {}
        query = urlencode({"last": page[-1], "n": size})
        return page, {"Link": f'<{request.url.path}?{query}>; rel="next"'}

    def _referrers(self, repository: str, target: str) -> httpx2.Response:
        manifests = self.repositories.get(repository, Repository()).manifests.values()
        listed = [_described(data) for data in manifests if _subject(data) == target]
        return httpx2.Response(200, content=build_index(listed), headers={"Content-Type": IMAGE_INDEX})


def _body(request: httpx2.Request, status: int, data: bytes, headers: Mapping[str, str]) -> httpx2.Response:
    headers = {**headers, "Content-Length": str(len(data)), "Docker-Distribution-Api-Version": "registry/2.0"}
    return httpx2.Response(status, headers=headers, content=None if request.method == "HEAD" else data)


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
    return httpx2.Response(status, json={"errors": [{"code": code}]}, headers=headers)


def _described(data: bytes) -> Descriptor:
    raw = _parsed(data)
    return Descriptor(
        media_type=_media_type(data),
        digest=digest_of(data),
        size=len(data),
        annotations=raw.get("annotations", {}),
        artifact_type=raw.get("artifactType", ""),
    )


def _subject(data: bytes) -> str:
    return str((_parsed(data).get("subject") or {}).get("digest", ""))


def _media_type(data: bytes) -> str:
    return str(_parsed(data).get("mediaType", IMAGE_MANIFEST))


def _parsed(data: bytes) -> dict[str, Any]:
    """What the registry understands of a manifest: it keeps nonsense, too."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}
