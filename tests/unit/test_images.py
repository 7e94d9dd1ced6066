"""Images on their way into the engine: what comes, what does not, and what becomes of every mishap."""

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from margo_agent.answered import Published
from margo_agent.room import Disk, Room
from margo_oci.content import canonical_json, digest_of
from margo_oci.manifest import IMAGE_INDEX
from margo_oci.store import Part
from tests.simulators.faults import cut_after
from tests.simulators.plant import (
    IMAGE_BYTES,
    IMAGE_DIGEST,
    IMAGE_REPOSITORY,
    LOCAL_IMAGE,
    Plant,
    image_of,
    running_plant,
)
from tests.simulators.registry import ALWAYS

BASE, OLD_TOP, NEW_TOP = b"base" * 1000, b"old top", b"new top"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device that has seen nothing yet."""
    return Plant(tmp_path)


def blobs_asked(plant: Plant) -> list[str]:
    """Which blobs of the image's repository were asked for."""
    found = [one.path.rpartition("/")[2] for one in plant.sim.requests if f"{IMAGE_REPOSITORY}/blobs/" in one.path]
    plant.sim.forget()
    return found


def release(plant: Plant, counter: int, recipe: str = "a") -> Any:
    plant.publish(plant.workload("pump", recipe), counter=counter)
    return plant.device.once()


def test_4_5_an_image_is_known_here_by_its_locked_digest(plant: Plant) -> None:
    assert release(plant, 1).outcome == "applied"
    assert list(plant.device.engine.images) == [LOCAL_IMAGE]
    assert LOCAL_IMAGE.endswith(IMAGE_DIGEST.replace(":", "-"))


def test_4_5_what_the_engine_has_is_not_kept_twice(plant: Plant) -> None:
    release(plant, 1)
    assert digest_of(IMAGE_BYTES) not in plant.device.blobs
    assert plant.device.parts == []


def test_5_4_only_the_layers_that_changed_are_fetched(plant: Plant) -> None:
    plant.image_digest = plant.publish_image(BASE, OLD_TOP)
    release(plant, 1)
    blobs_asked(plant)
    plant.image_digest = plant.publish_image(BASE, NEW_TOP)
    assert release(plant, 2, "b").outcome == "applied"
    asked = blobs_asked(plant)
    assert digest_of(NEW_TOP) in asked
    assert digest_of(BASE) not in asked
    assert plant.device.engine.loaded[-1] == [f"blobs/sha256/{digest_of(NEW_TOP)[7:]}"]


def test_5_4_an_engine_that_wants_all_layers_gets_them(plant: Plant) -> None:
    plant.image_digest = plant.publish_image(BASE, OLD_TOP)
    release(plant, 1)
    plant.device.engine.picky = True
    plant.image_digest = plant.publish_image(BASE, NEW_TOP)
    assert release(plant, 2, "b").outcome == "applied"
    assert [len(layers) for layers in plant.device.engine.loaded] == [2, 1, 2]


def test_5_4_a_layer_that_two_deployments_share_comes_once(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "a"), plant.workload("valve", "a"), counter=1)
    assert plant.device.once().images_pulled == 1
    assert blobs_asked(plant).count(digest_of(IMAGE_BYTES)) == 1


def test_5_4_a_download_that_breaks_again_and_again_goes_on_where_it_was(plant: Plant) -> None:
    data = b"x" * 1_000_000
    plant.image_digest = plant.publish_image(data)
    plant.sim.fail(cut_after(100_000), on=digest_of(data), times=9)
    assert release(plant, 1).outcome == "applied"
    ranges = [one.headers.get("range") for one in plant.sim.requests if digest_of(data) in one.path]
    assert ranges == [None, *(f"bytes={number}00000-" for number in range(1, 10))]


def test_5_4_a_download_that_brings_next_to_nothing_is_left_for_the_next_pass(plant: Plant) -> None:
    plant.sim.fail(cut_after(3), on=digest_of(IMAGE_BYTES), times=ALWAYS)
    assert release(plant, 1).outcome == "failed"
    assert plant.device.parts == [IMAGE_BYTES[:9]]
    assert plant.device.record.failed == {}
    plant.sim.recover()
    assert plant.device.once().outcome == "applied"


def test_5_4_a_tampered_layer_never_reaches_the_engine(plant: Plant) -> None:
    plant.sim.blobs[digest_of(IMAGE_BYTES)] = b"y" * len(IMAGE_BYTES)
    report = release(plant, 1)
    assert report.outcome == "failed"
    assert "tampered content or a broken registry; nothing was changed" in report.message
    assert plant.device.engine.loaded == []


def test_5_12_a_state_that_does_not_fit_is_refused_with_the_number_that_is_missing(plant: Plant) -> None:
    release(plant, 1)
    plant.image_digest = plant.publish_image(b"z" * 10_000)
    plant.device.room = Room(state_dir=plant.device.folder, disk_of=lambda _: Disk(1, 4000))
    plant.sim.forget()
    report = release(plant, 2, "b")
    assert report.outcome == "failed"
    assert f"bytes are needed in {plant.device.folder}, 4000 are free" in report.message
    assert " are missing" in report.message
    assert not [one for one in plant.sim.requests if digest_of(b"z" * 10_000) in one.path]
    assert plant.device.engine.running == {"pump": "a"}
    assert plant.device.record.failed == {}
    plant.device.room = Room(state_dir=plant.device.folder, disk_of=lambda _: Disk(1, 10**6))
    assert plant.device.once().outcome == "applied"


@pytest.mark.parametrize(
    ("free_then", "kept", "words"),
    [
        (10**6, 5000, "the disk is full; images are fetched again when there is room; nothing was changed"),
        (0, 0, "the disk is full: the 5000 bytes that had come were dropped"),
    ],
)
def test_5_12_a_disk_that_fills_up_is_told_and_what_came_is_kept_unless_that_fills_it(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, free_then: int, kept: int, words: str
) -> None:
    free = [10**6]
    plant.device.room = Room(state_dir=plant.device.folder, keep_free_bytes=1000, disk_of=lambda _: Disk(1, free[0]))

    def full(part: Part, chunk: bytes) -> None:
        if part.descriptor.digest != digest_of(IMAGE_BYTES):
            return write(part, chunk)
        write(part, chunk[:5000])
        free[0] = free_then
        raise OSError(errno.ENOSPC, "No space left on device")

    write = Part.write
    with monkeypatch.context() as patch:
        patch.setattr(Part, "write", full)
        report = release(plant, 1)
    assert report.outcome == "failed"
    assert words in report.message
    assert sum(len(part) for part in plant.device.parts) == kept
    free[0] = 10**6
    assert plant.device.once().outcome == "applied"


def test_5_12_an_engine_whose_disk_is_full_is_told_and_nothing_comes_twice(plant: Plant) -> None:
    plant.device.engine.full = True
    report = release(plant, 1)
    assert "no space left on device: the layers that came are kept" in report.message
    assert plant.device.record.failed == {}
    plant.device.engine.full = False
    blobs_asked(plant)
    assert plant.device.once().outcome == "applied"
    assert digest_of(IMAGE_BYTES) not in blobs_asked(plant)


def test_5_13_what_does_not_fit_this_device_is_refused_before_its_images_come(plant: Plant) -> None:
    plant.image_digest = plant.publish_image(IMAGE_BYTES, architecture="arm64")
    report = release(plant, 1)
    assert report.outcome == "failed"
    assert "it is for linux/arm64, this device is linux/amd64; nothing was changed" in report.message
    assert digest_of(IMAGE_BYTES) not in blobs_asked(plant)
    assert plant.device.record.failed == {}


def test_5_13_an_index_without_this_platform_is_refused(plant: Plant) -> None:
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": IMAGE_DIGEST, "size": 1,
             "platform": {"os": "linux", "architecture": "arm64"}}  # fmt: skip
    index = canonical_json({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [entry]})
    plant.sim.put_manifest(IMAGE_REPOSITORY, "1", index)
    plant.image_digest = digest_of(index)
    assert "no image for linux/amd64; nothing was changed" in release(plant, 1).message


def test_4_5_what_can_be_read_as_index_and_as_image_is_refused(plant: Plant) -> None:
    """Else the registry would choose, by what it calls the bytes, which of two signed contents runs."""
    both = canonical_json({**json.loads(image_of(IMAGE_BYTES)[1]), "manifests": []})
    plant.sim.put_manifest(IMAGE_REPOSITORY, "1", both)
    plant.image_digest = digest_of(both)
    assert "it can be read as an index and as a manifest; nothing was changed" in release(plant, 1).message


def test_5_13_layers_that_the_engine_cannot_unpack_are_refused(plant: Plant) -> None:
    engine = plant.device.engine
    engine.machine = dataclasses.replace(engine.machine, knows_zstd=False)
    data = plant.sim.repositories[IMAGE_REPOSITORY].manifests[IMAGE_DIGEST].replace(b'.tar"', b'.tar+zstd"')
    plant.sim.put_manifest(IMAGE_REPOSITORY, "1", data)
    plant.image_digest = digest_of(data)
    assert "its layers are zstd, which this engine does not read" in release(plant, 1).message


def holding(**whose: str) -> Published:
    return Published(**{"container": "other", "device": "", "deployment": "", **whose},
                     port=8080, protocol="tcp", address="0.0.0.0")  # fmt: skip


@pytest.mark.parametrize(
    ("holder", "ok"),
    [
        (holding(), False),
        (holding(device="edge-18", deployment="pump"), False),
        (holding(device="edge-17", deployment="kept"), False),
        (holding(device="edge-17", deployment="changing"), True),
        (holding(device="edge-17", deployment="pump"), True),
        (holding(deployment="pump"), True),
    ],
)
def test_5_13_a_port_of_what_this_state_replaces_is_free(plant: Plant, holder: Published, ok: bool) -> None:
    from margo_agent.surroundings import Surroundings

    plant.device.engine.held_ports = [holder]
    model = {"services": {"web": {"ports": [{"target": 80, "published": "8080"}]}}}
    found = Surroundings(plant.device.engine, "edge-17").misfits([model], "pump", {"changing"})
    assert found == ([] if ok else ["services.web.ports: 8080/tcp is taken by the container other"])


def test_5_13_an_engine_that_lets_go_late_is_waited_for_and_all_ports_together_not_for_long(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from margo_agent import surroundings

    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr(surroundings, "_cannot_bind", lambda port: "a program" if len(waits) < 10 else "")
    monkeypatch.setattr(type(plant.device.engine), "is_local", True, raising=False)
    model = {"services": {"web": {"ports": [{"target": 80, "published": str(port)} for port in (8080, 8081)]}}}
    looked = surroundings.Surroundings(plant.device.engine, "edge-17")
    assert looked.misfits([model], "pump", set()) == []
    waits.clear()
    monkeypatch.setattr(surroundings, "_cannot_bind", lambda port: "a program")
    assert len(looked.misfits([model], "pump", set())) == 2
    assert len(waits) == surroundings.LOOKS


def test_5_13_a_port_is_free_that_was_published_when_the_device_had_another_name(plant: Plant) -> None:
    from margo_agent.surroundings import Surroundings

    plant.device.engine.held_ports = [holding(device="edge-17", deployment="pump")]
    model = {"services": {"web": {"ports": [{"target": 80, "published": "8080"}]}}}
    assert Surroundings(plant.device.engine, "renamed", lambda: ["pump"]).misfits([model], "pump", {"pump"}) == []


def test_what_runs_for_another_device_is_not_taken_over(tmp_path: Path) -> None:
    from margo_agent.surroundings import Surroundings

    plant = running_plant(tmp_path)
    (one,) = plant.device.engine.containers()
    assert Surroundings(plant.device.engine, one.device).misfits([], one.deployment) == []
    assert Surroundings(plant.device.engine, "edge-18").misfits([], one.deployment) == [
        f"it runs on this engine for the device {one.device}: two devices need deployments with ids of their own"
    ]
    renamed = Surroundings(plant.device.engine, "edge-18", lambda: [one.deployment])
    assert renamed.misfits([], one.deployment) == []
