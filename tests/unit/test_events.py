"""What engine events say of us, and how often that leads to a look."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.events import (
    DEBOUNCE_S,
    FLOOR_LIMIT_S,
    FLOOR_S,
    LATE_S,
    MARK_COUNT_LIMIT,
    Due,
    Event,
    Marks,
    parse_event,
)
from tests.unit.scenes import ID
from tests.unit.test_content import JSON


def line(kind: str, action: str, thing: str = "c1", **attributes: str) -> bytes:
    return json.dumps({"Type": kind, "Action": action, "Actor": {"ID": thing, "Attributes": attributes}}).encode()


LABELS = {"org.margo.device": "edge-17", "org.margo.deployment": ID}


def test_an_event_of_our_container_is_of_its_deployment() -> None:
    assert parse_event(line("container", "die", **LABELS), "edge-17", {}) == Event(
        action="die", deployment=ID, thing="c1"
    )


@pytest.mark.parametrize(
    "data",
    [
        line("container", "die"),
        line("container", "die", **{**LABELS, "org.margo.device": "edge-18"}),
        line("container", "exec_start: sh", **LABELS),
        line("network", "destroy", name="foreign"),
        line("volume", "destroy", **LABELS),
        b"", b"rubbish", b"[]", b"{}", b'{"Actor":7,"Action":"die","Type":"container"}', b"\xff{", b'{"a":' * 10**4,
    ],
)  # fmt: skip
def test_what_is_not_ours_and_garbage_is_no_event(data: bytes) -> None:
    assert parse_event(data, "edge-17", {"n": ID}) is None


@given(JSON)
def test_any_json_is_an_event_or_none(raw: Any) -> None:
    parse_event(json.dumps(raw).encode(), "edge-17", {})


def test_networks_and_images_are_known_by_name_or_id() -> None:
    assert parse_event(line("network", "destroy", "n1", name="shop_default"), "d", {"shop_default": ID}) == Event(
        action="destroy", deployment=ID, thing="n1"
    )
    left = parse_event(line("network", "disconnect", "n1", name="shop_default", container="c1"), "d", {"n1": ID})
    assert left == Event(action="disconnect", deployment=ID, thing="c1")
    assert parse_event(line("image", "delete", "sha256:1"), "d", {"sha256:1": ID}) == Event(
        action="delete", deployment=ID, thing="sha256:1"
    )


def test_podman_names_the_container_that_left_a_network() -> None:
    left = parse_event(line("network", "disconnect", "c1", name="shop-web-1"), "edge-17", {"c1": ID})
    assert left == Event(action="disconnect", deployment=ID, thing="c1")


def happened(marks: Marks, action: str, now_s: float, thing: str = "c1", deployment: str = ID) -> None:
    marks.hear(Event(action=action, deployment=deployment, thing=thing), now_s)


def test_what_stops_is_looked_at_after_the_debounce_and_then_no_more() -> None:
    marks = Marks()
    assert marks.due_in_s(1000.0) is None
    happened(marks, "kill", 1000.0)
    happened(marks, "die", 1001.0)
    assert marks.due_in_s(1001.0) == DEBOUNCE_S - 1
    due = marks.take(1002.0)
    assert (due.deployments, due.stopped, due.own) == ({ID}, {"c1"}, False)
    assert marks.due_in_s(1002.0) is None


@pytest.mark.parametrize("action", ["start", "unpause", "connect"])
def test_what_dies_and_is_well_again_within_the_debounce_is_no_drift(action: str) -> None:
    marks = Marks()
    for before in ("kill", "die", "disconnect", "stop"):
        happened(marks, before, 1000.0)
    happened(marks, action, 1001.0)
    assert marks.due_in_s(1001.0) is None


def test_what_was_changed_is_looked_at_although_it_runs_again() -> None:
    marks = Marks()
    happened(marks, "update", 1000.0)
    happened(marks, "die", 1000.0)
    happened(marks, "start", 1000.5)
    assert marks.take(1002.0).deployments == {ID}


def test_a_container_that_crashes_slowly_for_hours_is_looked_at_ever_more_rarely() -> None:
    marks, looks, now_s = Marks(), [], 1000.0
    while now_s < 1000.0 + 4 * 3600:
        happened(marks, "die", now_s)
        now_s += DEBOUNCE_S
        if marks.due_in_s(now_s) == 0.0:
            looks.append(now_s)
            marks.looked(marks.take(now_s), [], now_s)
        now_s += 10
        happened(marks, "start", now_s)
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    assert pauses[0] < 2 * FLOOR_S + 12
    assert all(pause >= FLOOR_LIMIT_S for pause in pauses[-5:])
    assert len(looks) < 40


def test_after_some_calm_a_deployment_is_looked_at_soon_again() -> None:
    marks = Marks()
    marks.looked(Due({ID}, set()), [ID], 1000.0)
    marks.looked(Due({ID}, set()), [ID], 1010.0)
    happened(marks, "die", 1011.0)
    assert marks.due_in_s(1011.0) == 2 * FLOOR_S - 1
    marks.looked(marks.take(1100.0), [ID], 1100.0)
    happened(marks, "die", 1102.0)
    assert marks.due_in_s(1102.0) == FLOOR_S - 2


def test_our_own_doing_is_looked_at_once_and_counts_only_if_something_is_found() -> None:
    marks = Marks()
    marks.begin()
    happened(marks, "create", 1000.0)
    happened(marks, "start", 1000.1)
    marks.end(1001.0)
    happened(marks, "start", 1001.0 + LATE_S / 2)
    due = marks.take(1003.0)
    assert (due.deployments, due.stopped, due.own) == ({ID}, set(), True)
    marks.looked(due, [], 1003.0)
    assert marks.floors == {}
    marks.looked(due, [ID], 1003.0)
    assert marks.floors == {ID: (1003.0, FLOOR_S)}


def test_after_a_connect_everything_is_looked_at_and_that_covers_the_rest() -> None:
    marks = Marks()
    happened(marks, "kill", 1000.0)
    marks.everything(1000.0)
    due = marks.take(1002.0)
    assert (due.deployments, due.stopped) == (set(), {"c1"})
    assert marks.due_in_s(1002.0) is None


def test_a_look_that_failed_is_repeated_later_and_still_knows_what_was_stopped() -> None:
    marks = Marks()
    happened(marks, "stop", 1000.0)
    marks.looked(marks.take(1002.0), [], 1002.0, again=True)
    assert marks.due_in_s(1002.0) == FLOOR_S
    assert marks.take(1010.0).stopped == {"c1"}


def test_a_flood_of_events_takes_no_more_memory_than_a_bound() -> None:
    marks = Marks()
    for number in range(5 * MARK_COUNT_LIMIT):
        happened(marks, "die", 1000.0, thing=f"c{number}", deployment=f"d{number}")
    assert sum(len(things) for things in marks.marks.values()) <= MARK_COUNT_LIMIT
    assert marks.take(1010.0).deployments == set()


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["die", "start", "kill", "pause", "update"]))))
def test_whatever_happens_two_looks_are_never_closer_than_the_debounce(events: list[tuple[float, str]]) -> None:
    marks, now_s, last_s = Marks(), 1000.0, 0.0
    for pause_s, action in events:
        now_s += pause_s
        if marks.due_in_s(now_s) == 0.0:
            assert now_s - last_s >= DEBOUNCE_S
            last_s = now_s
            marks.looked(marks.take(now_s), [], now_s)
        happened(marks, action, now_s)
