"""Content addressed by digest: descriptors, JSON with limits, and the one way to read bytes safely.

OCI image-spec v1.1 descriptor.md; the limits are ours (docs/format.md, section 7).
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from margo_oci.errors import FormatError, TrustError

MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024  # what registries commonly accept (distribution-spec: 4 MiB)
SIGNATURE_LIMIT_BYTES = 64 * 1024
BLOB_LIMIT_BYTES = 64 * 1024 * 1024  # layers and archives are documents and settings; they are read whole
INLINE_LIMIT_BYTES = 64 * 1024
JSON_DEPTH_LIMIT = 32
MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

EMPTY_JSON = b"{}"


def digest_of(data: bytes) -> str:
    """Return `sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: object) -> bool:
    """Tell whether `text` is a digest we accept: sha256, lower-case hex (format 7.1)."""
    return isinstance(text, str) and DIGEST.fullmatch(text) is not None


def canonical_json(value: object) -> bytes:
    """Return `value` as JSON bytes that are the same on every machine: sorted, no blanks, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def parse_json(data: bytes, *, what: str, limit_bytes: int = MANIFEST_LIMIT_BYTES) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Refuses more than `limit_bytes`, duplicate keys, NaN, deep nesting and anything that is not an
    object (format 7.2). Raises FormatError, starting with `what`.
    """
    if len(data) > limit_bytes:
        raise FormatError(f"{what}: {len(data)} bytes, at most {limit_bytes} are read")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        if b"\\ud" in data.lower():  # half a surrogate pair is no text: it could not be written out again
            canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: a JSON object is expected, got {type(value).__name__}")
    if _deeper_than(value, JSON_DEPTH_LIMIT):
        raise FormatError(f"{what}: nested deeper than {JSON_DEPTH_LIMIT} levels")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"key {key!r:.80} stands twice")
        unique[key] = value
    return unique


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.80} is no number that JSON readers agree on")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _deeper_than(value: object, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_deeper_than(child, levels - 1) for child in children)


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """What points at content: media type, digest, size in bytes, at times the content itself (OCI descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    data: bytes | None = None

    @classmethod
    def of(
        cls, data: bytes, media_type: str, annotations: Mapping[str, str] | None = None, *, inline: bool = False
    ) -> "Descriptor":
        """Describe `data`, and carry it along if `inline`."""
        return cls(
            media_type=media_type,
            digest=digest_of(data),
            size=len(data),
            annotations=annotations or {},
            data=data if inline else None,
        )

    @classmethod
    def from_dict(cls, raw: object, *, at: str) -> "Descriptor":
        """Parse one descriptor; `at` is where it stands, for the message. Raises FormatError."""
        if not isinstance(raw, dict):
            raise FormatError(f"{at}: a descriptor is expected, got {type(raw).__name__}")
        media_type, digest, size = raw.get("mediaType"), raw.get("digest"), raw.get("size")
        if not isinstance(media_type, str) or not MEDIA_TYPE.fullmatch(media_type):
            raise FormatError(f"{at}.mediaType: unusable media type {media_type!r:.80}")
        if not isinstance(digest, str) or not is_digest(digest):
            raise FormatError(f"{at}.digest: sha256:<64 lower-case hex> is expected, got {digest!r:.80}")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            raise FormatError(f"{at}.size: a size in bytes is expected, got {size!r:.80}")
        artifact_type = raw.get("artifactType", "")
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            annotations=string_map(raw.get("annotations"), at=f"{at}.annotations"),
            artifact_type=artifact_type if isinstance(artifact_type, str) else "",
            data=_inlined(raw["data"], digest, size, at=f"{at}.data") if "data" in raw else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; what is empty is left out."""
        raw: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.artifact_type:
            raw["artifactType"] = self.artifact_type
        if self.annotations:
            raw["annotations"] = dict(self.annotations)
        if self.data is not None:
            raw["data"] = base64.b64encode(self.data).decode()
        return raw


def _inlined(raw: object, digest: str, size: int, *, at: str) -> bytes:
    """Return the content a descriptor carries, if it is what the descriptor names (format 7.3)."""
    if not isinstance(raw, str) or size > INLINE_LIMIT_BYTES or len(raw) > 4 * (size // 3 + 1):
        raise FormatError(f"{at}: base64 of {size} bytes is expected, at most {INLINE_LIMIT_BYTES}")
    try:
        data = base64.b64decode(raw, validate=True)
    except (ValueError, binascii.Error):
        raise FormatError(f"{at}: base64 is expected") from None
    if len(data) != size or digest_of(data) != digest:
        raise FormatError(f"{at}: this is not the content with digest {digest}")
    return data


EMPTY_CONFIG = Descriptor.of(EMPTY_JSON, "application/vnd.oci.empty.v1+json")


def string_map(raw: object, *, at: str) -> dict[str, str]:
    """Return a string-to-string map (OCI annotations); absent is empty. Raises FormatError."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise FormatError(f"{at}: a map of strings is expected")
    return raw


class Verifier:
    """Takes content piece by piece and fails unless it is exactly what the descriptor names (format 7.3).

    The declared size limits reading and never allocates. Raises TrustError `digest-mismatch`.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.seen_bytes = 0
        self._hasher = hashlib.sha256()

    def feed(self, chunk: bytes) -> bytes:
        """Take the next piece, and return it."""
        self.seen_bytes += len(chunk)
        if self.seen_bytes > self.descriptor.size:
            raise mismatch(self.descriptor, f"more than the declared {self.descriptor.size} bytes")
        self._hasher.update(chunk)
        return chunk

    def finish(self) -> None:
        """Say that this was all."""
        if self.seen_bytes < self.descriptor.size:
            raise mismatch(self.descriptor, f"{self.seen_bytes} of {self.descriptor.size} declared bytes")
        if "sha256:" + self._hasher.hexdigest() != self.descriptor.digest:
            raise mismatch(self.descriptor, f"content with digest sha256:{self._hasher.hexdigest()}")


def check(data: bytes, descriptor: Descriptor) -> bytes:
    """Return `data` if it is what `descriptor` names. Raises TrustError `digest-mismatch`."""
    verifier = Verifier(descriptor)
    verifier.feed(data)
    verifier.finish()
    return data


def mismatch(descriptor: Descriptor, got: str) -> TrustError:
    """Return the refusal of content that is not what its descriptor says."""
    return TrustError(
        "digest-mismatch",
        f"{descriptor.digest}: got {got}: tampered content or a broken registry",
    )
