"""A power cut, a full disk and a disk that became read-only, at every single thing that a pass does to its disk.

Each story is told with the outage at its first moment, then at its second, and so on until none strikes any more.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from margo_agent.settings import Atomic
from tests.simulators.engine import PowerCut
from tests.simulators.outages import FOLDER, REMOVE, RENAME, WRITE, Outage, during
from tests.simulators.plant import Plant
from tests.unit.test_format_rules_files import NEXT, SECRET, in_memory, mounts, plain, plant_with, secret
from tests.unit.test_format_rules_files import publish as publish_files

OLD, NEW = {"pump": "a", "valve": "a", "tank": "a"}, {"pump": "b", "valve": "a", "mixer": "a"}
Ending = Literal["comes up", "fails"]
LIMIT = 400  # more moments than any story has


def cut(_: str) -> None:
    raise PowerCut


def full(_: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(_: str) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def publish(plant: Plant, counter: int, recipes: dict[str, str]) -> None:
    plant.publish(*(plant.workload(name, recipe) for name, recipe in recipes.items()), counter=counter)


def before_the_outage(folder: Path, atomic: Atomic, ending: Ending) -> Plant:
    """Return a plant that runs the old state and is about to apply the new one."""
    folder.mkdir()
    plant = Plant(folder)
    plant.device.apply = replace(plant.device.apply, atomic=atomic, settle_s=0)
    publish(plant, 1, OLD)
    assert plant.device.once().outcome == "applied"
    publish(plant, 2, NEW)
    if ending == "fails":
        plant.device.engine.spoiled = {"b"}
    return plant


def outages(
    folder: Path, strike: Callable[[str], None], atomic: Atomic, ending: Ending, kinds: tuple[str, ...]
) -> Iterator[tuple[Plant, Outage]]:
    """Yield a plant after an outage at each moment of a pass."""
    for number in range(1, LIMIT):
        plant = before_the_outage(folder / str(number), atomic, ending)
        with during(Outage(strike, number, kinds, below=str(plant.device.folder))) as outage:
            try:
                report = plant.device.once()
            except PowerCut:
                report = None
        if not outage.struck:
            assert number > 10, "a pass does more than that"
            return
        if report and report.outcome not in ("applied", "failed"):
            raise AssertionError(f"{outage.struck}: {report}")
        yield plant, outage
    raise AssertionError("no end to it")


def wanted(atomic: Atomic, ending: Ending) -> dict[str, str]:
    """Return what runs in the end."""
    if ending == "comes up":
        return NEW
    return OLD if atomic == "state" else {**NEW, "pump": "a"}


def check_the_end(plant: Plant, outage: Outage, atomic: Atomic, ending: Ending) -> None:
    """The next passes end where this one would have; what did not change was never touched."""
    for _ in range(3):
        report = plant.device.once()
    record = plant.device.record
    assert plant.device.engine.running == wanted(atomic, ending), outage.struck
    assert report.outcome == ("unchanged" if ending == "comes up" else "failed"), outage.struck
    assert (record.settled, list(record.unsure), record.before) == (True, [], None), outage.struck
    assert set(plant.device.engine.networks) == {one.container.project for one in plant.device.engine.all.values()}
    assert not list(plant.device.folder.glob("**/.*.new")), outage.struck


@pytest.mark.parametrize("ending", ["comes up", "fails"])
@pytest.mark.parametrize("atomic", ["deployment", "state"])
def test_a_power_cut_at_any_moment_is_gone_on_from(tmp_path: Path, atomic: Atomic, ending: Ending) -> None:
    for plant, outage in outages(tmp_path, cut, atomic, ending, (RENAME, WRITE, FOLDER, REMOVE)):
        assert plant.device.engine.running.get("valve") == "a", outage.struck
        check_the_end(plant, outage, atomic, ending)


@pytest.mark.parametrize("atomic", ["deployment", "state"])
def test_a_power_cut_at_any_moment_without_a_network_brings_a_good_state_back(tmp_path: Path, atomic: Atomic) -> None:
    for plant, outage in outages(tmp_path, cut, atomic, "comes up", (RENAME, WRITE, FOLDER, REMOVE)):
        plant.device.engine.all.clear()
        plant.device.restore()
        installed = {one.name for one in plant.device.record.installed.values()}
        assert set(plant.device.engine.running) == installed, outage.struck
        if atomic == "state":
            assert plant.device.engine.running in (OLD, NEW), outage.struck
        check_the_end(plant, outage, atomic, "comes up")


@pytest.mark.parametrize("strike", [full, read_only])
@pytest.mark.parametrize("atomic", ["deployment", "state"])
def test_a_disk_that_takes_nothing_more_is_told_and_nothing_is_lost(
    tmp_path: Path, strike: Callable[[str], None], atomic: Atomic
) -> None:
    for plant, outage in outages(tmp_path, strike, atomic, "comes up", (RENAME, WRITE, FOLDER)):
        assert plant.device.engine.running.get("valve") == "a", outage.struck
        check_the_end(plant, outage, atomic, "comes up")


def test_14_15_a_power_cut_at_any_moment_loses_neither_files_nor_secrets(tmp_path: Path) -> None:
    for number in range(1, LIMIT):
        plant = plant_with(tmp_path / str(number), "key", web=["conf"])
        assert publish_files(plant, 1, secret("key"), plain("conf/a", b"old")) == "applied"
        plant.publish(plant.workload("pump", "a", files=[secret("key", NEXT), plain("conf/a", b"new")]), counter=2)
        outage = Outage(cut, number, (RENAME, WRITE, FOLDER, REMOVE), below=str(plant.device.folder))
        with during(outage), suppress(PowerCut):
            plant.device.once()
        if not outage.struck:
            assert number > 10
            return
        shutil.rmtree(plant.device.secrets.folder)
        plant.device.engine.all.clear()
        assert plant.device.restore().outcome != "failed", outage.struck
        assert in_memory(plant) in ([SECRET], [NEXT]), outage.struck
        for _ in range(3):
            report = plant.device.once()
        assert report.outcome == "unchanged", outage.struck
        assert (in_memory(plant), Path(mounts(plant, "web")[0], "a").read_bytes()) == ([NEXT], b"new"), outage.struck
        plant.device.cleaner(after_s=0).clean()
        assert not list(plant.device.folder.glob("**/.*.new")), outage.struck
    raise AssertionError("no end to it")
