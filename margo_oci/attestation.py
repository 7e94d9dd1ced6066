"""What is said about content besides "this is a release": SBOMs, VEX, provenance, vulnerability reports.

Sources: in-toto Statement v1 and the predicate types that cosign 3 uses; SPDX 2.3 and 3.0, CycloneDX, OpenVEX 0.2,
SLSA provenance 0.2 and 1. Names here are those of `--type`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.content import MEDIA_TYPE, canonical_json, parse_json
from margo_oci.cosign import STATEMENT_TYPE
from margo_oci.errors import FormatError, said

DOCUMENT_LIMIT_BYTES = 16 * 1024 * 1024
BUNDLE_LIMIT_BYTES = 2 * DOCUMENT_LIMIT_BYTES  # base64 and what stands around it
CUSTOM = "https://cosign.sigstore.dev/attestation/v1"
_Fits = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class DocumentType:
    """A kind of document: its media type where it lies unsigned, and by its form the predicate type where it is signed.

    Without forms it is whatever its media type says, and only looked at when it is signed.
    """

    name: str
    media_type: str
    forms: Sequence[tuple[str, _Fits]] = ()
    expected: str = ""

    def predicate_type(self, document: Mapping[str, Any]) -> str:
        """Return what a document is, as attestations name it. Raises FormatError if it is not of this type."""
        if not self.forms:
            return CUSTOM
        for predicate_type, fits in self.forms:
            if fits(document):
                return predicate_type
        raise FormatError(f"not of type {self.name}: {self.expected}")


def _is_spdx(raw: Mapping[str, Any]) -> bool:
    return str(raw.get("spdxVersion", "")).startswith("SPDX-") or "spdx.org/rdf/" in str(raw.get("@context", ""))


def _is_cyclonedx(raw: Mapping[str, Any]) -> bool:
    return raw.get("bomFormat") == "CycloneDX" and isinstance(raw.get("specVersion"), str)


def _is_openvex(raw: Mapping[str, Any]) -> bool:
    context = str(raw.get("@context", ""))
    return context.startswith("https://openvex.dev/ns") and isinstance(raw.get("statements"), list)


def _is_vuln(raw: Mapping[str, Any]) -> bool:
    return isinstance(raw.get("scanner"), dict) and isinstance(raw.get("metadata"), dict)


def _has(*keys: str) -> _Fits:
    return lambda raw: all(key in raw for key in keys)


TYPES: Mapping[str, DocumentType] = {
    one.name: one
    for one in (
        DocumentType(
            "sbom-spdx", "application/spdx+json", [("https://spdx.dev/Document", _is_spdx)],
            "spdxVersion is expected, or the @context of SPDX 3",
        ),
        DocumentType(
            "sbom-cyclonedx", "application/vnd.cyclonedx+json", [("https://cyclonedx.org/bom", _is_cyclonedx)],
            "bomFormat CycloneDX and specVersion are expected",
        ),
        DocumentType(
            "vex", "application/vnd.openvex+json", [("https://openvex.dev/ns", _is_openvex)],
            "OpenVEX's @context and statements are expected",
        ),
        DocumentType(
            "provenance", "application/vnd.in-toto.provenance+json",
            [("https://slsa.dev/provenance/v1", _has("buildDefinition", "runDetails")),
             ("https://slsa.dev/provenance/v0.2", _has("builder", "buildType"))],
            "buildDefinition and runDetails are expected (SLSA 1), or builder and buildType (0.2)",
        ),
        DocumentType(
            "vuln", "application/vnd.in-toto.vuln+json",
            [("https://cosign.sigstore.dev/attestation/vuln/v1", _is_vuln)],
            "scanner and metadata are expected, as in cosign's vulnerability reports",
        ),
    )
}  # fmt: skip
PREDICATES: Mapping[str, str] = {
    predicate_type: name for name, kind in TYPES.items() for predicate_type, _ in kind.forms
} | {CUSTOM: "a document"}


def document_type(name: str) -> DocumentType:
    """Return what `--type` names: one of TYPES, or any media type. Raises FormatError."""
    if name in TYPES:
        return TYPES[name]
    if not MEDIA_TYPE.fullmatch(name):
        raise FormatError(f"type {said(name)!r}: one of {', '.join(TYPES)} is expected, or a media type")
    return DocumentType(name, name)


def check_document(kind: DocumentType, data: bytes, *, what: str) -> None:
    """Check a document that lies there unsigned. Raises FormatError, starting with `what`."""
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise FormatError(f"{what}: {len(data)} bytes, at most {DOCUMENT_LIMIT_BYTES} are attached")
    if kind.forms:
        _parsed(kind, data, what)


def attestation(kind: DocumentType, data: bytes, digest: str, *, name: str, what: str) -> tuple[str, bytes]:
    """Return predicate type and in-toto statement that say of `digest` what a document says.

    `name` is `host/repository`. Raises FormatError, starting with `what`.
    """
    predicate_type, document = _parsed(kind, data, what)
    predicate = document if kind.forms else {"Data": document}  # as cosign does for types it does not know
    subject = {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
    said_of_it = {
        "_type": STATEMENT_TYPE, "predicateType": predicate_type, "predicate": predicate, "subject": [subject],
    }  # fmt: skip
    return predicate_type, canonical_json(said_of_it)


def _parsed(kind: DocumentType, data: bytes, what: str) -> tuple[str, Mapping[str, Any]]:
    document = parse_json(data, what=what, limit_bytes=DOCUMENT_LIMIT_BYTES)
    try:
        return kind.predicate_type(document), document
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
