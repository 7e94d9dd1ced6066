"""References: `host[:port]/repository[:tag][@digest]` (distribution-spec, "Pulling manifests")."""

import re
from dataclasses import dataclass, replace

from margo_oci.content import is_digest
from margo_oci.errors import FormatError

SCHEME = "oci://"
DOCKER_HUB = "registry-1.docker.io"
REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Reference:
    """A place in a registry. With a digest, the tag says nothing about which content is meant."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """`host/repository`."""
        return f"{self.host}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def at(self, target: str) -> "Reference":
        """Return the same repository at another tag or digest."""
        if is_digest(target):
            return replace(self, tag="", digest=target)
        return replace(self, tag=target, digest="")


def parse_reference(text: str, *, default_tag: str = "latest") -> Reference:
    """Parse a reference that names its registry; `oci://` in front is allowed.

    Raises FormatError that says which part is wrong.
    """
    rest, at, digest = text.removeprefix(SCHEME).partition("@")
    host, slash, path = rest.partition("/")
    if not slash or not HOST.fullmatch(host) or not (":" in host or "." in host or host == "localhost"):
        raise FormatError(f"reference {text!r}: it starts with a registry, as in localhost:5000/fleet/edge-17:latest")
    repository, _, tag = path.partition(":")
    if not REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise FormatError(f"reference {text!r}: {repository!r} is no repository name (lower case, a-z 0-9 . _ - /)")
    if at and not is_digest(digest):
        raise FormatError(f"reference {text!r}: {digest!r} is no digest (sha256:<64 hex>)")
    if (":" in path and not tag) or (tag and not TAG.fullmatch(tag)):
        raise FormatError(f"reference {text!r}: {tag!r} is no tag")
    return Reference(host, repository, tag or ("" if digest else default_tag), digest)


def parse_image(text: str) -> Reference:
    """Parse an image as container engines do: no registry means Docker Hub, no tag means latest."""
    first, slash, _ = text.partition("/")
    if not slash:
        text = f"{DOCKER_HUB}/library/{text}"
    elif not (":" in first or "." in first or first == "localhost"):
        text = f"{DOCKER_HUB}/{text}"
    elif first in ("docker.io", "index.docker.io"):
        text = f"{DOCKER_HUB}/{_official(text.partition('/')[2])}"
    return parse_reference(text)


def _official(path: str) -> str:
    return path if "/" in path else f"library/{path}"
