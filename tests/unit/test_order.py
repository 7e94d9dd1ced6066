"""In which order deployments come up, and what becomes of those that need something (format 5.8)."""

from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from margo_agent.gather import Desired
from margo_agent.plan import Step
from margo_agent.record import Journal
from margo_agent.report import DeploymentReport
from margo_agent.stepping import Taken, Work
from margo_agent.turns import in_turn
from tests.simulators.plant import Plant, id_of


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def names(*called: str) -> list[str]:
    """Return names in the order of their ids, which is the order of steps."""
    return sorted(called, key=id_of)


def publish(plant: Plant, counter: int, **recipes: str) -> None:
    """Publish workloads by recipe; `a after pump` is recipe a of one that needs the pump."""
    parts = {name: recipe.partition(" after ") for name, recipe in recipes.items()}
    plant.publish(
        *(plant.workload(name, recipe, needs=needs) for name, (recipe, _, needs) in parts.items()), counter=counter
    )


def test_5_8_a_deployment_comes_up_after_those_it_needs(plant: Plant) -> None:
    first, second, third = names("pump", "valve", "tank")
    publish(plant, 1, **{first: f"a after {second}", second: f"a after {id_of(third)}", third: "a"})
    assert plant.device.once().outcome == "applied"
    assert [one for one in plant.device.engine.log if one.startswith("up")] == [
        f"up {third}",
        f"up {second}",
        f"up {first}",
    ]


def test_5_8_what_is_removed_goes_after_those_that_need_it(plant: Plant) -> None:
    first, second = names("pump", "valve")
    publish(plant, 1, **{first: "a", second: f"a after {first}"})
    plant.device.once()
    plant.device.engine.log.clear()
    publish(plant, 2)
    plant.device.once()
    assert plant.device.engine.log == [f"down {second}", f"down {first}"]


def test_5_8_what_needs_a_deployment_that_fails_stays_as_it_is(plant: Plant) -> None:
    publish(plant, 1, pump="a", valve="a after pump")
    plant.device.once()
    plant.device.engine.spoiled = {"b"}
    publish(plant, 2, pump="b", valve="b after pump")
    report = plant.device.once()
    assert report.outcome == "failed"
    assert plant.device.engine.running == {"pump": "a", "valve": "a"}
    assert {one.name: (one.state, one.error) for one in report.deployments}["valve"] == (
        "pending",
        "waits for pump, which is not up",
    )


def test_5_8_a_deployment_that_waits_is_not_asked_about_until_something_changes(plant: Plant) -> None:
    plant.device.engine.spoiled = {"b"}
    publish(plant, 1, pump="b", valve="a after pump")
    plant.device.once()
    plant.sim.forget()
    report = plant.device.once()
    assert (report.outcome, report.requests) == ("failed", 1)
    assert {one.name: one.state for one in report.deployments} == {"pump": "failed", "valve": "pending"}


def test_5_8_a_deployment_that_waited_comes_up_with_what_it_waited_for(plant: Plant) -> None:
    plant.device.engine.spoiled = {"b"}
    publish(plant, 1, pump="b", valve="a after pump")
    plant.device.once()
    publish(plant, 2, pump="c", valve="a after pump")
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "c", "valve": "a"}


def test_5_8_a_name_that_is_not_in_the_state_holds_that_deployment_back_alone(plant: Plant) -> None:
    publish(plant, 1, pump="a", valve="a after tank")
    report = plant.device.once()
    assert plant.device.engine.running == {"pump": "a"}
    assert {one.name: one.error for one in report.deployments}[
        "valve"
    ] == "dependsOn: 'tank' is no deployment of this state"
    publish(plant, 2, pump="a", valve="a after tank", tank="a")
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.running == {"pump": "a", "valve": "a", "tank": "a"}


def test_5_8_a_circle_holds_back_those_in_it_alone(plant: Plant) -> None:
    publish(plant, 1, pump="a after valve", valve="a after pump", tank="a")
    report = plant.device.once()
    assert plant.device.engine.running == {"tank": "a"}
    assert "dependsOn: it waits for itself: " in {one.name: one.error for one in report.deployments}["pump"]


def test_5_8_a_need_is_remembered_of_what_is_not_read_again(plant: Plant) -> None:
    first, second = names("pump", "valve")
    publish(plant, 1, **{first: "a", second: f"a after {first}"})
    plant.device.once()
    assert plant.device.record.installed[id_of(second)].needs == (id_of(first),)


def steps(*called: str) -> list[Step]:
    return [Step("install", name) for name in called]


def test_5_8_independent_steps_are_taken_side_by_side() -> None:
    meeting = Barrier(2)
    in_turn(steps("a", "b"), lambda _: set(), lambda _: meeting.wait(timeout=10), at_once=2)


def test_no_more_steps_are_under_way_than_allowed() -> None:
    meeting = Barrier(2)
    with pytest.raises(BrokenBarrierError):
        in_turn(steps("a", "b"), lambda _: set(), lambda _: meeting.wait(timeout=0.05), at_once=1)


def test_after_an_error_nothing_more_is_begun() -> None:
    taken: list[str] = []

    def take(step: Step) -> None:
        taken.append(step.deployment)
        if step.deployment == "b":
            raise ValueError(step.deployment)

    with pytest.raises(ValueError, match="b"):
        in_turn(steps("a", "b", "c"), lambda _: set(), take, at_once=1)
    assert taken == ["a", "b"]


def test_a_step_that_ends_while_another_one_looks_at_the_endings_disturbs_nobody(plant: Plant) -> None:
    work = Work(Desired(digest="", revisions={}, placed={}), Journal(plant.device.record_file))

    class Ending(Taken):
        """One that is looked at while the next one ends, in another thread."""

        def __getattribute__(self, name: str) -> Any:
            if name == "ending":
                work.taken.setdefault(Step("keep", "valve"), Taken("kept", reported))
            return super().__getattribute__(name)

    reported = DeploymentReport("pump", "pump", "keep", "installed")
    work.taken[Step("keep", "pump")] = Ending("kept", reported)
    assert work.endings == {Step("keep", "pump"): "kept"}


def test_a_circle_of_steps_comes_to_an_end() -> None:
    taken: list[str] = []
    one, two, three = steps("a", "b", "c")
    ahead = {one: {two}, two: {one}, three: {one}}
    in_turn([one, two, three], lambda step: ahead[step], lambda step: taken.append(step.deployment), at_once=2)
    assert taken == ["a", "b", "c"]
