"""The desired-state artifact: deployments in, manifest and layers out, and back (format sections 1 to 4)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from margo_oci.archive import Entry, pack, unpack
from margo_oci.content import Descriptor, canonical_json, digest_of, is_digest, parse_json
from margo_oci.deployment import Deployment, parse_deployment
from margo_oci.errors import FormatError
from margo_oci.files import DEPLOYMENT as DEPLOYMENT
from margo_oci.files import ExtraFile, check_path, files_of, pack_file, size_fault
from margo_oci.manifest import CREATED, REVISION, SOURCE, TITLE, Manifest, kind_of
from margo_oci.yamldoc import DOCUMENT_LIMIT_BYTES

ARTIFACT_TYPE = "application/vnd.org.margo.config.v1+json"
LAYER_TYPE = "application/vnd.margo.manifests.layer.v1+tar+gzip"
COUNTER = "org.margo.ApplicationDeployment.version"
SCOPE = "org.margo.oci.scope"
LOCK = "org.margo.oci.lock"
COUNTER_LIMIT = 2**64 - 1
LOCK_LIMIT_BYTES = 256 * 1024
_COUNTER = re.compile(r"[1-9][0-9]{0,19}")
_SCOPE = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_SCOPE_LIMIT = 255


@dataclass(frozen=True)
class Lock:
    """What a deployment led to when it was published: reference to digest (format 4)."""

    components: Mapping[str, str]
    images: Mapping[str, str]

    def to_json(self) -> str:
        """Return the annotation's text: canonical JSON."""
        return canonical_json({"components": dict(self.components), "images": dict(self.images)}).decode()

    @classmethod
    def from_json(cls, text: str, *, at: str) -> "Lock":
        """Parse the annotation. Raises FormatError starting with `at`."""
        raw = parse_json(text.encode(errors="surrogatepass"), what=at, limit_bytes=LOCK_LIMIT_BYTES)
        return cls(
            _digests(raw.get("components", {}), f"{at}.components"),
            _digests(raw.get("images", {}), f"{at}.images"),
        )


def _digests(raw: object, at: str) -> Mapping[str, str]:
    if not isinstance(raw, dict) or not all(is_digest(value) for value in raw.values()):
        raise FormatError(f"{at}: a map from reference to digest is expected")
    return raw


@dataclass(frozen=True)
class Origin:
    """Where the documents of a state came from: a commit, and the repository that has it (format 2.9)."""

    revision: str = ""
    source: str = ""

    def annotations(self) -> Mapping[str, str]:
        """Return what is written of it."""
        return {name: text for name, text in ((REVISION, self.revision), (SOURCE, self.source)) if text}


NO_ORIGIN = Origin()


@dataclass(frozen=True)
class Layer:
    """One layer with its bytes."""

    descriptor: Descriptor
    data: bytes


@dataclass(frozen=True, kw_only=True)
class DesiredState:
    """What a manifest says without its layers: for whom, which release, which layers.

    `files` are the layers of deployments' extra files, by deployment and in the order of their paths.
    """

    manifest: Manifest
    counter: int
    scope: str
    files: Mapping[str, Sequence[Descriptor]] = field(default_factory=dict)

    @property
    def layers(self) -> Sequence[Descriptor]:
        """The layers that hold deployments."""
        return tuple(layer for layer in self.manifest.layers if kind_of(layer.media_type) == "deployments")

    def files_of(self, layer: Descriptor) -> Sequence[Descriptor]:
        """Return the layers of the files of the deployment in `layer`."""
        return self.files.get(layer.annotations.get(DEPLOYMENT, ""), ())

    def revision_of(self, layer: Descriptor) -> str:
        """Return the revision of the one deployment in `layer` without reading it; "" for a combined layer."""
        return revision_of(layer, self.files_of(layer))

    @property
    def origin(self) -> Origin:
        """The commit it was made of, if the publisher said so: what comes from outside is bounded where it is shown."""
        annotations = self.manifest.annotations
        return Origin(annotations.get(REVISION, ""), annotations.get(SOURCE, ""))

    @property
    def created(self) -> str:
        """When it was made, if the publisher said so."""
        return self.manifest.annotations.get(CREATED, "")


def build_layer(deployment: Deployment, lock: Lock | None = None) -> Layer:
    """Pack one deployment: unchanged input keeps its digest (format 3.1, 3.2)."""
    name = f"{deployment.id}.yaml"
    data = pack({name: Entry(name, deployment.data)})
    annotations = {DEPLOYMENT: deployment.id, TITLE: name}
    if lock is not None:
        annotations[LOCK] = lock.to_json()
    return Layer(Descriptor.of(data, LAYER_TYPE, annotations), data)


def build_file_layer(deployment: str, file: ExtraFile) -> Layer:
    """Make the layer of one extra file of a deployment. Raises FormatError (format 14.1 to 14.4)."""
    check_path(file.path, "file")
    data, media_type = pack_file(file)
    descriptor = Descriptor.of(data, media_type, {DEPLOYMENT: deployment, TITLE: file.path})
    if fault := size_fault(descriptor):
        raise FormatError(f"{file.path}: {fault}")
    return Layer(descriptor, data)


def build_state(
    layers: Sequence[Descriptor], *, counter: int, scope: str, created: str = "", origin: Origin = NO_ORIGIN
) -> DesiredState:
    """Make the manifest over `layers`, in the order of their deployment (format 1.3, 2.1, 2.2, 14.1)."""
    annotations = {COUNTER: str(check_counter(counter)), SCOPE: check_scope(scope), **origin.annotations()}
    if created:
        annotations[CREATED] = created
    ordered = sorted(layers, key=_place)
    manifest = Manifest.build(ARTIFACT_TYPE, ordered, annotations)
    return DesiredState(manifest=manifest, counter=counter, scope=scope, files=_files(ordered, "state"))


def _place(layer: Descriptor) -> tuple[str, str]:
    """Return what layers are ordered by: their deployment, which comes before its files by path."""
    is_file = kind_of(layer.media_type) in ("file", "secret")
    return layer.annotations.get(DEPLOYMENT, ""), layer.annotations.get(TITLE, "") if is_file else ""


def _files(layers: Sequence[Descriptor], what: str) -> Mapping[str, Sequence[Descriptor]]:
    own = [layer.annotations.get(DEPLOYMENT, "") for layer in layers if kind_of(layer.media_type) == "deployments"]
    return files_of(layers, filter(None, own), what=what)


def check_counter(counter: int) -> int:
    """Return `counter` if it is 1 to 2^64-1 (format 2.1)."""
    if not 1 <= counter <= COUNTER_LIMIT:
        raise FormatError(f"counter {counter}: 1 to {COUNTER_LIMIT} is expected")
    return counter


def check_scope(scope: str) -> str:
    """Return `scope` if it is well-formed, `site/line/name` style (format 2.2)."""
    if not _SCOPE.fullmatch(scope) or len(scope) > _SCOPE_LIMIT:
        raise FormatError(
            f"scope {scope!r:.80}: parts of letters, digits and . _ ~ - joined by /, as in plant-3/line-1/edge-17"
        )
    return scope


def parse_state(manifest: Manifest, *, what: str) -> DesiredState:
    """Read a manifest as a desired state, in any spelling of its types. Raises FormatError."""
    if kind_of(manifest.artifact_type) != "desired-state":
        raise FormatError(f"{what}: artifactType: a desired state is expected, got {manifest.artifact_type!r:.80}")
    counter = manifest.annotations.get(COUNTER, "")
    if not _COUNTER.fullmatch(counter):
        raise FormatError(f"{what}: annotation {COUNTER}: a decimal from 1 is expected, got {counter!r:.80}")
    scope = manifest.annotations.get(SCOPE, "")
    state = DesiredState(
        manifest=manifest,
        counter=check_counter(int(counter)),
        scope=check_scope(scope) if scope else "",
        files=_files(manifest.layers, what),
    )
    ids = [layer.annotations[DEPLOYMENT] for layer in state.layers if DEPLOYMENT in layer.annotations]
    if len(set(ids)) != len(ids):
        raise FormatError(f"{what}: layers: deployment {next(i for i in ids if ids.count(i) > 1)} stands twice")
    return state


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A deployment, the layer it came in, what it leads to, and the layers of its files."""

    deployment: Deployment
    layer: Descriptor
    lock: Lock | None
    files: Sequence[Descriptor] = ()

    @property
    def revision(self) -> str:
        """A digest that changes when the document, its lock or one of its files changes."""
        return revision_of(self.layer, self.files) or _revision(digest_of(self.deployment.data), self.layer)


def revision_of(layer: Descriptor, files: Sequence[Descriptor] = ()) -> str:
    """Return the revision of the one deployment in `layer`, which has `files`; "" for a combined layer."""
    return _revision(layer.digest, layer, files) if DEPLOYMENT in layer.annotations else ""


def _revision(content: str, layer: Descriptor, files: Sequence[Descriptor] = ()) -> str:
    parts: list[object] = [content, layer.annotations.get(LOCK, "")]
    if files:  # without any it is what it was before there were files (format 14.6)
        parts.append([[one.annotations[TITLE], one.media_type, one.digest] for one in files])
    return digest_of(canonical_json(parts))


def read_layer(layer: Descriptor, data: bytes, *, what: str, files: Sequence[Descriptor] = ()) -> Sequence[Placed]:
    """Return the deployments of one layer: one of ours, with its `files`, or several of a combined layer (format 3.3).

    Raises FormatError; a file that is no `*.yaml` is one: the proposal allows nothing else in a layer.
    """
    lock_text = layer.annotations.get(LOCK)
    lock = Lock.from_json(lock_text, at=f"{what}: annotation {LOCK}") if lock_text else None
    entries = [entry for entry in unpack(data, what=what, limit_bytes=64 * DOCUMENT_LIMIT_BYTES) if not entry.folder]
    if strange := [entry.path for entry in entries if not entry.path.endswith((".yaml", ".yml"))]:
        raise FormatError(f"{what}: {strange[0]}: only *.yaml and *.yml, with one deployment each, are expected")
    placed = [
        Placed(
            deployment=parse_deployment(entry.data, what=f"{what}: {entry.path}"),
            layer=layer,
            lock=lock,
            files=files,
        )
        for entry in entries
    ]
    named = layer.annotations.get(DEPLOYMENT, "").lower()
    if named and [one.deployment.id for one in placed] != [named]:
        raise FormatError(f"{what}: annotation {DEPLOYMENT} says {named}, inside is another deployment")
    return placed


def read_layers(
    layers: Sequence[tuple[Descriptor, bytes]], files: Mapping[str, Sequence[Descriptor]] | None = None
) -> Mapping[str, Placed]:
    """Return all deployments of a state by id. Raises FormatError; an id that stands twice is one."""
    placed: dict[str, Placed] = {}
    for layer, data in layers:
        mine = (files or {}).get(layer.annotations.get(DEPLOYMENT, ""), ())
        for one in read_layer(layer, data, what=f"layer {layer.digest[:19]}", files=mine):
            if one.deployment.id in placed:
                raise FormatError(f"deployment {one.deployment.id} stands in two layers")
            placed[one.deployment.id] = one
    return placed
