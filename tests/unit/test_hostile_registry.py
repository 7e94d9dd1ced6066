"""Whatever a registry answers, a device keeps what runs and says why: a named refusal, or it tries again later."""

import contextlib
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from margo_oci import registry as registry_room
from margo_oci.content import Descriptor, canonical_json, digest_of
from margo_oci.cosign import sign
from margo_oci.desired_state import COUNTER, SCOPE, build_state
from margo_oci.errors import FormatError, NotFound, RegistryError, TrustError
from margo_oci.images import read_image
from margo_oci.manifest import IMAGE_INDEX
from margo_oci.platforms import Platform
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import pull_blob
from tests.simulators.faults import (
    answers,
    breaks,
    cut_after,
    endless,
    ends_after,
    longer,
    redirects,
    says,
    silent,
    tampers,
    then,
    unreachable,
)
from tests.simulators.plant import HOST, SOURCE, Plant, ask, registry_with_tags, running_plant
from tests.simulators.registry import ALWAYS, Fault, SimulatedRegistry
from tests.simulators.verdicts import assert_refused, assert_unreachable, assert_untouched

SOURCE_MANIFEST = "manifests/latest"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device on which all is well: it runs `pump` by recipe a, accepted with counter 1."""
    return running_plant(tmp_path / "state")


@pytest.fixture
def new_plant(tmp_path: Path) -> Plant:
    """A device that has seen nothing yet."""
    return Plant(tmp_path / "state")


# What a registry answers when it is asked for the state


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(answers(500), "the registry answered 500", id="500"),
        pytest.param(answers(503), "the registry answered 503", id="503"),
        pytest.param(answers(404), "the registry does not have it", id="404"),
        pytest.param(answers(401), "401: no credentials: log in with `margo-oci login registry.example`", id="401"),
        pytest.param(answers(403), "403: no credentials: log in", id="403"),
        pytest.param(answers(302), "the registry answered 302", id="redirect-to-nowhere"),
        pytest.param(unreachable, "connection refused", id="no-connection"),
        pytest.param(silent, "no answer in time", id="no-answer"),
        pytest.param(cut_after(100), "connection reset", id="cut-off"),
        pytest.param(says({"Content-Encoding": "gzip"}), "compressed on the way", id="compressed"),
        pytest.param(
            redirects("http://registry.example{path}"),
            "redirected to http://registry.example, which is not followed",
            id="redirect-to-http",
        ),
        pytest.param(redirects("file:///etc/passwd"), "which is not followed", id="redirect-to-a-file"),
        pytest.param(redirects("https://me:secret@cdn.example/"), "is not followed", id="redirect-with-a-login"),
        pytest.param(redirects("https://[not-an-address"), "GET https://", id="redirect-to-nonsense"),
        pytest.param(
            breaks(ssl.SSLError(1, "[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate")),
            "wants a client certificate that it trusts: [SSL: SSLV3_ALERT",
            id="tls-alert",
        ),
    ],
)
def test_a_registry_that_cannot_be_asked_is_asked_again_later(plant: Plant, fault: Fault, message: str) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(fault, on=SOURCE_MANIFEST)
    assert_unreachable(plant, message)
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        pytest.param(endless, "too-large", "more than 4194304 bytes", id="endless"),
        pytest.param(longer(), "digest-mismatch", "tampered content or a broken registry", id="longer"),
        pytest.param(ends_after(100), "digest-mismatch", "tampered content or a broken registry", id="shorter"),
        pytest.param(tampers(b"{}"), "digest-mismatch", "got content with digest sha256:44136fa3", id="other-bytes"),
        pytest.param(says({"Docker-Content-Digest": "sha256:?"}), "digest-mismatch", "sha256:?", id="no-digest"),
        pytest.param(answers(200, body=b"<html>log in</html>"), "malformed", "not usable JSON", id="captive-portal"),
        pytest.param(answers(200), "malformed", "not usable JSON", id="empty"),
    ],
)
def test_an_answer_that_is_not_the_manifest_is_refused(plant: Plant, fault: Fault, reason: str, message: str) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(fault, on=SOURCE_MANIFEST)
    assert_refused(plant, reason, message)


@pytest.mark.parametrize(
    ("retry_after", "retry_after_s"),
    [("7", 7.0), ("999999999", 3600.0), ("9" * 500, 3600.0), ("soon", None), ("-1", None)],
)
def test_a_busy_registry_is_given_the_time_it_asks_for(
    plant: Plant, retry_after: str, retry_after_s: float | None
) -> None:
    plant.sim.fail(answers(429, {"Retry-After": retry_after}), on=SOURCE_MANIFEST)
    report = plant.device.once()
    assert (report.outcome, report.retry_after_s) == ("unreachable", retry_after_s)
    assert "the registry answered 429" in report.message
    assert len(plant.sim.requests) == 1
    assert_untouched(plant)


def test_a_redirect_in_circles_ends(plant: Plant) -> None:
    plant.sim.fail(redirects("https://registry.example{path}"), on=SOURCE_MANIFEST, times=ALWAYS)
    assert_unreachable(plant, "more than 5 redirects")
    assert len(plant.sim.requests) == 5


def test_5_1_a_source_that_is_gone_removes_nothing(plant: Plant) -> None:
    plant.sim.repositories.clear()
    assert_unreachable(plant, "the registry does not have it")


@pytest.mark.parametrize("on", [SOURCE_MANIFEST, "manifests/sha256-", "manifests/sha256:", "cell/manifests/"])
def test_a_304_that_nobody_asked_for_is_the_registrys_fault(new_plant: Plant, on: str) -> None:
    new_plant.publish(new_plant.workload("pump", "a"), counter=1)
    new_plant.sim.fail(answers(304), on=on)
    report = new_plant.device.once()
    assert report.outcome == "unreachable"
    assert "304" in report.message
    assert new_plant.device.engine.running == {}
    assert new_plant.device.once().outcome == "applied"


def test_a_304_does_not_settle_what_was_not_applied_yet(plant: Plant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(answers(404), on=state.layers[0].digest)
    assert plant.device.once().outcome == "unreachable"
    plant.sim.fail(answers(304), on=SOURCE_MANIFEST)
    assert_unreachable(plant, "304", counter=2)


# What stands under the tag


def _with(annotation: str, value: str) -> Callable[[dict[str, Any]], object]:
    return lambda raw: raw["annotations"].update({annotation: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda raw: raw.update(schemaVersion=1), "schemaVersion: 2 is expected, got 1", id="schema-1"),
        pytest.param(lambda raw: raw.update(mediaType=IMAGE_INDEX), "an image manifest is expected", id="an-index"),
        pytest.param(lambda raw: raw.update(artifactType="image/png"), "a desired state is expected", id="a-picture"),
        pytest.param(lambda raw: raw.pop("config"), "config: a descriptor is expected", id="no-config"),
        pytest.param(lambda raw: raw.update(layers={}), "layers: a list is expected, got dict", id="layers-a-map"),
        pytest.param(lambda raw: raw.update(layers=raw["layers"] * 4097), "at most 4096 are read", id="4097-layers"),
        pytest.param(lambda raw: raw.update(layers=raw["layers"] * 2), "stands twice", id="a-deployment-twice"),
        pytest.param(
            lambda raw: raw["layers"][0].update(digest="sha512:" + "0" * 128), "layers[0].digest", id="sha512"
        ),
        pytest.param(lambda raw: raw["layers"][0].update(size=-1), "layers[0].size", id="negative-size"),
        pytest.param(lambda raw: raw["layers"][0].update(size=1e3), "layers[0].size", id="size-with-a-point"),
        pytest.param(_with(COUNTER, "0"), "a decimal from 1 is expected, got '0'", id="counter-0"),
        pytest.param(_with(COUNTER, "02"), "a decimal from 1 is expected, got '02'", id="counter-02"),
        pytest.param(_with(COUNTER, str(2**64)), "18446744073709551616", id="counter-too-high"),
        pytest.param(_with(COUNTER, "٢"), "a decimal from 1 is expected", id="counter-in-other-digits"),
        pytest.param(_with(SCOPE, "../edge-17"), "scope '../edge-17'", id="scope-with-dots"),
    ],
)
def test_6_1_a_malformed_state_is_refused_although_it_is_signed(
    plant: Plant, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    raw = json.loads(
        build_state([plant.workload("pump", "b").layer.descriptor], counter=2, scope="edge-17").manifest.data
    )
    change(raw)
    data = canonical_json(raw)
    plant.put_bytes(data)
    subject = Descriptor.of(data, "application/vnd.oci.image.manifest.v1+json")
    plant.attach(sign(subject.digest, plant.key, name=SOURCE.name), subject)
    assert_refused(plant, "malformed", message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "not usable JSON", id="nothing"),
        pytest.param(b"[]", "a JSON object is expected, got list", id="a-list"),
        pytest.param(b'{"schemaVersion": 2, "schemaVersion": 2}', "key 'schemaVersion' stands twice", id="a-key-twice"),
        pytest.param(b'{"schemaVersion": NaN}', "NaN is no JSON number", id="nan"),
        pytest.param(b'{"a":' * 40 + b"1" + b"}" * 40, "nested deeper than 32 levels", id="deep"),
        pytest.param(b'{"a":' * 200_000, "not usable JSON", id="very-deep"),
        pytest.param(b"\xff\xfe", "not usable JSON", id="no-text"),
    ],
)
def test_7_2_what_is_no_manifest_at_all_is_refused(plant: Plant, data: bytes, message: str) -> None:
    plant.put_bytes(data)
    assert_refused(plant, "malformed", message)


def test_7_2_a_manifest_that_is_too_large_is_refused(plant: Plant) -> None:
    plant.put_bytes(b'{"annotations": {"a": "' + b"a" * 4 * 1024 * 1024 + b'"}}')
    assert_refused(plant, "too-large", "more than 4194304 bytes")


# A tag that moves


def test_what_was_asked_for_first_is_what_is_applied_when_the_tag_moves_meanwhile(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(then(lambda: plant.publish(plant.workload("pump", "c"), counter=3)), on=SOURCE_MANIFEST)
    assert plant.device.once().counter == 2
    assert plant.device.engine.running == {"pump": "b"}
    assert plant.device.once().counter == 3
    assert plant.device.engine.running == {"pump": "c"}


def test_a_tag_moved_back_between_two_passes_is_rollback_even_while_the_first_is_unfinished(plant: Plant) -> None:
    old = plant.published
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(answers(404), on=state.layers[0].digest)
    assert plant.device.once().outcome == "unreachable"
    plant.move_tag(old)
    assert_refused(plant, "rollback", "counter 1 is lower than 2, seen before", counter=2)


@pytest.mark.parametrize("named", ["", "sha256:" + "../" * 21 + "x", "sha256:" + "G" * 64, "md5:" + "0" * 67])
def test_7_1_a_tag_that_leads_to_no_digest_is_looked_at_itself(named: str) -> None:
    sim = SimulatedRegistry()
    sim.put_manifest("components/cell", "1.0.0", b"{}")
    sim.fail(says({"Docker-Content-Digest": named}))
    found = ask(sim, lambda registry: registry.digest(Reference(HOST, "components/cell", "1.0.0")))
    assert found == digest_of(b"{}")


def test_7_1_a_registry_does_not_choose_where_on_the_device_something_is_unpacked(new_plant: Plant) -> None:
    device, component = new_plant.device, new_plant.sim.repositories["components/cell"]
    device.lock_resolve = True
    new_plant.publish(new_plant.workload("pump", "a", locked=False), counter=1)
    named = "sha256:" + "../../elsewhere/".ljust(64, "x")
    new_plant.sim.fail(says({"Docker-Content-Digest": named}), on="cell/manifests/1.0.0")
    new_plant.sim.fail(answers(200, body=component.manifests[new_plant.component]), on="elsewhere")
    device.once()
    assert sorted(path.name for path in device.folder.parent.iterdir()) == [device.folder.name]


# Lists of tags


def test_a_list_of_tags_is_read_page_by_page() -> None:
    sim = registry_with_tags("a", "b", "c", "d", "e")
    sim.page_size = 2
    assert ask(sim, lambda registry: registry.tags(SOURCE)) == ["a", "b", "c", "d", "e"]
    assert [one.path.partition("?")[2] for one in sim.requests] == ["n=1000", "last=b&n=2", "last=d&n=2"]


def test_a_list_of_tags_without_end_is_given_up() -> None:
    sim = registry_with_tags("a")
    sim.fail(says({"Link": '</v2/fleet/edge-17/tags/list?n=1>; rel="next"'}), on="tags/list", times=ALWAYS)
    with pytest.raises(RegistryError, match="a list does not end after 100 pages"):
        ask(sim, lambda registry: registry.tags(SOURCE))
    assert len(sim.requests) == 100


def test_a_page_of_tags_without_end_is_given_up() -> None:
    sim = registry_with_tags("a")
    sim.fail(endless, on="tags/list")
    with pytest.raises(TrustError, match="more than 1048576 bytes"):
        ask(sim, lambda registry: registry.tags(SOURCE))


def test_a_next_page_that_leads_out_of_tls_is_not_asked_for() -> None:
    sim = registry_with_tags("a")
    sim.fail(says({"Link": '<http://registry.example/v2/fleet/edge-17/tags/list?last=a>; rel="next"'}), on="tags/list")
    with pytest.raises(RegistryError, match="its next page is elsewhere"):
        ask(sim, lambda registry: registry.tags(SOURCE))


def test_what_is_not_there_is_told_as_that() -> None:
    with pytest.raises(NotFound, match=r"GET https://registry\.example/v2/fleet/edge-17/tags/list.*does not have it"):
        ask(SimulatedRegistry(host=HOST), lambda registry: registry.tags(SOURCE))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", "md5:" + "0" * 32, 7, "\x1b[31m"])
def test_7_1_an_image_index_that_names_no_digest_is_refused(digest: Any) -> None:
    sim = SimulatedRegistry(host=HOST)
    entry = {"platform": {"os": "linux", "architecture": "amd64"}, "digest": digest}
    index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]}
    sim.put_manifest("images/cell", "1", canonical_json(index))
    with pytest.raises(FormatError, match=r"the index names .* for linux/amd64: sha256:… is expected") as error:
        ask(sim, lambda registry: read_image(registry, Reference(HOST, "images/cell", "1"), Platform("amd64")))
    assert str(error.value).isprintable()
    assert len(sim.requests) == 1


def test_a_part_that_is_longer_than_what_the_registry_has_is_dropped_and_the_cause_told(tmp_path: Path) -> None:
    sim, store, data = registry_with_tags("latest"), Store(tmp_path), b"recipe" * 100
    layer = Descriptor.of(data, "text/plain")
    sim.put_blob(SOURCE.repository, data)
    sim.blobs[layer.digest] = data[:50]
    with contextlib.suppress(ConnectionError), store.receive(layer) as part:
        part.write(data[:200])
        raise ConnectionError

    async def no_pause(_: float) -> None:
        pass

    with pytest.raises(RegistryError, match="the body ended after 50 of 600 bytes"):
        ask(sim, lambda registry: pull_blob(registry, SOURCE, layer, store, sleep=no_pause))
    sim.blobs[layer.digest] = data
    ask(sim, lambda registry: pull_blob(registry, SOURCE, layer, store, sleep=no_pause))
    assert store.read(layer) == data


def test_a_date_to_wait_for_is_held_against_the_registrys_own_clock(plant: Plant) -> None:
    headers = {"Retry-After": "Sat, 01 Aug 2026 12:02:00 GMT", "Date": "Sat, 01 Aug 2026 12:00:00 GMT"}
    plant.sim.fail(answers(503, headers), on=SOURCE_MANIFEST)
    assert plant.device.once().retry_after_s == 120.0


def test_7_9_a_signed_address_is_not_shown(plant: Plant) -> None:
    plant.sim.fail(redirects("https://cdn.example/blob?X-Amz-Signature=secret"), on=SOURCE_MANIFEST)
    plant.sim.fail(redirects("http://cdn.example/blob?X-Amz-Signature=secret"), on="Signature")
    report = plant.device.once()
    assert "https://cdn.example/blob: redirected to http://cdn.example" in report.message
    assert "secret" not in report.message


def test_a_loop_carries_no_cookies_and_leaves_hosts_that_it_was_led_to(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would grow for years; and an honest registry refuses a header that grew."""
    sent: list[str] = []

    async def looked(registry: Registry) -> list[str]:
        for _ in range(3):
            await registry.manifest(SOURCE)
        for client in registry._clients.values():
            sent.extend(f"{cookie.name}" for cookie in client.cookies.jar)
        plant.sim.fail(redirects("https://cdn.example{path}"), on=SOURCE_MANIFEST)
        with suppress(RegistryError):
            await registry.manifest(SOURCE)
        assert set(registry._clients) == {HOST, "cdn.example"}
        await registry.leave(but=SOURCE)
        kept = list(registry._clients)
        monkeypatch.setattr(registry_room, "REQUESTS_PER_CONNECTION", 1)  # each remembers what came by it
        await registry.leave(but=SOURCE)
        assert registry._clients == {}
        return kept

    plant.sim.fail(says({"Set-Cookie": "a=" + "x" * 4000}), on="manifests", times=3)
    assert ask(plant.sim, looked) == [HOST]
    assert sent == []
