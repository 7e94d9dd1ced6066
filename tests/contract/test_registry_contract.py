"""The simulated registry looks from outside as CNCF distribution 2.8.2 does: each test runs on both.

What only the simulator does, because a real registry would not, is in tests/unit/test_hostile_registry.py.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest

from margo_oci.auth import Credentials
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor, digest_of
from margo_oci.cosign import BUNDLE_TYPE
from margo_oci.desired_state import build_layer, build_state
from margo_oci.errors import NotFound, RegistryError
from margo_oci.manifest import IMAGE_INDEX, IMAGE_MANIFEST, Manifest
from margo_oci.publish import Publisher, claim
from margo_oci.reference import Reference
from margo_oci.registry import LARGE_BYTES, Access, Registry
from margo_oci.signing import Attacher
from margo_oci.store import Store
from margo_oci.transfer import Judge, fetch, open_state, referrers, resolve, simple_image, simple_signatures
from margo_oci.trust import Policy
from tests.contract.conftest import World
from tests.unit.scenes import deployment, key, lock

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


def noon() -> datetime:
    """What time it is."""
    return NOON


BLOB = bytes(range(256)) * 40
UNKNOWN = digest_of(b"nobody has this")
T = TypeVar("T")


def ask(world: World, question: Callable[[Registry], Awaitable[T]], *, access: Access | None = None) -> T:
    """Ask something of a registry, and forget what was asked of it before."""

    async def asked() -> T:
        async with world.registry(access) as registry:
            return await question(registry)

    world.forget()
    return asyncio.run(asked())


def a_manifest(world: World, name: str = "a") -> Manifest:
    """Push a manifest under the world's tag."""
    world.uploader.blob(world.reference, EMPTY_CONFIG, EMPTY_JSON)
    manifest = Manifest.build("application/vnd.margo.test", [], {"name": name})
    world.uploader.manifest(world.reference, manifest.data)
    return manifest


def a_blob(world: World) -> Descriptor:
    """Push a blob."""
    descriptor = Descriptor.of(BLOB, "application/octet-stream")
    world.uploader.blob(world.reference, descriptor, BLOB)
    return descriptor


class TestManifests:
    """distribution-spec v1.1, "Pulling manifests" and "Checking if content exists"."""

    @pytest.mark.parametrize("by", ["tag", "digest"])
    def test_a_manifest_comes_as_it_was_pushed(self, world: World, by: str) -> None:
        manifest = a_manifest(world)
        reference = world.reference if by == "tag" else world.reference.at(manifest.digest)
        received = ask(world, lambda registry: registry.manifest(reference))
        assert received
        assert (received.data, received.digest, received.media_type) == (manifest.data, manifest.digest, IMAGE_MANIFEST)

    def test_a_known_manifest_costs_one_request_without_a_body(self, world: World) -> None:
        manifest = a_manifest(world)

        async def look(registry: Registry) -> int:
            assert await registry.manifest(world.reference, known=manifest.digest) is None
            return registry.traffic.bytes_in

        assert ask(world, look) == 0
        assert world.asked() == [f"GET /v2/{world.reference.repository}/manifests/latest 304"]

    def test_a_tag_that_moved_is_no_longer_known(self, world: World) -> None:
        before = a_manifest(world, "a")
        after = a_manifest(world, "b")
        received = ask(world, lambda registry: registry.manifest(world.reference, known=before.digest))
        assert received
        assert received.digest == after.digest

    def test_where_a_tag_leads_is_asked_without_its_content(self, world: World) -> None:
        manifest = a_manifest(world)
        assert ask(world, lambda registry: registry.digest(world.reference)) == manifest.digest
        assert world.asked() == [f"HEAD /v2/{world.reference.repository}/manifests/latest 200"]

    @pytest.mark.parametrize("target", ["other", UNKNOWN], ids=["tag", "digest"])
    def test_a_manifest_that_is_not_there_is_not_found(self, world: World, target: str) -> None:
        a_manifest(world)
        with pytest.raises(NotFound, match="the registry does not have it"):
            ask(world, lambda registry: registry.manifest(world.reference.at(target)))
        with pytest.raises(NotFound):
            ask(world, lambda registry: registry.digest(world.reference.at(target)))

    def test_a_repository_that_is_not_there_is_not_found(self, world: World) -> None:
        with pytest.raises(NotFound):
            ask(world, lambda registry: registry.manifest(world.reference))

    def test_the_registry_is_one_that_lets_us_in(self, world: World) -> None:
        ask(world, lambda registry: registry.ping(world.reference.host))
        assert world.asked() == ["GET /v2/ 200"]


class TestBlobs:
    """distribution-spec v1.1, "Pulling blobs", with ranges as RFC 9110 has them."""

    def test_a_blob_is_sent_once(self, world: World) -> None:
        descriptor = Descriptor.of(BLOB, "application/octet-stream")
        assert [world.uploader.blob(world.reference, descriptor, BLOB) for _ in range(2)] == [True, False]

    def test_a_blob_that_is_asked_for_and_sent_in_one_go_is_sent_once(self, world: World) -> None:
        descriptor = Descriptor.of(BLOB, "application/octet-stream")
        assert [world.uploader.send(world.reference, descriptor, BLOB) for _ in range(2)] == [True, False]
        assert world.uploader.has(world.reference, descriptor)

    @pytest.mark.parametrize("offset", [0, 1, 5000, len(BLOB) - 1])
    def test_a_blob_comes_from_where_it_is_asked_for(self, world: World, offset: int) -> None:
        descriptor = a_blob(world)

        async def read(registry: Registry) -> tuple[int, bytes]:
            async with registry.blob(world.reference, descriptor, offset=offset) as body:
                return body.offset, b"".join([chunk async for chunk in body.chunks])

        assert ask(world, read) == (offset, BLOB[offset:])
        status = 206 if offset else 200
        assert world.asked() == [f"GET /v2/{world.reference.repository}/blobs/{descriptor.digest} {status}"]

    def test_a_part_that_is_longer_than_the_blob_leads_back_to_its_start(self, world: World) -> None:
        descriptor = a_blob(world)

        async def read(registry: Registry) -> tuple[int, bytes]:
            async with registry.blob(world.reference, descriptor, offset=len(BLOB)) as body:
                return body.offset, b"".join([chunk async for chunk in body.chunks])

        assert ask(world, read) == (0, BLOB)
        assert [one.rpartition(" ")[2] for one in world.asked()] == ["416", "200"]

    def test_a_blob_that_is_not_there_is_not_found(self, world: World) -> None:
        a_manifest(world)
        with pytest.raises(NotFound):
            ask(world, lambda registry: registry.small_blob(
                world.reference, Descriptor.of(b"nobody has this", "text/plain"), limit_bytes=100))  # fmt: skip

    def test_a_blob_of_another_repository_is_not_there(self, world: World) -> None:
        descriptor = a_blob(world)
        elsewhere = replace(world.reference, repository=f"{world.reference.repository}-elsewhere")
        with pytest.raises(NotFound):
            ask(world, lambda registry: registry.small_blob(elsewhere, descriptor, limit_bytes=len(BLOB)))

    def test_a_fetch_goes_on_where_an_earlier_one_ended(self, world: World, tmp_path: Path) -> None:
        layer = build_layer(deployment(), lock())
        world.uploader.blob(world.reference, layer.descriptor, layer.data)
        state = build_state([layer.descriptor], counter=1, scope="edge-17")
        world.uploader.blob(world.reference, EMPTY_CONFIG, EMPTY_JSON)
        world.uploader.manifest(world.reference, state.manifest.data)
        store = Store(tmp_path)
        with suppress(ConnectionError), store.receive(layer.descriptor) as part:
            part.write(layer.data[:100])
            raise ConnectionError

        async def verified_fetch(registry: Registry) -> None:
            await Attacher(registry, world.uploader, noon).sign(world.reference, state.manifest.descriptor, key())
            verified = await open_state(registry, world.reference, Judge(Policy([key().public]), noon))
            world.forget()
            await fetch(verified, registry, world.reference, store)

        ask(world, verified_fetch)
        assert store.read(layer.descriptor) == layer.data
        assert world.asked() == [f"GET /v2/{world.reference.repository}/blobs/{layer.descriptor.digest} 206"]


class TestTags:
    """distribution-spec v1.1, "Listing Tags"."""

    def test_all_tags_are_listed(self, world: World) -> None:
        manifest = a_manifest(world)
        for number in range(12):
            world.uploader.manifest(world.reference.at(f"latest-counter-{number}"), manifest.data)
        tags = ask(world, lambda registry: registry.tags(world.reference))
        assert sorted(tags) == sorted(["latest", *(f"latest-counter-{number}" for number in range(12))])

    def test_a_repository_that_is_not_there_has_no_list(self, world: World) -> None:
        with pytest.raises(NotFound):
            ask(world, lambda registry: registry.tags(world.reference))


class TestBeyondTheStandard:
    """What CNCF distribution has besides, and what "Deleting Manifests" leaves to registries."""

    def test_all_repositories_are_listed(self, world: World) -> None:
        a_manifest(world)
        assert world.reference.repository in ask(world, lambda registry: registry.repositories(world.reference.host))

    def test_who_does_not_log_in_sees_no_repositories(self, guarded_world: World) -> None:
        nobody = replace(guarded_world.access, credentials=None)
        with pytest.raises(RegistryError, match="401"):
            ask(guarded_world, lambda registry: registry.repositories(guarded_world.reference.host), access=nobody)

    def test_a_manifest_that_was_deleted_is_gone_and_not_deleted_twice(self, world: World) -> None:
        at = world.reference.at(a_manifest(world).digest)
        world.uploader.delete(at)
        with pytest.raises(NotFound):
            ask(world, lambda registry: registry.manifest(at))
        with pytest.raises(RegistryError, match="404"):
            world.uploader.delete(at)


class TestReferrers:
    """distribution-spec v1.1, "Listing Referrers" and "Referrers Tag Schema", without the API."""

    def test_there_is_no_referrers_api(self, world: World) -> None:
        manifest = a_manifest(world)
        at = world.reference.at(manifest.digest)
        assert ask(world, lambda registry: registry.referrers(at)) == ()
        assert world.asked() == [f"GET /v2/{world.reference.repository}/referrers/{manifest.digest} 404"]

    def test_a_manifest_with_a_subject_is_kept_and_not_listed(self, world: World) -> None:
        subject = a_manifest(world)
        carrier = Manifest.build("application/vnd.margo.test", [], subject=subject.descriptor)
        assert world.uploader.manifest(world.reference.at(carrier.digest), carrier.data) is False
        received = ask(world, lambda registry: registry.manifest(world.reference.at(carrier.digest)))
        assert received
        assert Manifest.from_bytes(received.data, what="carrier").subject == subject.descriptor
        assert ask(world, lambda registry: referrers(registry, world.reference, subject.digest)) == []

    def test_signatures_are_found_by_the_tag_that_stands_in_for_the_api(self, world: World) -> None:
        manifest = a_manifest(world)

        async def sign(registry: Registry, name: str) -> Sequence[str]:
            attacher = Attacher(registry, world.uploader, noon)
            return await attacher.sign(world.reference, manifest.descriptor, key(name))

        async def signers(registry: Registry) -> list[str]:
            judge = Judge(Policy([key("fleet").public, key("stranger").public], threshold=2), noon)
            return [one.name for one in await judge.signers(registry, world.reference, manifest.descriptor)]

        for name in ("fleet", "stranger"):
            assert ask(world, lambda registry: sign(registry, name)) == ["bundle", "simple-signing"]  # noqa: B023
            assert ask(world, lambda registry: sign(registry, name)) == []  # noqa: B023  (nobody signs twice)
        assert ask(world, signers) == ["fleet", "stranger"]
        listed = ask(world, lambda registry: referrers(registry, world.reference, manifest.digest))
        assert [one.artifact_type for one in listed] == [BUNDLE_TYPE, BUNDLE_TYPE]
        image = ask(world, lambda registry: simple_image(registry, world.reference, manifest.digest))
        assert image
        found = ask(world, lambda registry: simple_signatures(registry, world.reference, manifest.digest, image))
        assert (len(found.attached), found.refused) == (2, [])
        tag = manifest.digest.replace(":", "-")
        index = ask(world, lambda registry: registry.manifest(world.reference.at(tag)))
        assert index
        assert index.media_type == IMAGE_INDEX


class TestPublishing:
    """format, section 2, from one end to the other."""

    def test_a_published_state_is_opened_and_fetched(self, world: World, tmp_path: Path) -> None:
        async def publish(registry: Registry) -> str:
            publisher = Publisher(registry, world.uploader, key(), lambda: NOON)
            release = await publisher.publish(world.reference, [build_layer(deployment(), lock())], scope="edge-17")
            return release.state.manifest.digest

        digest = ask(world, publish)

        async def pull(registry: Registry) -> tuple[str, int, int]:
            verified = await open_state(registry, world.reference, Judge(Policy([key().public], ["edge-17"]), noon))
            fetched = await fetch(verified, registry, world.reference, Store(tmp_path))
            return verified.state.manifest.digest, verified.state.counter, fetched.fetched

        assert ask(world, pull) == (digest, 1, 1)
        assert ask(world, lambda registry: registry.digest(claim(world.reference, 1))) == digest
        assert ask(world, lambda registry: resolve(registry, world.reference, known=digest)) is None


class TestLogin:
    """RFC 7617, as registry and client do it."""

    def test_a_login_is_asked_for_once(self, guarded_world: World) -> None:
        world = guarded_world
        a_manifest(world)

        async def twice(registry: Registry) -> None:
            await registry.manifest(world.reference)
            await registry.manifest(world.reference)

        ask(world, twice)
        assert [one.rpartition(" ")[2] for one in world.asked()] == ["401", "200", "200"]

    @pytest.mark.parametrize(
        ("credentials", "message"),
        [(None, "401: no credentials"), (Credentials("margo", "guess"), "401: these credentials are not accepted")],
        ids=["nobody", "wrong-password"],
    )
    def test_who_is_not_let_in_is_told_so(
        self, guarded_world: World, credentials: Credentials | None, message: str
    ) -> None:
        access = replace(guarded_world.access, credentials=credentials)
        with pytest.raises(RegistryError, match=message):
            ask(guarded_world, lambda registry: registry.manifest(guarded_world.reference), access=access)


class TestWire:
    """What the answers say besides: the headers that a client may go by."""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_manifest_says_what_it_is(self, world: World, method: str) -> None:
        manifest = a_manifest(world)
        answer = wire(world, method, "manifests/latest")
        assert (answer.status_code, told(answer)) == (
            200,
            {
                "Content-Length": str(len(manifest.data)),
                "Content-Type": IMAGE_MANIFEST,
                "Docker-Content-Digest": manifest.digest,
                "Docker-Distribution-Api-Version": "registry/2.0",
                "ETag": f'"{manifest.digest}"',
            },
        )

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_a_blob_says_what_it_is(self, world: World, method: str) -> None:
        descriptor = a_blob(world)
        answer = wire(world, method, f"blobs/{descriptor.digest}")
        assert (answer.status_code, told(answer)) == (
            200,
            {
                "Accept-Ranges": "bytes",
                "Content-Length": str(len(BLOB)),
                "Content-Type": "application/octet-stream",
                "Docker-Content-Digest": descriptor.digest,
                "Docker-Distribution-Api-Version": "registry/2.0",
                "ETag": f'"{descriptor.digest}"',
            },
        )

    def test_a_part_of_a_blob_says_which(self, world: World) -> None:
        descriptor = a_blob(world)
        answer = wire(world, "GET", f"blobs/{descriptor.digest}", {"Range": "bytes=100-"})
        assert (answer.status_code, answer.headers["Content-Range"]) == (206, f"bytes 100-{len(BLOB) - 1}/{len(BLOB)}")

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("manifests/other", "MANIFEST_UNKNOWN"),
            (f"blobs/{UNKNOWN}", "BLOB_UNKNOWN"),
            ("tags/list", "NAME_UNKNOWN"),
        ],
    )
    def test_an_error_has_its_code(self, world: World, path: str, code: str) -> None:
        answer = wire(world, "GET", path)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, code)


def wire(world: World, method: str, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Send one request past our own client."""
    place: Reference = world.reference
    scheme = "http" if world.access.plain_http else "https"

    async def send() -> httpx2.Response:
        transport = world.transport_for(place.host) if world.transport_for else None
        accept = {"Accept": IMAGE_MANIFEST, "Accept-Encoding": "identity"}
        async with httpx2.AsyncClient(transport=transport) as client:
            url = f"{scheme}://{place.host}/v2/{place.repository}/{path}"
            return await client.request(method, url, headers=accept | (headers or {}))

    return asyncio.run(send())


def told(answer: httpx2.Response) -> dict[str, str]:
    """Return the headers that say something about the content."""
    names = ("Accept-Ranges", "Content-Length", "Content-Type", "Docker-Content-Digest",
             "Docker-Distribution-Api-Version", "ETag")  # fmt: skip
    return {name: answer.headers[name] for name in names if name in answer.headers}


@pytest.mark.parametrize("offset", [0, 1_000_000])
def test_a_large_blob_comes_from_any_offset_on(world: World, offset: int) -> None:
    data = random.Random(7).randbytes(LARGE_BYTES + 2_000_000)  # noqa: S311
    layer = Descriptor.of(data, "application/octet-stream")
    world.uploader.blob(world.reference, layer, data)

    async def read(registry: Registry) -> bytes:
        async with registry.blob(world.reference, layer, offset=offset) as body:
            assert body.offset == offset
            return b"".join([chunk async for chunk in body.chunks])

    assert ask(world, read) == data[offset:]


def test_a_large_blob_that_is_not_there_is_not_found(world: World) -> None:
    layer = Descriptor(media_type="application/octet-stream", digest=UNKNOWN, size=2 * LARGE_BYTES)

    async def read(registry: Registry) -> None:
        async with registry.blob(world.reference, layer):
            raise AssertionError("there is nothing")

    with pytest.raises(NotFound, match="the registry does not have it"):
        ask(world, read)


def test_a_large_body_that_nobody_reads_to_its_end_is_let_go(world: World) -> None:
    data = bytes(2 * LARGE_BYTES)
    layer = Descriptor.of(data, "application/octet-stream")
    world.uploader.blob(world.reference, layer, data)

    async def read(registry: Registry) -> int:
        async with registry.blob(world.reference, layer) as body:
            return len(await anext(body.chunks))

    assert 0 < ask(world, read) <= len(data)
