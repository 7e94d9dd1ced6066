"""Section 12 of docs/format.md, rule by rule: descriptions."""

import copy
from pathlib import Path
from typing import Any

import pytest

from margo_oci.application import check_description, parse_description
from margo_oci.errors import FormatError
from margo_oci.settings import Schema
from tests.unit.applications import application, described, faults, told
from tests.unit.scenes import VECTORS, as_yaml

FIELDS = {
    "001": "kind",
    "001-model": "kind",
    "002": "id",
    "003": "deploymentProfiles[0].type",
}
PROFILE = "deploymentProfiles.0"
PROPERTIES = f"{PROFILE}.components.0.properties"
IN_PROFILE = "deploymentProfiles[0]"
SCHEMA = "configuration.schema"
ELIGIBLE = f"{IN_PROFILE}.deviceConstraints.eligibilityRules[0].propertySelector.matchExpressions[0]"


@pytest.mark.parametrize(
    "file", sorted((VECTORS / "applications/valid").glob("ApplicationDescription-*")), ids=lambda f: f.name
)
def test_valid_descriptions_of_the_standard_are_accepted(file: Path) -> None:
    assert parse_description(file.read_bytes(), what=file.name).profiles


@pytest.mark.parametrize("name", FIELDS)
def test_invalid_descriptions_of_the_standard_are_refused_at_the_right_field(name: str) -> None:
    data = (VECTORS / f"applications/invalid/ApplicationDescription-{name}.yaml").read_bytes()
    checked = check_description(data, what="margo.yaml")
    assert [fault.field for fault in checked.faults] == [FIELDS[name]]
    assert checked.description is None


def test_each_invalid_description_of_the_standard_is_among_them() -> None:
    files = (VECTORS / "applications/invalid").glob("ApplicationDescription-*.yaml")
    assert {file.stem.removeprefix("ApplicationDescription-") for file in files} == set(FIELDS)


def test_12_1_both_shapes_are_read_and_half_a_header_is_refused() -> None:
    older = {"apiVersion": "margo.org/v1-alpha1", "kind": "ApplicationDescription", **application()}
    assert described(older).newer is False
    assert described().newer is True
    assert told("kind", "ApplicationDescription") == [("12.1", "apiVersion")]
    assert told("apiVersion", "margo.org/v1-alpha1") == [("12.1", "kind")]
    assert told("kind", "Application") == [("12.1", "apiVersion"), ("12.1", "kind")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "margo.yaml:1:1: an ApplicationDescription is expected, got nothing"),
        (b"- a", "margo.yaml:1:1: an ApplicationDescription is expected, got a list"),
        (b"id: a\nid: b\n", "margo.yaml:2:1: 'id' stands twice"),
        (b"id: &a b\nmetadata: *a\n", "margo.yaml:2:1: aliases (*a) are not accepted: write it out"),
        (b"#" * 1_100_000, "margo.yaml: 1100000 bytes, at most 1048576 are read"),
    ],
    ids=["empty", "list", "twice", "alias", "long"],
)
def test_12_1_what_is_no_such_document_is_told_with_its_line(data: bytes, words: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_description(data, what="margo.yaml")
    assert str(refused.value) == words


def test_all_faults_are_told_at_once_with_line_and_column() -> None:
    data = as_yaml(application("metadata.version", 1.4)).replace(b"PORT", b"1PORT").replace(b"id: com-", b"id: Com-")
    with pytest.raises(FormatError) as refused:
        parse_description(data, what="margo.yaml")
    lines = data.decode().splitlines()
    at = [fault.split(":", 4)[1:4] for fault in refused.value.faults]
    assert [
        (lines[int(line) - 1][int(column) - 1 :].partition(":")[0], field.strip()) for line, column, field in at
    ] == [
        ("id", "id"),
        ("version", "metadata.version"),
        ("pointer", "parameters.port.targets[0].pointer"),
    ]
    assert "put it in quotes" in refused.value.faults[1]


@pytest.mark.parametrize("value", ["Com", "com.example", "", "a" * 201, "é", 7])
def test_12_2_an_id_is_of_few_characters(value: Any) -> None:
    assert told("id", value) == [("12.2", "id")]


def test_12_2_an_id_may_stand_in_the_metadata_and_must_agree() -> None:
    older = application("id")
    older["metadata"]["id"] = "com-example-hello"
    assert described(older).id == "com-example-hello"
    assert told("metadata.id", "com-example-hello") == []
    assert told("metadata.id", "com-example-other") == [("12.2", "metadata.id")]


@pytest.mark.parametrize("key", ["name", "version"])
def test_12_3_name_and_version_are_there(key: str) -> None:
    assert told(f"metadata.{key}") == [("12.3", f"metadata.{key}")]


@pytest.mark.parametrize("value", ["1.0+build", "one two", ".1", 1.0, True])
def test_12_3_a_version_may_be_a_tag(value: Any) -> None:
    assert told("metadata.version", value) == [("12.3", "metadata.version")]


def test_12_4_an_organization_has_a_name() -> None:
    catalog = "metadata.catalog"
    assert told(catalog) == [("12.4", catalog)]
    assert told(f"{catalog}.organization") == [("12.4", f"{catalog}.organization")]
    assert told(f"{catalog}.organization", [{"site": "x"}]) == [("12.4", f"{catalog}.organization[0].name")]
    assert told(f"{catalog}.author.0.email", "nobody") == [("12.4", f"{catalog}.author[0].email")]
    assert told(f"{catalog}.application.tags", [1]) == [("12.4", f"{catalog}.application.tags[0]")]
    assert told(f"{catalog}.application") == []


@pytest.mark.parametrize("path", ["/etc/icon.png", "../icon.png", "a/../b.png", "https://example.com/icon.png", "a//b"])
def test_12_5_a_resource_is_a_file_of_the_package(path: str) -> None:
    field = "metadata.catalog.application.icon"
    assert told(field, path) == [("12.5", field)]


def test_12_5_another_ending_gets_a_warning() -> None:
    (fault,) = faults("metadata.catalog.application.releaseNotes", "notes.docx")
    assert (fault.level, fault.message) == ("warning", "'notes.docx' should end in .md or .pdf")


@pytest.mark.parametrize(
    ("dotted", "value", "field"),
    [
        ("deploymentProfiles", [], "deploymentProfiles"),
        (f"{PROFILE}.type", "helmchart", f"{IN_PROFILE}.type"),
        (f"{PROFILE}.id", "", f"{IN_PROFILE}.id"),
        (f"{PROFILE}.components.0.properties.repository", "registry.example/web",
         f"{IN_PROFILE}.components[0].properties.repository"),
        (f"{PROPERTIES}.revision", "v1.0.0", f"{IN_PROFILE}.components[0].properties.revision"),
        (f"{PROPERTIES}.revision", "latest", f"{IN_PROFILE}.components[0].properties.revision"),
        (f"{PROPERTIES}.timeout", "8m", f"{IN_PROFILE}.components[0].properties.timeout"),
        (f"{PROPERTIES}.wait", "yes", f"{IN_PROFILE}.components[0].properties.wait"),
    ],
)  # fmt: skip
def test_12_6_a_profile_says_what_runs(dotted: str, value: Any, field: str) -> None:
    assert [one for one in told(dotted, value) if one[0] == "12.6"] == [("12.6", field)]


def test_12_6_names_stand_once() -> None:
    profile = application()["deploymentProfiles"][0]
    (fault,) = faults("deploymentProfiles", [profile, application()["deploymentProfiles"][0]])
    assert (fault.field, fault.rule) == ("deploymentProfiles[1].id", "12.6")
    assert "'small' stands twice (first in line " in fault.message
    part = profile["components"][0]
    assert told(f"{PROFILE}.components", [part, copy.deepcopy(part)]) == [("12.6", f"{IN_PROFILE}.components[1].name")]


def test_12_6_an_older_package_is_read_with_a_warning() -> None:
    (fault,) = faults(PROPERTIES, {"packageLocation": "https://example.com/a.tar.gz"})
    assert (fault.level, fault.field) == ("warning", f"{IN_PROFILE}.components[0].properties.packageLocation")


@pytest.mark.parametrize(
    ("dotted", "value", "field"),
    [
        ("value", {"a": 1}, "value"),
        ("value", [[1]], "value"),
        ("targets", [], "targets"),
        ("targets.0.pointer", "GREE-TING", "targets[0].pointer"),
        ("targets.0.pointer", "DOCKER_HOST", "targets[0].pointer"),
        ("targets.0.pointer", "PORT", ""),
        ("targets.0.components", ["db"], "targets[0].components[0]"),
        ("targets.0.components", [], "targets[0].components"),
    ],
)
def test_12_7_a_parameter_goes_to_components_that_are_there(dotted: str, value: Any, field: str) -> None:
    expected = f"parameters.greeting.{field}" if field else "parameters.port.targets[0]"
    found = [one for one in told(f"parameters.greeting.{dotted}", value) if one[0] == "12.7"]
    assert found == [("12.7", expected)]


@pytest.mark.parametrize(
    ("key", "value"),
    [("parameter", "gone"), ("schema", "gone"), ("name", ""), ("immutable", "yes")],
)
def test_12_8_a_setting_names_what_is_there(key: str, value: Any) -> None:
    found = faults(f"configuration.sections.0.settings.0.{key}", value)
    errors = [(one.rule, one.field) for one in found if one.level == "error"]
    assert errors == [("12.8", f"configuration.sections[0].settings[0].{key}")]


@pytest.mark.parametrize(
    ("dotted", "value", "field"),
    [
        ("0.dataType", "number", f"{SCHEMA}[0].dataType"),
        ("0.minValue", 3, f"{SCHEMA}[0].minValue"),
        ("0.minLength", 50, f"{SCHEMA}[0].maxLength"),
        ("0.minLength", -1, f"{SCHEMA}[0].minLength"),
        ("0.regexMatch", "(", f"{SCHEMA}[0].regexMatch"),
        ("0.regexMatch", "a" * 1025, f"{SCHEMA}[0].regexMatch"),
        ("1.minValue", 1.5, f"{SCHEMA}[1].minValue"),
        ("1.maxPrecision", 1, f"{SCHEMA}[1].maxPrecision"),
        ("1.options", ["a"], f"{SCHEMA}[1].options[0]"),
        ("0.multiselect", "yes", f"{SCHEMA}[0].multiselect"),
    ],
)
def test_12_9_a_schema_has_the_limits_of_its_type(dotted: str, value: Any, field: str) -> None:
    assert ("12.9", field) in told(f"{SCHEMA}.{dotted}", value)


def test_12_9_names_of_schemas_stand_once() -> None:
    assert ("12.9", f"{SCHEMA}[1].name") in told(f"{SCHEMA}.1.name", "text")


@pytest.mark.parametrize(("value", "words"), [(80, "at least 1024"), ("18081", "a whole number is expected")])
def test_12_9_a_default_fits_its_schema(value: Any, words: str) -> None:
    (fault,) = faults("parameters.port.value", value)
    assert (fault.rule, fault.field) == ("12.9", "parameters.port.value")
    assert words in fault.message


def selector(**expression: Any) -> dict[str, Any]:
    return {"eligibilityRules": [{"propertySelector": {"matchExpressions": [expression]}}]}


@pytest.mark.parametrize(
    ("constraints", "field"),
    [
        ({"capacityRequirements": {"memory": "512M"}}, "deviceConstraints.capacityRequirements.memory"),
        ({"capacityRequirements": {"storage": "1 Gi"}}, "deviceConstraints.capacityRequirements.storage"),
        ({"capacityRequirements": {"cpu": {}}}, "deviceConstraints.capacityRequirements.cpu.cores"),
        (
            {"capacityRequirements": {"cpu": {"cores": 1, "architectures": ["mips"]}}},
            "deviceConstraints.capacityRequirements.cpu.architectures[0]",
        ),
        ({"eligibilityRules": [{}]}, "deviceConstraints.eligibilityRules[0]"),
    ],
)
def test_12_10_constraints_are_as_the_standard_has_them(constraints: Any, field: str) -> None:
    assert told(f"{PROFILE}.deviceConstraints", constraints) == [("12.10", f"{IN_PROFILE}.{field}")]


@pytest.mark.parametrize(
    ("expression", "field"),
    [
        ({"key": "/a", "operator": "Is"}, "operator"),
        ({"operator": "Exists"}, "key"),
        ({"key": "/a", "operator": "Exists", "values": ["x"]}, "values"),
        ({"key": "/a", "operator": "In"}, "values"),
        ({"key": "/a", "operator": "In", "values": ["x", 1]}, "values"),
        ({"key": "/a", "operator": "Gt", "values": ["x"]}, "values"),
        ({"key": "/a", "operator": "ContainsAny"}, "itemSelector"),
    ],
)
def test_12_10_expressions_have_the_values_of_their_operator(expression: dict[str, Any], field: str) -> None:
    found = told(f"{PROFILE}.deviceConstraints", selector(**expression))
    assert found == [("12.10", f"{ELIGIBLE}.{field}")]


def test_12_10_a_custom_profile_selects_by_label() -> None:
    assert ("12.10", f"{IN_PROFILE}.type") in told(f"{PROFILE}.type", "custom")


@pytest.mark.parametrize(
    ("dotted", "words"),
    [
        ("deploymentProfile", "is not known here: is deploymentProfiles meant?"),
        ("metadata.licence", "is not known here: id, name, description, version, catalog are known"),
        (f"{PROPERTIES}.repositry", "is repository meant?"),
    ],
)
def test_12_11_another_field_is_a_fault(dotted: str, words: str) -> None:
    (fault,) = faults(dotted, "x")
    assert fault.rule == "12.11"
    assert words in fault.message


def test_12_11_extensions_are_maps_and_may_stand_anywhere() -> None:
    assert told("x-acme-extensions", {"a": 1}) == []
    assert told(f"{PROFILE}.x-acme-extensions", {}) == []
    assert told("x-acme-extensions", "a") == [("12.11", "x-acme-extensions")]
    assert told("x-acme", {}) == [("12.11", "x-acme")]


def test_a_document_full_of_faults_gets_no_endless_list() -> None:
    raw = application()
    raw |= {f"field{i}": i for i in range(5000)}
    assert len(check_description(as_yaml(raw), what="margo.yaml").faults) == 1000


@pytest.mark.parametrize("written", ["quadlet", "quadlet.v1"])
def test_12_6_a_profile_that_is_only_proposed_gets_a_warning(written: str) -> None:
    (fault,) = faults(f"{PROFILE}.type", written)
    assert (fault.level, fault.field) == ("warning", f"{IN_PROFILE}.type")
    assert fault.message == "is a proposal and not in the standard: few devices run it"


@pytest.mark.parametrize("value", ["{x}", "{0.__class__}", "{:99999999999}", "{"])
def test_12_9_braces_in_a_value_are_told_as_they_are(value: str) -> None:
    (fault,) = Schema(name="x", data_type="string", lengths=(100, None)).faults_of(value)
    assert fault == f"{value!r} has {len(value)} characters, at least 100 is expected"
