"""Whether what has to come fits, by numbers alone."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from margo_agent.room import Disk, Room, shortfalls
from margo_agent.unready import NoRoom

STATE, ENGINE = Path("/state"), Path("/engine")


def room(
    disks: Mapping[Path, Disk], *, keep_free_bytes: int = 0, given_back: Mapping[Path, Disk] | None = None
) -> Room:
    """A device with these disks; when something is to be freed, they become `given_back`."""
    now = dict(disks)

    def free_up(needed_bytes: int) -> int:
        now.update(given_back or {})
        return needed_bytes

    return Room(
        state_dir=STATE,
        keep_free_bytes=keep_free_bytes,
        disk_of=lambda folder: now.get(folder),
        free_up=free_up,
    )


def test_5_12_what_fits_is_no_fault() -> None:
    room({STATE: Disk(1, 1000), ENGINE: Disk(2, 600)}).check(1000, 200, ENGINE)


def test_5_12_too_little_room_is_told_with_the_number_that_is_missing() -> None:
    with pytest.raises(NoRoom) as refused:
        room({STATE: Disk(1, 1000)}).check(1500)
    assert str(refused.value) == "1500 bytes are needed in /state, 1000 are free, 500 are missing"


def test_5_12_images_are_counted_where_the_engine_unpacks_them() -> None:
    with pytest.raises(NoRoom, match="600 bytes are needed in /engine, 599 are free, 1 are missing"):
        room({STATE: Disk(1, 10**6), ENGINE: Disk(2, 599)}).check(200, 200, ENGINE)


def test_5_12_one_disk_counts_once() -> None:
    with pytest.raises(NoRoom, match=r"^800 bytes are needed in /state, 799 are free, 1 are missing$"):
        room({STATE: Disk(1, 799), ENGINE: Disk(1, 799)}).check(200, 200, ENGINE)


def test_5_12_what_is_to_stay_free_is_not_filled() -> None:
    with pytest.raises(NoRoom, match=r"1000 are free \(clean.keepFree keeps 300 of them\), 100 are missing"):
        room({STATE: Disk(1, 1000)}, keep_free_bytes=300).check(800)


def test_5_12_what_is_safely_old_goes_first() -> None:
    room({STATE: Disk(1, 100)}, given_back={STATE: Disk(1, 500)}).check(500)


def test_where_nothing_has_to_come_a_full_disk_is_no_hindrance() -> None:
    assert shortfalls({STATE: 0}, {STATE: Disk(1, 0)}, 100) == []


def test_a_folder_of_another_machine_is_left_out() -> None:
    room({STATE: Disk(1, 1000)}).check(10, 10**9, ENGINE)
    room({STATE: Disk(1, 1000)}).check(10, 10**9)


@pytest.mark.parametrize(("free", "parts", "scarce"), [(0, 500, True), (0, 50, False), (400, 500, False)])
def test_parts_are_what_fills_the_disk_if_it_had_room_without_them(free: int, parts: int, scarce: bool) -> None:
    assert room({STATE: Disk(1, free)}, keep_free_bytes=300).is_scarce(parts) == scarce
