"""What a device says of the head that it accepted, without asking anybody."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from margo_agent.outbox import Outbox
from margo_agent.status import device_status, status_lines
from tests.simulators.plant import Plant, running_plant
from tests.unit.headed import HeadedPlant, headed_plant
from tests.unit.trusted import DAY, NOW


@pytest.fixture
def plant(tmp_path: Path) -> HeadedPlant:
    return headed_plant(tmp_path)


def status(plant: Plant, now: datetime = NOW) -> dict[str, Any]:
    """What it says; there is no engine to ask."""
    nowhere = {"DOCKER_HOST": "nothing://"}
    outbox = Outbox(plant.device.folder)
    return device_status(plant.device._config(), plant.device.record, outbox, nowhere, now)


def test_the_head_and_its_end_are_shown(plant: HeadedPlant) -> None:
    found = status(plant)
    assert found["head"] == {"version": 1, "expires": "2026-11-28T12:00:00Z"}
    assert found["stale"] is None
    assert "  head 1, until 2026-11-28T12:00:00Z" in list(status_lines(found))


def test_an_expired_head_is_stale_in_the_words_of_a_pass(plant: HeadedPlant) -> None:
    plant.wait(7 * DAY)
    found = status(plant, plant.now)
    assert found["stale"] == plant.device.once().message
    assert f"  stale: {found['stale']}" in list(status_lines(found))


def test_without_heads_nothing_is_said_of_them(tmp_path: Path) -> None:
    found = status(running_plant(tmp_path), NOW + 999 * DAY)
    assert (found["head"], found["stale"]) == (None, None)
    assert not [line for line in status_lines(found) if line.startswith(("  head", "  stale"))]
