"""The one door to registries for writing: oras carries the bytes, we say which and in what order."""

import tempfile
from collections.abc import Callable
from typing import Any

import requests
from oras.container import Container
from oras.provider import Registry as OrasRegistry

from margo_oci.auth import TOKEN_LIMIT_BYTES, Challenge, token_of
from margo_oci.content import Descriptor, digest_of
from margo_oci.errors import RegistryError
from margo_oci.manifest import IMAGE_MANIFEST
from margo_oci.reference import Reference
from margo_oci.registry import Access

TIMEOUT_S = (10.0, 60.0)


class Uploader:
    """Pushes to one registry host; safe to use from several threads at once."""

    def __init__(self, host: str, access: Access) -> None:
        self.oras = _Oras(host, access)

    def blob(self, reference: Reference, descriptor: Descriptor, data: bytes) -> bool:
        """Push a blob unless it is there; tell whether it was sent. Raises RegistryError."""
        container = self._container(reference)
        layer = descriptor.to_dict()
        if self.oras.blob_exists(layer, container):
            return False
        with tempfile.NamedTemporaryFile() as file:  # oras reads blobs from files
            file.write(data)
            file.flush()
            _expect(
                self.oras.put_upload(file.name, container, layer),
                f"push of blob {descriptor.digest}",
            )
        return True

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
            raise RegistryError(f"push of {reference}: the registry keeps it as {named}, sent was {digest_of(data)}")
        return "OCI-Subject" in response.headers

    def _container(self, reference: Reference) -> Container:
        container = Container(f"{reference.host}/{reference.repository}")
        container.registry, container.tag, container.digest = (
            reference.host,
            reference.tag,
            reference.digest,
        )
        container.namespace, _, container.repository = reference.repository.rpartition("/")
        return container


class _Oras(OrasRegistry):  # type: ignore[misc]  # oras has no types
    """oras without its blanket retries (it repeats a refused push for two minutes), with our logins."""

    def __init__(self, host: str, access: Access) -> None:
        super().__init__(host, insecure=access.plain_http, tls_verify=str(access.ca_file or "") or True)
        self.access = access
        self.authorization = ""
        if access.client_cert:
            self.session.cert = tuple(str(file) for file in (access.client_cert, access.client_key) if file)
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=16)
        self.session.mount("https://", adapter)
        self.session.mount("http://", adapter)

    def do_request(self, url: str, method: str = "GET", headers: dict[str, str] | None = None, **body: Any) -> Any:
        """Send one request, and answer a 401 once."""
        headers = dict(headers or {})
        response = self._send(url, method, headers, body)
        if response.status_code == requests.codes.unauthorized and self._log_in(response, url):
            response = self._send(url, method, headers, body)
        if method == "POST":  # oras goes on from a refused upload as if it had been granted
            _expect(response, f"POST {url}")
        return response

    def _send(self, url: str, method: str, headers: dict[str, str], body: dict[str, Any]) -> requests.Response:
        # A registry may let the upload go on at another host: our login is not for that one.
        if self.authorization and url.startswith(f"{self.prefix}://{self.hostname}/"):
            headers = headers | {"Authorization": self.authorization}
        return self._exchange(lambda: self.session.request(
            method, url, headers=headers, verify=self._tls_verify, timeout=TIMEOUT_S,
            allow_redirects=False, auth=_no_netrc, **body,
        ), f"{method} {url.partition('?')[0]}")  # fmt: skip

    def _exchange(self, send: Callable[[], requests.Response], what: str) -> requests.Response:
        try:
            return send()
        except (requests.RequestException, OSError) as error:
            raise RegistryError(f"{what}: {_reason(error)}") from None

    def _log_in(self, response: requests.Response, url: str) -> bool:
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        credentials = self.access.credentials
        if challenge.scheme == "basic" and credentials:
            self.authorization = credentials.basic
        elif challenge.scheme == "bearer":
            token_url = challenge.token_url(secure=self.prefix == "https")
            headers = {"Authorization": credentials.basic} if credentials else {}
            answer = self._exchange(lambda: self.session.get(
                token_url, headers=headers, verify=self._tls_verify, timeout=TIMEOUT_S,
                allow_redirects=False, auth=_no_netrc, stream=True,
            ), f"token for {url.partition('?')[0]}")  # fmt: skip
            if answer.status_code != requests.codes.ok:
                return False
            self.authorization = f"Bearer {token_of(answer.raw.read(TOKEN_LIMIT_BYTES + 1, decode_content=True))}"
        else:
            return False
        return True


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what stands in ~/.netrc: credentials come from auth files alone."""
    return request


def _expect(response: requests.Response, what: str) -> None:
    status = response.status_code
    if status in (200, 201, 202, 204):
        return
    if status in (401, 403):
        raise RegistryError(
            f"{what}: {status}: not allowed to push: log in with `margo-oci login`, or ask for the right"
        )
    raise RegistryError(f"{what}: the registry answered {status}: {_detail(response)}")


def _detail(response: requests.Response) -> str:
    """Return the registry's own words (distribution-spec "Error Codes"), or the status' name."""
    try:
        error = response.json()["errors"][0]
        return f"{error['code']} {error.get('message', '')} {error.get('detail') or ''}"[:300].strip()
    except (ValueError, LookupError, TypeError):
        return str(response.reason)


def _reason(error: Exception) -> str:
    """Return the innermost cause: what urllib3 wraps three times says little at the top."""
    while error.__context__ and isinstance(error.__context__, Exception):
        error = error.__context__
    return str(error) or type(error).__name__
