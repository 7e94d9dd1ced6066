"""How heads and roots lie in a registry: manifests under tags of their own (docs/format.md, section 10).

The layout of the chain of roots is that of go-tuf-mirror: a layer a file, its name in `tuf.io/filename`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from margo_oci.content import SIGNATURE_LIMIT_BYTES, Descriptor
from margo_oci.cosign import BUNDLE_TYPE
from margo_oci.errors import FormatError
from margo_oci.manifest import Manifest, kind_of

HEAD_ARTIFACT = "application/vnd.org.margo.oci.head.v1+json"
TRUST_ARTIFACT = "application/vnd.org.margo.oci.trust.v1+json"
TUF_TYPE = "application/vnd.tuf.metadata+json"
FILENAME = "tuf.io/filename"
TRUST_TAG = "trust"
BUNDLE_COUNT_LIMIT = 16
INLINED_AT_MOST_BYTES = 8 * 1024  # an ordinary bundle has one; 16 of them stay within the limit of a carrier
_ROOT_FILE = re.compile(r"([1-9][0-9]{0,15})\.root\.json")


@dataclass(frozen=True)
class Carrier:
    """What a head's manifest carries; a layer without `data` is a blob to fetch."""

    head: Descriptor
    bundles: Sequence[Descriptor]


def build_carrier(head: bytes, bundles: Sequence[bytes]) -> Manifest:
    """Return the manifest that carries a head and the signatures of the release that it names (10.15)."""
    layers = [
        Descriptor.of(head, TUF_TYPE, {FILENAME: "head.json"}, inline=True),
        *(Descriptor.of(one, BUNDLE_TYPE, inline=len(one) <= INLINED_AT_MOST_BYTES) for one in bundles),
    ]
    return Manifest.build(HEAD_ARTIFACT, layers)


def parse_carrier(manifest: Manifest) -> Carrier:
    """Return what a head's manifest carries. Raises FormatError."""
    heads = [layer for layer in manifest.layers if layer.media_type == TUF_TYPE]
    bundles = [layer for layer in manifest.layers if kind_of(layer.media_type) == "sigstore-bundle"]
    if manifest.artifact_type != HEAD_ARTIFACT or len(heads) != 1 or len(bundles) > BUNDLE_COUNT_LIMIT:
        raise FormatError(
            f"manifest {manifest.digest[:19]}: a head is expected: {HEAD_ARTIFACT} with one document and at most "
            f"{BUNDLE_COUNT_LIMIT} bundles, got {manifest.artifact_type!r:.80} with {len(heads)} and {len(bundles)}"
        )
    if too_long := next((one for one in bundles if one.size > SIGNATURE_LIMIT_BYTES), None):
        raise FormatError(f"{too_long.digest}: {too_long.size} bytes, at most {SIGNATURE_LIMIT_BYTES} are read")
    return Carrier(heads[0], bundles)


def build_chain(roots: Mapping[int, Descriptor]) -> Manifest:
    """Return the manifest that lists all roots by version (10.16)."""
    layers = [
        Descriptor(
            media_type=TUF_TYPE, digest=one.digest, size=one.size, annotations={FILENAME: f"{version}.root.json"}
        )
        for version, one in sorted(roots.items())
    ]
    return Manifest.build(TRUST_ARTIFACT, layers)


def parse_chain(manifest: Manifest) -> Mapping[int, Descriptor]:
    """Return the roots that a manifest lists by version; other layers are passed over. Raises FormatError."""
    found: dict[int, Descriptor] = {}
    for layer in manifest.layers:
        name = _ROOT_FILE.fullmatch(layer.annotations.get(FILENAME, ""))
        if layer.media_type != TUF_TYPE or not name:
            continue
        if int(name[1]) in found:
            raise FormatError(f"manifest {manifest.digest[:19]}: {name[0]} stands twice")
        found[int(name[1])] = layer
    return found
