"""What a device makes of signatures: missing, malformed, moved, by others, or for something else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from margo_oci.cosign import PAYLOAD_TYPE, bundle, pae, sign, statement
from tests.simulators.faults import answers, endless
from tests.simulators.plant import SOURCE, Plant, running_plant
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.verdicts import assert_refused


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device on which all is well: it runs `pump` by recipe a, accepted with counter 1."""
    return running_plant(tmp_path / "state")


def test_6_3_a_state_without_a_signature_is_refused(plant: Plant) -> None:
    plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    assert_refused(plant, "unsigned", "pushed without a key, or its signature was removed on the way")


@pytest.mark.parametrize("on", ["manifests/sha256-", "manifests/sha256:"])
def test_6_3_a_signature_that_is_held_back_leaves_the_state_unsigned(plant: Plant, on: str) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(answers(404), on=on)
    assert_refused(plant, "unsigned", "its signature was removed on the way")


def test_6_4_a_signature_by_another_key_is_refused(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2, key=plant.stranger)
    assert_refused(plant, "wrong-key", f"no key that is trusted here: fleet.pub ({plant.key.public.fingerprint})")


def test_6_4_the_hint_in_a_bundle_opens_no_door(plant: Plant) -> None:
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    payload = statement(state.manifest.digest, name=SOURCE.name)
    forged = bundle(payload, plant.stranger.sign(pae(PAYLOAD_TYPE, payload)), hint=plant.key.public.hint)
    plant.attach(forged, state.manifest.descriptor)
    assert_refused(plant, "wrong-key", "signed, but by no key that is trusted here")


def test_6_5_an_sbom_signed_with_the_right_key_is_no_release(plant: Plant) -> None:
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    plant.attest(state.manifest, json.loads(statement(state.manifest.digest, name="x")) | {
        "predicateType": "https://cyclonedx.org/bom", "predicate": {"components": []}})  # fmt: skip
    assert_refused(plant, "not-a-release", "fleet.pub signed 'https://cyclonedx.org/bom' for it, which is no release")


def test_6_6_a_signature_listed_for_another_manifest_is_refused(plant: Plant) -> None:
    old = plant.published
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    tags = plant.sim.repositories[SOURCE.repository].tags
    tags[state.manifest.digest.replace(":", "-")] = tags[old.replace(":", "-")]
    assert_refused(plant, "moved-signature", f"a listed signature is for {old}: moved here from there")


def test_6_6_a_bundle_wrapped_anew_for_another_manifest_is_refused(plant: Plant) -> None:
    old = plant.published
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    plant.attach(sign(old, plant.key, name=SOURCE.name), state.manifest.descriptor)
    assert_refused(plant, "moved-signature", f"its signature is for {old}: moved here from there")


def test_6_6_a_signature_over_two_digests_is_refused(plant: Plant) -> None:
    old = plant.published
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    said = json.loads(statement(state.manifest.digest, name="x"))
    said["subject"].append({"name": "x", "digest": {"sha256": old.removeprefix("sha256:")}})
    plant.attest(state.manifest, said)
    assert_refused(plant, "moved-signature", "moved here from there")


def test_6_7_another_devices_state_is_refused(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2, scope="edge-18")
    assert_refused(plant, "wrong-scope", "this state is for scope 'edge-18', here only edge-17 is accepted")


def test_6_8_an_older_state_is_refused_as_rollback(plant: Plant) -> None:
    old = plant.published
    plant.publish(plant.workload("pump", "a"), plant.workload("valve", "a"), counter=3)
    assert plant.device.once().outcome == "applied"
    plant.move_tag(old)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "rollback")
    assert "counter 1 is lower than 3, seen before" in report.message
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}
    assert plant.device.counter == 3


def test_6_9_a_counter_used_twice_is_refused(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=1)
    assert_refused(plant, "counter-reused", "two states were signed with one counter")


def test_a_refused_counter_is_not_remembered(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "b"), counter=1_000_000, key=plant.stranger)
    assert_refused(plant, "wrong-key", "signed, but by no key")
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once().outcome == "applied"


def _dsse(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda raw: change(raw["dsseEnvelope"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda raw: raw.clear(), "bundle: mediaType None", id="empty"),
        pytest.param(lambda raw: raw.update(mediaType="text/plain"), "bundle: mediaType 'text/plain'", id="media-type"),
        pytest.param(lambda raw: raw.update(extra=1), "bundle: unknown field 'extra'", id="unknown-field"),
        pytest.param(lambda raw: raw.pop("dsseEnvelope"), "dsseEnvelope is missing", id="no-envelope"),
        pytest.param(lambda raw: raw.update(verificationMaterial={}), "a publicKey is expected", id="no-key"),
        pytest.param(
            lambda raw: raw["verificationMaterial"].update(certificate={}), "unknown field 'certificate'", id="keyless"
        ),
        pytest.param(_dsse(lambda raw: raw.update(signatures=[])), "exactly one signature is expected", id="none"),
        pytest.param(_dsse(lambda raw: raw["signatures"].append({})), "exactly one signature is expected", id="two"),
        pytest.param(_dsse(lambda raw: raw.update(payload="***")), "payload: base64 is expected", id="payload"),
        pytest.param(_dsse(lambda raw: raw.update(payload=7)), "payload: base64 is expected", id="payload-a-number"),
        pytest.param(_dsse(lambda raw: raw.update(payload="\ud800")), "bundle: ", id="half-a-character"),
        pytest.param(_dsse(lambda raw: raw.update(payloadType="text/plain")), "payloadType", id="payload-type"),
        pytest.param(
            _dsse(lambda raw: raw["signatures"][0].update(sig="*")), "sig: base64 is expected", id="signature"
        ),
    ],
)
def test_6_3_a_malformed_bundle_is_refused(
    plant: Plant, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    raw = json.loads(sign(state.manifest.digest, plant.key, name=SOURCE.name))
    change(raw)
    plant.attach(json.dumps(raw).encode(), state.manifest.descriptor)
    assert_refused(plant, "malformed-signature", message)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param([], "statement: a JSON object is expected", id="a-list"),
        pytest.param({"_type": "x"}, "_type 'x' is unknown", id="type"),
        pytest.param({"_type": "https://in-toto.io/Statement/v1"}, "at least one entry", id="no-subject"),
        pytest.param(
            {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha512": "0"}}]},
            "a sha256 digest is expected",
            id="sha512",
        ),
    ],
)
def test_6_3_a_malformed_statement_is_refused_although_the_signature_holds(
    plant: Plant, said: Any, message: str
) -> None:
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    plant.attest(state.manifest, said)
    assert_refused(plant, "malformed-signature", message)


@pytest.mark.parametrize("index", [b"[]", b"{}", b'{"manifests": 1}', b'{"manifests": [{}]}'])
def test_6_3_a_malformed_list_of_referrers_is_refused(plant: Plant, index: bytes) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.put_manifest(SOURCE.repository, state.manifest.digest.replace(":", "-"), index)
    assert_refused(plant, "malformed-signature", state.manifest.digest)


def test_a_tampered_bundle_is_refused(plant: Plant) -> None:
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    carrier = plant.sign(state.manifest, plant.key)
    plant.sim.blobs[carrier.layers[0].digest] = b"tampered"
    assert_refused(plant, "digest-mismatch", carrier.layers[0].digest)


@pytest.mark.parametrize("on", ["manifests/sha256:", "blobs/"])
def test_7_2_an_endless_signature_is_refused(plant: Plant, on: str) -> None:
    plant.publish(plant.workload("pump", "b"), counter=2)
    plant.sim.fail(endless, on=on)
    assert_refused(plant, "too-large", "more than")


def test_7_2_a_bundle_that_is_too_large_is_not_even_fetched(plant: Plant) -> None:
    state = plant.publish_unsigned(plant.workload("pump", "b"), counter=2)
    carrier = plant.attach(b"x" * 65537, state.manifest.descriptor)
    assert_refused(plant, "too-large", "65537 bytes, at most 65536 are read")
    assert not [one for one in plant.sim.requests if carrier.layers[0].digest in one.path]


def test_a_junk_signature_beside_the_good_one_does_no_harm(plant: Plant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    good = plant.sign(state.manifest, plant.key)
    junk = plant.attach(b"junk", state.manifest.descriptor)
    plant.list_referrers(state.manifest.digest, [junk, good])
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "b"}


def test_7_7_of_a_flood_of_signatures_sixteen_are_looked_at(plant: Plant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    flood = [plant.attach(b"junk %d" % number, state.manifest.descriptor) for number in range(100)]
    plant.list_referrers(state.manifest.digest, flood)
    assert_refused(plant, "malformed-signature", "not usable JSON")
    assert len([one for one in plant.sim.requests if "/blobs/" in one.path]) == 16


@pytest.mark.parametrize("referrers_api", [False, True], ids=["referrers-tag", "referrers-api"])
def test_7_2_a_flood_of_referrers_is_not_read(tmp_path: Path, referrers_api: bool) -> None:
    plant = running_plant(tmp_path, SimulatedRegistry(referrers_api=referrers_api))
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    flood = [plant.attach(b"junk %d" % number, state.manifest.descriptor) for number in range(257)]
    if not referrers_api:
        plant.list_referrers(state.manifest.digest, flood)
    assert_refused(plant, "malformed-signature", "entries, at most 256 are read")
