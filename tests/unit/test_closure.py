"""What a state leads to, found in a simulated registry, and what of it is carried."""

import asyncio
import errno
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from margo_agent.importing import missing_words, source_in
from margo_oci.access import Access
from margo_oci.bundle import Plan, is_in, joined, plan_bundle, write_bundle
from margo_oci.closure import Closure
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor, canonical_json, digest_of
from margo_oci.desired_state import Lock, build_layer, build_state
from margo_oci.errors import FormatError, TrustError
from margo_oci.layout import NAME, FolderFiles, Layout, open_layout
from margo_oci.layout_registry import LayoutTransport
from margo_oci.manifest import IMAGE_INDEX, IMAGE_MANIFEST, Manifest, build_index, parse_index
from margo_oci.offering import Offer
from margo_oci.platforms import Platform
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from tests.simulators.registry import ALWAYS, SimulatedRegistry
from tests.unit.scenes import SCOPE, deployment, parameter

STATE = parse_reference("registry.example/fleet/edge-17:latest")
COMPONENT = "oci://registry.example/components/hello:1.0.0"
IMAGE = "registry.example/web:1"


def put(sim: SimulatedRegistry, repository: str, target: str, manifest: Manifest, *blobs: bytes) -> str:
    for blob in (EMPTY_JSON, *blobs):
        sim.put_blob(repository, blob)
    sim.put_manifest(repository, target or manifest.digest, manifest.data)
    return manifest.digest


def image(sim: SimulatedRegistry, *architectures: str) -> str:
    """Put an image for each architecture, and the index of them; return its digest."""
    listed = []
    for name in architectures:
        layer = f"layer for {name}".encode()
        manifest = Manifest.build("application/vnd.example.image+json", [Descriptor.of(layer, "application/x.layer")])
        put(sim, "web", "", manifest, layer)
        listed.append(manifest.descriptor.to_dict() | {"platform": {"os": "linux", "architecture": name}})
    index = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": listed}).encode()
    sim.put_manifest("web", "1", index)
    return digest_of(index)


def publish(sim: SimulatedRegistry, greeting: str = "hello", counter: int = 1, *, locked: bool = True,
            scope: str = "edge-17") -> str:  # fmt: skip
    """Put a component, its image, and a state that locks them; all signed in some way."""
    archive = b"an archive"
    component = Manifest.build(
        "application/vnd.org.margo.component.compose+json", [Descriptor.of(archive, "application/x")]
    )
    put(sim, "components/hello", "1.0.0", component, archive)
    lock = Lock({COMPONENT: component.digest}, {IMAGE: image(sim, "amd64", "arm64")})
    layer = build_layer(deployment(parameters={"greeting": parameter(greeting, "GREETING")}), lock if locked else None)
    state = build_state([layer.descriptor], counter=counter, scope=scope).manifest
    repository = f"fleet/{scope}"
    put(sim, repository, "latest", state, layer.data)
    put(sim, repository, f"latest-counter-{counter}", state)
    put(sim, repository, "latest-head", Manifest.build("application/vnd.org.margo.oci.head.v1+json", []))
    put(sim, repository, "trust", Manifest.build("application/vnd.org.margo.oci.trust.v1+json", []))
    put(sim, repository, state.digest.replace(":", "-") + ".sig", Manifest.build("application/x.simple", []))
    signature = Manifest.build("application/x.signature", [], subject=state.descriptor)
    put(sim, repository, "", signature)
    if not sim.referrers_api:
        fallback = build_index([signature.descriptor])
        sim.put_manifest(repository, state.digest.replace(":", "-"), fallback)
    return state.digest


def closed(
    sim: SimulatedRegistry, *references: Reference, platforms: Sequence[Platform] = (), known: Sequence[Layout] = ()
) -> Closure:
    async def work() -> Closure:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            closure = Closure(registry, platforms, is_known=lambda digest: is_in(known, digest))
            for reference in references or (STATE,):
                await closure.take(reference)
            return closure

    return asyncio.run(work())


def written(sim: SimulatedRegistry, plan: Plan, output: Path) -> Path:
    async def work() -> None:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            await write_bundle(registry, plan, output)

    asyncio.run(work())
    return output


@pytest.fixture(params=[False, True], ids=["by the tag", "by the API"])
def sim(request: pytest.FixtureRequest) -> SimulatedRegistry:
    return SimulatedRegistry(referrers_api=request.param)


def test_13_6_a_state_leads_to_everything_that_a_device_asks_for(sim: SimulatedRegistry) -> None:
    digest = publish(sim)
    closure = closed(sim)
    names = {name for node in closure.nodes.values() for name in node.names}
    beside = str(STATE).removesuffix("latest") + digest.replace(":", "-")
    assert {str(STATE), f"{STATE}-counter-1", f"{STATE}-head", str(STATE.at("trust")), f"{beside}.sig",
            "registry.example/components/hello:1.0.0", IMAGE} <= names  # fmt: skip
    kinds = sorted(node.kind for node in closure.nodes.values() if node.kind != "signature")
    assert kinds == ["component", "head", "image", "image", "image", "roots", "state"]
    assert any(node.subject == digest for node in closure.nodes.values())


def test_13_6_one_image_under_several_names_keeps_all(sim: SimulatedRegistry) -> None:
    names = [f"registry.example/web:{number}" for number in range(1, 6)]
    digest = image(sim, "amd64")
    built = build_layer(deployment(), Lock({}, dict.fromkeys(names, digest)))
    put(sim, "fleet/edge-17", "latest", build_state([built.descriptor], counter=1, scope=SCOPE).manifest, built.data)
    assert closed(sim).nodes[digest].names == set(names)


def test_13_6_of_an_index_only_the_wanted_platforms_are_taken(sim: SimulatedRegistry) -> None:
    publish(sim)
    closure = closed(sim, platforms=[Platform.of("arm64")])
    (below,) = [node for node in closure.nodes.values() if node.below]
    assert below.blobs[-1].digest == digest_of(b"layer for arm64")
    with pytest.raises(FormatError, match="no image for linux/arm/v7: it has linux/amd64, linux/arm64"):
        closed(sim, platforms=[Platform.of("armv7l")])


@pytest.mark.parametrize(("name", "limit"), [("NODE_LIMIT", 3), ("CONTENT_LIMIT_BYTES", 3000)])
def test_13_6_what_hangs_on_a_state_is_bounded(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = SimulatedRegistry()
    publish(sim)
    monkeypatch.setattr(f"margo_oci.closure.{name}", limit)
    with pytest.raises(FormatError, match="take fewer references at once"):
        closed(sim)


def test_13_6_an_image_that_no_index_lists_has_the_wanted_platform_too(sim: SimulatedRegistry) -> None:
    config = canonical_json({"os": "linux", "architecture": "amd64"})
    described = Descriptor.of(config, "application/vnd.oci.image.config.v1+json")
    single = canonical_json({"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": described.to_dict(),
                             "layers": []})  # fmt: skip
    sim.put_blob("web", config)
    sim.put_manifest("web", "1", single)
    for wanted in ([], [Platform.of("amd64")], [Platform.of("arm64"), Platform.of("amd64")]):
        assert digest_of(single) in closed(sim, parse_reference(IMAGE), platforms=wanted).nodes
    with pytest.raises(FormatError, match="no image for linux/arm64: it has linux/amd64"):
        closed(sim, parse_reference(IMAGE), platforms=[Platform.of("arm64")])


def test_13_6_a_state_with_something_unlocked_is_not_bundled(sim: SimulatedRegistry) -> None:
    publish(sim, locked=False)
    with pytest.raises(FormatError, match="has no lock"):
        closed(sim)


def test_13_6_every_name_is_listed_once_and_what_an_index_lists_is_not(sim: SimulatedRegistry, tmp_path: Path) -> None:
    publish(sim)
    layout = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site"))
    names = [entry.annotations[NAME] for entry in layout.entries]
    assert len(names) == len(set(names))
    assert names.count(IMAGE) == 1
    assert not any(layout.size_bytes(entry.digest) is None for entry in layout.entries)
    for layer in ("amd64", "arm64"):
        assert layout.small(digest_of(f"layer for {layer}".encode())) is not None


def test_13_1_what_a_registry_calls_a_manifest_makes_no_bundle_unreadable(tmp_path: Path) -> None:
    def miscalled(_: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        return httpx2.Response(response.status_code, content=response.content, headers={"Content-Type": "page"})

    sim = SimulatedRegistry()
    publish(sim)
    sim.fail(miscalled, on="/manifests/", times=ALWAYS)
    layout = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site"))
    types = {entry.annotations[NAME]: entry.media_type for entry in layout.entries}
    assert (types[str(STATE)], types[IMAGE]) == (IMAGE_MANIFEST, IMAGE_INDEX)


def test_13_7_what_is_new_is_a_state_and_what_is_small(sim: SimulatedRegistry, tmp_path: Path) -> None:
    publish(sim)
    base = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site.tar"))
    digest = publish(sim, "goodbye", 2)
    plan = plan_bundle(closed(sim, known=[base]), [base])
    assert {node.kind for node in plan.nodes} <= {"state", "signature", "component", "head", "roots"}
    assert digest in {node.descriptor.digest for node in plan.nodes}
    assert "component" in {node.kind for node in plan.nodes}
    carried = {blob.digest for _, blob in plan.blobs}
    assert digest_of(b"an archive") not in carried
    assert not {digest_of(f"layer for {name}".encode()) for name in ("amd64", "arm64")} & carried


def test_13_7_a_deployment_that_did_not_change_leads_to_nothing_new(sim: SimulatedRegistry, tmp_path: Path) -> None:
    publish(sim)
    base = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site.tar"))
    publish(sim, counter=2)
    plan = plan_bundle(closed(sim, known=[base]), [base])
    assert "component" not in {node.kind for node in plan.nodes}


def test_13_7_a_state_that_did_not_change_travels_with_its_signatures(sim: SimulatedRegistry, tmp_path: Path) -> None:
    """A device without the base finds it signed, and says what is missing."""
    digest = publish(sim)
    base = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site.tar"))
    plan = plan_bundle(closed(sim, known=[base]), [base])
    tag = digest.replace(":", "-") + ".sig"
    beside = sim.repositories[STATE.repository].tags[tag]
    carried = {node.descriptor.digest for node in plan.nodes}
    assert {digest, beside} <= carried
    assert any(node.subject == digest for node in plan.nodes)
    assert {node.kind for node in plan.nodes} == {"state", "signature", "head", "roots"}
    assert plan.size_bytes < 10_000


def test_13_7_what_was_asked_for_on_its_own_travels_for_the_state_all_the_same(
    sim: SimulatedRegistry, tmp_path: Path
) -> None:
    publish(sim)
    place = "components/hello"
    component = sim.repositories[place].tags["1.0.0"]
    put(sim, place, component.replace(":", "-") + ".sig", Manifest.build("application/x.simple", [], {"of": "it"}))
    both = [parse_reference(COMPONENT.removeprefix("oci://")), STATE]
    base = open_layout(written(sim, plan_bundle(closed(sim, *both)), tmp_path / "site.tar"))
    publish(sim, "goodbye", 2)
    plan = plan_bundle(closed(sim, *both, known=[base]), [base])
    names = {name for node in plan.nodes for name in node.names}
    assert any(f"{place}:sha256-" in name for name in names)


def test_13_9_a_layout_that_is_added_to_keeps_its_entries_and_a_name_leads_to_the_newest() -> None:
    def entry(content: bytes, name: str) -> Descriptor:
        return Descriptor.of(content, IMAGE_MANIFEST, {NAME: name} if name else {})

    old, other, new = entry(b"old", "host/a:1"), entry(b"other", "host/b:1"), entry(b"new", "host/a:1")
    assert joined([old, other], [new]) == [entry(b"old", ""), other, new]
    assert joined([new, other], [new]) == [other, new]
    assert joined([entry(b"nameless", "")], [new]) == [entry(b"nameless", ""), new]


def test_13_11_what_was_asked_for_first_is_what_cosign_verifies_of_a_layout(sim: SimulatedRegistry) -> None:
    digest = publish(sim)
    other = parse_reference("registry.example/fleet/edge-18:latest")
    publish(sim, scope="edge-18")
    found = {one.digest: one.annotations["kind"] for one in plan_bundle(closed(sim, STATE, other)).entries
             if "kind" in one.annotations}  # fmt: skip
    simple = sim.repositories[STATE.repository].tags[digest.replace(":", "-") + ".sig"]
    assert found == {digest: "dev.cosignproject.cosign/image", simple: "dev.cosignproject.cosign/sigs"}
    (index,) = [one for one in plan_bundle(closed(sim, parse_reference(IMAGE))).entries if "kind" in one.annotations]
    assert index.annotations["kind"] == "dev.cosignproject.cosign/imageIndex"


def test_13_11_of_a_layout_that_is_added_to_cosign_verifies_what_came_last() -> None:
    old, new = (
        Descriptor.of(one, IMAGE_MANIFEST, {NAME: f"host/{one.decode()}:1", "kind": "k"}) for one in (b"a", b"b")
    )
    assert joined([old], [new]) == [replace(old, annotations={NAME: "host/a:1"}), new]
    assert joined([old], [plain := replace(new, annotations={NAME: "host/b:1"})]) == [old, plain]


def test_13_9_a_list_in_a_layout_may_name_what_went_and_is_no_image(tmp_path: Path) -> None:
    sim = SimulatedRegistry()
    digest = publish(sim)
    place, tag = sim.repositories["fleet/edge-17"], digest.replace(":", "-")
    gone = Manifest.build("application/x.signature", [], {"gone": "yes"}).descriptor
    listed = parse_index(place.manifests[place.tags[tag]], what="list")
    sim.put_manifest("fleet/edge-17", tag, build_index([gone, *listed]))
    offer = Offer(open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site")))

    async def work() -> Closure:
        async with LayoutTransport(offer).registry() as registry:
            closure = Closure(registry)
            for reference in offer.all_references:
                await closure.artifact(reference)
            return closure

    below = [node for node in asyncio.run(work()).nodes.values() if node.below]
    assert {node.kind for node in below} == {"index"}


def test_13_4_a_wrong_byte_from_the_registry_gets_into_no_bundle(sim: SimulatedRegistry, tmp_path: Path) -> None:
    publish(sim)
    sim.blobs[digest_of(b"an archive")] = b"an 4rchive"
    with pytest.raises(TrustError, match="tampered content") as refused:
        written(sim, plan_bundle(closed(sim)), tmp_path / "site.tar")
    assert refused.value.reason == "digest-mismatch"
    assert not (tmp_path / "site.tar").exists()
    with pytest.raises(FormatError, match=r"a folder or a \.tar"):
        written(sim, plan_bundle(closed(sim)), tmp_path / "site.tar.gz")


@pytest.mark.parametrize("name", ["site", "site.tar"])
def test_13_4_what_a_power_cut_left_in_a_bundle_is_held_against_its_digest(name: str, tmp_path: Path) -> None:
    sim = SimulatedRegistry()
    digest = publish(sim)
    plan = plan_bundle(closed(sim))
    left = Store(tmp_path / (name if name == "site" else "site.tar.part")).blobs
    left.mkdir(parents=True)
    held = {digest_of(b"an archive"): b"an archive", digest: sim.repositories["fleet/edge-17"].manifests[digest]}
    for lost in held:  # the names are there, what is in the files is not
        (left / lost.removeprefix("sha256:")).write_bytes(bytes(len(held[lost])))
    layout = open_layout(written(sim, plan, tmp_path / name))
    assert layout.small(digest_of(b"an archive")) == b"an archive"
    assert layout.small(digest) is not None


def test_13_1_a_bundle_that_nobody_could_read_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = SimulatedRegistry()
    publish(sim)
    plan = plan_bundle(closed(sim))
    sim.forget()
    monkeypatch.setattr("margo_oci.layout.ENTRY_LIMIT", 3)
    with pytest.raises(FormatError, match="take fewer references at once"):
        written(sim, plan, tmp_path / "site.tar")
    assert not sim.requests
    assert not list(tmp_path.iterdir())


def test_13_4_a_bundle_that_cannot_be_written_leaves_no_half_of_it(
    sim: SimulatedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Iterator[bytes]:
        yield b"half of it"
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(sim)
    plan = plan_bundle(closed(sim))
    with monkeypatch.context() as patched:
        patched.setattr("margo_oci.bundle.tar_of", full)
        with pytest.raises(OSError, match="No space left"):
            written(sim, plan, tmp_path / "site.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["site.tar.part"]
    assert written(sim, plan, tmp_path / "site.tar").exists()


@pytest.mark.parametrize(
    "linked", ["site/blobs", "site/blobs/sha256", "site/ingest", "site.tar.part/blobs", "site.tar.part"]
)
def test_13_2_a_folder_on_a_stick_that_is_a_link_leads_no_blob_elsewhere(
    linked: str, sim: SimulatedRegistry, tmp_path: Path
) -> None:
    publish(sim)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="this is a link"):
        written(sim, plan_bundle(closed(sim)), tmp_path / linked.partition("/")[0].removesuffix(".part"))
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["site", "site.tar"])
def test_13_4_a_bundle_is_on_the_disk_before_its_name_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim, synced = SimulatedRegistry(), set[int]()
    really = os.fsync

    def noted(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        really(file)

    publish(sim)
    monkeypatch.setattr("os.fsync", noted)
    bundle = written(sim, plan_bundle(closed(sim)), tmp_path / name)
    there = [bundle, *bundle.rglob("*")] if bundle.is_dir() else [bundle, tmp_path]
    assert {path.name for path in there if path.stat().st_ino not in synced} <= {"blobs"}


def test_13_5_of_several_scopes_a_device_finds_its_own(tmp_path: Path) -> None:
    sim = SimulatedRegistry()
    publish(sim)
    publish(sim, scope="edge-18")
    other = parse_reference("registry.example/fleet/edge-18:latest")
    offer = Offer(open_layout(written(sim, plan_bundle(closed(sim, STATE, other)), tmp_path / "site")))
    assert source_in(offer, STATE, ["edge-17"]) == STATE
    elsewhere = parse_reference("mirror.plant/other/name:stable")
    assert source_in(offer, elsewhere, ["edge-18"]) == other
    with pytest.raises(FormatError, match=r"nothing for this device.* it has states for edge-17, edge-18"):
        source_in(offer, elsewhere, ["edge-19"])
    with pytest.raises(FormatError, match="several states are for this device"):
        source_in(offer, elsewhere, ["edge-17", "edge-18"])


def test_13_5_a_state_with_many_names_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = SimulatedRegistry()
    publish(sim)
    layout = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site"))
    state = next(one for one in layout.entries if one.annotations.get(NAME) == str(STATE))
    many = [replace(state, annotations={NAME: f"registry.example/fleet/edge-17:t{number}"}) for number in range(50)]
    looked: list[str] = []

    class Counted(FolderFiles):
        def pieces(self, path: str, start: int, count: int) -> Iterator[bytes]:
            looked.append(path)
            return super().pieces(path, start, count)

    offer = Offer(replace(layout, files=Counted(tmp_path / "site"), entries=many))
    elsewhere = parse_reference("mirror.plant/other/name:stable")
    assert source_in(offer, elsewhere, ["edge-17"]).tag == "t0"
    assert looked == [f"blobs/{state.digest.replace(':', '/')}"]
    monkeypatch.setattr("margo_agent.importing.LOOK_LIMIT_BYTES", state.size - 1)
    with pytest.raises(FormatError, match="name one as `source`"):
        source_in(offer, elsewhere, ["edge-17"])


def test_13_7_what_is_missing_is_counted_and_named() -> None:
    words = missing_words(Path("news.tar"), [f"sha256:{number:064}" for number in range(22)])
    assert words.startswith("news.tar: 22 that are neither in this bundle nor on this device: sha256:0")
    assert "and 2 more" in words
    assert "import the earlier bundle first" in words


def test_the_empty_config_comes_along(sim: SimulatedRegistry, tmp_path: Path) -> None:
    publish(sim)
    layout = open_layout(written(sim, plan_bundle(closed(sim)), tmp_path / "site.tar"))
    assert layout.small(EMPTY_CONFIG.digest) == EMPTY_JSON
    assert all(entry.media_type in (IMAGE_MANIFEST, IMAGE_INDEX) for entry in layout.entries)
