"""Components as OCI artifacts: the standard's archive rules as named checks (docs/format.md, section 8)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from margo_oci.archive import FAULT_LIMIT, Entry, pack, unpack
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.composereads import reads_only_the_archive, steers_no_compose
from margo_oci.content import Descriptor
from margo_oci.deployment import REVISION
from margo_oci.errors import FormatError
from margo_oci.faults import Located, located
from margo_oci.manifest import TITLE, Kind, Manifest, kind_of
from margo_oci.quadlet import at_least_one_unit, is_unit, names_only_the_archive, units_can_be_read

COMPOSE_ARTIFACT = "application/vnd.org.margo.component.compose+json"
COMPOSE_LAYER = "application/vnd.org.margo.component.compose.tar+gzip"
QUADLET_ARTIFACT = "application/vnd.org.margo.component.quadlet.v1+json"
QUADLET_LAYER = "application/vnd.org.margo.component.quadlet.v1.tar.gzip"
COMPONENT_TYPE = "org.margo.component.type"
COMPONENT_VERSION = "org.margo.component.version"
IMAGE_VERSION = "org.opencontainers.image.version"
_OTHER_NAMES = ("compose.yml", "docker-compose.yaml", "docker-compose.yml")
NO_KEYS = "a private key must not be shipped: it goes beside a deployment, encrypted with `margo-oci encrypt`"
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@dataclass(frozen=True)
class Archive:
    """A checked archive: its top folder's name and what lies below it, paths relative to it."""

    top: str
    entries: Sequence[Entry]


@dataclass(frozen=True)
class ComponentArtifact:
    """A component ready to be pushed."""

    manifest: Manifest
    layer: bytes


def one_top_folder(entries: Sequence[Entry]) -> list[Located]:
    """Rule 1: exactly one folder at the top."""
    tops = sorted({PurePosixPath(entry.path).parts[0] for entry in entries})
    loose = [entry.path for entry in entries if "/" not in entry.path and not entry.folder]
    if len(tops) == 1 and not loose:
        return []
    words = f"exactly one folder at the top is expected, got {', '.join(tops[:5]) or 'an empty archive'}"
    return [located("", "8.3", words)]


def compose_yaml(entries: Sequence[Entry]) -> list[Located]:
    """Rule 2: `compose.yaml` and no other spelling, directly in the top folder."""
    names = {PurePosixPath(entry.path).name for entry in entries if not entry.folder and entry.path.count("/") == 1}
    if COMPOSE_FILE in names:
        return []
    other = next((name for name in _OTHER_NAMES if name in names), None)
    hint = f": rename {other}" if other else ""
    return [located("", "8.4", f"{COMPOSE_FILE} is missing{hint}")]


def no_private_keys(entries: Sequence[Entry]) -> list[Located]:
    """Rule 4: secrets are not shipped. A PEM private key is one that can be seen from outside."""
    return [located(entry.path, "8.5", NO_KEYS) for entry in entries if holds_private_key(entry.data)]


def holds_private_key(data: bytes) -> bool:
    """Tell whether a private key in PEM stands somewhere in a file."""
    return _PRIVATE.search(data) is not None


Rule = Callable[[Sequence[Entry]], list[Located]]


@dataclass(frozen=True)
class Form:
    """One of the kinds of components: how it is called, its media types, and the rules for its archive."""

    name: str
    title: str
    artifact: str
    layer: str
    kind: Kind
    layer_kind: Kind
    rules: Sequence[Rule]

    def faults_of(self, entries: Sequence[Entry]) -> list[Located]:
        """Return what breaks a rule about the archive's content; of very many faults the first."""
        found = [fault for rule in self.rules for fault in rule(entries)]
        more = len(found) - FAULT_LIMIT
        return found if more <= 0 else [*found[:FAULT_LIMIT], located("", "8.6", f"and {more} more")]


COMPOSE = Form(
    "compose",
    "Compose",
    COMPOSE_ARTIFACT,
    COMPOSE_LAYER,
    "compose",
    "compose-archive",
    (one_top_folder, compose_yaml, no_private_keys, reads_only_the_archive, steers_no_compose),
)
QUADLET = Form(
    "quadlet",
    "Quadlet",
    QUADLET_ARTIFACT,
    QUADLET_LAYER,
    "quadlet",
    "quadlet-archive",
    (one_top_folder, at_least_one_unit, no_private_keys, units_can_be_read, names_only_the_archive),
)
FORMS: Mapping[str, Form] = {form.name: form for form in (COMPOSE, QUADLET)}


def form_of_content(paths: Sequence[str]) -> Form:
    """Return what files below the top folder make: Quadlet if there are units and no Compose file, and else Compose."""
    names = {path for path in paths if "/" not in path}
    composed = names & {COMPOSE_FILE, *_OTHER_NAMES}
    return QUADLET if not composed and any(map(is_unit, paths)) else COMPOSE


def form_of(manifest: Manifest, *, what: str) -> Form:
    """Return which kind of component a manifest is. Raises FormatError if it is none."""
    kinds = [kind_of(manifest.artifact_type), *(kind_of(layer.media_type) for layer in manifest.layers)]
    for form in FORMS.values():
        if {form.kind, form.layer_kind} & set(kinds):
            return form
    raise FormatError(f"{what}: a component is expected, got {manifest.artifact_type!r:.80}")


def build_component(files: Mapping[str, Entry], *, name: str, version: str, form: Form = COMPOSE) -> ComponentArtifact:
    """Pack the files of a component below one folder called `name`. Raises FormatError with every fault."""
    check_version(version)
    placed = placed_below(name, files)
    if faults := form.faults_of(placed):
        raise FormatError(*map(str, faults))
    data = pack({entry.path: entry for entry in placed})
    annotations = {
        COMPONENT_TYPE: form.name,
        COMPONENT_VERSION: version,
        IMAGE_VERSION: version,
        TITLE: f"{name}-{version}.tar.gz",
    }
    layer = Descriptor.of(data, form.layer, annotations)
    # REG's own example with `oras push --annotation` puts them on the manifest, so both places have them.
    return ComponentArtifact(Manifest.build(form.artifact, [layer], annotations), data)


def check_version(version: str) -> None:
    """Raise FormatError unless a tag is the version of a component (format 8.1)."""
    if not REVISION.fullmatch(version):
        raise FormatError(f"tag {version!r}: SemVer 2.0 without v, with _ for +, is expected, as in 1.4.0")


def check_top(archive: Archive, name: str, *, what: str) -> None:
    """Raise FormatError unless a Quadlet Archive's folder is called as its component (format 8.11)."""
    if archive.top != name:
        raise FormatError(
            f"{what}: its folder is called {archive.top!r:.80}, and must be called as the component: {name}"
        )


def placed_below(top: str, files: Mapping[str, Entry]) -> Sequence[Entry]:
    """Return the files of a component as they lie in its archive."""
    return [Entry(f"{top}/{path}", file.data, file.executable) for path, file in files.items()]


def archive_layer(manifest: Manifest, *, what: str, form: Form = COMPOSE) -> Descriptor:
    """Return the one layer of a component (Margo: exactly one). Raises FormatError."""
    layers = [layer for layer in manifest.layers if kind_of(layer.media_type) == form.layer_kind]
    if kind_of(manifest.artifact_type) != form.kind and not layers:
        raise FormatError(f"{what}: a {form.title} component is expected, got {manifest.artifact_type!r:.80}")
    if len(layers) != 1 or len(manifest.layers) != 1:
        types = ", ".join(layer.media_type for layer in manifest.layers[:3])
        raise FormatError(
            f"{what}: exactly one {form.title} Archive layer is expected, got {len(manifest.layers)} layers"
            + (f" ({types:.200}): its media type is {form.layer}" if types else "")
        )
    return layers[0]


def open_archive(data: bytes, *, what: str, form: Form = COMPOSE) -> Archive:
    """Check an archive by every rule, before anything of it is written. Raises FormatError with every fault."""
    entries = unpack(data, what=what)  # rules 5 and 6 are checked here
    try:
        faults = form.faults_of(entries)
    except RecursionError:  # whatever nests so: it is this component's fault alone
        raise FormatError(f"{what}: nested too deeply to be checked") from None
    if faults:
        raise FormatError(*(f"{what}: {fault}" for fault in faults))
    return below_top(entries)


def below_top(entries: Sequence[Entry]) -> Archive:
    """Return the content of an archive that has one folder at its top."""
    top = next(PurePosixPath(entry.path).parts[0] for entry in entries)
    below = [entry for entry in entries if entry.path != top]
    return Archive(
        top,
        tuple(Entry(entry.path.removeprefix(f"{top}/"), entry.data, entry.executable, entry.folder) for entry in below),
    )
