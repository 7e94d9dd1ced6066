"""Signatures as cosign v3 writes them, byte by byte, and bundles before anything in them is believed."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.content import Descriptor, parse_json
from margo_oci.cosign import (
    PAYLOAD_TYPE,
    RELEASE,
    bundle,
    pae,
    parse_bundle,
    parse_statement,
    sign,
    signature_manifest,
    statement,
)
from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey
from margo_oci.manifest import Manifest
from tests.unit.scenes import DIGEST, VECTORS, changed, key, read_or_refused, state
from tests.unit.test_content import JSON

FILES = VECTORS / "cosign"
STATEMENT = (FILES / "statement.json").read_bytes()
SIGNATURE = base64.b64decode((FILES / "signature.txt").read_bytes())
BUNDLE = (FILES / "bundle.json").read_bytes()
SIGNED_DIGEST = "sha256:f3c6c4f404f8c5c7609ca8ed82616731b60aef444cb8ded2538aedb4ef0b9328"


def public() -> PublicKey:
    return PublicKey.from_pem((FILES / "key.pub").read_bytes(), name="key.pub")


def test_what_is_signed_has_a_length_before_each_part() -> None:
    """DSSE v1, protocol.md: its own example."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "
    assert pae(PAYLOAD_TYPE, STATEMENT) == b"DSSEv1 28 application/vnd.in-toto+json 300 " + STATEMENT


def test_a_signature_made_elsewhere_holds() -> None:
    envelope = parse_bundle(BUNDLE)
    assert envelope.payload == STATEMENT
    assert envelope.signature == SIGNATURE
    assert public().verifies(envelope.signature, envelope.signed)
    assert parse_statement(envelope.payload).digests == {SIGNED_DIGEST}
    assert parse_statement(envelope.payload).predicate_type == RELEASE


def test_it_does_not_hold_for_anything_else() -> None:
    envelope = parse_bundle(BUNDLE)
    assert not public().verifies(envelope.signature, envelope.payload)
    assert not public().verifies(envelope.signature, envelope.signed + b" ")
    assert not public().verifies(b"", envelope.signed)
    assert not public().verifies(b"no signature at all", envelope.signed)
    assert not key().public.verifies(envelope.signature, envelope.signed)


def test_the_bundle_around_it_has_fixed_bytes() -> None:
    assert bundle(STATEMENT, SIGNATURE, hint=public().hint) == BUNDLE
    assert public().hint == "jY/syu+08APXBKa2nGMqqQ6kHyFPZVsP8VA+LZU6rcw="


def test_the_statement_is_the_one_cosign_signs() -> None:
    written = statement(
        SIGNED_DIGEST, name="127.0.0.1:5099/fleet/edge-17", annotations={"org.example.state.version": "42"}
    )
    assert written == STATEMENT
    assert parse_json(statement(DIGEST, name="a/b"), what="statement")["subject"] == [
        {"name": "a/b", "digest": {"sha256": "1" * 64}}
    ]


def test_what_we_sign_is_read_back() -> None:
    envelope = parse_bundle(sign(DIGEST, key(), name="registry.example/fleet/edge-17"))
    assert key().public.verifies(envelope.signature, envelope.signed)
    assert parse_statement(envelope.payload).digests == {DIGEST}


def test_the_manifest_that_carries_it_is_the_one_cosign_looks_for() -> None:
    subject = state().manifest
    carrier = signature_manifest(BUNDLE, subject.descriptor, created="2026-11-21T09:33:39Z")
    raw = parse_json(carrier.data, what="carrier")
    assert raw["artifactType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert raw["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert raw["layers"] == [Descriptor.of(BUNDLE, "application/vnd.dev.sigstore.bundle.v0.3+json").to_dict()]
    assert raw["subject"]["digest"] == subject.digest
    assert raw["annotations"] == {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": RELEASE,
        "org.opencontainers.image.created": "2026-11-21T09:33:39Z",
    }
    assert Manifest.from_bytes(carrier.data, what="carrier") == carrier


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle.v0.4+json",
         "mediaType 'application/vnd.dev.sigstore.bundle.v0.4+json'"),
        (("mediaType",), ..., "mediaType None: application/vnd.dev.sigstore.bundle.v0.3+json is expected"),
        (("messageSignature",), {}, "unknown field 'messageSignature'"),
        (("verificationMaterial",), ..., "verificationMaterial is missing"),
        (("verificationMaterial",), [], "verificationMaterial is missing"),
        (("verificationMaterial", "publicKey"), ..., "verificationMaterial: a publicKey is expected"),
        (("verificationMaterial", "certificate"), {}, "verificationMaterial: unknown field 'certificate'"),
        (("verificationMaterial", "x509CertificateChain"), {},
         "verificationMaterial: unknown field 'x509CertificateChain'"),
        (("dsseEnvelope",), ..., "dsseEnvelope is missing"),
        (("dsseEnvelope", "signatures"), [], "dsseEnvelope: exactly one signature is expected"),
        (("dsseEnvelope", "signatures"), [{"sig": ""}, {"sig": ""}], "dsseEnvelope: exactly one signature is expected"),
        (("dsseEnvelope", "signatures"), {}, "dsseEnvelope: exactly one signature is expected"),
        (("dsseEnvelope", "signatures", 0), "sig", "dsseEnvelope: exactly one signature is expected"),
        (("dsseEnvelope", "signatures", 0, "alg"), "none", "dsseEnvelope: signatures[0]: unknown field 'alg'"),
        (("dsseEnvelope", "signatures", 0, "sig"), "no base64!", "sig: base64 is expected"),
        (("dsseEnvelope", "signatures", 0, "sig"), ..., "sig: base64 is expected"),
        (("dsseEnvelope", "payload"), 7, "payload: base64 is expected"),
        (("dsseEnvelope", "payload"), "e30", "payload: base64 is expected"),
        (("dsseEnvelope", "payloadType"), "text/plain",
         "payloadType 'text/plain': application/vnd.in-toto+json is expected"),
        (("dsseEnvelope", "payloadtype"), "x", "dsseEnvelope: unknown field 'payloadtype'"),
    ],
)  # fmt: skip
def test_a_bundle_that_is_not_just_so_is_refused(path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_bundle(changed(BUNDLE, path, value))
    assert str(refused.value).startswith(f"bundle: {message}")


def test_fields_that_cosign_may_leave_out_may_be_missing() -> None:
    assert parse_bundle(changed(BUNDLE, ("verificationMaterial", "tlogEntries"), ...)).payload == STATEMENT
    assert parse_bundle(changed(BUNDLE, ("dsseEnvelope", "signatures", 0, "keyid"), "")).payload == STATEMENT


def test_a_bundle_is_read_up_to_its_limit() -> None:
    with pytest.raises(FormatError, match="bundle: 65537 bytes, at most 65536 are read"):
        parse_bundle(BUNDLE.ljust(64 * 1024 + 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_type": "https://in-toto.io/Statement/v2"}, "statement: _type 'https://in-toto.io/Statement/v2' is unknown"),
        ({"_type": None}, "statement: _type None is unknown"),
        ({"subject": []}, "statement: subject: a list with at least one entry is expected"),
        ({"subject": None}, "statement: subject: a list with at least one entry is expected"),
        ({"subject": [1]}, "statement: subject: a sha256 digest is expected"),
        ({"subject": [{"digest": {"sha512": "1" * 64}}]}, "statement: subject: a sha256 digest is expected"),
        ({"subject": [{"digest": {"sha256": "A" * 64}}]}, "statement: subject: a sha256 digest is expected"),
        ({"subject": [{"digest": {"sha256": "1" * 64 + "\n"}}]}, "statement: subject: a sha256 digest is expected"),
    ],
)
def test_a_statement_that_names_no_digest_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_statement(json.dumps(json.loads(STATEMENT) | change).encode())
    assert str(refused.value) == message


PATHS = st.sampled_from([
    ("mediaType",), ("verificationMaterial",), ("verificationMaterial", "publicKey"), ("dsseEnvelope",),
    ("dsseEnvelope", "payload"), ("dsseEnvelope", "payloadType"), ("dsseEnvelope", "signatures"),
    ("dsseEnvelope", "signatures", 0), ("dsseEnvelope", "signatures", 0, "sig"), ("extra",),
])  # fmt: skip


@given(
    st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | st.builds(changed, st.just(BUNDLE), PATHS, JSON)
)
def test_any_bytes_are_a_bundle_or_a_format_error(data: bytes) -> None:
    read_or_refused(lambda: parse_bundle(data), "bundle: ")
    read_or_refused(lambda: parse_statement(data), "statement: ")
