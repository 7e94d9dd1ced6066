"""What goes from a device's disk and engine, and what never does."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from margo_agent.cleaning import Cleaner
from margo_agent.record import Accepted
from margo_oci.content import digest_of
from margo_oci.errors import FormatError
from tests.simulators.faults import answers
from tests.simulators.plant import Plant, id_of
from tests.simulators.registry import ALWAYS
from tests.unit.scenes import DIGEST

HOUR = timedelta(hours=1)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device that went from recipe a over b to c."""
    plant = Plant(tmp_path)
    for counter, recipe in enumerate("abc", 1):
        plant.publish(plant.workload("pump", recipe), counter=counter)
        assert plant.device.once().outcome == "applied"
    return plant


def later(plant: Plant, **more: int) -> Cleaner:
    """Clean once, so that all is seen, and return what cleans when it is old."""
    plant.device.cleaner().clean()
    plant.device.now += 2 * HOUR
    return plant.device.cleaner(**more)


def names(plant: Plant, pattern: str) -> Sequence[str]:
    return sorted(path.name for path in plant.device.folder.glob(pattern))


def test_blobs_of_states_that_are_past_go_by_age_and_those_of_the_accepted_one_stay(plant: Plant) -> None:
    cleaned = later(plant).clean()
    assert {one.thing.kind for one in cleaned.removed} == {"blob"}
    manifest, layer = plant.device.record.digest, plant.workload("pump", "c").layer.descriptor.digest
    assert names(plant, "blobs/sha256/*") == sorted(one.removeprefix("sha256:") for one in (manifest, layer))
    assert cleaned.freed_bytes > 0
    assert later(plant).clean().found == []


def test_what_was_just_seen_unneeded_stays_for_now(plant: Plant) -> None:
    before = names(plant, "blobs/sha256/*")
    cleaned = plant.device.cleaner().clean()
    assert (cleaned.removed, len(cleaned.found) > 0) == ([], True)
    assert names(plant, "blobs/sha256/*") == before


def test_a_dry_run_removes_nothing_and_says_what_would_go(plant: Plant) -> None:
    before = names(plant, "**/*")
    cleaned = later(plant).clean(dry_run=True)
    assert names(plant, "**/*") == sorted([*before, "garbage.json"])
    shown = cleaned.to_dict()
    assert (shown["outcome"], shown["dryRun"], shown["bytes"] > 0) == ("cleaned", True, True)
    assert {one["why"] for one in shown["garbage"]} == {"not part of the accepted state"}
    assert all(one["removed"] for one in shown["garbage"])
    assert any("would go" in line for line in cleaned.lines())


def test_when_room_is_short_what_is_young_goes_too(plant: Plant) -> None:
    cleaned = plant.device.cleaner(free_bytes=0, keep_free_bytes=10**9).clean()
    assert cleaned.removed
    assert all(one.goes for one in cleaned.found)
    assert plant.device.once().outcome == "unchanged"


def test_the_installed_revision_and_the_way_back_stay_however_short_room_is(plant: Plant) -> None:
    record = plant.device.record
    kept = {record.installed[id_of("pump")].revision, record.previous[id_of("pump")].revision}
    later(plant, free_bytes=0, keep_free_bytes=10**12).clean()
    folder = f"deployments/{id_of('pump')}/*"
    assert names(plant, folder) == sorted(one.removeprefix("sha256:") for one in kept)
    assert len(names(plant, "components/*")) == 1
    plant.device.engine.spoiled.add("d")
    plant.publish(plant.workload("pump", "d"), counter=4)
    assert plant.device.once().outcome == "failed"
    assert plant.device.engine.running == {"pump": "c"}


def test_what_failed_is_no_way_back(plant: Plant) -> None:
    plant.device.engine.spoiled.add("d")
    plant.publish(plant.workload("pump", "d"), counter=4)
    plant.device.once()
    assert len(names(plant, f"deployments/{id_of('pump')}/*")) == 3
    later(plant).clean()
    assert len(names(plant, f"deployments/{id_of('pump')}/*")) == 2


def test_what_is_prepared_for_a_state_that_is_not_applied_yet_stays(plant: Plant) -> None:
    plant.publish(plant.workload("pump", "d"), counter=4)
    plant.device.plan()
    plant.device.engine.images.clear()
    plant.sim.fail(answers(404), on="images/cell/manifests", times=ALWAYS)
    plant.device.once()
    assert not plant.device.record.settled
    later(plant).clean()
    assert len(names(plant, f"deployments/{id_of('pump')}/*")) == 3


def test_downloads_for_a_state_that_is_under_way_stay(plant: Plant) -> None:
    plant.device.record_file.save(replace(plant.device.record, settled=False))
    before = names(plant, "blobs/sha256/*")
    assert later(plant, free_bytes=0, keep_free_bytes=10**9).clean().found == []
    assert names(plant, "blobs/sha256/*") == before


def test_making_room_for_one_deployment_leaves_what_is_unpacked_for_the_next(plant: Plant) -> None:
    unpacked = plant.device.folder / "components" / ("1" * 64)
    unpacked.mkdir()
    plant.device.record_file.save(replace(plant.device.record, settled=False))
    plant.device.cleaner(free_bytes=0).free_up(10**9)
    assert unpacked.exists()
    plant.device.record_file.save(replace(plant.device.record, settled=True))
    plant.device.cleaner(free_bytes=0).free_up(10**9)
    assert not unpacked.exists()


def test_a_failed_revision_that_is_tried_again_stays_while_its_state_is_under_way(plant: Plant) -> None:
    plant.device.engine.spoiled.add("d")
    plant.publish(plant.workload("pump", "d"), counter=4)
    plant.device.once()
    record = plant.device.record
    waits = {name: replace(one, waits_for="another") for name, one in record.failed.items()}
    plant.device.record_file.save(replace(record, failed=waits, settled=False))
    plant.device.cleaner(free_bytes=0).free_up(10**9)
    assert len(names(plant, f"deployments/{id_of('pump')}/*")) == 3


def test_without_the_manifest_of_an_unsettled_state_nobody_can_tell_and_all_stays(plant: Plant) -> None:
    record = plant.device.record
    unsettled = replace(record, settled=False).accept(Accepted(9, DIGEST, "edge-17"))
    plant.device.record_file.save(unsettled)
    before = names(plant, "blobs/sha256/*")
    assert later(plant, free_bytes=0, keep_free_bytes=10**9).clean().found == []
    assert names(plant, "blobs/sha256/*") == before


def test_components_that_no_kept_revision_uses_go(plant: Plant) -> None:
    folder = plant.device.folder / "components" / ("1" * 64)
    folder.mkdir()
    (folder / "compose.yaml").write_text("{}")
    assert folder.exists()
    later(plant).clean()
    assert not folder.exists()
    assert len(names(plant, "components/*")) == 1


def test_a_kept_revision_whose_lock_is_damaged_keeps_all_components(plant: Plant) -> None:
    (plant.device.folder / "components" / ("1" * 64)).mkdir()
    for lock in plant.device.folder.glob("deployments/*/*/lock.json"):
        lock.write_text("{")
    later(plant).clean()
    assert len(names(plant, "components/*")) == 2


def test_what_a_power_cut_left_in_mid_removal_goes_and_is_never_taken_for_whole(plant: Plant) -> None:
    generation = next(plant.device.folder.glob("deployments/*/*"))
    shutil.copytree(generation, generation.with_name(f".{generation.name}.gone"))
    (plant.device.folder / "components" / ".half.new").mkdir()
    cleaned = plant.device.cleaner().clean()
    assert sorted(one.thing.kind for one in cleaned.removed) == ["leftover", "leftover"]
    assert plant.device.correct().outcome == "unchanged"


def test_parts_of_no_use_go_when_they_are_old(plant: Plant) -> None:
    part = plant.device.folder / "ingest" / f"{'1' * 64}.part"
    part.write_bytes(b"x" * 5000)
    plant.device.now += timedelta(days=365 * 10)  # the file's time is this machine's
    later(plant).clean()
    assert not part.exists()


def test_images_that_the_agent_named_lose_that_name_when_nothing_needs_them(plant: Plant) -> None:
    engine, given = plant.device.engine, plant.device.given
    (used,) = engine.images
    old, foreign = "registry.example/old:sha256-" + "1" * 64, "registry.example/foreign:1"
    for name in (old, foreign):
        engine.named[name] = digest_of(name.encode())
    given.gave(old, engine.named[old])
    given.gave(used, engine.image_id(used))
    cleaned = later(plant).clean()
    assert [one.thing.name for one in cleaned.removed if one.thing.kind == "image"] == [old]
    assert set(engine.named) == {foreign}
    assert set(given.load()) == {used}


def test_an_image_that_any_container_uses_stays(plant: Plant) -> None:
    engine, name = plant.device.engine, "registry.example/old:sha256-" + "1" * 64
    engine.named[name] = digest_of(b"old")
    plant.device.given.gave(name, engine.named[name])
    (container,) = engine.ids.values()
    engine.change(container, settings={"image": engine.named[name]})
    later(plant, free_bytes=0, keep_free_bytes=10**9).clean()
    assert name in engine.named


def test_a_name_that_somebody_gave_to_another_image_is_left_to_them(plant: Plant) -> None:
    engine, name = plant.device.engine, "registry.example/old:sha256-" + "1" * 64
    plant.device.given.gave(name, digest_of(b"old"))
    engine.named[name] = digest_of(b"theirs")
    later(plant).clean()
    assert engine.named[name] == digest_of(b"theirs")
    assert name not in plant.device.given.load()


def test_without_an_engine_images_stay_and_the_rest_goes(plant: Plant) -> None:
    plant.device.given.gave("old:sha256-1", DIGEST)
    plant.device.engine.away = True
    cleaned = later(plant).clean()
    assert cleaned.removed
    assert plant.device.given.load()


def test_a_damaged_list_of_names_keeps_all_images(plant: Plant) -> None:
    plant.device.given.path.write_text("[]")
    cleaned = later(plant).clean()
    assert cleaned.notes
    assert cleaned.exit_code == 0


def test_room_is_made_only_where_it_is_short(plant: Plant) -> None:
    once = b"an archive that was fetched before"
    at = plant.device.folder / "blobs" / "sha256" / digest_of(once).removeprefix("sha256:")
    at.write_bytes(once)
    cleaner = plant.device.cleaner(free_bytes=1000)
    assert cleaner.free_up(100) == 0
    assert cleaner.free_up(10**9) > 0
    assert not at.exists()


def test_before_a_state_was_accepted_nothing_goes(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    part = tmp_path / "ingest" / "x.part"
    part.parent.mkdir()
    part.write_bytes(b"x")
    assert later(plant, free_bytes=0, keep_free_bytes=10**9).clean().found == ()
    assert part.exists()


def test_with_a_damaged_record_nothing_goes(plant: Plant) -> None:
    plant.device.record_file.path.write_text("{")
    before = names(plant, "**/*")
    with pytest.raises(FormatError):
        plant.device.cleaner(free_bytes=0, keep_free_bytes=10**9).clean()
    assert names(plant, "**/*") == before


def test_after_many_states_the_store_is_as_small_as_after_few(plant: Plant) -> None:
    sizes = []
    for counter in range(4, 24):
        plant.publish(plant.workload("pump", f"r{counter}"), counter=counter)
        assert plant.device.once().outcome == "applied"
        later(plant).clean()
        sizes.append(len(names(plant, "**/*")))
    assert len(set(sizes)) == 1


def test_what_cannot_be_removed_is_said_and_tried_again(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaner = later(plant)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", _refuse)
        cleaned = cleaner.clean()
    assert (cleaned.exit_code, cleaned.to_dict()["outcome"]) == (5, "failed")
    assert "Read-only file system" in cleaned.to_dict()["message"]
    assert cleaner.clean().removed


def _refuse(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")
