"""A layout as a registry offers it: a request in, an answer out (distribution-spec v1.1, pulling and listing).

What serves it over a network and what reads it in this very process both ask here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import parse_qs, urlencode, urlsplit

from margo_oci.content import MANIFEST_LIMIT_BYTES, MEDIA_TYPE, Descriptor, canonical_json, is_digest, parse_json
from margo_oci.errors import FormatError, TrustError, said
from margo_oci.layout import NAME, Layout
from margo_oci.manifest import IMAGE_INDEX, IMAGE_MANIFEST, Manifest, build_index
from margo_oci.reference import TAG, Reference, parse_reference

PAGE_COUNT = 1000
_PATH = re.compile(
    r"/v2/(?P<name>[a-z0-9][a-z0-9._/-]{0,254})/(?P<kind>manifests|blobs|referrers)/(?P<target>[^/]{1,200})"
)
_TAGS = re.compile(r"/v2/(?P<name>[a-z0-9][a-z0-9._/-]{0,254})/tags/list")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True)
class Answer:
    """What is answered: a status, headers, and a body of `size` bytes."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))


class Offer:
    """What a layout has, by host, repository and tag.

    A name as `registry.example/fleet/edge-17:latest` says all three; a mere tag stands in every repository.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._by_name: dict[str, dict[str, Descriptor]] = {}
        self._by_repository: dict[str, dict[str, Descriptor]] = {}
        self._anywhere: dict[str, Descriptor] = {}
        self.ambiguous: list[str] = []
        for entry in layout.entries:
            self._note(entry)

    def _note(self, entry: Descriptor) -> None:
        name = entry.annotations.get(NAME, "")
        if TAG.fullmatch(name):
            self._anywhere.setdefault(name, entry)
            return
        try:
            reference = parse_reference(name, default_tag="")
        except FormatError:
            return  # it is there by its digest
        tags = self._by_name.setdefault(reference.name, {})
        anywhere = self._by_repository.setdefault(reference.repository, {})
        if not reference.tag:
            return
        tags.setdefault(reference.tag, entry)
        if anywhere.setdefault(reference.tag, entry).digest != entry.digest:
            self.ambiguous.append(f"{reference.repository}:{reference.tag}")

    @cached_property
    def references(self) -> Sequence[Reference]:
        """Everything that has a name of its own, by tag."""
        found = []
        for name, tags in self._by_name.items():
            host, _, repository = name.partition("/")
            found += [Reference(host, repository, tag) for tag in tags]
        return found

    @cached_property
    def all_references(self) -> Sequence[Reference]:
        """The same, and then what has its place by digest alone."""
        digests = []
        for entry in self.layout.entries:
            name, at, digest = entry.annotations.get(NAME, "").partition("@")
            if at and name in self._by_name and digest == entry.digest:
                host, _, repository = name.partition("/")
                digests.append(Reference(host, repository, digest=digest))
        return [*self.references, *digests]

    def check_unambiguous(self) -> None:
        """Raise FormatError if two registries in it have another thing under one name."""
        if self.ambiguous:
            raise FormatError(
                f"{self.layout.where}: {self.ambiguous[0]} is one thing in one registry and another in another: "
                "copy what is meant into a layout of its own (margo-oci copy)"
            )

    def tags(self, host: str, repository: str) -> Mapping[str, Descriptor] | None:
        """Return the tags of a repository: of this host, else of any. None if there is no such repository."""
        named = self._named(host, repository)
        if named is None:
            return self._anywhere or None
        return {**self._anywhere, **named}

    def _named(self, host: str, repository: str) -> Mapping[str, Descriptor] | None:
        return self._by_name.get(f"{host}/{repository}") or self._by_repository.get(repository)

    def find(self, reference: Reference) -> Descriptor | None:
        """Return what a tag, or a digest, leads to."""
        if reference.digest:
            size = self.layout.size_bytes(reference.digest)
            known = self._listed.get(reference.digest)
            media_type = known.media_type if known else IMAGE_MANIFEST
            return None if size is None else Descriptor(media_type=media_type, digest=reference.digest, size=size)
        named = self._named(reference.host, reference.repository) or {}
        return named.get(reference.tag) or self._anywhere.get(reference.tag)

    @cached_property
    def _listed(self) -> Mapping[str, Descriptor]:
        return {one.digest: one for one in self.layout.entries}

    @cached_property
    def _referrers(self) -> Mapping[str, Sequence[Descriptor]]:
        """Everything that names a subject, by what it names; what cannot be read refers to nothing."""
        found: dict[str, list[Descriptor]] = {}
        for entry in self._listed.values():
            try:
                data = self.layout.small(entry.digest)
                manifest = Manifest.from_bytes(data, what=entry.digest) if data else None
            except (FormatError, TrustError):
                continue
            if manifest and manifest.subject:
                listed = Descriptor(
                    media_type=entry.media_type, digest=entry.digest, size=entry.size,
                    artifact_type=manifest.artifact_type, annotations=manifest.annotations,
                )  # fmt: skip
                found.setdefault(manifest.subject.digest, []).append(listed)
        return found

    def answer(self, target: str, headers: Mapping[str, str], *, host: str = "") -> Answer:
        """Answer a GET of `target` (path and query); for HEAD leave out the body. `headers` in lower case.

        Raises FormatError, TrustError or OSError where the layout is not what it was when it was opened.
        """
        try:
            parts = urlsplit(target)
        except ValueError:
            return _error(404, "NAME_UNKNOWN")
        if parts.path in ("/v2", "/v2/"):
            return _json({})
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/v2/_catalog":
            return _page({}, "repositories", self._by_repository, query, "/v2/_catalog")
        if found := _TAGS.fullmatch(parts.path):
            return self._tag_list(host, found["name"], query, parts.path)
        if not (found := _PATH.fullmatch(parts.path)):
            return _error(404, "NAME_UNKNOWN")
        asked = Reference(host, found["name"]).at(found["target"])
        if found["kind"] == "manifests":
            return self._manifest(asked, headers)
        if found["kind"] == "blobs":
            return self._blob(asked, headers)
        if not is_digest(asked.digest):
            return _error(400, "DIGEST_INVALID")
        index = build_index(self._referrers.get(asked.digest, ()))
        return _bytes(index, IMAGE_INDEX)

    def _tag_list(self, host: str, repository: str, query: Mapping[str, str], path: str) -> Answer:
        tags = self.tags(host, repository)
        if tags is None:
            return _error(404, "NAME_UNKNOWN")
        return _page({"name": repository}, "tags", tags, query, path)

    def _manifest(self, asked: Reference, headers: Mapping[str, str]) -> Answer:
        entry = self.find(asked)
        size = self.layout.size_bytes(entry.digest) if entry else None
        if entry is None or size is None or size > MANIFEST_LIMIT_BYTES:
            return _error(404, "MANIFEST_UNKNOWN")
        named = {"Docker-Content-Digest": entry.digest, "ETag": f'"{entry.digest}"'}
        if _unchanged(headers, entry.digest):
            return Answer(304, named)
        data = b"".join(self.layout.pieces(entry.digest))
        return _bytes(data, self._media_type(entry, data), named)

    def _media_type(self, entry: Descriptor, data: bytes) -> str:
        """Return what a manifest says it is; it is in doubt what the index says."""
        try:
            named = parse_json(data, what="manifest").get("mediaType")
        except FormatError:
            named = None
        return named if isinstance(named, str) and MEDIA_TYPE.fullmatch(named) else entry.media_type

    def _blob(self, asked: Reference, headers: Mapping[str, str]) -> Answer:
        size = self.layout.size_bytes(asked.digest)
        if size is None:
            return _error(404, "BLOB_UNKNOWN")
        named = {
            "Docker-Content-Digest": asked.digest, "ETag": f'"{asked.digest}"', "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }  # fmt: skip
        if _unchanged(headers, asked.digest):
            return Answer(304, named)
        part = _part(headers, size) if headers.get("if-range", f'"{asked.digest}"') == f'"{asked.digest}"' else None
        if part is None:
            return Answer(200, named, size, self.layout.pieces(asked.digest))
        start, end = part
        if start >= size or end < start:
            return Answer(416, {"Content-Range": f"bytes */{size}"})
        named["Content-Range"] = f"bytes {start}-{end}/{size}"
        return Answer(206, named, end - start + 1, self.layout.pieces(asked.digest, start, end - start + 1))


def _part(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Return first and last byte of the one range that is asked for (RFC 9110 14.2); None means all of it."""
    found = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size - 1 if int(found[2]) else -1
    return int(found[1]), min(int(found[2]), size - 1) if found[2] else size - 1


def _unchanged(headers: Mapping[str, str], digest: str) -> bool:
    asked = [one.strip().removeprefix("W/").strip('"') for one in headers.get("if-none-match", "").split(",")]
    return digest in asked or asked == ["*"]


def _page(
    fields: Mapping[str, str], key: str, names: Mapping[str, object], query: Mapping[str, str], path: str
) -> Answer:
    count = query.get("n", str(PAGE_COUNT))
    if not (count.isascii() and count.isdigit()):
        return _error(400, "PAGINATION_NUMBER_INVALID", f"n={said(count)}: a number is expected")
    size = min(int(count), PAGE_COUNT) if len(count) < 10 else PAGE_COUNT
    rest = sorted(name for name in names if name > query.get("last", ""))
    page = rest[:size]
    link = f'<{path}?{urlencode({"last": page[-1], "n": size})}>; rel="next"' if page and len(rest) > size else ""
    return _json({**fields, key: page}, {"Link": link} if link else {})


def _json(value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return _bytes(canonical_json(value), "application/json", headers)


def _bytes(data: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(200, {"Content-Type": media_type, **(headers or {})}, len(data), iter([data]))


def unsupported() -> Answer:
    """Answer a request that is neither GET nor HEAD (distribution-spec v1.1 "Error Codes")."""
    return _error(405, "UNSUPPORTED", "this registry can only be read", {"Allow": "GET, HEAD"})


def _error(
    status: int, code: str, message: str = "not in this layout", headers: Mapping[str, str] | None = None
) -> Answer:
    data = canonical_json({"errors": [{"code": code, "message": message}]})
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, len(data), iter([data]))
