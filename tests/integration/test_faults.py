"""Faults on real parts, the short form of `make soak`: nothing is lost, half applied or left over in the end."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import Disk, can_mount
from tests.faults.story import Story
from tests.integration.site import Site
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry
from tests.simulators.outages import PROGRAM, RENAME

RANDOM_KILLS = 4
LONGEST_S = 3.0


@pytest.fixture(scope="session")
def web_image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image that serves GREETING."""
    Images(engine.docker_host, tls_registry.host).push("images/web", "1.0", images.web())
    return f"{tls_registry.host}/images/web:1.0"


@pytest.fixture
def story(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, web_image: str) -> Iterator[Story]:
    """A device that runs its first state."""
    story = Story(Site(tmp_path, tls_registry, engine), web_image)
    story.begin()
    yield story
    story.site.take_down()


def test_a_kill_at_every_recorded_step_is_gone_on_from(story: Story) -> None:
    record = str(story.site.folder / "state" / ".record.json")
    for number in range(1, 40):
        came = story.strike_at(RENAME, number, below=record)
        story.check(f"kill at record {number}")
        if not came:
            break
    assert number > 5


def test_a_kill_before_compose_is_started_is_gone_on_from(story: Story) -> None:
    for number in (2, 3, 4):
        assert story.strike_at(PROGRAM, number)
        story.check(f"kill at program {number}")


@pytest.mark.each_engine
def test_a_kill_at_any_time_is_gone_on_from(story: Story) -> None:
    chance = random.Random(1)  # noqa: S311
    for number in range(RANDOM_KILLS):
        story.strike_somewhere(chance, LONGEST_S)
        story.check(f"random kill {number}")


@pytest.mark.skipif(not can_mount(), reason="no loop devices or no mkfs.ext4 here")
def test_what_was_never_synced_is_not_missed_after_a_power_cut(story: Story) -> None:
    with Disk.of(story.site.folder / "state") as disk:
        for number in (1, 4, 7, 10, 13):
            assert story.strike_at(RENAME, number)
            disk.cut()
            story.check(f"power cut at rename {number}")


@pytest.mark.skipif(not can_mount(), reason="no loop devices or no mkfs.ext4 here")
def test_a_disk_that_is_full_is_told_and_nothing_is_lost(story: Story) -> None:
    with Disk.of(story.site.folder / "state", size_bytes=2 * 2**20) as disk:
        story.publish()
        ballast = disk.folder / "ballast"
        fill(ballast)
        report = story.site.agent("once", expect=5)
        assert "No space left on device" in report["message"] or "bytes are needed" in report["message"]
        ballast.unlink()
        story.check("a full disk")


@pytest.mark.skipif(not can_mount(), reason="no loop devices or no mkfs.ext4 here")
def test_from_a_disk_that_is_read_only_by_now_what_is_installed_is_brought_up(story: Story) -> None:
    with Disk.of(story.site.folder / "state") as disk:
        story.site.agent("once")
        story.site.take_down()
        disk.become_read_only()
        story.site.agent("restore")
        assert set(story.site.containers()) == story.wanted
        story.publish()
        report = story.site.agent("once", expect=5)
        assert "Read-only file system" in report["message"]
        assert set(story.site.containers()) == {"hello", "pump"}


def fill(file: Path) -> None:
    """Write until nothing more fits."""
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return
