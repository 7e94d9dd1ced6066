"""Every number that bounds something in sections 7, 9 and 10 of docs/format.md is a constant by name, and is held."""

import json
import re
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from margo_oci import (
    archive,
    auth,
    carrier,
    cbor,
    certificates,
    content,
    cosign_key,
    envelopes,
    errors,
    freshness,
    head,
    helper,
    manifest,
    root,
    signers,
    simple_signing,
    tarheaders,
    transfer,
    trustpolicy,
    tuf,
    upload,
    yamldoc,
)
from margo_oci.archive import Entry
from margo_oci.composereads import reads_only_the_archive
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError, said
from margo_oci.manifest import Manifest
from margo_oci.tuf import parse_keys
from tests.unit.scenes import ROOT

KIB, MIB = 1024, 1024 * 1024

# The rule, the words in it, and what holds to them.
LIMITS = [
    ("7.2", "at most 32 levels deep", content.JSON_DEPTH_LIMIT, 32),
    ("7.2", "A manifest or index has at most 4 MiB", content.MANIFEST_LIMIT_BYTES, 4 * MIB),
    ("7.2", "signature manifest or bundle 64 KiB", content.SIGNATURE_LIMIT_BYTES, 64 * KIB),
    ("7.2", "a layer or archive 64 MiB", content.BLOB_LIMIT_BYTES, 64 * MIB),
    ("7.2", "a manifest 4,096 layers", manifest.LAYER_COUNT_LIMIT, 4096),
    ("7.2", "an index 256 entries", manifest.REFERRER_COUNT_LIMIT, 256),
    ("7.4", "at most 10,000 entries", archive.ENTRY_LIMIT, 10_000),
    ("7.4", "64 MiB unpacked", archive.UNPACKED_LIMIT_BYTES, 64 * MIB),
    ("7.4", "at most 1,000 times its size", archive.RATIO_LIMIT, 1000),
    ("7.4", "at most 8 KiB", tarheaders.EXTENSION_LIMIT_BYTES, 8 * KIB),
    ("7.4", "an entry three of them", 1 + tarheaders.EXTENSIONS_PER_ENTRY, 3),
    ("7.4", "more than 64 digits", tarheaders.DIGITS_LIMIT, 64),
    ("7.4", "at most 64 hold for all entries", archive.GLOBAL_RECORDS_LIMIT, 64),
    ("7.6", "at most 1 MiB", yamldoc.DOCUMENT_LIMIT_BYTES, MIB),
    ("7.6", "32 levels deep", yamldoc.DEPTH_LIMIT, 32),
    ("7.6", "at most 50,000 values", yamldoc.NODE_LIMIT, 50_000),
    ("7.7", "At most 16 signatures", transfer.SIGNATURE_COUNT_LIMIT, 16),
    ("7.9", "at most 300 characters", errors.OUTSIDE_LIMIT_CHARS, 300),
    ("7.10", "at most 64 KiB", upload.ANSWER_LIMIT_BYTES, 64 * KIB),
    ("7.10", "at most 64 KiB", auth.TOKEN_LIMIT_BYTES, 64 * KIB),
    ("7.10", "at most 64 KiB", helper.HELPER_LIMIT_BYTES, 64 * KIB),
    ("7.10", "30 seconds", helper.HELPER_TIMEOUT_S, 30),
    ("9.5", "the first 16 layers", simple_signing.LAYERS_LOOKED_AT, 16),
    ("9.5", "at most 64 KiB", simple_signing.PAYLOAD_LIMIT_BYTES, 64 * KIB),
    ("9.9", "at most 8 levels", cbor.DEPTH_LIMIT, 8),
    ("9.13", "at most 10 certificates", certificates.CHAIN_LIMIT, 10),
    ("9.17", "at most 256 trusted identities", trustpolicy.IDENTITY_LIMIT, 256),
    ("9.18", "N 2^15, 2^16", [cost["N"] for cost in cosign_key.COSTS], [2**15, 2**16, 2**17]),
    ("9.19", "16 KiB", signers.ANSWER_LIMIT_BYTES, 16 * KIB),
    ("10.1", "a head at most 16 KiB", head.HEAD_LIMIT_BYTES, 16 * KIB),
    ("10.1", "a root 64 KiB", root.ROOT_LIMIT_BYTES, 64 * KIB),
    ("10.1", "at most 64 keys", tuf.KEY_COUNT_LIMIT, 64),
    ("10.1", "64 signatures", tuf.SIGNATURE_COUNT_LIMIT, 64),
    ("10.2", "1 to 2^53-1", tuf.VERSION_LIMIT, 2**53 - 1),
    ("10.3", "2,048 to 8,192 bits", (tuf.RSA_BITS[0], tuf.RSA_BITS[-1]), (2048, 8192)),
    ("10.5", "At most 256", root.CHAIN_LIMIT, 256),
    ("10.8", "at most 366 days", head.LIFETIME_LIMIT, timedelta(days=366)),
    ("10.10", "more than 1,000,000", head.JUMP_LIMIT, 1_000_000),
    ("10.15", "at most 16 Sigstore bundles", carrier.BUNDLE_COUNT_LIMIT, 16),
    ("10.15", "up to 8 KiB", carrier.INLINED_AT_MOST_BYTES, 8 * KIB),
    ("10.15", "at most 256 KiB", freshness.CARRIER_LIMIT_BYTES, 256 * KIB),
    ("10.15", "at most 64 KiB", content.INLINE_LIMIT_BYTES, 64 * KIB),
]


@pytest.mark.parametrize(("number", "words", "held", "said_there"), LIMITS)
def test_a_limit_in_the_document_is_the_one_that_is_held(
    number: str, words: str, held: object, said_there: object
) -> None:
    text = (ROOT / "docs" / "format.md").read_text()
    rule = text.partition(f"**{number}**")[2].partition("\n\n")[0]
    assert words in " ".join(rule.split())
    assert held == said_there


def test_every_limit_in_bytes_of_these_sections_is_in_the_list() -> None:
    text = (ROOT / "docs" / "format.md").read_text()
    for section in ("7", "9", "10"):
        body = text.partition(f"\n## {section}. ")[2].partition("\n## ")[0]
        for number, rule in re.findall(r"\*\*(\d+\.\d+)\*\*(.*?)(?=\*\*\d+\.\d+\*\*|$)", body, re.DOTALL):
            if re.search(r"\d (KiB|MiB)\b", rule):
                assert number in {each[0] for each in LIMITS}, number


def test_7_6_a_document_has_so_many_values_and_no_more() -> None:
    yamldoc.parse_yaml(b"- a\n" * (yamldoc.NODE_LIMIT - 1), what="x.yaml")  # the list is one, too
    with pytest.raises(FormatError, match=r"x\.yaml:50000: more than 50000 values"):
        yamldoc.parse_yaml(b"- a\n" * yamldoc.NODE_LIMIT, what="x.yaml")


def test_8_7_files_that_extend_each_other_have_so_many_values_together() -> None:
    def extending(name: str) -> bytes:
        return f"services: {{a: {{extends: {{file: {name}, service: a}}}}}}\nx-a: [{'a,' * 30_000}]\n".encode()

    files = {"top/compose.yaml": extending("b.yaml"), "top/b.yaml": extending("compose.yaml")}
    (fault,) = reads_only_the_archive([Entry(path, data) for path, data in files.items()])
    assert str(fault) == "top/b.yaml: more than 50000 values in files that extend or include each other"


def test_7_9_a_message_from_outside_is_cut_off() -> None:
    assert len(said("a\n" * 1000)) == errors.OUTSIDE_LIMIT_CHARS


def test_9_9_cbor_has_so_many_levels_and_one_more_is_refused() -> None:
    def deep(levels: int) -> bytes:
        return b"\x81" * (levels - 1) + b"\x00"

    cbor.parse_cbor(deep(cbor.DEPTH_LIMIT), what="x", limit_bytes=envelopes.ENVELOPE_LIMIT_BYTES)
    with pytest.raises(FormatError, match="nested deeper than 8 levels"):
        cbor.parse_cbor(deep(cbor.DEPTH_LIMIT + 1), what="x", limit_bytes=envelopes.ENVELOPE_LIMIT_BYTES)


def test_9_13_a_chain_has_so_many_certificates_and_no_more() -> None:
    with pytest.raises(FormatError, match="1 to 10 are expected, got 11"):
        certificates.Chain.parse([b""] * (certificates.CHAIN_LIMIT + 1))


def test_10_1_a_root_has_at_most_64_keys() -> None:
    with pytest.raises(FormatError, match="a map of at most 64 keys is expected"):
        parse_keys({str(number): {} for number in range(tuf.KEY_COUNT_LIMIT + 1)}, what="root")


def test_10_3_a_short_rsa_key_is_refused() -> None:
    public = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505  (too short)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    raw = {"keytype": "rsa", "scheme": "rsassa-pss-sha256", "keyval": {"public": pem}}
    with pytest.raises(FormatError, match="not a usable 'rsassa-pss-sha256' key"):
        parse_keys({"a": raw}, what="root")


def test_10_15_a_carrier_has_at_most_16_bundles_each_at_most_64_kib() -> None:
    layers = [Descriptor.of(b"head", carrier.TUF_TYPE)]
    bundle = Descriptor.of(b"bundle", "application/vnd.dev.sigstore.bundle.v0.3+json")
    carrier.parse_carrier(Manifest.build(carrier.HEAD_ARTIFACT, layers + [bundle] * carrier.BUNDLE_COUNT_LIMIT))
    with pytest.raises(FormatError, match=r"at most 16 bundles, .* with 1 and 17"):
        carrier.parse_carrier(Manifest.build(carrier.HEAD_ARTIFACT, layers + [bundle] * 17))
    large = Descriptor.of(bytes(content.SIGNATURE_LIMIT_BYTES + 1), bundle.media_type)
    with pytest.raises(FormatError, match="65537 bytes, at most 65536 are read"):
        carrier.parse_carrier(Manifest.build(carrier.HEAD_ARTIFACT, [*layers, large]))


def test_10_15_more_than_64_kib_are_not_inlined() -> None:
    def read(size: int) -> Descriptor:
        raw = Descriptor.of(bytes(size), "a/b", inline=True).to_dict()
        return Descriptor.from_dict(json.loads(json.dumps(raw)), at="layer")

    assert read(content.INLINE_LIMIT_BYTES).data == bytes(content.INLINE_LIMIT_BYTES)
    with pytest.raises(FormatError, match=r"layer\.data: base64 of 65537 bytes is expected, at most 65536"):
        read(content.INLINE_LIMIT_BYTES + 1)
