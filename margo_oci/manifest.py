"""OCI image manifests and indexes, parsed once (image-spec v1.1, manifest.md and image-index.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from margo_oci.content import (
    EMPTY_CONFIG,
    Descriptor,
    canonical_json,
    digest_of,
    parse_json,
    string_map,
)
from margo_oci.errors import FormatError

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CREATED = "org.opencontainers.image.created"
REVISION = "org.opencontainers.image.revision"
SOURCE = "org.opencontainers.image.source"
TITLE = "org.opencontainers.image.title"
LAYER_COUNT_LIMIT = 4096
REFERRER_COUNT_LIMIT = 256

Kind = Literal[
    "desired-state",
    "deployments",
    "file",
    "secret",
    "compose",
    "compose-archive",
    "quadlet",
    "quadlet-archive",
    "sigstore-bundle",
    "notary",
    "other",
]

# The proposal and the standard spell these in several ways (format 1.2): one table, no other comparisons.
_KINDS: dict[str, Kind] = {
    "application/vnd.org.margo.config.v1+json": "desired-state",
    "application/vnd.margo.config.v1+json": "desired-state",
    "application/vnd.margo.manifests.layer.v1+tar+gzip": "deployments",
    "application/vnd.org.margo.manifests.layer.v1+tar+gzip": "deployments",
    "application/vnd.org.margo.manifests.layer.v1+gzip": "deployments",
    "application/vnd.margo.oci.files.layer.v1+tar+gzip": "file",
    "application/vnd.margo.oci.secret.layer.v1+json": "secret",
    "application/vnd.org.margo.component.compose+json": "compose",
    "application/vnd.org.margo.component.compose.v1+json": "compose",
    "application/vnd.margo.component.compose.v1+json": "compose",
    "application/vnd.org.margo.component.compose.tar+gzip": "compose-archive",
    "application/vnd.org.margo.component.compose.v1.tar+gzip": "compose-archive",
    "application/vnd.margo.component.compose.v1.tar+gzip": "compose-archive",
    "application/vnd.org.margo.component.quadlet.v1+json": "quadlet",
    "application/vnd.org.margo.component.quadlet+json": "quadlet",
    "application/vnd.org.margo.component.quadlet.v1.tar.gzip": "quadlet-archive",
    "application/vnd.org.margo.component.quadlet.v1.tar+gzip": "quadlet-archive",
    "application/vnd.org.margo.component.quadlet.tar+gzip": "quadlet-archive",
    "application/vnd.dev.sigstore.bundle.v0.3+json": "sigstore-bundle",
    "application/vnd.cncf.notary.signature": "notary",
}


def kind_of(media_type: str) -> Kind:
    """Return what a media type or artifact type stands for, in any of its spellings (format 1.2)."""
    return _KINDS.get(media_type, "other")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An image manifest together with the very bytes it was read from."""

    data: bytes
    artifact_type: str
    config: Descriptor
    layers: Sequence[Descriptor]
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        """What names this manifest: digest and size of its bytes."""
        return Descriptor.of(self.data, IMAGE_MANIFEST)

    @property
    def digest(self) -> str:
        """The digest of its bytes."""
        return digest_of(self.data)

    @classmethod
    def build(
        cls,
        artifact_type: str,
        layers: Sequence[Descriptor],
        annotations: Mapping[str, str] | None = None,
        subject: Descriptor | None = None,
    ) -> "Manifest":
        """Make a manifest with the empty config: the same input gives the same bytes (format 1.3)."""
        raw: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": artifact_type,
            "config": EMPTY_CONFIG.to_dict(),
            "layers": [layer.to_dict() for layer in layers],
        }
        if subject:
            raw["subject"] = subject.to_dict()
        if annotations:
            raw["annotations"] = dict(annotations)
        return cls(
            data=canonical_json(raw),
            artifact_type=artifact_type,
            config=EMPTY_CONFIG,
            layers=tuple(layers),
            subject=subject,
            annotations=annotations or {},
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str) -> "Manifest":
        """Parse a manifest. Raises FormatError that says where, starting with `what`."""
        raw = parse_json(data, what=what)
        if raw.get("schemaVersion") != 2:
            raise FormatError(f"{what}: schemaVersion: 2 is expected, got {raw.get('schemaVersion')!r:.80}")
        media_type = raw.get("mediaType", IMAGE_MANIFEST)
        if media_type not in (IMAGE_MANIFEST, DOCKER_MANIFEST):
            raise FormatError(f"{what}: mediaType: an image manifest is expected, got {media_type!r:.80}")
        layers = _descriptors(raw.get("layers", []), LAYER_COUNT_LIMIT, at=f"{what}: layers")
        subject = raw.get("subject")
        config = Descriptor.from_dict(raw.get("config"), at=f"{what}: config")
        artifact_type = raw.get("artifactType") or config.media_type
        return cls(
            data=data,
            artifact_type=artifact_type if isinstance(artifact_type, str) else "",
            config=config,
            layers=layers,
            subject=Descriptor.from_dict(subject, at=f"{what}: subject") if subject is not None else None,
            annotations=string_map(raw.get("annotations"), at=f"{what}: annotations"),
        )


def parse_index(data: bytes, *, what: str) -> Sequence[Descriptor]:
    """Return the manifests an image index lists. Raises FormatError."""
    raw = parse_json(data, what=what)
    if raw.get("mediaType", IMAGE_INDEX) != IMAGE_INDEX or "manifests" not in raw:
        raise FormatError(f"{what}: an image index is expected, got {raw.get('mediaType')!r:.80}")
    return _descriptors(raw["manifests"], REFERRER_COUNT_LIMIT, at=f"{what}: manifests")


def build_index(manifests: Sequence[Descriptor]) -> bytes:
    """Return an image index that lists `manifests`, as the referrers tag schema wants it."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": IMAGE_INDEX,
            "manifests": [manifest.to_dict() for manifest in manifests],
        }
    )


def _descriptors(raw: object, limit: int, *, at: str) -> Sequence[Descriptor]:
    if not isinstance(raw, list):
        raise FormatError(f"{at}: a list is expected, got {type(raw).__name__}")
    if len(raw) > limit:
        raise FormatError(f"{at}: {len(raw)} entries, at most {limit} are read")
    return tuple(Descriptor.from_dict(item, at=f"{at}[{i}]") for i, item in enumerate(raw))
