"""What a device makes of content that is wrong, cut off or hostile although the state over it is signed.

By then the state is accepted, so its counter counts; what runs stays all the same.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from margo_oci.content import Descriptor
from margo_oci.desired_state import DEPLOYMENT, LAYER_TYPE, Layer
from tests.simulators.faults import answers, cut_after, endless, longer, says, tampers, then
from tests.simulators.plant import SOURCE, Plant, id_of, running_plant
from tests.simulators.registry import Fault
from tests.simulators.verdicts import assert_clean, assert_refused, assert_unreachable, assert_untouched
from tests.unit.scenes import hostile, member


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device on which all is well: it runs `pump` by recipe a, accepted with counter 1."""
    return running_plant(tmp_path / "state")


@pytest.fixture
def new_plant(tmp_path: Path) -> Plant:
    """A device that has seen nothing yet."""
    return Plant(tmp_path / "state")


def test_6_2_a_tampered_layer_is_refused(plant: Plant) -> None:
    state = plant.publish(plant.workload("pump", "b"), counter=2)
    layer = state.layers[0]
    plant.sim.blobs[layer.digest] = b"tampered".ljust(layer.size)
    assert_refused(plant, "digest-mismatch", f"{layer.digest}: got content with digest", counter=2)
    assert plant.device.pauses == []


@pytest.mark.parametrize("fault", [longer(), endless], ids=["longer", "endless"])
def test_7_3_a_layer_is_read_up_to_its_size_and_no_further(plant: Plant, fault: Fault) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(fault, on=layer.digest)
    assert_refused(plant, "digest-mismatch", f"got more than the declared {layer.size} bytes", counter=2)
    assert plant.device.once().outcome == "applied"


def test_a_layer_that_breaks_off_goes_on_where_it_was(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(cut_after(700), on=layer.digest)
    report = plant.device.once()
    assert report.outcome == "applied"
    asked = [one for one in plant.sim.requests if layer.digest in one.path]
    assert [(one.headers.get("range"), one.status) for one in asked] == [(None, 200), ("bytes=700-", 206)]
    assert plant.device.pauses == [0.2]
    assert_clean(plant)


def test_a_503_on_the_way_goes_on_where_it_was(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(cut_after(700), on=layer.digest)
    plant.sim.fail(answers(503, {"Retry-After": "2"}), on=layer.digest)
    assert plant.device.once().outcome == "applied"
    asked = [one for one in plant.sim.requests if layer.digest in one.path]
    assert [(one.headers.get("range"), one.status) for one in asked] == [
        (None, 200),
        ("bytes=700-", 503),
        ("bytes=700-", 206),
    ]
    assert plant.device.pauses == [0.2, 2.0]


def test_what_came_over_a_bad_line_is_kept_for_the_next_pass(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(cut_after(300), on=layer.digest, times=3)
    report = plant.device.once()
    assert (report.outcome, report.message.rpartition(": ")[2]) == ("unreachable", "connection reset")
    assert plant.device.engine.running == {"pump": "a"}
    assert [len(part) for part in plant.device.parts] == [900]
    plant.sim.forget()
    assert plant.device.once().outcome == "applied"
    (asked,) = [one for one in plant.sim.requests if layer.digest in one.path]
    assert asked.headers["range"] == "bytes=900-"
    assert_clean(plant)


def test_a_layer_that_ends_too_early_is_no_layer(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    honest = plant.sim.blobs[layer.digest]
    plant.sim.blobs[layer.digest] = honest[:500]
    report = plant.device.once()
    assert report.outcome == "unreachable"
    assert plant.device.engine.running == {"pump": "a"}
    assert layer.digest not in plant.device.blobs
    plant.sim.blobs[layer.digest] = honest
    assert plant.device.once().outcome == "applied"
    assert_clean(plant)


def test_wrong_bytes_of_an_earlier_attempt_cost_one_more_fetch(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    honest = plant.sim.blobs[layer.digest]
    plant.sim.blobs[layer.digest] = b"tampered".ljust(layer.size)
    plant.sim.fail(cut_after(700), on=layer.digest)
    plant.sim.fail(then(lambda: plant.sim.blobs.update({layer.digest: honest})), on=layer.digest)
    assert plant.device.once().outcome == "applied"
    asked = [one.headers.get("range") for one in plant.sim.requests if layer.digest in one.path]
    assert asked == [None, "bytes=700-", None]
    assert_clean(plant)


def test_a_registry_that_knows_no_ranges_sends_all_again(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    honest = plant.sim.blobs[layer.digest]
    plant.sim.fail(cut_after(700), on=layer.digest)
    plant.sim.fail(answers(200, body=honest), on=layer.digest)
    assert plant.device.once().outcome == "applied"
    assert_clean(plant)


@pytest.mark.parametrize("content_range", ["bytes 0-100/2000", "bytes 7000-8000/9000", "", "nonsense"])
def test_another_range_than_was_asked_for_is_not_taken(plant: Plant, content_range: str) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(cut_after(700), on=layer.digest)
    plant.sim.fail(says({"Content-Range": content_range}), on=layer.digest, times=2)
    report = plant.device.once()
    assert report.outcome == "unreachable"
    assert "the registry sent another range than was asked for" in report.message
    assert plant.device.engine.running == {"pump": "a"}
    assert plant.device.once().outcome == "applied"
    assert_clean(plant)


def test_a_registry_busy_with_layers_is_given_five_seconds_and_then_the_next_pass(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(answers(429, {"Retry-After": "60"}), on=layer.digest, times=3)
    report = plant.device.once()
    assert (report.outcome, report.retry_after_s) == ("unreachable", 60.0)
    assert plant.device.pauses == [5.0, 5.0]
    assert_untouched(plant, counter=2)


def test_a_layer_that_is_not_there_is_not_asked_for_again_and_again(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.repositories[SOURCE.repository].blobs.remove(layer.digest)
    assert_unreachable(plant, "the registry does not have it", counter=2)
    assert len([one for one in plant.sim.requests if layer.digest in one.path]) == 1
    assert plant.device.pauses == []


def test_a_layer_compressed_on_the_way_is_not_taken(plant: Plant) -> None:
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(says({"Content-Encoding": "gzip"}), on=layer.digest, times=3)
    assert_unreachable(plant, "compressed on the way, which was not asked for", counter=2)


def test_7_3_a_layer_that_declares_too_much_is_not_even_asked_for(plant: Plant) -> None:
    layer = plant.workload("pump", "b").layer
    huge = Layer(replace(layer.descriptor, size=2**62), layer.data)
    plant.publish(huge, counter=2)
    assert_refused(plant, "too-large", f"{2**62} bytes, at most 67108864 are read", counter=2)
    assert not [one for one in plant.sim.requests if layer.descriptor.digest in one.path]


def layer_of(data: bytes, *, deployment: str = "pump") -> Layer:
    """A layer that says it has a deployment."""
    return Layer(Descriptor.of(data, LAYER_TYPE, {DEPLOYMENT: id_of(deployment)}), data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"not gzip", "not usable gzip", id="no-gzip"),
        pytest.param(hostile(member("../../etc/cron.d/x")), "is with ..: not accepted", id="path-upwards"),
        pytest.param(hostile(member("/etc/passwd")), "is absolute: not accepted", id="absolute-path"),
        pytest.param(hostile(member("a.yaml"), member("A.yaml")), "stands twice", id="path-twice"),
        pytest.param(hostile(member("bomb.yaml", bytes(20_000_000))), "a decompression bomb?", id="bomb"),
        pytest.param(hostile(member("a.yaml", b"&a [*a]")), "aliases", id="yaml-alias"),
        pytest.param(hostile(), "inside is another deployment", id="nothing-in-it"),
    ],
)
def test_7_4_a_hostile_layer_is_refused_although_it_is_signed(plant: Plant, data: bytes, message: str) -> None:
    plant.publish(layer_of(data), counter=2)
    assert_refused(plant, "malformed", message, counter=2)
    assert not list(plant.device.folder.glob("**/cron.d"))


def test_3_3_a_layer_with_another_deployment_than_it_says_is_refused(plant: Plant) -> None:
    inside = plant.workload("valve", "a").layer
    plant.publish(layer_of(inside.data, deployment="pump"), counter=2)
    assert_refused(plant, "malformed", f"says {id_of('pump')}, inside is another deployment", counter=2)


def test_3_3_a_combined_layer_with_nothing_in_it_holds_no_deployment(plant: Plant) -> None:
    data = hostile()
    kept = plant.workload("pump", "a").layer
    plant.publish(kept, Layer(Descriptor.of(data, LAYER_TYPE), data), counter=2)
    report = plant.device.once()
    assert [(one.name, one.action) for one in report.deployments] == [("pump", "keep")]
    assert_untouched(plant, counter=2)


def test_4_3_an_unlocked_component_is_refused(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "b", locked=False), counter=2)
    assert_refused(plant, "unlocked", "the signed state has no digest for oci://registry.example/components/cell:1.0.0",
                   counter=2)  # fmt: skip
    assert not [one for one in plant.sim.requests if "components/" in one.path]


def test_a_tampered_component_is_refused(new_plant: Plant) -> None:
    new_plant.publish(new_plant.workload("pump", "a"), counter=1)
    (archive,) = new_plant.sim.repositories["components/cell"].blobs
    new_plant.sim.blobs[archive] = b"tampered".ljust(len(new_plant.sim.blobs[archive]))
    report = new_plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "digest-mismatch")
    assert new_plant.device.engine.log == []
    assert not list(new_plant.device.folder.glob("components/*"))
    assert_clean(new_plant)


def test_a_component_whose_manifest_was_exchanged_is_refused(new_plant: Plant) -> None:
    new_plant.publish(new_plant.workload("pump", "a"), counter=1)
    new_plant.sim.fail(tampers(b"{}"), on="components/cell/manifests")
    report = new_plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "digest-mismatch")
    assert new_plant.device.engine.log == []
