"""What a change of the configuration means for a state that was accepted before it."""

from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.trusted import terms_of
from margo_oci.errors import FormatError
from margo_oci.trustconfig import ComponentRule, Sources
from tests.simulators.plant import SCOPE, Plant, running_plant

GROUP = "plant-3/line-1"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return running_plant(tmp_path)


def test_6_11_of_several_scopes_the_one_that_was_accepted_first_stays(plant: Plant) -> None:
    """Both states are signed, and both are for this device: whoever has the registry would choose between them."""
    plant.device.scopes = [SCOPE, GROUP]
    assert plant.device.once().outcome == "unchanged"
    plant.publish(plant.workload("pump", "b"), counter=9, scope=GROUP)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "wrong-scope")
    assert plant.device.engine.running == {"pump": "a"}


def test_6_11_a_change_of_the_scopes_lets_another_one_in_and_nobody_goes_back(plant: Plant) -> None:
    first = plant.published
    plant.device.scopes = [GROUP]
    plant.publish(plant.workload("pump", "b"), counter=9, scope=GROUP)
    assert plant.device.once().outcome == "applied"
    plant.device.scopes = [GROUP, SCOPE]
    assert plant.device.once().outcome == "unchanged"
    plant.move_tag(first)
    assert plant.device.once().reason == "wrong-scope"


def test_6_13_a_component_without_its_vendors_signature_is_refused(plant: Plant) -> None:
    plant.device.vendor = plant.stranger.public
    plant.publish(plant.workload("pump", "b"), counter=2)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "unsigned")
    assert plant.device.engine.running == {"pump": "a"}


def test_6_13_a_component_with_its_vendors_signature_runs(plant: Plant) -> None:
    plant.device.vendor = plant.stranger.public
    plant.sign_component(plant.stranger)
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once().outcome == "applied"


def test_6_13_a_vendors_signature_by_another_key_is_refused(plant: Plant) -> None:
    plant.device.vendor = plant.stranger.public
    plant.sign_component(plant.key)
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once().reason == "wrong-key"


def test_4_3_what_ran_unlocked_is_refused_once_locks_are_enforced(plant: Plant) -> None:
    plant.device.lock_resolve = True
    plant.publish(plant.workload("pump", "b", locked=False), counter=2)
    assert plant.device.once().outcome == "applied"
    plant.device.lock_resolve = False
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "unlocked")
    assert plant.device.engine.running == {"pump": "b"}


def test_6_13_what_runs_is_held_against_a_new_rule_until_it_fits(plant: Plant) -> None:
    plant.device.vendor = plant.stranger.public
    plant.device.rule = True
    assert [plant.device.once().reason for _ in range(2)] == ["unsigned", "unsigned"]
    plant.publish(plant.workload("pump", "a"), counter=2)
    assert plant.device.once().reason == "unsigned"
    plant.sign_component(plant.stranger)
    assert plant.device.once().outcome == "applied"
    assert plant.device.engine.log == []


def test_4_3_what_ran_unlocked_is_refused_at_every_look(plant: Plant) -> None:
    plant.device.lock_resolve = True
    plant.publish(plant.workload("pump", "b", locked=False), counter=2)
    assert plant.device.once().outcome == "applied"
    plant.device.lock_resolve = False
    assert [plant.device.once().reason for _ in range(2)] == ["unlocked", "unlocked"]


def test_a_fault_in_the_configuration_is_not_the_workloads(plant: Plant) -> None:
    def broken(name: str) -> None:
        raise FormatError("vendor.pub: No such file or directory")

    plant.device.component_judge = broken
    plant.publish(plant.workload("pump", "b"), counter=2)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "policy-unusable")
    plant.device.component_judge = None
    assert plant.device.once().outcome == "applied"


def test_a_state_is_looked_at_afresh_when_a_vendors_key_file_has_another_content(tmp_path: Path) -> None:
    key = tmp_path / "vendor.pub"
    key.write_bytes(b"one")
    config = running_plant(tmp_path / "device").device._config()
    rules = [ComponentRule(["*"], Sources(keys=[key]))]
    config = replace(config, trust=replace(config.trust, components=rules))
    before = terms_of("policy", config)
    assert terms_of("policy", config) == before
    key.write_bytes(b"two")
    assert terms_of("policy", config) != before
