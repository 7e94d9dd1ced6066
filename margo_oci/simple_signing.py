"""cosign v2 signatures: signed payloads as the layers of an image, under a tag made from the signed digest.

Sources: cosign v2 pkg/oci/static and pkg/oci/remote for what is written; containers/image
signature/internal/sigstore_payload.go for what is accepted, which is stricter than cosign itself.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from margo_oci.content import SIGNATURE_LIMIT_BYTES, Descriptor, canonical_json, digest_of, is_digest, parse_json
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import PublicKey, Signer, p256_only
from margo_oci.manifest import IMAGE_MANIFEST, Manifest

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
SIGNED_TYPE = "cosign container image signature"
LAYERS_LOOKED_AT = 16
PAYLOAD_LIMIT_BYTES = SIGNATURE_LIMIT_BYTES
_NO_TIME = "0001-01-01T00:00:00Z"
_GO_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Signature:
    """One layer of a `.sig` image: the payload's bytes, and a signature over exactly these."""

    payload: bytes
    signature: bytes

    @property
    def descriptor(self) -> Descriptor:
        """How the layer is listed: the signature stands beside the payload's digest."""
        return Descriptor.of(self.payload, PAYLOAD_TYPE, {SIGNATURE: base64.b64encode(self.signature).decode()})

    def made_by(self, key: PublicKey) -> bool:
        """Tell whether it holds, and was made with `key` (P-256)."""
        return key.verifies(self.signature, self.payload)


@dataclass(frozen=True)
class Claim:
    """What a payload says. `docker_reference` is for the caller to compare, cosign itself does not."""

    digest: str
    docker_reference: str
    optional: Mapping[str, Any] = field(default_factory=dict)


def tag_of(digest: str) -> str:
    """Return the tag under which the signatures of `digest` stand."""
    return f"{digest.replace(':', '-')}.sig"


def payload(digest: str, *, name: str, annotations: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes that cosign signs for `digest`; `name` is `host/repository`."""
    value = {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": SIGNED_TYPE,
        },
        "optional": dict(annotations) if annotations else None,
    }
    # Go writes these five characters escaped, wherever they stand.
    return canonical_json(value).decode().translate(_GO_ESCAPES).encode()


def sign(digest: str, signer: Signer, *, name: str, annotations: Mapping[str, str] | None = None) -> Signature:
    """Return a signature over `digest`, as `cosign sign --key` (v2) makes it. Raises FormatError if not P-256."""
    signed = payload(digest, name=name, annotations=annotations)
    return Signature(signed, p256_only(signer).sign(signed))


def signature_image(signature: Signature, existing: Manifest | None = None) -> tuple[bytes, Manifest]:
    """Return config and manifest of the `.sig` image with `signature` added to what `existing` holds.

    Every layer that is there stays as it is. Raises FormatError when there are as many as are looked at.
    """
    raw = parse_json(existing.data, what="signatures") if existing else {}
    layers = [*raw.get("layers", []), signature.descriptor.to_dict()]
    if len(layers) > LAYERS_LOOKED_AT:
        raise FormatError(f"signatures: {LAYERS_LOOKED_AT} are there already, and no more are looked at")
    config = _config([layer["digest"] for layer in layers])
    raw |= {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor.of(config, CONFIG_TYPE).to_dict(),
        "layers": layers,
    }
    return config, Manifest.from_bytes(canonical_json(raw), what="signatures")


def signature_layers(manifest: Manifest) -> Sequence[Descriptor]:
    """Return the layers of a `.sig` image that are worth fetching: of the first 16, those that can be signatures."""
    return [
        layer
        for layer in manifest.layers[:LAYERS_LOOKED_AT]
        if layer.media_type == PAYLOAD_TYPE and layer.size <= PAYLOAD_LIMIT_BYTES and SIGNATURE in layer.annotations
    ]


def read_signature(layer: Descriptor, blob: bytes) -> Signature:
    """Put a layer and its blob together. Raises FormatError."""
    if len(blob) > PAYLOAD_LIMIT_BYTES:
        raise FormatError(f"payload: {len(blob)} bytes, at most {PAYLOAD_LIMIT_BYTES} are read")
    if digest_of(blob) != layer.digest:
        raise FormatError(f"payload: it is not what the layer {layer.digest} names")
    try:
        return Signature(blob, base64.b64decode(layer.annotations[SIGNATURE], validate=True))
    except (KeyError, ValueError, binascii.Error):
        raise FormatError(f"payload: the annotation {SIGNATURE} is not base64") from None


def verify(signature: Signature, digest: str, keys: Sequence[PublicKey]) -> tuple[PublicKey, Claim]:
    """Return which of `keys` made `signature` over `digest`, and what it says besides.

    Raises TrustError: wrong-key, malformed-signature, moved-signature.
    """
    key = next((key for key in keys if signature.made_by(key)), None)
    if key is None:
        names = ", ".join(f"{key.name} ({key.fingerprint})" for key in keys)
        raise TrustError("wrong-key", f"{digest}: signed, but by no key that is trusted here: {names}")
    try:
        said = parse_payload(signature.payload)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{digest}: {error}") from None
    if said.digest != digest:
        raise TrustError("moved-signature", f"{digest}: its signature is for {said.digest}: moved here from there")
    return key, said


def parse_payload(data: bytes) -> Claim:
    """Parse a payload as strictly as containers/image does. Call it only after its signature held.

    Raises FormatError.
    """
    raw = parse_json(data, what="payload", limit_bytes=PAYLOAD_LIMIT_BYTES)
    critical, optional = _exactly(raw, ("critical", "optional"), "payload").values()
    identity, image, kind = _exactly(critical, ("identity", "image", "type"), "payload: critical").values()
    if kind != SIGNED_TYPE:
        raise FormatError(f"payload: type {kind!r:.80}: {SIGNED_TYPE!r} is expected")
    (digest,) = _exactly(image, ("docker-manifest-digest",), "payload: image").values()
    (reference,) = _exactly(identity, ("docker-reference",), "payload: identity").values()
    if not is_digest(digest):
        raise FormatError(f"payload: docker-manifest-digest {digest!r:.80}: sha256:<64 lower-case hex> is expected")
    if not isinstance(reference, str):
        raise FormatError("payload: docker-reference: text is expected")
    return Claim(digest, reference, _optional(optional))


def _optional(raw: object) -> Mapping[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise FormatError("payload: optional: an object or null is expected")
    if not isinstance(raw.get("creator", ""), str):
        raise FormatError("payload: optional: creator: text is expected")
    timestamp = raw.get("timestamp", 0)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or timestamp != int(timestamp):
        raise FormatError("payload: optional: timestamp: whole seconds are expected")
    return raw


def _exactly(raw: object, keys: Sequence[str], what: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.keys() != set(keys):
        raise FormatError(f"{what}: exactly these fields are expected: {', '.join(keys)}")
    return {key: raw[key] for key in keys}


def _config(layer_digests: Sequence[str]) -> bytes:
    """Return the config that cosign writes and nobody looks at, in the order Go writes it."""
    value = {
        "architecture": "",
        "created": _NO_TIME,
        "history": [{"created": _NO_TIME} for _ in layer_digests],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": list(layer_digests)},
        "config": {},
    }
    return json.dumps(value, separators=(",", ":")).encode()
