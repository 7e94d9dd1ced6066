"""Application packages as OCI artifacts: a description and the files it names (format 12.12 to 12.14)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from margo_oci.application import Description, parse_description
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError
from margo_oci.manifest import TITLE, Manifest
from margo_oci.yamldoc import DOCUMENT_LIMIT_BYTES

APP_ARTIFACT = "application/vnd.margo.app.v1+json"
DESCRIPTION_LAYER = "application/vnd.margo.app.description.v1+yaml"
DESCRIPTION_FILE = "margo.yaml"
RESOURCE = "org.margo.app.resource"
RESOURCE_LIMIT_BYTES = 16 * 1024 * 1024
LAYER_LIMIT = 64
_FORMATS = {"jpg": "jpeg", "md": "markdown", "txt": "plain"}
_ENDING = re.compile(r"\.([a-z0-9]{1,16})$")


@dataclass(frozen=True)
class AppArtifact:
    """A package ready to be pushed: its manifest, and the content of its layers by digest."""

    manifest: Manifest
    blobs: Mapping[str, bytes]


@dataclass(frozen=True)
class AppPackage:
    """What a package's manifest says: where the description is, and its other files by path."""

    manifest: Manifest
    description: Descriptor
    files: Mapping[str, Descriptor]


def build_package(description: Description, files: Mapping[str, bytes]) -> AppArtifact:
    """Return the package of a description; `files` are its resources by path. The same input, the same bytes.

    Raises FormatError for a file that is missing or too large.
    """
    layers = [Descriptor.of(description.data, DESCRIPTION_LAYER, {TITLE: DESCRIPTION_FILE})]
    blobs = {layers[0].digest: description.data}
    for one in description.resources:
        data = files.get(one.path)
        if data is None:
            raise FormatError(f"{one.path}: is missing, and {one.field} names it")
        if len(data) > RESOURCE_LIMIT_BYTES:
            raise FormatError(f"{one.path}: {len(data)} bytes, at most {RESOURCE_LIMIT_BYTES} are read")
        media_type = f"application/vnd.margo.app.{one.kind}.v1+{_format(one.path)}"
        layers.append(Descriptor.of(data, media_type, {TITLE: one.path, RESOURCE: one.field}))
        blobs[layers[-1].digest] = data
    said = {
        TITLE: description.name,
        "org.opencontainers.image.version": description.version,
        "org.opencontainers.image.description": description.summary,
        "org.opencontainers.image.vendor": description.vendor,
        "org.opencontainers.image.url": description.site,
    }
    return AppArtifact(Manifest.build(APP_ARTIFACT, layers, {key: text for key, text in said.items() if text}), blobs)


def parse_package(manifest: Manifest, *, what: str) -> AppPackage:
    """Read a package's manifest. Raises FormatError for what is none, or has more than is read."""
    found = [layer for layer in manifest.layers if layer.media_type == DESCRIPTION_LAYER]
    if manifest.artifact_type != APP_ARTIFACT and not found:
        raise FormatError(f"{what}: an application package is expected, got {manifest.artifact_type!r:.80}")
    if len(found) != 1 or len(manifest.layers) > LAYER_LIMIT:
        raise FormatError(
            f"{what}: one description and at most {LAYER_LIMIT} layers are expected, got {len(found)} and "
            f"{len(manifest.layers)}"
        )
    if found[0].size > DOCUMENT_LIMIT_BYTES:
        raise FormatError(f"{what}: a description of {found[0].size} bytes, at most {DOCUMENT_LIMIT_BYTES} are read")
    return AppPackage(manifest, found[0], _files(manifest.layers, found[0], what))


def _files(layers: Sequence[Descriptor], description: Descriptor, what: str) -> Mapping[str, Descriptor]:
    files: dict[str, Descriptor] = {}
    for layer in layers:
        path = layer.annotations.get(TITLE, "").removeprefix("./")
        if layer is description or not path:
            continue
        if {"", ".", ".."} & set(path.split("/")) or "\\" in path or not path.isprintable() or len(path) > 255:
            raise FormatError(f"{what}: {path!r:.100} is no path within a package")
        if layer.size > RESOURCE_LIMIT_BYTES:
            raise FormatError(f"{what}: {path}: {layer.size} bytes, at most {RESOURCE_LIMIT_BYTES} are read")
        if path == DESCRIPTION_FILE or files.setdefault(path, layer).digest != layer.digest:
            raise FormatError(f"{what}: {path} stands twice, with different content")
    _check_nesting(files, what)
    return files


def _check_nesting(files: Mapping[str, Descriptor], what: str) -> None:
    for path in files:
        parts = path.split("/")
        for i in range(1, len(parts)):
            if (above := "/".join(parts[:i])) in files or above == DESCRIPTION_FILE:
                raise FormatError(f"{what}: {path} lies below {above}, which is a file")


def open_description(package: AppPackage, data: bytes, *, what: str) -> Description:
    """Parse the description of a package. Raises FormatError, also for a file that it names and that is not there."""
    description = parse_description(data, what=f"{what}: {DESCRIPTION_FILE}")
    if missing := [one for one in description.resources if one.path not in package.files]:
        raise FormatError(*(f"{what}: {one.path} is missing, and {one.field} names it" for one in missing))
    return description


def _format(path: str) -> str:
    """Return the part of a media type that says the format of a file."""
    found = _ENDING.search(path.lower())
    return _FORMATS.get(found[1], found[1]) if found else "octet-stream"
