"""What is to be done: running and desired revisions in, ordered steps out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.plan import Ending, Step, plan, worth_another_try

REVISIONS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2", "3"]))


@pytest.mark.parametrize(
    ("running", "desired", "failed", "steps"),
    [
        ({}, {}, {}, []),
        ({}, {"a": "1"}, {}, [Step("install", "a")]),
        ({"a": "1"}, {"a": "1"}, {}, [Step("keep", "a")]),
        ({"a": "1"}, {"a": "2"}, {}, [Step("update", "a")]),
        ({"a": "1"}, {}, {}, [Step("remove", "a")]),
        ({"a": "1"}, {"a": "2"}, {"a": "2"}, [Step("keep", "a", held=True)]),
        ({}, {"a": "2"}, {"a": "2"}, [Step("keep", "a", held=True)]),
        ({"a": "1"}, {"a": "3"}, {"a": "2"}, [Step("update", "a")]),
        ({"a": "1"}, {"a": "1"}, {"a": "2"}, [Step("keep", "a")]),
        ({}, {}, {"a": "2"}, [Step("remove", "a")]),
        ({"a": ""}, {"a": "2"}, {"a": "2"}, [Step("restore", "a", held=True)]),
        ({"a": ""}, {"a": "3"}, {"a": "2"}, [Step("update", "a")]),
    ],
)
def test_each_case_has_its_step(
    running: dict[str, str], desired: dict[str, str], failed: dict[str, str], steps: list[Step]
) -> None:
    assert list(plan(running, desired, failed)) == steps


def test_what_goes_goes_first_then_what_changes_then_what_comes() -> None:
    steps = plan({"d": "1", "c": "1", "b": "1"}, {"a": "1", "b": "2", "c": "1", "e": "1"}, {})
    assert [(step.action, step.deployment) for step in steps] == [
        ("remove", "d"),
        ("update", "b"),
        ("install", "a"),
        ("install", "e"),
        ("keep", "c"),
    ]


@given(REVISIONS, REVISIONS, REVISIONS)
def test_every_deployment_gets_exactly_one_step(
    running: dict[str, str], desired: dict[str, str], failed: dict[str, str]
) -> None:
    steps = plan(running, desired, failed)
    assert sorted(step.deployment for step in steps) == sorted({**running, **desired, **failed})


@given(REVISIONS, REVISIONS)
def test_taking_the_steps_leads_to_what_is_desired_and_then_there_is_nothing_to_do(
    running: dict[str, str], desired: dict[str, str]
) -> None:
    for step in plan(running, desired, {}):
        if step.action == "remove":
            running = {name: revision for name, revision in running.items() if name != step.deployment}
        elif step.action != "keep":
            running = {**running, step.deployment: desired[step.deployment]}
    assert running == desired
    assert {step.action for step in plan(running, desired, {})} <= {"keep"}


@given(REVISIONS, REVISIONS)
def test_a_failed_revision_is_never_tried_again(running: dict[str, str], failed: dict[str, str]) -> None:
    assert {step.action for step in plan(running, failed, failed)} <= {"keep", "remove"}


@pytest.mark.parametrize(
    ("endings", "again"),
    [
        ("", ""),
        ("failed", ""),
        ("failed done", "0"),
        ("done failed", ""),
        ("failed failed", ""),
        ("failed failed done failed", "01"),
        ("failed kept undone", ""),
        ("failed done blocked", "02"),
        ("done failed blocked", ""),
    ],
)
def test_5_6_a_step_is_worth_another_try_if_another_one_was_done_after_it(endings: str, again: str) -> None:
    words: list[Ending] = list(endings.split())  # type: ignore[arg-type]
    steps = {Step("update", str(number)): word for number, word in enumerate(words)}
    done_before = {step: words[:number].count("done") for number, step in enumerate(steps)}
    assert "".join(step.deployment for step in worth_another_try(steps, done_before)) == again


def test_5_6_what_began_before_another_one_was_done_is_worth_another_try_although_it_ended_later() -> None:
    giver, taker = Step("update", "giver"), Step("update", "taker")  # side by side
    assert worth_another_try({giver: "done", taker: "failed"}, {giver: 0, taker: 0}) == [taker]
