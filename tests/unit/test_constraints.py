"""Whether a device has what a profile asks for, by the rules of the standard."""

import json
from typing import Any

import pytest

from margo_oci.capabilities import Cpu, DeviceCapabilities, Peripheral
from margo_oci.constraints import Device, bytes_of, parse_device
from margo_oci.errors import FormatError
from tests.unit.applications import application, described

CAPABILITIES = DeviceCapabilities(
    id="edge-17", cpus=(Cpu(4, "amd64"), Cpu(8, "arm64")), memory="7.5 Gi", storage="59 Gi",
    peripherals=(Peripheral("gpu", "NVIDIA"), Peripheral("display")), interfaces=("ethernet",),
    labels={"zone": "hall-3", "level": 2, "safe": True, "lines": ["a", "b"]},
)  # fmt: skip


def device() -> Device:
    return parse_device(CAPABILITIES.to_bytes(), what="edge-17.json")


def lacking(**profile: Any) -> list[str]:
    raw = application()
    raw["deploymentProfiles"][0] |= profile
    return described(raw).profiles[0].constraints.lacking(device())


def eligible(*rules: Any) -> bool:
    return not lacking(deviceConstraints={"eligibilityRules": list(rules)})


def rule(selector: str, **expression: Any) -> dict[str, Any]:
    return {selector: {"matchExpressions": [expression]}}


def test_capacity_is_held_against_one_processor_and_never_summed() -> None:
    def asked(cores: float, *architectures: str) -> list[str]:
        cpu = {"cores": cores, "architectures": list(architectures)}
        return lacking(deviceConstraints={"capacityRequirements": {"cpu": cpu}})

    assert asked(4, "amd64") == []
    assert asked(8, "amd64", "arm64") == []
    assert asked(8, "amd64") == ["a processor with 8 cores of amd64"]
    assert asked(12, "amd64", "arm64") == ["a processor with 12 cores of amd64 or arm64"]


def test_sizes_are_compared_in_bytes() -> None:
    assert bytes_of("1Ki") == 1024
    assert bytes_of("7.5 Gi") == 7.5 * 1024**3
    assert lacking(deviceConstraints={"capacityRequirements": {"memory": "7680Mi", "storage": "59Gi"}}) == []
    assert lacking(deviceConstraints={"capacityRequirements": {"memory": "8Gi"}}) == [
        "memory of 8192 MiB (it has 7.5 Gi)"
    ]


def test_the_older_shape_asks_for_parts() -> None:
    asked = {"peripherals": [{"type": "gpu", "manufacturer": "NVIDIA"}], "interfaces": [{"type": "ethernet"}]}
    assert lacking(requiredResources=asked) == []
    assert lacking(requiredResources={"peripherals": [{"type": "gpu", "manufacturer": "AMD"}]}) == ["gpu AMD"]
    assert lacking(requiredResources={"interfaces": [{"type": "canbus"}]}) == ["canbus"]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ({"key": "zone", "operator": "In", "values": ["hall-3", "hall-4"]}, True),
        ({"key": "zone", "operator": "In", "values": ["Hall-3"]}, False),
        ({"key": "zone", "operator": "NotIn", "values": ["hall-4"]}, True),
        ({"key": "gone", "operator": "NotIn", "values": ["hall-4"]}, False),
        ({"key": "gone", "operator": "DoesNotExist"}, True),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "level", "operator": "Gt", "values": [1]}, True),
        ({"key": "level", "operator": "Lt", "values": 2}, False),
        ({"key": "zone", "operator": "Gt", "values": [1]}, False),
        ({"key": "safe", "operator": "In", "values": [True]}, True),
        ({"key": "level", "operator": "In", "values": [True]}, False),
        ({"key": "lines", "operator": "In", "values": ["b"]}, True),
    ],
)
def test_labels_are_selected_as_the_standard_says(expression: dict[str, Any], holds: bool) -> None:
    assert eligible(rule("labelSelector", **expression)) is holds


def test_properties_are_found_by_json_pointer() -> None:
    assert eligible(rule("propertySelector", key="/cpus/0/cores", operator="Gt", values=[3]))
    assert not eligible(rule("propertySelector", key="/cpus/7/cores", operator="Exists"))
    assert not eligible(rule("propertySelector", key="/peripherals", operator="In", values=["gpu"]))


@pytest.mark.parametrize(
    ("operator", "manufacturer", "holds"),
    [("ContainsAll", "NVIDIA", True), ("ContainsAll", "AMD", False), ("ContainsAny", "AMD", True)],
)
def test_contains_looks_at_each_element(operator: str, manufacturer: str, holds: bool) -> None:
    item = {
        "matchExpressions": [
            {"key": "/type", "operator": "In", "values": ["gpu"]},
            {"key": "/manufacturer", "operator": "In", "values": [manufacturer]},
        ]
    }
    assert eligible(rule("propertySelector", key="/peripherals", operator=operator, itemSelector=item)) is holds


def test_any_one_rule_is_enough_and_two_selectors_of_a_rule_must_both_hold() -> None:
    good = rule("labelSelector", key="zone", operator="Exists")
    bad = rule("propertySelector", key="/nothing", operator="Exists")
    assert eligible(bad, good)
    assert not eligible(good | bad)


def test_what_the_standard_has_no_name_for_is_custom() -> None:
    assert device().runs("compose")
    assert not device().runs("helm")
    assert not device().runs("quadlet")


def test_capabilities_that_cannot_be_read_are_told() -> None:
    with pytest.raises(FormatError, match=r"edge\.json\.properties\.id"):
        parse_device(json.dumps({"properties": {}}).encode(), what="edge.json")
