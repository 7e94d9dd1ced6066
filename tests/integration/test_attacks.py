"""Every attack of docs/trust.md, played by a hostile registry against the real agent on a real engine.

Each is refused by a reason that names it, or has no effect; what runs keeps its containers and serves its page; and
when it is over the device takes the operator's next release.
"""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from margo_oci.archive import Entry, pack
from margo_oci.carrier import HEAD_ARTIFACT, TUF_TYPE
from margo_oci.ceremony import Change
from margo_oci.content import EMPTY_CONFIG, Descriptor, canonical_json
from margo_oci.cosign import BUNDLE_TYPE, PAYLOAD_TYPE, bundle, pae
from margo_oci.desired_state import DEPLOYMENT, LAYER_TYPE, LOCK, DesiredState, Layer
from margo_oci.head import build_head, sign_head
from margo_oci.manifest import IMAGE_INDEX, Manifest
from margo_oci.root import Root
from tests.integration.attacked import DAY, SECOND, World, free_port, utc
from tests.integration.site import IDS, Site, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.hostile import (
    HostileRegistry,
    Trick,
    asks_for_a_login,
    changes,
    claims,
    drips,
    goes_on_without_end,
    replays,
    says,
)
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry
from tests.unit.scenes import gzip_of, hostile, member

TAGGED = {"components/hello": "1.0.0", "images/attacked": "1.0"}
TRUST_PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
ROOT_OF_TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory, plain_registry: LocalRegistry, engine: Engine
) -> Iterator[World]:
    """A device that applied release 2, named by head 2; all made with the commands that people type."""
    Images(engine.docker_host, plain_registry.host).push("images/attacked", "1.0", images.web())
    site = Site(tmp_path_factory.mktemp("attacked"), plain_registry, engine)
    with HostileRegistry(plain_registry.host) as front:
        world = World(site, front, free_port())
        begun(world)
        try:
            yield world
        finally:
            site.take_down()


def begun(world: World) -> None:
    """Bring the device to where every attack begins."""
    site = world.site
    for name in ("ana", "ben", "cem", "head"):
        site.keygen(name)
    (world.folder / "1.root.json").write_bytes(world.made_root())
    site.oci("root", "publish", "1.root.json", f"{world.state.name}:trust", "--plain-http")
    site.component("hello", "1.0.0", web(f"{site.registry.host}/images/attacked:1.0", world.port))
    for greeting in ("older", "hello"):
        site.deployment("hello", GREETING=greeting)
        site.push()
        world.issue("issue", "--scope", "edge-17")
        tag = "first" if greeting == "older" else "second"
        world.uploader.manifest(world.state.at(f"{tag}-head"), world.manifest_at("latest-head"))
        world.uploader.manifest(world.state.at(tag), world.manifest_at("latest"))
    world.configure()
    assert world.once()["outcome"] == "applied"
    world.keep()
    world.untouched()


@pytest.fixture
def world(attacked: World) -> World:
    attacked.begin_anew()
    return attacked


def follow_the_tag(world: World, trust: str = "{keys: [fleet.pub]}") -> None:
    """Let the device ask for releases only, not for heads."""
    world.configure(trust)
    assert world.once()["counter"] == 2
    world.untouched()


def recovers_by_tag(world: World) -> None:
    """The attack is over: a device that follows the tag takes the next release."""
    world.front.behaves()
    state = world.release(9)
    world.tag(state, world.bundle(state))
    assert world.once()["counter"] == 9
    world.untouched()


# Arbitrary content


def test_arbitrary_content_a_changed_manifest(world: World) -> None:
    state = world.release(3, empty=True)
    world.put_head(state)
    world.front.plays(changes(b'"3"', b'"4"'), on=state.manifest.digest)
    world.refused("digest-mismatch", state.manifest.digest)
    world.recovers()


def test_arbitrary_content_a_changed_layer(world: World) -> None:
    layer = a_layer(f"id: {IDS['pump']}\n")
    world.put_head(world.release(3, layer))
    world.front.plays(says(200, b"x" * len(layer.data)), on=layer.descriptor.digest)
    world.refused("digest-mismatch", layer.descriptor.digest)
    world.recovers()


def test_arbitrary_content_a_changed_head(world: World) -> None:
    state = world.release(3, empty=True)
    document = sign_head(world.head_for(state), world.root, [world.key("head")])
    world.put_carrier(document.replace(b'"3"', b'"4"'), [world.bundle(state)])
    world.refused("wrong-key", "made by somebody else")
    world.recovers()


def test_arbitrary_content_a_digest_that_is_claimed_in_a_header(world: World) -> None:
    world.put_head(world.release(3))
    world.front.plays(claims(Docker_Content_Digest="sha256:" + "0" * 64), on="latest-head")
    world.refused("digest-mismatch")
    world.recovers()


# Signatures


def test_unsigned_a_release_without_a_signature(world: World) -> None:
    world.put_head(world.release(3, empty=True), bundles=[])
    world.refused("unsigned")
    world.recovers()


def test_unsigned_a_head_without_a_signature(world: World) -> None:
    state = world.release(3, empty=True)
    document = {"signatures": [], "signed": build_head(world.head_for(state))}
    world.put_carrier(canonical_json(document), [world.bundle(state)])
    world.refused("head-unsigned", "removed on the way")
    world.recovers()


def test_wrong_key_a_head_by_a_stranger(world: World) -> None:
    theirs = Root.from_bytes(world.made_root(head=world.role("stranger")))
    world.put_head(world.release(3, empty=True), by="stranger", root=theirs)
    world.refused("wrong-key", "made by somebody else")
    world.recovers()


def test_moved_signature_of_another_release(world: World) -> None:
    world.put_head(world.release(3, empty=True), bundles=[world.bundle(world.release(2))])
    world.refused("moved-signature", "moved here from there")
    world.recovers()


def sbom(world: World, state: DesiredState) -> bytes:
    """An SBOM over a release, by the key of releases."""
    statement = canonical_json({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://spdx.dev/Document",
        "predicate": {},
        "subject": [{"name": "sbom", "digest": {"sha256": state.manifest.digest.removeprefix("sha256:")}}],
    })  # fmt: skip
    key = world.key("fleet")
    return bundle(statement, key.sign(pae(PAYLOAD_TYPE, statement)), hint=key.public.hint)


def test_not_a_release_an_sbom_by_the_same_key(world: World) -> None:
    state = world.release(3, empty=True)
    world.put_head(state, bundles=[sbom(world, state)])
    world.refused("not-a-release", "spdx.dev")
    world.recovers()


def test_below_threshold_one_release_key_of_two(world: World) -> None:
    two = world.role("fleet", "second", threshold=2)
    (world.folder / "two.root.json").write_bytes(world.made_root(release=two))
    world.configure("{mode: head+release, root: two.root.json}")
    state = world.release(3, empty=True)
    world.put_head(state)
    world.refused("below-threshold")
    good = world.release(4)
    world.put_head(good, version=4, bundles=[world.bundle(good), world.bundle(good, "second")])
    assert world.once()["counter"] == 4
    world.untouched()


def test_below_threshold_one_key_signs_twice(world: World) -> None:
    world.key("second")
    world.configure("{keys: [fleet.pub, second.pub], threshold: 2}")
    state = world.release(3, empty=True)
    world.tag(state, world.bundle(state), world.bundle(state))
    world.refused("below-threshold")
    world.tag(good := world.release(4), world.bundle(good), world.bundle(good, "second"))
    assert world.once()["counter"] == 4
    world.untouched()


def test_a_device_that_follows_the_tag_refuses_each_by_name(world: World) -> None:
    follow_the_tag(world)
    world.tag(world.release(3, empty=True))
    world.refused("unsigned")
    world.tag(state := world.release(4, empty=True), world.bundle(state, "stranger"))
    world.refused("wrong-key", "by no key that is trusted here")
    world.tag(world.release(5, empty=True), world.bundle(world.release(2)))
    world.refused("moved-signature", "moved here from there")
    world.tag(state := world.release(6, empty=True), sbom(world, state))
    world.refused("not-a-release", "spdx.dev")
    world.tag(state := world.release(7, empty=True, scope="edge-18"), world.bundle(state))
    world.refused("wrong-scope", "edge-18")
    world.tag(state := world.release(2, empty=True), world.bundle(state))
    world.refused("counter-reused")
    recovers_by_tag(world)


# Stolen keys


def test_a_stolen_head_key_makes_no_release(world: World) -> None:
    state = world.release(3, empty=True)
    world.put_head(state, bundles=[world.bundle(state, "stranger")])
    world.refused("wrong-key", "by no key that is trusted here")
    world.recovers()


def test_a_stolen_head_key_does_not_go_back_to_an_older_release(world: World) -> None:
    world.put_head(world.released("first", 1), bundles=world.signed("first"))
    world.refused("rollback", "counter 1")
    world.recovers()


def test_a_stolen_head_key_does_not_lower_the_counter_that_is_remembered(world: World) -> None:
    world.put_head(world.released("second", 2), bundles=world.signed("second"), counter=1)
    world.refused("mix-and-match", "parts of two releases")
    world.put_head(world.released("first", 1), bundles=world.signed("first"), version=4)
    world.refused("rollback")
    world.recovers()


def test_a_stolen_release_key_has_no_effect_without_the_head_key(world: World) -> None:
    state = world.release(2**64 - 1, empty=True)
    world.tag(state, world.bundle(state))
    world.unmoved()
    world.recovers()


# Time


def test_rollback_an_older_head_is_put_back(world: World) -> None:
    world.uploader.manifest(world.head, world.manifest_at("first-head"))
    world.refused("rollback", "head version 1 is lower than 2", "an older head was replayed")
    world.recovers()


def test_rollback_an_older_release_is_put_under_the_tag(world: World) -> None:
    world.uploader.manifest(world.state, world.manifest_at("first"))
    world.unmoved()
    world.configure("{keys: [fleet.pub]}")
    world.refused("rollback", "counter 1")
    recovers_by_tag(world)


def test_freeze_old_answers_are_replayed_and_the_head_expires(world: World) -> None:
    world.issue("renew", "--expires", "10s")
    expired_s = time.monotonic() + 10
    assert world.unmoved()["head"]["version"] == 3
    world.front.plays(replays())
    world.unmoved()
    world.put_head(world.release(3), version=4)
    time.sleep(max(0.0, expired_s - time.monotonic()))
    refused = world.refused("freeze", "somebody holds newer ones back")
    assert refused["stale"] == refused["message"]
    assert world.site.agent("status")["stale"].startswith("head version 3 expired")
    world.recovers()


def test_freeze_is_told_by_the_loop_while_the_registry_says_that_nothing_is_new(world: World) -> None:
    with world.site.running_agent() as agent:
        assert heard(agent.stdout)["outcome"] == "unchanged"
        world.put_head(world.released("second", 2), bundles=world.signed("second"), expires=utc() + 5 * SECOND)
        world.waits_for_head(3)
        world.front.plays(replays(), on="latest-head")
        told = heard(agent.stdout)
        assert (told["outcome"], told["reason"]) == ("refused", "freeze")
        world.untouched()
        world.front.behaves()
        world.put_head(world.release(9), version=10)
        agent.send_signal(signal.SIGHUP)
        assert heard(agent.stdout)["counter"] == 9
    world.untouched()


def heard(stream: IO[str] | None) -> Any:
    """The next thing a loop tells."""
    assert stream
    return json.loads(stream.readline())


def test_an_expired_head_is_not_accepted_by_a_device_that_only_warns(world: World) -> None:
    world.configure("{mode: head+release, root: 1.root.json, freshness: warn}")
    now = utc()
    world.put_head(world.release(3, empty=True), issued=now - 2 * DAY, expires=now - DAY)
    world.refused("freeze", "expired")
    world.recovers()


def test_fast_forward_of_the_heads_version(world: World) -> None:
    world.put_head(world.release(3), version=2_000_000)
    world.refused("fast-forward", "replace the head key")
    world.recovers()


def test_version_reused_two_heads_with_one_version(world: World) -> None:
    world.put_head(world.release(3, empty=True), version=2)
    world.refused("version-reused", "two heads were signed with one version")
    world.recovers()


def test_counter_reused_two_releases_with_one_counter(world: World) -> None:
    world.put_head(world.release(2, empty=True))
    world.refused("counter-reused")
    world.recovers()


def test_a_reset_device_takes_an_old_world_only_until_its_head_expires(world: World) -> None:
    """What remains: a device that remembers nothing believes the registry, for as long as the old head lives."""
    world.uploader.manifest(world.head, world.manifest_at("first-head"))
    world.device = Path("reset")
    world.configure()
    assert world.site.agent("plan")["counter"] == 1
    now = utc()
    world.put_head(
        world.released("first", 1),
        bundles=world.signed("first"),
        version=1,
        issued=now - 2 * DAY,
        expires=now - DAY,
    )
    report = world.site.agent("plan", expect=4)
    assert report["reason"] == "freeze"
    world.untouched()


# Mixtures


def test_mix_and_match_a_head_that_says_something_else_of_its_release(world: World) -> None:
    world.put_head(world.release(3, empty=True), counter=9)
    world.refused("mix-and-match", "parts of two releases were put together")
    world.put_head(world.release(3, empty=True), version=4, length=7)
    world.refused("mix-and-match")
    world.recovers()


def test_wrong_scope_another_devices_head(world: World) -> None:
    world.put_head(world.release(3, empty=True, scope="edge-18"))
    world.refused("wrong-scope", "edge-18", "another device's head")
    world.recovers()


def test_a_moved_tag_of_a_component_or_an_image_has_no_effect(world: World) -> None:
    places = [replace(world.state, repository=world.site.repository(name), tag=tag) for name, tag in TAGGED.items()]
    before = [world.ask(lambda registry, at=at: registry.manifest(at)) for at in places]  # type: ignore[misc]
    for at in places:
        world.uploader.blob(at, EMPTY_CONFIG, b"{}")
        world.uploader.manifest(at, Manifest.build("application/vnd.example.other", []).data)
    world.unmoved()
    world.recovers()
    for at, received in zip(places, before, strict=True):
        assert received
        world.uploader.manifest(at, received.data, received.media_type)


# Roots


def test_a_made_up_root_is_no_root(world: World) -> None:
    theirs = world.made_root(root=world.role("stranger"), head=world.role("stranger"), by=["stranger"])
    made_up = world.next_root("stranger", old=theirs, head=Change(add=[world.key("eve").public]))
    world.put_roots(world.root.data, made_up)
    world.put_head(world.release(3, empty=True), by="eve", root=Root.from_bytes(theirs_with_eve(world)))
    world.refused("wrong-key", "made by somebody else")
    world.a_day_later()
    world.refused("root-unsigned", "somebody made it up")
    world.put_roots(world.root.data)
    world.recovers()


def theirs_with_eve(world: World) -> bytes:
    """A root of their own, in which eve signs heads."""
    return world.made_root(head=world.role("eve"))


def test_a_root_that_lacks_a_holder_is_no_root(world: World) -> None:
    world.put_roots(world.root.data, world.next_root("ana", head=Change(add=[world.key("eve").public])))
    world.a_day_later()
    world.refused("root-unsigned", "signed by ana")
    world.put_roots(world.root.data)
    world.recovers()


def test_a_gap_in_the_chain_of_roots(world: World) -> None:
    second = world.next_root("ana", "ben")
    world.put_roots(world.root.data, world.next_root("ana", "ben", old=second))
    world.a_day_later()
    world.refused("wrong-root", "the chain has a gap")
    world.put_roots(world.root.data)
    world.recovers()


def test_an_expired_root_accepts_nothing_and_leads_on(world: World) -> None:
    expired = world.made_root(expires=-DAY)
    (world.folder / "expired.root.json").write_bytes(expired)
    world.put_roots(expired)
    world.put_head(world.release(3, empty=True))
    world.configure("{mode: head+release, root: expired.root.json}")
    world.refused("root-expired", "newer ones are held back")
    world.put_roots(expired, world.next_root("ana", "ben", old=expired))
    world.recovers()


# Endless, slow, somewhere else, too many


def test_endless_manifest(world: World) -> None:
    world.put_head(world.release(3))
    world.front.plays(goes_on_without_end, on="latest-head")
    world.refused("too-large")
    world.recovers()


@pytest.mark.parametrize("what", [0, 1], ids=["head", "bundle"])
def test_endless_head_or_bundle(world: World, what: int) -> None:
    """A head's manifest may leave its documents outside; then they are blobs."""
    state = world.release(3)
    document = sign_head(world.head_for(state), world.root, [world.key("head")])
    blobs = [document, world.bundle(state)]
    layers = [Descriptor.of(blob, kind) for blob, kind in zip(blobs, (TUF_TYPE, BUNDLE_TYPE), strict=True)]
    world.put(*blobs, tag=world.head.tag, manifest=Manifest.build(HEAD_ARTIFACT, layers).data)
    world.front.plays(goes_on_without_end, on=layers[what].digest)
    assert world.once(expect=4)["reason"] in ("too-large", "digest-mismatch")
    world.untouched()
    world.recovers()


def test_endless_blob(world: World) -> None:
    layer = a_layer(f"id: {IDS['pump']}\n")
    world.put_head(world.release(3, layer))
    world.front.plays(goes_on_without_end, on=layer.descriptor.digest)
    world.refused("digest-mismatch", f"more than the declared {len(layer.data)} bytes")
    world.recovers()


IMPATIENT = "import margo_agent.gather as g; g.GATHER_LIMIT_S = 2.0; from margo_agent.main import main; main()"


def test_a_registry_that_drips_is_given_up(world: World) -> None:
    """A pass gathers for at most half an hour; here it is two seconds."""
    world.put_head(world.release(3))
    world.front.plays(drips, on="latest-head")
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, "once", "--config", "agent.yaml", "-o", "json"],
        cwd=world.folder, env=world.site.environment, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done
    assert "not done after 2 s" in json.loads(done.stdout)["message"]
    world.untouched()
    world.recovers()


def with_a_login(world: World, *more: str) -> None:
    """Let the device have a password for the registry; `more` are other hosts it knows."""
    (world.folder / "password").write_text("secret")
    hosts = {world.front.host: ", username: edge-17, passwordFile: password", world.site.registry.host: ""}
    hosts |= dict.fromkeys(more, "")
    access = ", ".join(f'"{host}": {{plainHttp: true{login}}}' for host, login in hosts.items())
    world.configure(registries=f"{{{access}}}")


@pytest.mark.parametrize("known", [True, False], ids=["to a host that is known", "to a host that is not"])
def test_a_redirect_takes_no_login_along(world: World, known: bool) -> None:
    with HostileRegistry() as elsewhere:
        with_a_login(world, *([elsewhere.host] if known else []))
        away = says(307, Location=f"http://{elsewhere.host}/collect")
        world.front.plays(asks_for_a_login(away), on="latest-head")
        world.unreachable("the registry does not have it" if known else "redirected to http://127.0.0.1, which is not")
        assert bool(elsewhere.asked) == known
        assert not [one for one in elsewhere.asked if "authorization" in one.headers]
    assert [one for one in world.front.asked if "authorization" in one.headers], "the registry itself was told it"
    world.recovers()


def test_a_next_page_elsewhere_is_not_asked_for(world: World) -> None:
    with HostileRegistry() as elsewhere:
        follow_the_tag(world)
        state = world.release(3, empty=True)
        world.tag(state, world.bundle(state))
        page = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
        link = f'<http://{elsewhere.host}/next>; rel="next"'
        world.front.plays(says(200, page, Content_Type=IMAGE_INDEX, Link=link), on="/referrers/")
        world.unreachable("its next page is elsewhere and not asked for")
        assert not elsewhere.asked
    recovers_by_tag(world)


def a_flood(world: World, state: DesiredState) -> Trick:
    """Answer with a thousand signatures that nobody made, and not with the real one."""
    one = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 700, "artifactType": BUNDLE_TYPE}
    listed = [{**one, "digest": f"sha256:{number:064x}"} for number in range(1000)]
    return says(200, json.dumps({"schemaVersion": 2, "manifests": listed}).encode(), Content_Type=IMAGE_INDEX)


def test_a_flood_of_referrers_lets_nothing_in(world: World) -> None:
    follow_the_tag(world)
    state = world.release(3)
    world.tag(state, world.bundle(state))
    world.front.plays(a_flood(world, state), on="/referrers/")
    world.front.plays(says(404), on=state.manifest.digest.replace(":", "-"))
    assert world.once(expect=4)["outcome"] == "refused"
    assert len(world.front.asked) < 300
    world.untouched()
    recovers_by_tag(world)


def test_a_flood_of_referrers_has_no_effect_on_a_device_that_follows_heads(world: World) -> None:
    state = world.release(3)
    world.put_head(state)
    world.front.plays(a_flood(world, state), on="/referrers/")
    assert world.once()["counter"] == 3
    assert not [one for one in world.front.asked if "referrers" in one.path or "sha256-" in one.path]
    world.untouched()


def test_nothing_is_there_any_more(world: World) -> None:
    world.front.plays(says(404))
    world.unreachable("the registry does not have it")
    world.front.behaves()
    shutil.rmtree(world.repository)
    world.unreachable("the registry does not have it")
    shutil.copytree(world.folder / "repository.kept", world.repository)
    world.recovers()


# Hostile content that the right keys signed


def a_layer(document: str) -> Layer:
    """A layer with one document, whatever it says."""
    name = f"{IDS['pump']}.yaml"
    return wrapped(pack({name: Entry(name, document.encode())}))


def wrapped(data: bytes) -> Layer:
    """A layer of any bytes at all."""
    lock = canonical_json({"components": {}, "images": {}}).decode()
    return Layer(Descriptor.of(data, LAYER_TYPE, {DEPLOYMENT: IDS["pump"], LOCK: lock}), data)


def bomb() -> bytes:
    """Two hundred million bytes of nothing, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info, _ = member("a.yaml")
        info.size = 200_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return gzip_of(buffer.getvalue())


YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
SIGNED: dict[str, tuple[Callable[[], Layer], str]] = {
    "a decompression bomb": (lambda: wrapped(bomb()), "a decompression bomb?"),
    "a path that leads outside": (lambda: wrapped(hostile(member("../../etc/cron.d/evil"))), ".."),
    "an absolute path": (lambda: wrapped(hostile(member("/etc/passwd"))), "/etc/passwd"),
    "a link that leads outside": (
        lambda: wrapped(hostile(member("a.yaml", b"", kind=tarfile.SYMTYPE, link="/etc/passwd"))), "a.yaml",
    ),
    "a YAML bomb": (lambda: a_layer(YAML_BOMB), "alias"),
    "a key twice in YAML": (lambda: a_layer(f"id: {IDS['pump']}\nid: {IDS['pump']}\n"), "twice"),
}  # fmt: skip


def test_hostile_content_that_is_signed(world: World) -> None:
    for number, (build, words) in enumerate(SIGNED.values(), start=3):
        world.put_head(world.release(number, build()), version=number)
        world.refused("malformed", words)
    assert not Path("/etc/cron.d/evil").exists()
    world.recovers()


def test_ambiguous_json_in_a_head_or_a_manifest(world: World) -> None:
    state = world.release(3, empty=True)
    document = sign_head(world.head_for(state), world.root, [world.key("head")])
    twice = document.replace(b'"signatures":', b'"signatures":[],"signatures":', 1)
    world.put_carrier(twice, [world.bundle(state)])
    world.refused("malformed", "twice")
    manifest = state.manifest.data.replace(b'"layers":', b'"layers":[],"layers":', 1)
    ambiguous = Descriptor.of(manifest, "")
    world.put_head(state, version=4, digest=ambiguous.digest, length=len(manifest))
    world.front.plays(says(200, manifest), on=ambiguous.digest)
    world.refused("malformed", "twice")
    world.recovers()


# How a site recovers, with the commands that people type


def test_recovery_from_a_stolen_head_key_that_was_used_to_fast_forward(world: World) -> None:
    world.put_head(world.release(3), version=1_000_000)
    assert world.once()["head"]["version"] == 1_000_000
    world.key("spare")
    root = world.rotate(1, "--remove-head-key", "head", "--add-head-key", "spare.pub")
    state = world.release(4)
    world.tag(state, world.bundle(state))
    world.issue("issue", "--version", "1", "--scope", "edge-17", root=root, key="spare.key")
    report = world.once()
    assert (report["counter"], report["head"]["version"]) == (4, 1)
    world.untouched()
    world.put_head(world.release(5, empty=True), version=1_000_001)
    world.refused("wrong-key", "keys that were replaced")


def test_recovery_from_a_lost_head_key(world: World) -> None:
    world.key("spare")
    root = world.rotate(1, "--remove-head-key", "head", "--add-head-key", "spare.pub")
    world.issue("renew", "--previous-root", "1.root.json", root=root, key="spare.key")
    assert world.unmoved()["head"]["version"] == 3


def test_recovery_from_a_lost_release_key(world: World) -> None:
    world.key("second")
    root = world.rotate(1, "--remove-release-key", "fleet", "--add-release-key", "second.pub")
    world.site.push("--peer-key", "fleet.pub", key="second.key")
    world.issue("renew", root=root)
    world.a_day_later()
    assert world.unmoved()["head"]["version"] == 3
    world.put_head(world.release(3, empty=True), version=4)
    world.refused("wrong-key", "by no key that is trusted here")


def test_recovery_from_a_lost_root_key(world: World) -> None:
    for name in ("dora", "spare"):
        world.key(name)
    world.rotate(1, "--remove-root-key", "cem", "--add-root-key", "dora.pub")
    root = world.rotate(2, "--remove-head-key", "head", "--add-head-key", "spare.pub", by=("ana", "dora"))
    world.issue("renew", "--previous-root", "1.root.json", root=root, key="spare.key")
    assert world.unmoved()["head"]["version"] == 3
    assert Root.from_bytes(world.record["root"]["data"].encode()).version == 3


# The table


def test_every_attack_in_the_table_of_the_documents_names_tests_that_exist() -> None:
    rows = table()
    assert len(rows) > 20
    for row in rows:
        named = named_in(row)
        assert named, f"no test is named for {row[:60]}"
        assert named <= defined_in(ROOT_OF_TESTS.glob("tests/**/test_*.py")), row[:60]


def test_every_attack_that_is_played_here_stands_in_the_table() -> None:
    named = {name for row in table() for name in named_in(row)}
    assert {name for name in defined_in([Path(__file__)]) if not name.startswith("test_every_")} <= named


def test_every_reason_in_the_table_is_listed_for_devices() -> None:
    device = (ROOT_OF_TESTS / "docs" / "device.md").read_text()
    reasons = {reason for row in table() for reason in re.findall(r"`([a-z-]+)`", row.split("|")[3])}
    assert reasons
    assert not [one for one in sorted(reasons) if f"| `{one}` |" not in device]


def table() -> list[str]:
    """The rows of attacks."""
    return [line for line in TRUST_PAGE.read_text().splitlines() if line.startswith("| **")]


def named_in(row: str) -> set[str]:
    """The tests that a row names."""
    return set(re.findall(r"`(test_\w+)`", row))


def defined_in(files: Iterable[Path]) -> set[str]:
    """The names of all tests in these files."""
    return {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
