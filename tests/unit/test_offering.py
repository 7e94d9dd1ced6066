"""What a layout answers as a registry, and that the door for reading takes it as one."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from margo_cli.main import cli
from margo_oci.content import Descriptor, digest_of
from margo_oci.errors import FormatError, NotFound, TrustError
from margo_oci.layout import NAME, Layout, frame, open_layout
from margo_oci.layout_registry import LayoutTransport
from margo_oci.manifest import IMAGE_MANIFEST, Manifest
from margo_oci.offering import Answer, Offer, unsupported
from margo_oci.reference import Reference, parse_reference
from margo_oci.store import Store

HOST = "registry.example"
LAYER = Descriptor.of(b"0123456789" * 100, "application/octet-stream")
STATE = Manifest.build("application/vnd.example+json", [LAYER])
SIGNATURE = Manifest.build("application/vnd.example.signature+json", [], {"by": "somebody"}, subject=STATE.descriptor)


def layout_of(root: Path, names: Mapping[str, bytes]) -> Layout:
    """A layout with these manifests under these names."""
    store = Store(root)
    store.add(LAYER, b"0123456789" * 100)
    entries = []
    for name, data in names.items():
        described = Descriptor.of(data, IMAGE_MANIFEST, {NAME: name})
        store.add(described, data)
        entries.append(described)
    frame(root, entries)
    return open_layout(root)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """One state with a signature."""
    return layout_of(tmp_path, {
        f"{HOST}/fleet/edge-17:latest": STATE.data, f"{HOST}/fleet/edge-17@{SIGNATURE.digest}": SIGNATURE.data,
    })  # fmt: skip


def body(answer: Answer) -> bytes:
    return b"".join(answer.pieces)


def test_13_8_manifests_are_answered_by_tag_and_by_digest(layout: Layout) -> None:
    offer = Offer(layout)
    for target in ("latest", STATE.digest):
        answer = offer.answer(f"/v2/fleet/edge-17/manifests/{target}", {})
        assert (answer.status, body(answer)) == (200, STATE.data)
        assert answer.headers["Docker-Content-Digest"] == STATE.digest
        assert answer.headers["Content-Type"] == IMAGE_MANIFEST
        again = offer.answer(f"/v2/fleet/edge-17/manifests/{target}", {"if-none-match": answer.headers["ETag"]})
        assert (again.status, body(again)) == (304, b"")
    assert offer.answer("/v2/fleet/edge-17/manifests/other", {}).status == 404
    assert offer.answer("/v2/other/manifests/latest", {}).status == 404


def test_13_8_a_media_type_that_is_none_gets_into_no_header(tmp_path: Path) -> None:
    for named in ("ünicode/x", "text", "a/b; charset=x"):
        offer = Offer(layout_of(tmp_path, {f"{HOST}/a:1": json.dumps({"mediaType": named}).encode()}))
        assert offer.answer("/v2/a/manifests/1", {}).headers["Content-Type"] == IMAGE_MANIFEST


@pytest.mark.parametrize(
    ("asked", "status", "part", "said"),
    [
        ("", 200, slice(0, 1000), ""),
        ("bytes=990-", 206, slice(990, 1000), "bytes 990-999/1000"),
        ("bytes=0-3", 206, slice(0, 4), "bytes 0-3/1000"),
        ("bytes=5-99999", 206, slice(5, 1000), "bytes 5-999/1000"),
        ("bytes=-4", 206, slice(996, 1000), "bytes 996-999/1000"),
        ("bytes=1000-", 416, slice(0, 0), "bytes */1000"),
        ("bytes=7-3", 416, slice(0, 0), "bytes */1000"),
        ("bytes=-0", 416, slice(0, 0), "bytes */1000"),
        ("bytes=-", 200, slice(0, 1000), ""),
        ("bytes=1-2,5-6", 200, slice(0, 1000), ""),
        ("bytes=" + "9" * 30 + "-", 200, slice(0, 1000), ""),
    ],
)
def test_13_8_blobs_are_answered_in_parts(layout: Layout, asked: str, status: int, part: slice, said: str) -> None:
    answer = Offer(layout).answer(f"/v2/fleet/edge-17/blobs/{LAYER.digest}", {"range": asked})
    assert answer.status == status
    assert body(answer) == (b"0123456789" * 100)[part]
    assert answer.headers.get("Content-Range", "") == said
    assert answer.size == part.stop - part.start


def test_13_8_referrers_are_found_by_their_subject(layout: Layout) -> None:
    answer = Offer(layout).answer(f"/v2/fleet/edge-17/referrers/{STATE.digest}", {})
    (listed,) = json.loads(body(answer))["manifests"]
    assert listed["digest"] == SIGNATURE.digest
    assert listed["artifactType"] == SIGNATURE.artifact_type
    assert listed["annotations"] == {"by": "somebody"}
    assert Offer(layout).answer("/v2/fleet/edge-17/referrers/latest", {}).status == 400


def test_13_8_tags_come_in_pages(tmp_path: Path) -> None:
    offer = Offer(layout_of(tmp_path, {f"{HOST}/fleet/edge-17:{tag}": STATE.data for tag in "abcde"}))
    answer = offer.answer("/v2/fleet/edge-17/tags/list?n=2&last=b", {})
    assert json.loads(body(answer))["tags"] == ["c", "d"]
    assert answer.headers["Link"] == '</v2/fleet/edge-17/tags/list?last=d&n=2>; rel="next"'
    last = offer.answer("/v2/fleet/edge-17/tags/list?n=2&last=d", {})
    assert json.loads(body(last))["tags"] == ["e"]
    assert "Link" not in last.headers
    assert offer.answer("/v2/other/tags/list", {}).status == 404


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "\u0663"])
def test_13_8_a_page_of_no_number_is_refused(layout: Layout, count: str) -> None:
    for path in ("/v2/fleet/edge-17/tags/list", "/v2/_catalog"):
        answer = Offer(layout).answer(f"{path}?n={quote(count)}", {})
        assert answer.status == 400
        assert json.loads(body(answer))["errors"][0]["code"] == "PAGINATION_NUMBER_INVALID"


def test_13_8_a_page_may_be_empty_or_larger_than_any(layout: Layout) -> None:
    for count, tags in (("0", []), ("9" * 5000, ["latest"]), ("", ["latest"])):
        answer = Offer(layout).answer(f"/v2/fleet/edge-17/tags/list?n={count}", {})
        assert json.loads(body(answer))["tags"] == tags
        assert "Link" not in answer.headers


def test_13_8_what_would_write_is_answered_as_the_distribution_spec_has_it() -> None:
    answer = unsupported()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(body(answer))["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//[",
        "/v3/",
        "/v2/../etc/passwd",
        "/v2/a/blobs/../../x",
        "/v2/a/blobs/sha256:12",
        "/v2/A/manifests/x",
        "/v2/a/manifests/" + "x" * 5000,
    ],
)
def test_13_8_anything_else_is_not_found(layout: Layout, target: str) -> None:
    assert Offer(layout).answer(target, {}).status == 404


def test_13_8_a_mere_tag_stands_in_every_repository(tmp_path: Path) -> None:
    offer = Offer(layout_of(tmp_path, {"v1": STATE.data}))
    assert body(offer.answer("/v2/any/thing/manifests/v1", {})) == STATE.data
    assert json.loads(body(offer.answer("/v2/any/thing/tags/list", {})))["tags"] == ["v1"]


def test_13_8_one_name_for_two_things_is_not_served(tmp_path: Path) -> None:
    names = {f"{HOST}/fleet/edge-17:latest": STATE.data, "other.example/fleet/edge-17:latest": SIGNATURE.data}
    offer = Offer(layout_of(tmp_path, names))
    assert body(offer.answer("/v2/fleet/edge-17/manifests/latest", {}, host="other.example")) == SIGNATURE.data
    with pytest.raises(FormatError, match="fleet/edge-17:latest is one thing in one registry and another in another"):
        offer.check_unambiguous()


def test_13_9_two_things_that_would_get_one_name_are_not_copied(tmp_path: Path) -> None:
    layout_of(tmp_path, {f"{HOST}/a:1": STATE.data, "other.example/a:1": SIGNATURE.data})
    done = CliRunner().invoke(cli, ["copy", f"oci:{tmp_path}", "registry.plant:5000"], standalone_mode=False)
    assert isinstance(done.exception, FormatError)
    assert "a:1 is one thing in one registry and another in another" in str(done.exception)


def test_13_5_the_door_for_registries_reads_a_layout(layout: Layout) -> None:
    transport = LayoutTransport(Offer(layout))
    reference = parse_reference(f"{HOST}/fleet/edge-17:latest")

    async def work() -> None:
        async with transport.registry() as registry:
            received = await registry.manifest(reference)
            assert received is not None
            assert received.data == STATE.data
            assert await registry.manifest(reference, known=STATE.digest) is None
            assert await registry.digest(reference) == STATE.digest
            assert [one.digest for one in await registry.referrers(reference.at(STATE.digest))] == [SIGNATURE.digest]
            assert await registry.tags(reference) == ["latest"]
            async with registry.blob(reference, LAYER, offset=995) as found:
                assert b"".join([chunk async for chunk in found.chunks]) == b"56789"
            with pytest.raises(NotFound):
                await registry.manifest(reference.at("sha256:" + "0" * 64))

    asyncio.run(work())
    assert transport.missing == {"sha256:" + "0" * 64}


def test_13_5_what_was_changed_in_a_layout_is_refused_as_from_a_registry(layout: Layout, tmp_path: Path) -> None:
    changed = STATE.data.replace(b"example", b"elpmaxe")
    (tmp_path / "blobs" / "sha256" / STATE.digest[7:]).write_bytes(changed)

    async def work(reference: Reference) -> None:
        async with LayoutTransport(Offer(layout)).registry() as registry:
            await registry.manifest(reference)

    for target in ("latest", STATE.digest, digest_of(changed)):
        with pytest.raises((TrustError, NotFound)) as refused:
            asyncio.run(work(parse_reference(f"{HOST}/fleet/edge-17:latest").at(target)))
        assert getattr(refused.value, "reason", "digest-mismatch") == "digest-mismatch"
