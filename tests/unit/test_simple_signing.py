"""cosign v2 signatures byte by byte, and payloads before anything in them is believed."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci import simple_signing
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import PublicKey
from margo_oci.simple_signing import Signature, parse_payload, read_signature, signature_image
from tests.unit.scenes import DIGEST, VECTORS, changed, key, read_or_refused
from tests.unit.test_content import JSON

FILES = VECTORS / "simple_signing"
PAYLOAD = (FILES / "payload.json").read_bytes()
SIGNED = Signature(PAYLOAD, base64.b64decode((FILES / "signature.txt").read_bytes()))
SIGNED_DIGEST = "sha256:f3c6c4f404f8c5c7609ca8ed82616731b60aef444cb8ded2538aedb4ef0b9328"


def public(file: str) -> PublicKey:
    return PublicKey.from_pem((FILES / file).read_bytes(), name=file)


def test_a_signature_made_by_cosign_holds() -> None:
    payload = (FILES / "cosign-payload.json").read_bytes()
    made = Signature(payload, base64.b64decode((FILES / "cosign-signature.txt").read_bytes()))
    assert made.made_by(public("cosign.pub"))
    assert not made.made_by(public("key.pub"))
    assert parse_payload(payload).docker_reference == "ttl.sh/d8d3892d-48bd-4671-a546-2e70a900b702"


def test_a_signature_made_by_openssl_holds_and_all_bytes_are_the_same() -> None:
    assert SIGNED.made_by(public("key.pub"))
    assert simple_signing.payload(SIGNED_DIGEST, name="reg.example/fleet/edge-17") == PAYLOAD
    config, manifest = signature_image(SIGNED)
    assert config == (FILES / "config.json").read_bytes()
    assert manifest.data == (FILES / "manifest.json").read_bytes()
    assert read_signature(manifest.layers[0], PAYLOAD) == SIGNED


def test_who_signed_is_one_of_the_keys_that_count() -> None:
    signer, said = simple_signing.verify(SIGNED, SIGNED_DIGEST, [key().public, public("key.pub")])
    assert (signer.name, said.docker_reference) == ("key.pub", "reg.example/fleet/edge-17")


@pytest.mark.parametrize(
    ("payload", "digest", "trusted", "reason", "words"),
    [
        (PAYLOAD, SIGNED_DIGEST, False, "wrong-key", "signed, but by no key that is trusted here"),
        (PAYLOAD + b" ", DIGEST, True, "moved-signature", f"its signature is for {SIGNED_DIGEST}: moved here"),
        (b"{}", DIGEST, True, "malformed-signature", "exactly these fields are expected"),
    ],
)
def test_a_signature_that_does_not_count_is_refused(
    payload: bytes, digest: str, trusted: bool, reason: str, words: str
) -> None:
    made = Signature(payload, key().sign(payload))
    with pytest.raises(TrustError) as refused:
        simple_signing.verify(made, digest, [public("key.pub"), *([key().public] if trusted else [])])
    assert refused.value.reason == reason
    assert words in str(refused.value)


def test_a_layer_and_its_blob_belong_together() -> None:
    with pytest.raises(FormatError, match="payload: it is not what the layer"):
        read_signature(SIGNED.descriptor, PAYLOAD + b" ")
    for annotations in ({}, {simple_signing.SIGNATURE: "no base64!"}):
        with pytest.raises(FormatError, match=r"payload: the annotation .* is not base64"):
            read_signature(Descriptor.of(PAYLOAD, simple_signing.PAYLOAD_TYPE, annotations), PAYLOAD)


@pytest.mark.parametrize("optional", [None, {}, {"k": "v"}, {"creator": "skopeo", "timestamp": 1700000000}])
def test_what_is_optional_may_be_null_or_an_object(optional: Any) -> None:
    assert parse_payload(changed(PAYLOAD, ("optional",), optional)).optional == (optional or {})


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("critical",), [], "payload: critical: exactly these fields are expected: identity, image, type"),
        (("critical",), ..., "payload: exactly these fields are expected: critical, optional"),
        (("optional",), ..., "payload: exactly these fields are expected: critical, optional"),
        (("Critical",), {}, "payload: exactly these fields are expected: critical, optional"),
        (("optional",), "x", "payload: optional: an object or null is expected"),
        (("optional",), {"creator": 1}, "payload: optional: creator: text is expected"),
        (("optional",), {"timestamp": 1.5}, "payload: optional: timestamp: whole seconds are expected"),
        (("optional",), {"timestamp": "1"}, "payload: optional: timestamp: whole seconds are expected"),
        (("critical", "type"), "atomic container signature", "payload: type 'atomic container signature'"),
        (("critical", "type"), None, "payload: type None"),
        (("critical", "image"), None, "payload: image: exactly these fields"),
        (("critical", "image", "docker-manifest-digest"), "sha512:1", "payload: docker-manifest-digest 'sha512:1'"),
        (("critical", "identity", "docker-reference"), 7, "payload: docker-reference: text is expected"),
    ],
)
def test_a_payload_that_is_not_just_so_is_refused(path: tuple[str, ...], value: Any, words: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_payload(changed(PAYLOAD, path, value))
    assert str(refused.value).startswith(words)


def test_a_field_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="payload: not usable JSON: key 'type' stands twice"):
        parse_payload(PAYLOAD.replace(b'"type":', b'"type":"x","type":'))


PATHS = st.sampled_from([("critical",), ("optional",), ("critical", "image"), ("critical", "identity"),
    ("critical", "type"), ("critical", "image", "docker-manifest-digest"), ("extra",)])  # fmt: skip


@given(
    st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | st.builds(changed, st.just(PAYLOAD), PATHS, JSON)
)
def test_any_bytes_are_a_payload_or_a_format_error(data: bytes) -> None:
    read_or_refused(lambda: parse_payload(data), "payload: ")


@given(st.integers(0, len(PAYLOAD) - 1), st.integers(1, 255))
def test_a_changed_payload_never_verifies(at: int, flip: int) -> None:
    data = PAYLOAD[:at] + bytes([PAYLOAD[at] ^ flip]) + PAYLOAD[at + 1 :]
    assert not Signature(data, SIGNED.signature).made_by(public("key.pub"))


@given(st.integers(0, len(SIGNED.signature) - 1), st.integers(1, 255))
def test_a_changed_signature_never_verifies(at: int, flip: int) -> None:
    data = SIGNED.signature[:at] + bytes([SIGNED.signature[at] ^ flip]) + SIGNED.signature[at + 1 :]
    assert not Signature(PAYLOAD, data).made_by(public("key.pub"))
