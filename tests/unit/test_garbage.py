"""What nothing needs, and when it goes."""

from hypothesis import given
from hypothesis import strategies as st

from margo_agent.garbage import WHY, Garbage, Kind, Needs, Thing, garbage

DAY_S = 86400.0
NOW_S = 1000 * DAY_S


def blob(name: str, size_bytes: int = 10, kind: Kind = "blob", changed_s: float = 0.0, disk: str = "/") -> Thing:
    return Thing(kind=kind, name=name, size_bytes=size_bytes, changed_s=changed_s, disk=disk)


def found(
    *there: Thing, needed: str = "", seen: dict[str, float] | None = None, short_bytes: int = 0
) -> list[tuple[str, bool]]:
    """What nothing needs, and whether it goes."""
    needs = Needs(names={"blob": set(needed.split()), "part": set()})
    listed = garbage(there, needs, seen or {}, NOW_S, after_s=DAY_S, short_bytes={"/": short_bytes})
    return [(one.thing.name, one.goes) for one in listed]


def test_what_is_needed_is_no_garbage_whatever_its_age_and_however_full_the_disk_is() -> None:
    assert found(blob("a"), needed="a", seen={"blob a": 0.0}, short_bytes=10**9) == []


def test_what_nobody_needs_waits_for_its_time() -> None:
    assert found(blob("a")) == [("a", False)]
    assert found(blob("a"), seen={"blob a": NOW_S - DAY_S + 1}) == [("a", False)]
    assert found(blob("a"), seen={"blob a": NOW_S - DAY_S}) == [("a", True)]


def test_when_room_is_short_the_oldest_go_at_once_until_it_is_enough() -> None:
    seen = {"blob a": NOW_S - 30, "blob b": NOW_S - 20, "blob c": NOW_S - 10}
    things = [blob("c"), blob("a"), blob("b")]
    assert found(*things, seen=seen, short_bytes=11) == [("a", True), ("b", True), ("c", False)]


def test_what_is_on_another_disk_makes_no_room_here() -> None:
    assert found(blob("a", disk="/var"), short_bytes=100) == [("a", False)]


def test_a_kind_of_which_nobody_can_tell_what_is_needed_is_needed_whole() -> None:
    assert found(blob("a", kind="component"), seen={"component a": 0.0}, short_bytes=10**9) == []


def test_what_a_power_cut_left_half_done_goes_at_once() -> None:
    assert found(blob(".a.new", kind="leftover")) == [(".a.new", True)]


def test_a_download_that_still_grew_lately_is_not_old() -> None:
    seen = {"part a": NOW_S - 9 * DAY_S}
    assert found(blob("a", kind="part", changed_s=NOW_S - 5), seen=seen) == [("a", False)]
    assert found(blob("a", kind="part", changed_s=NOW_S - 2 * DAY_S), seen=seen) == [("a", True)]


def test_a_moment_that_is_still_to_come_was_told_by_another_clock() -> None:
    assert found(blob("a"), seen={"blob a": NOW_S + 900 * DAY_S}) == [("a", False)]
    one = garbage([blob("a")], Needs(names={"blob": set()}), {"blob a": 2 * NOW_S}, NOW_S, after_s=1, short_bytes={})
    assert one == [Garbage(thing=blob("a"), since_s=NOW_S, goes=False)]


def test_every_kind_says_why_it_is_not_needed() -> None:
    for kind in WHY:
        assert Garbage(thing=blob("a", kind=kind), since_s=0, goes=True).why


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 100), st.booleans())), st.integers(0, 500))
def test_nothing_that_is_needed_ever_goes_and_never_more_than_is_short(
    things: list[tuple[int, int, bool]], short_bytes: int
) -> None:
    there = [blob(str(name), size) for name, size, _ in things]
    needed = {str(name) for name, _, need in things if need}
    listed = garbage(there, Needs(names={"blob": needed}), {}, NOW_S, after_s=DAY_S, short_bytes={"/": short_bytes})
    gone = [one.thing for one in listed if one.goes]
    assert not {one.name for one in gone} & needed
    last = max((one.size_bytes for one in gone), default=0)
    assert sum(one.size_bytes for one in gone) < short_bytes + last or not gone
