"""Compose Archives as OCI artifacts: the standard's archive rules as named checks (docs/format.md, section 8)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from margo_oci.archive import Entry, pack, unpack
from margo_oci.composefile import COMPOSE_FILE, reads_only_the_archive, steers_no_compose
from margo_oci.content import Descriptor
from margo_oci.deployment import REVISION
from margo_oci.errors import FormatError
from margo_oci.manifest import TITLE, Manifest, kind_of

COMPOSE_ARTIFACT = "application/vnd.org.margo.component.compose+json"
COMPOSE_LAYER = "application/vnd.org.margo.component.compose.tar+gzip"
COMPONENT_TYPE = "org.margo.component.type"
COMPONENT_VERSION = "org.margo.component.version"
IMAGE_VERSION = "org.opencontainers.image.version"
_OTHER_NAMES = ("compose.yml", "docker-compose.yaml", "docker-compose.yml")
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@dataclass(frozen=True)
class Archive:
    """A checked Compose Archive: its top folder's name and what lies below it, paths relative to it."""

    top: str
    entries: Sequence[Entry]


@dataclass(frozen=True)
class ComposeArtifact:
    """A component ready to be pushed."""

    manifest: Manifest
    layer: bytes


def build_component(files: Mapping[str, Entry], *, name: str, version: str) -> ComposeArtifact:
    """Pack the files of a component below one folder called `name`. Raises FormatError with every fault."""
    check_version(version)
    placed = placed_below(name, files)
    if faults := faults_of(placed):
        raise FormatError(*faults)
    data = pack({entry.path: entry for entry in placed})
    annotations = {
        COMPONENT_TYPE: "compose",
        COMPONENT_VERSION: version,
        IMAGE_VERSION: version,
        TITLE: f"{name}-{version}.tar.gz",
    }
    layer = Descriptor.of(data, COMPOSE_LAYER, annotations)
    # REG's own example with `oras push --annotation` puts them on the manifest, so both places have them.
    return ComposeArtifact(Manifest.build(COMPOSE_ARTIFACT, [layer], annotations), data)


def check_version(version: str) -> None:
    """Raise FormatError unless a tag is the version of a component (format 8.1)."""
    if not REVISION.fullmatch(version):
        raise FormatError(f"tag {version!r}: SemVer 2.0 without v, with _ for +, is expected, as in 1.4.0")


def placed_below(top: str, files: Mapping[str, Entry]) -> Sequence[Entry]:
    """Return the files of a component as they lie in its archive."""
    return [Entry(f"{top}/{path}", file.data, file.executable) for path, file in files.items()]


def archive_layer(manifest: Manifest, *, what: str) -> Descriptor:
    """Return the one layer of a Compose component (Margo: exactly one). Raises FormatError."""
    layers = [layer for layer in manifest.layers if kind_of(layer.media_type) == "compose-archive"]
    if kind_of(manifest.artifact_type) != "compose" and not layers:
        raise FormatError(f"{what}: a Compose component is expected, got {manifest.artifact_type!r:.80}")
    if len(layers) != 1 or len(manifest.layers) != 1:
        raise FormatError(f"{what}: exactly one Compose Archive layer is expected, got {len(manifest.layers)} layers")
    return layers[0]


def open_archive(data: bytes, *, what: str) -> Archive:
    """Check an archive by every rule, before anything of it is written. Raises FormatError with every fault."""
    entries = unpack(data, what=what)  # rules 5 and 6 are checked here
    if faults := faults_of(entries):
        raise FormatError(*(f"{what}: {fault}" for fault in faults))
    top = next(PurePosixPath(entry.path).parts[0] for entry in entries)
    below = [entry for entry in entries if entry.path != top]
    return Archive(
        top,
        tuple(Entry(entry.path.removeprefix(f"{top}/"), entry.data, entry.executable, entry.folder) for entry in below),
    )


def faults_of(entries: Sequence[Entry]) -> list[str]:
    """Return what breaks a rule about the archive's content, in words."""
    return [fault for rule in RULES for fault in rule(entries)]


def one_top_folder(entries: Sequence[Entry]) -> list[str]:
    """Rule 1: exactly one folder at the top."""
    tops = sorted({PurePosixPath(entry.path).parts[0] for entry in entries})
    loose = [entry.path for entry in entries if "/" not in entry.path and not entry.folder]
    if len(tops) == 1 and not loose:
        return []
    return [f"exactly one folder at the top is expected, got {', '.join(tops[:5]) or 'an empty archive'}"]


def compose_yaml(entries: Sequence[Entry]) -> list[str]:
    """Rule 2: `compose.yaml` and no other spelling, directly in the top folder."""
    names = {PurePosixPath(entry.path).name for entry in entries if not entry.folder and entry.path.count("/") == 1}
    if COMPOSE_FILE in names:
        return []
    other = next((name for name in _OTHER_NAMES if name in names), None)
    hint = f": rename {other}" if other else ""
    return [f"{COMPOSE_FILE} is missing{hint}"]


def no_private_keys(entries: Sequence[Entry]) -> list[str]:
    """Rule 4: secrets are not shipped. A PEM private key is one that can be seen from outside."""
    return [f"{entry.path}: a private key must not be shipped" for entry in entries if _PRIVATE.search(entry.data)]


Rule = Callable[[Sequence[Entry]], list[str]]
RULES: Sequence[Rule] = (
    one_top_folder,
    compose_yaml,
    no_private_keys,
    reads_only_the_archive,
    steers_no_compose,
)
