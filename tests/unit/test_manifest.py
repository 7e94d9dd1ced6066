"""Image manifests and indexes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.content import EMPTY_CONFIG, Descriptor, digest_of
from margo_oci.errors import FormatError
from margo_oci.manifest import DOCKER_MANIFEST, IMAGE_MANIFEST, Manifest, build_index, parse_index
from tests.unit.scenes import DIGEST, read_or_refused, state
from tests.unit.test_content import DESCRIPTORS, JSON

LAYER = {"mediaType": "a/b", "digest": DIGEST, "size": 1}


def raw(**changes: Any) -> bytes:
    manifest = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": EMPTY_CONFIG.to_dict(), "layers": [LAYER]}
    return json.dumps(manifest | changes).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schemaVersion": 1}, "m: schemaVersion: 2 is expected, got 1"),
        ({"schemaVersion": "2"}, "m: schemaVersion: 2 is expected, got '2'"),
        ({"mediaType": "application/json"}, "m: mediaType: an image manifest is expected, got 'application/json'"),
        ({"mediaType": []}, "m: mediaType: an image manifest is expected, got []"),
        ({"layers": {}}, "m: layers: a list is expected, got dict"),
        ({"layers": [LAYER, 1]}, "m: layers[1]: a descriptor is expected, got int"),
        ({"config": None}, "m: config: a descriptor is expected, got NoneType"),
        ({"subject": {}}, "m: subject.mediaType: unusable media type None"),
        ({"annotations": {"a": None}}, "m: annotations: a map of strings is expected"),
        ({"layers": [LAYER] * 4097}, "m: layers: 4097 entries, at most 4096 are read"),
    ],
)
def test_what_is_no_manifest_is_told_by_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as refused:
        Manifest.from_bytes(raw(**changes), what="m")
    assert str(refused.value) == message


def test_a_manifest_keeps_the_bytes_it_was_read_from() -> None:
    data = raw() + b"\n"
    manifest = Manifest.from_bytes(data, what="m")
    assert manifest.digest == digest_of(data)
    assert manifest.descriptor == Descriptor.of(data, IMAGE_MANIFEST)


def test_without_an_artifact_type_the_config_says_what_it_is() -> None:
    """OCI image-spec v1.1, "Guidelines for Artifact Usage"."""
    assert Manifest.from_bytes(raw(), what="m").artifact_type == EMPTY_CONFIG.media_type
    assert Manifest.from_bytes(raw(artifactType="x/y"), what="m").artifact_type == "x/y"


def test_the_manifest_of_docker_is_read_too() -> None:
    assert Manifest.from_bytes(raw(mediaType=DOCKER_MANIFEST), what="m").layers[0].digest == DIGEST


def test_what_is_built_is_read_back_as_it_was() -> None:
    built = state().manifest
    assert Manifest.from_bytes(built.data, what="m") == built


MANIFESTS = st.fixed_dictionaries(
    {"schemaVersion": st.just(2), "layers": st.lists(DESCRIPTORS), "config": DESCRIPTORS},
    optional={"subject": DESCRIPTORS, "artifactType": JSON, "annotations": JSON, "manifests": st.lists(DESCRIPTORS)},
)


@given(JSON | MANIFESTS)
def test_any_json_is_a_manifest_or_a_format_error(value: object) -> None:
    data = json.dumps(value).encode()
    read_or_refused(lambda: Manifest.from_bytes(data, what="m"), "m: ")
    read_or_refused(lambda: parse_index(data, what="m"), "m: ")


def test_an_index_is_read_back_as_it_was() -> None:
    entry = Descriptor(media_type=IMAGE_MANIFEST, digest=DIGEST, size=3, artifact_type="a/b", annotations={"k": "v"})
    assert parse_index(build_index([entry]), what="index") == (entry,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"manifests": [LAYER] * 257}, "index: manifests: 257 entries, at most 256 are read"),
        ({"manifests": 1}, "index: manifests: a list is expected, got int"),
        ({}, "index: an image index is expected, got None"),
        ({"mediaType": IMAGE_MANIFEST, "manifests": []}, f"index: an image index is expected, got '{IMAGE_MANIFEST}'"),
    ],
)
def test_what_is_no_index_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_index(json.dumps(value).encode(), what="index")
    assert str(refused.value) == message
