"""Sections 1 to 4 of docs/format.md, as far as they need no registry: state, counter, scope, layers, lock."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.model import pinned
from margo_oci.archive import Entry, pack, unpack
from margo_oci.content import Descriptor, canonical_json, digest_of
from margo_oci.desired_state import (
    LAYER_TYPE,
    Lock,
    build_layer,
    build_state,
    parse_state,
    read_layer,
    read_layers,
    revision_of,
)
from margo_oci.errors import FormatError
from margo_oci.manifest import Manifest
from tests.unit.scenes import (
    DIGEST,
    ID,
    OTHER_DIGEST,
    OTHER_ID,
    REPOSITORY,
    SCOPE,
    as_yaml,
    deployment,
    document,
    gzip_of,
    hostile,
    layer,
    lock,
    member,
    read_or_refused,
    state,
)

CREATED = "org.opencontainers.image.created"


def raw_state() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(state().manifest.data)
    return value


def read(raw: dict[str, Any]) -> str:
    """Read a manifest as a state; return "" or why not."""
    try:
        parse_state(Manifest.from_bytes(json.dumps(raw).encode(), what="m"), what="m")
    except FormatError as error:
        return str(error)
    return ""


def layer_of(data: bytes, **annotations: str) -> Descriptor:
    return Descriptor.of(data, LAYER_TYPE, annotations)


def test_1_1_a_state_is_an_image_manifest_with_the_empty_config() -> None:
    raw = raw_state()
    assert raw["schemaVersion"] == 2
    assert raw["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert raw["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2,
    }  # fmt: skip


def test_1_2_we_write_one_spelling_of_the_types() -> None:
    raw = raw_state()
    assert raw["artifactType"] == "application/vnd.org.margo.config.v1+json"
    assert raw["layers"][0]["mediaType"] == "application/vnd.margo.manifests.layer.v1+tar+gzip"


@pytest.mark.parametrize(
    "artifact", ["application/vnd.org.margo.config.v1+json", "application/vnd.margo.config.v1+json"]
)
@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.margo.manifests.layer.v1+tar+gzip",
        "application/vnd.org.margo.manifests.layer.v1+tar+gzip",
        "application/vnd.org.margo.manifests.layer.v1+gzip",
    ],
)
def test_1_2_every_spelling_of_the_proposal_is_read(artifact: str, kind: str) -> None:
    raw = raw_state() | {"artifactType": artifact}
    raw["layers"][0]["mediaType"] = kind
    found = parse_state(Manifest.from_bytes(json.dumps(raw).encode(), what="m"), what="m")
    assert [one.media_type for one in found.layers] == [kind]


def test_1_2_nothing_else_is_a_state_or_a_layer_of_one() -> None:
    assert read(raw_state() | {"artifactType": "application/vnd.margo.app.v1+json"}) == (
        "m: artifactType: a desired state is expected, got 'application/vnd.margo.app.v1+json'"
    )
    raw = raw_state()
    raw["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    assert parse_state(Manifest.from_bytes(json.dumps(raw).encode(), what="m"), what="m").layers == ()


def test_1_3_the_same_input_gives_the_same_bytes() -> None:
    layers = [layer(OTHER_ID), layer(ID)]
    one, two = build_state(layers, counter=7, scope=SCOPE), build_state(layers[::-1], counter=7, scope=SCOPE)
    assert one.manifest.data == two.manifest.data
    assert one.manifest.data == canonical_json(json.loads(one.manifest.data))
    assert [one.annotations["org.margo.oci.deployment"] for one in one.layers] == [ID, OTHER_ID]


def test_1_3_a_time_is_written_only_when_it_is_asked_for() -> None:
    assert CREATED not in state().manifest.annotations
    dated = build_state([layer()], counter=7, scope=SCOPE, created="2026-11-21T10:00:00Z")
    assert dated.manifest.annotations[CREATED] == dated.created == "2026-11-21T10:00:00Z"


def test_1_3_what_was_built_is_read_back_as_it_was() -> None:
    one = state()
    assert parse_state(Manifest.from_bytes(one.manifest.data, what="m"), what="m") == one


@pytest.mark.parametrize("counter", [1, 2**63, 2**64 - 1])
def test_2_1_a_counter_is_a_decimal_up_to_64_bits(counter: int) -> None:
    one = state(counter)
    assert one.manifest.annotations["org.margo.ApplicationDeployment.version"] == str(counter)
    assert parse_state(one.manifest, what="m").counter == counter


@pytest.mark.parametrize("counter", [0, -1, 2**64])
def test_2_1_a_counter_out_of_its_range_is_not_written(counter: int) -> None:
    with pytest.raises(FormatError, match=f"counter {counter}: 1 to 18446744073709551615 is expected"):
        state(counter)


@pytest.mark.parametrize(
    "text", ["", "0", "01", "-1", "+1", "1.0", "1e3", " 1", "1\n", "٣", "1" * 21, str(2**64), "0x1"]
)
def test_2_1_a_counter_written_otherwise_is_not_read(text: str) -> None:
    raw = raw_state()
    raw["annotations"]["org.margo.ApplicationDeployment.version"] = text
    assert read(raw) in (
        f"m: annotation org.margo.ApplicationDeployment.version: a decimal from 1 is expected, got {text!r}",
        f"counter {text}: 1 to 18446744073709551615 is expected",
    )


@pytest.mark.parametrize("scope", ["edge-17", "plant-3/line_1/edge~17", "a.b", "-", "A/B", "a/" * 127 + "a", "x" * 255])
def test_2_2_a_scope_is_made_of_plain_parts(scope: str) -> None:
    assert parse_state(state(scope=scope).manifest, what="m").scope == scope


@pytest.mark.parametrize(
    "scope", ["/a", "a/", "a//b", ".", "..", "a/../b", ".a", "a/.b", "a b", "ä", "a\n", "a*", "gw/*", "x" * 256, "a,b"]
)
def test_2_2_any_other_scope_is_refused(scope: str) -> None:
    with pytest.raises(FormatError, match=r"parts of letters, digits and . _ ~ - joined by /"):
        state(scope=scope)
    raw = raw_state()
    raw["annotations"]["org.margo.oci.scope"] = scope
    assert "parts of letters, digits and . _ ~ - joined by /" in read(raw)


def test_2_2_a_state_of_others_may_have_no_scope() -> None:
    raw = raw_state()
    del raw["annotations"]["org.margo.oci.scope"]
    assert parse_state(Manifest.from_bytes(json.dumps(raw).encode(), what="m"), what="m").scope == ""


def test_2_7_a_higher_counter_over_the_same_layers_is_another_manifest_and_no_other_layer() -> None:
    old = state(7)
    new = build_state(old.manifest.layers, counter=9, scope=old.scope)
    assert new.manifest.digest != old.manifest.digest
    assert new.layers == old.layers


def test_3_1_a_layer_is_one_document_as_the_operator_wrote_it() -> None:
    one = deployment(ID.upper())
    built = build_layer(one, lock())
    assert unpack(built.data, what="layer") == [Entry(f"{ID}.yaml", one.data)]
    assert built.descriptor.annotations == {
        "org.margo.oci.deployment": ID,
        "org.opencontainers.image.title": f"{ID}.yaml",
        "org.margo.oci.lock": lock().to_json(),
    }
    assert build_layer(one).descriptor.digest == built.descriptor.digest


def test_3_2_archives_are_the_same_bytes_on_every_machine() -> None:
    """Byte for byte, without tarfile or zlib having a say: what a fixed archive must look like."""
    header = bytearray(512)
    for at, field in ((0, b"a"), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, b"00000000001\0"),
                      (136, b"00000000000\0"), (156, b"0"), (257, b"ustar\x0000")):  # fmt: skip
        header[at : at + len(field)] = field
    header[148:156] = b"%06o\0 " % (sum(header) + 8 * 32)
    tar = bytes(header) + b"x".ljust(512, b"\0") + bytes(1024)
    block = b"\x01" + len(tar).to_bytes(2, "little") + (len(tar) ^ 0xFFFF).to_bytes(2, "little") + tar
    ending = zlib.crc32(tar).to_bytes(4, "little") + len(tar).to_bytes(4, "little")
    assert pack({"a": Entry("a", b"x")}) == b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block + ending


def test_3_2_large_archives_are_stored_in_blocks_of_65535_bytes() -> None:
    data = pack({"a": Entry("a", b"x" * 100_000)})
    assert data[10:15] == b"\0\xff\xff\0\0"
    assert data[15 + 65535] == 1


@pytest.mark.parametrize("name", ["README.md", "plant/a.json", "a"])
def test_3_3_a_layer_holds_deployments_and_nothing_else(name: str) -> None:
    data = hostile(member("./", kind=b"5"), member("./a.yaml", as_yaml(document(ID))), member(name))
    with pytest.raises(FormatError, match=f"{name}: only .*yaml and .*yml, with one deployment each, are expected"):
        read_layers([(layer_of(data), data)])
    without = hostile(member("./", kind=b"5"), member("./a.yaml", as_yaml(document(ID))))
    assert list(read_layers([(layer_of(without), without)])) == [ID]


def test_3_3_any_gzip_is_read() -> None:
    one = deployment()
    stored = build_layer(one)
    compressed = gzip_of(zlib.decompress(stored.data, wbits=31))
    assert compressed != stored.data
    assert list(read_layers([(layer_of(compressed), compressed)])) == [ID]


def test_3_3_a_layer_of_others_may_hold_several_documents_in_any_folders() -> None:
    one, two = as_yaml(document(ID)), as_yaml(document(OTHER_ID))
    data = hostile(member("plant", kind=b"5"), member("plant/a.yaml", one), member("plant/line/b.yml", two))
    placed = read_layers([(layer_of(data), data)])
    assert sorted(placed) == [ID, OTHER_ID]
    assert placed[ID].deployment.data == one


def test_3_3_with_the_annotation_it_holds_just_that_one() -> None:
    data = hostile(member("a.yaml", as_yaml(document(ID))), member("b.yaml", as_yaml(document(OTHER_ID))))
    for named in (ID, OTHER_ID):
        with pytest.raises(FormatError, match=f"says {named}, inside is another deployment"):
            read_layers([(layer_of(data, **{"org.margo.oci.deployment": named}), data)])
    empty = hostile()
    with pytest.raises(FormatError, match="inside is another deployment"):
        read_layers([(layer_of(empty, **{"org.margo.oci.deployment": ID}), empty)])


def test_3_3_an_id_stands_once_in_a_state() -> None:
    one = layer()
    assert read(json.loads(build_state([one, one], counter=1, scope=SCOPE).manifest.data)) == (
        f"m: layers: deployment {ID} stands twice"
    )
    data = hostile(member("a.yaml", as_yaml(document(ID))))
    with pytest.raises(FormatError, match=f"deployment {ID} stands in two layers"):
        read_layers([(layer_of(data), data), (layer_of(data), data)])
    twice = hostile(member("a.yaml", as_yaml(document(ID))), member("b.yaml", as_yaml(document(ID.upper()))))
    with pytest.raises(FormatError, match=f"deployment {ID} stands"):
        read_layers([(layer_of(twice), twice)])


def test_3_3_a_document_that_cannot_be_read_is_named_with_its_layer_and_line() -> None:
    data = hostile(member("plant/a.yaml", b"a: 1\na: 2\n"))
    with pytest.raises(FormatError, match=r"^layer sha256:[0-9a-f]{12}: plant/a.yaml:2: 'a' stands twice$"):
        read_layers([(layer_of(data), data)])


def test_4_1_a_lock_is_canonical_json_of_what_is_written_and_what_it_was() -> None:
    text = Lock({f"{REPOSITORY}:1.0.0": DIGEST}, {"b:1": OTHER_DIGEST, "a": DIGEST}).to_json()
    assert text == (
        f'{{"components":{{"{REPOSITORY}:1.0.0":"{DIGEST}"}},"images":{{"a":"{DIGEST}","b:1":"{OTHER_DIGEST}"}}}}'
    )
    assert Lock.from_json(text, at="lock").images == {"a": DIGEST, "b:1": OTHER_DIGEST}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lock: not usable JSON"),
        ("[]", "lock: a JSON object is expected, got list"),
        ('{"images":{"a":"latest"}}', "lock.images: a map from reference to digest is expected"),
        ('{"components":["a"]}', "lock.components: a map from reference to digest is expected"),
        ('{"components":{"a":null}}', "lock.components: a map from reference to digest is expected"),
        ('{"images":{"a":"x","a":"y"}}', "lock: not usable JSON: key 'a' stands twice"),
        ('{"a":"' + "x" * 300_000 + '"}', "lock: 300008 bytes, at most 262144 are read"),
        ("\ud800", "lock: not usable JSON"),
    ],
)
def test_4_1_a_lock_that_says_nothing_usable_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError) as refused:
        Lock.from_json(text, at="lock")
    assert str(refused.value).startswith(message)


@given(st.text())
def test_4_1_any_text_is_a_lock_or_a_format_error(text: str) -> None:
    read_or_refused(lambda: Lock.from_json(text, at="lock"), "lock")


def test_4_1_the_lock_stands_under_the_signature() -> None:
    one = build_state([build_layer(deployment(), lock()).descriptor], counter=1, scope=SCOPE)
    two = build_state([build_layer(deployment(), lock(OTHER_DIGEST)).descriptor], counter=1, scope=SCOPE)
    assert one.manifest.digest != two.manifest.digest


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("web", "docker.io/library/web"),
        ("registry.example:5000/web:1", "registry.example:5000/web"),
        (f"registry.example/web:1@{DIGEST}", "registry.example/web"),
    ],
)
def test_4_2_each_image_is_named_by_its_locked_digest(written: str, name: str) -> None:
    model = {"services": {"web": {"image": written}}}
    found = pinned(model, Lock({}, {written: OTHER_DIGEST}), device="edge-17", deployment=ID, component="web")
    assert found["services"]["web"]["image"] == f"{name}:sha256-{OTHER_DIGEST[7:]}"


def test_4_3_an_image_that_the_lock_does_not_know_is_not_applied() -> None:
    with pytest.raises(FormatError, match=r"services.web.image: web:2 is not in the lock of this deployment"):
        pinned(
            {"services": {"web": {"image": "web:2"}}},
            Lock({}, {"web:1": DIGEST}),
            device="edge-17",
            deployment=ID,
            component="web",
        )


def test_4_4_a_revision_changes_with_the_document_and_with_the_lock_and_with_nothing_else() -> None:
    one = build_layer(deployment(), lock()).descriptor
    assert revision_of(one) == revision_of(build_layer(deployment(), lock()).descriptor)
    others = [
        build_layer(deployment(), lock(OTHER_DIGEST)).descriptor,
        build_layer(deployment(applicationId="other"), lock()).descriptor,
        build_layer(deployment()).descriptor,
    ]
    assert len({revision_of(one), *map(revision_of, others)}) == 4
    renamed = Descriptor(
        media_type="application/vnd.org.margo.manifests.layer.v1+gzip",
        digest=one.digest,
        size=one.size,
        annotations={**one.annotations, "org.opencontainers.image.title": "x", "other": "y"},
    )
    assert revision_of(renamed) == revision_of(one)


def test_4_4_a_revision_is_known_without_reading_the_layer() -> None:
    built = build_layer(deployment(), lock())
    (placed,) = read_layer(built.descriptor, built.data, what="layer")
    assert placed.revision == revision_of(built.descriptor)


def test_4_4_in_a_layer_of_others_each_document_has_a_revision_of_its_own() -> None:
    one, two = as_yaml(document(ID)), as_yaml(document(OTHER_ID))
    data = hostile(member("a.yaml", one), member("b.yaml", two))
    assert revision_of(layer_of(data)) == ""
    first, second = read_layer(layer_of(data), data, what="layer")
    other = hostile(member("a.yaml", one), member("c/b.yaml", two + b"# changed\n"))
    unchanged, changed = read_layer(layer_of(other), other, what="layer")
    assert first.revision == unchanged.revision
    assert second.revision != changed.revision
