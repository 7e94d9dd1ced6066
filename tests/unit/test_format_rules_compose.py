"""Section 8 of docs/format.md: components as Compose Archives."""

import json
from pathlib import Path
from typing import Any

import pytest

from margo_oci.archive import Entry, unpack
from margo_oci.compose import faults_of_template
from margo_oci.composefile import NO_SECRETS
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError
from margo_oci.manifest import Manifest
from margo_oci.package import (
    COMPOSE_ARTIFACT,
    COMPOSE_LAYER,
    NO_KEYS,
    ComponentArtifact,
    archive_layer,
    build_component,
    open_archive,
)
from tests.unit.scenes import hostile, member

COMPOSE = Entry("compose.yaml", b"services: {}")
KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


def built(**files: Entry) -> ComponentArtifact:
    return build_component({"compose.yaml": COMPOSE, **files}, name="hello", version="1.4.0_b.7")


def refused(*members: Any) -> list[str]:
    with pytest.raises(FormatError) as error:
        open_archive(hostile(*members), what="c")
    assert all(fault.startswith("c: ") for fault in error.value.faults)
    return [fault.removeprefix("c: ") for fault in error.value.faults]


def test_8_1_a_component_is_a_manifest_with_one_layer() -> None:
    raw = json.loads(built().manifest.data)
    assert raw["artifactType"] == "application/vnd.org.margo.component.compose+json"
    assert raw["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert [one["mediaType"] for one in raw["layers"]] == ["application/vnd.org.margo.component.compose.tar+gzip"]
    assert archive_layer(built().manifest, what="c") == Descriptor.of(
        built().layer, COMPOSE_LAYER, built().manifest.layers[0].annotations
    )


@pytest.mark.parametrize("version", ["v1.0.0", "1.0", "latest", "1.0.0+b", ""])
def test_8_1_its_tag_is_its_version(version: str) -> None:
    with pytest.raises(FormatError, match=r"SemVer 2.0 without v, with _ for \+, is expected, as in 1.4.0"):
        build_component({"compose.yaml": COMPOSE}, name="hello", version=version)


def test_8_1_with_more_or_fewer_layers_it_is_no_component() -> None:
    one = Descriptor.of(b"", COMPOSE_LAYER)
    for layers in ([], [one, one], [one, Descriptor.of(b"", "a/b")]):
        with pytest.raises(
            FormatError, match=f"exactly one Compose Archive layer is expected, got {len(layers)} layers"
        ):
            archive_layer(Manifest.build(COMPOSE_ARTIFACT, layers), what="c")
    with pytest.raises(FormatError, match="c: a Compose component is expected, got 'a/b'"):
        archive_layer(Manifest.build("a/b", [Descriptor.of(b"", "a/b")]), what="c")


@pytest.mark.parametrize("artifact", [COMPOSE_ARTIFACT, "application/vnd.oci.empty.v1+json", ""])
def test_8_1_a_layer_of_the_right_kind_makes_it_one(artifact: str) -> None:
    manifest = Manifest.build(artifact, [Descriptor.of(b"", COMPOSE_LAYER)])
    assert archive_layer(manifest, what="c").media_type == COMPOSE_LAYER


def test_8_2_annotations_stand_on_the_layer_and_again_on_the_manifest() -> None:
    expected = {
        "org.margo.component.type": "compose",
        "org.margo.component.version": "1.4.0_b.7",
        "org.opencontainers.image.version": "1.4.0_b.7",
        "org.opencontainers.image.title": "hello-1.4.0_b.7.tar.gz",
    }
    raw = json.loads(built().manifest.data)
    assert raw["annotations"] == expected
    assert raw["layers"][0]["annotations"] == expected


def test_8_3_the_archive_has_one_folder_with_the_components_name() -> None:
    paths = [entry.path for entry in unpack(built(**{"conf/a": Entry("conf/a", b"x")}).layer, what="c")]
    assert paths == ["hello/compose.yaml", "hello/conf/a"]


def test_8_3_another_name_of_the_folder_will_do_when_reading() -> None:
    archive = open_archive(hostile(member("x", kind=b"5"), member("x/compose.yaml", b"services: {}")), what="c")
    assert (archive.top, list(archive.entries)) == ("x", [COMPOSE])


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([], "exactly one folder at the top is expected, got an empty archive"),
        ([member("compose.yaml")], "exactly one folder at the top is expected, got compose.yaml"),
        ([member("a/compose.yaml"), member("b/compose.yaml")], "exactly one folder at the top is expected, got a, b"),
        ([member("a/compose.yaml"), member("README")], "exactly one folder at the top is expected, got README, a"),
    ],
)
def test_8_3_any_other_shape_is_refused(members: list[Any], fault: str) -> None:
    assert fault in refused(*members)


@pytest.mark.parametrize("name", ["compose.yml", "docker-compose.yaml", "docker-compose.yml"])
def test_8_4_no_other_spelling_counts(name: str) -> None:
    assert refused(member(f"a/{name}")) == [f"compose.yaml is missing: rename {name}"]


@pytest.mark.parametrize("path", ["a/sub/compose.yaml", "a/Compose.yaml", "a/README"])
def test_8_4_it_lies_directly_in_the_folder(path: str) -> None:
    assert refused(member(path)) == ["compose.yaml is missing"]


def test_8_4_a_folder_of_that_name_is_no_file() -> None:
    assert refused(member("a/compose.yaml", kind=b"5"), member("a/compose.yaml/x")) == ["compose.yaml is missing"]


@pytest.mark.parametrize(
    "data",
    [
        KEY,
        b"text before\n" + KEY,
        KEY.replace(b"PRIVATE", b"RSA PRIVATE"),
        KEY.replace(b"PRIVATE", b"EC PRIVATE"),
        KEY.replace(b"PRIVATE", b"ENCRYPTED PRIVATE"),
        KEY.replace(b"PRIVATE", b"OPENSSH PRIVATE"),
    ],
)
def test_8_5_a_private_key_is_not_shipped(data: bytes) -> None:
    with pytest.raises(
        FormatError, match=r"^hello/tls/key.pem: a private key must not be shipped: .*`margo-oci encrypt`$"
    ):
        built(**{"tls/key.pem": Entry("tls/key.pem", data)})
    assert refused(member("a/compose.yaml"), member("a/key.pem", data)) == [f"a/key.pem: {NO_KEYS}"]


def test_8_5_a_certificate_is_shipped() -> None:
    assert built(**{"ca.pem": Entry("ca.pem", KEY.replace(b"PRIVATE KEY", b"CERTIFICATE"))})


def test_8_5_files_are_in_the_archive_secrets_are_not_and_bind_mounts_are_the_devices(tmp_path: Path) -> None:
    (tmp_path / "app.env").touch()
    service = {
        "image": "web",
        "env_file": [{"path": "app.env"}, {"path": "gone.env"}],
        "volumes": [{"type": "bind", "source": "/dev/ttyS0"}],
    }
    template = {
        "services": {"web": service},
        "configs": {"app": {"file": "/etc/app.conf"}},
        "secrets": {"key": {"file": "key.pem"}},
    }
    assert faults_of_template(template, tmp_path) == (
        [
            "services.web.env_file: gone.env is not in the archive",
            "configs.app.file: /etc/app.conf is not in the archive",
            f"secrets.key.file: {NO_SECRETS}",
        ],
        ["services.web.volumes: /dev/ttyS0 is a path of the device: not shipped"],
    )


def test_8_6_all_faults_of_an_archive_are_told_before_anything_is_unpacked() -> None:
    assert refused(member("a/docker-compose.yml"), member("b/key.pem", KEY)) == [
        "exactly one folder at the top is expected, got a, b",
        "compose.yaml is missing: rename docker-compose.yml",
        f"b/key.pem: {NO_KEYS}",
    ]


@pytest.mark.parametrize(
    "bad", [member("/a"), member("a/../b"), member("a/x", mode=0o4755), member("a/x", kind=b"2", link="/etc/passwd")]
)
def test_8_6_the_rules_for_all_archives_hold_for_these(bad: Any) -> None:
    with pytest.raises(FormatError, match=r"^c: "):
        open_archive(hostile(member("a/compose.yaml"), bad), what="c")
