"""ApplicationDeployments: the standard's own examples, both shapes, and every fault at once with its place."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.deployment import Deployment, parse_deployment, text_of, variable_of
from margo_oci.errors import FormatError
from tests.unit.scenes import (
    ID,
    OTHER_ID,
    VECTORS,
    as_yaml,
    component,
    deployment,
    document,
    ends_in_time,
    parameter,
    read_or_refused,
)

VALID = sorted((VECTORS / "margo" / "valid").glob("*.yaml"))
INVALID = {
    "ApplicationDeployment-001.yaml": "5: kind: ApplicationDeployment is expected, got 'SomethingErroneous'",
    "ApplicationDeployment-002.yaml": "9: metadata.annotations.applicationId: 'com_northstartida.Digitron",
    "ApplicationDeployment-003.yaml": "9: metadata.annotations.applicationId: '1234567890",
    "ApplicationDeployment-003-model.yaml": "8: metadata.annotations.applicationId: '1234567890",
    "ApplicationDeployment-004.yaml": "6: id: 'this-is-definitively-not-a-uuid' does not fit: a UUID",
}


def faults(data: bytes) -> list[str]:
    with pytest.raises(FormatError) as refused:
        parse_deployment(data, what="f.yaml")
    assert all(fault.startswith("f.yaml:") for fault in refused.value.faults)
    return [fault.removeprefix("f.yaml:") for fault in refused.value.faults]


def changed(path: tuple[str | int, ...], value: Any) -> bytes:
    """The document with one value replaced, or taken out if it is `...`."""
    raw: Any = document(parameters={"greeting": parameter("hello", "GREETING")})
    at = raw
    for step in path[:-1]:
        at = at.setdefault(step, {}) if isinstance(at, dict) else at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return as_yaml(raw)


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.name)
def test_the_standards_valid_examples_are_read(file: Path) -> None:
    found = parse_deployment(file.read_bytes(), what=file.name)
    assert found.id in (ID, OTHER_ID)
    assert found.application_id == "com-northstartida-digitron-orchestrator"
    assert found.namespace == "margo-poc"
    assert found.data == file.read_bytes()


@pytest.mark.parametrize("name", INVALID)
def test_the_standards_invalid_examples_are_refused_where_they_are_wrong(name: str) -> None:
    file = VECTORS / "margo" / "invalid" / name
    with pytest.raises(FormatError) as refused:
        parse_deployment(file.read_bytes(), what=name)
    assert len(refused.value.faults) == 1
    assert str(refused.value).startswith(f"{name}:{INVALID[name]}")


def test_every_example_is_looked_at() -> None:
    assert len(VALID) == 6
    assert sorted(INVALID) == sorted(file.name for file in (VECTORS / "margo" / "invalid").glob("*.yaml"))


def test_helm_components_keep_their_order_wait_and_timeout() -> None:
    file = VECTORS / "margo" / "valid" / "ApplicationDeployment-helm.yaml"
    found = parse_deployment(file.read_bytes(), what=file.name)
    assert found.profile == "helm"
    assert [(one.name, one.source, one.timeout_s) for one in found.components] == [
        ("database-services", "oci://quay.io/charts/realtime-database-services:2.3.7", 510.0),
        (
            "digitron-orchestrator",
            "oci://northstarida.azurecr.io/charts/northstarida-digitron-orchestrator:1.0.9",
            300.0,
        ),
    ]
    assert [target.pointer for target in found.parameters["idpUrl"].targets] == [
        "idp.providerUrl",
        "idp.providerMetadata",
    ]


def test_a_component_named_by_url_has_no_repository() -> None:
    file = VECTORS / "margo" / "valid" / "ApplicationDeployment-compose.yaml"
    (one,) = parse_deployment(file.read_bytes(), what=file.name).components
    assert (one.name, one.repository, one.revision) == ("digitron-orchestrator-docker", "", "")


@pytest.mark.parametrize(("name", "device"), [("directed", "gateway-01/edge-01"), ("autonomous", "gateway-01/*")])
def test_a_gateway_names_its_child_or_leaves_the_choice(name: str, device: str) -> None:
    file = VECTORS / "margo" / "valid" / f"gateway-{name}.yaml"
    assert parse_deployment(file.read_bytes(), what=file.name).device_id == device


def test_both_shapes_say_the_same() -> None:
    newer = document()
    older = {"apiVersion": "application.margo.org/v1alpha1", "kind": "ApplicationDeployment", **document()}
    older["metadata"] = {
        **older["metadata"],
        "annotations": {"id": older.pop("id"), "applicationId": "com-example-hello"},
    }
    older["spec"] = {"deploymentProfile": {**newer["spec"]["deploymentProfile"], "type": "compose.v1"}}
    one, two = (parse_deployment(as_yaml(raw), what="f.yaml") for raw in (newer, older))
    assert (one.id, one.application_id, one.profile) == (two.id, two.application_id, two.profile)
    assert one.components == two.components


def test_an_id_is_the_same_in_capitals() -> None:
    assert deployment(ID.upper()).id == ID


def test_two_places_for_one_thing_must_agree() -> None:
    data = changed(("metadata", "annotations"), {"id": OTHER_ID, "applicationId": "com-example-hello"})
    assert faults(data) == [f"6: metadata.annotations.id: '{OTHER_ID}' contradicts '{ID}' at id"]


PROFILE = ("spec", "deploymentProfile")
COMPONENT = (*PROFILE, "components", 0)
PROPERTIES = (*COMPONENT, "properties")
GREETING = ("spec", "parameters", "greeting")
TARGET = (*GREETING, "targets", 0)


def field(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


@pytest.mark.parametrize(
    ("path", "value", "line", "message"),
    [
        (("id",), ..., 1, "is missing"),
        (("id",), 7, 1, "text is expected, got 7: put it in quotes"),
        (("id",), ID + "\n", 1, "does not fit: a UUID"),
        (("kind",), "Deployment", 21, "ApplicationDeployment is expected, got 'Deployment'"),
        (("apiVersion",), "v1", 21, "application.margo.org/v1alpha1 is expected, got 'v1'"),
        (("apiVersion",), 1, 21, "application.margo.org/v1alpha1 is expected, got 1"),
        (("metadata", "name"), "", 3, "is missing"),
        (("metadata", "namespace"), ["a"], 4, "text is expected, got ['a']"),
        (("metadata", "deviceId"), "gw/../edge", 5, "'gw/../edge' has a . or .. segment"),
        (("metadata", "deviceId"), "gw/*/edge", 5, "'gw/*/edge' does not fit"),
        (("spec", "applicationId"), "Hello", 6, "'Hello' does not fit: 1 to 200 of a-z, 0-9 and -"),
        ((*PROFILE, "type"), "docker", 8, "'docker' is no profile: one of compose, "),
        ((*PROFILE, "type"), ..., 7, "is missing"),
        ((*PROFILE, "components"), [], 9, "a list with at least one entry is expected"),
        ((*PROFILE, "components"), {}, 9, "a list with at least one entry is expected"),
        ((*COMPONENT, "name"), "Web", 10, "'Web' does not fit: lower-case letters, digits and dashes"),
        ((*PROPERTIES, "repository"), ..., 11, "is missing"),
        ((*PROPERTIES, "repository"), "https://a", 12, "'https://a' does not fit: it starts with oci://"),
        ((*PROPERTIES, "revision"), "v1.0.0", 13, "'v1.0.0' does not fit: SemVer 2.0 without v"),
        ((*PROPERTIES, "revision"), 1.2, 13, "text is expected, got 1.2: put it in quotes"),
        ((*PROPERTIES, "wait"), "yes", 14, "true or false is expected, got 'yes'"),
        ((*PROPERTIES, "timeout"), "30s", 14, "'30s' does not fit: as in 8m30s"),
        (("spec", "parameters"), ["a"], 14, "a map is expected"),
        (GREETING, "hello", 15, "a map is expected"),
        ((*GREETING, "value"), ..., 15, "is missing"),
        ((*GREETING, "value"), {"a": 1}, 16, "text, a number, true, false or a list of these is expected"),
        ((*GREETING, "value"), [[1]], 16, "text, a number, true, false or a list of these is expected"),
        ((*GREETING, "targets"), ..., 15, "a list with at least one entry is expected"),
        ((*TARGET, "pointer"), "a.b", 18, "'a.b' is no name of an environment variable"),
        ((*TARGET, "pointer"), "ENV.1A", 18, "'ENV.1A' is no name of an environment variable"),
        ((*TARGET, "components"), [], 19, "a list with at least one entry is expected"),
    ],
)
def test_a_fault_is_told_with_its_line_and_field(
    path: tuple[str | int, ...], value: Any, line: int, message: str
) -> None:
    (fault,) = [one for one in faults(changed(path, value)) if f" {field(path)}: " in one]
    assert fault.startswith(f"{line}: {field(path)}: ")
    assert message in fault


def test_a_target_names_components_of_the_profile() -> None:
    data = changed((*TARGET, "components"), ["web", "db", 7])
    place = "spec.parameters.greeting.targets[0].components"
    assert faults(data) == [
        f"21: {place}[1]: 'db' is no component of the profile (web)",
        f"22: {place}[2]: 7 is no component of the profile (web)",
    ]


def test_what_is_missing_whole_is_missed_in_its_parts() -> None:
    assert faults(changed(("metadata",), ...)) == ["1: metadata.name: is missing", "1: metadata.namespace: is missing"]


def test_all_faults_are_found_at_once_in_the_order_of_the_file() -> None:
    raw = document("no-uuid", parameters={"x": parameter("1", "A B", "db")})
    raw["metadata"] = {"namespace": 7}
    raw["spec"]["deploymentProfile"]["components"] = [component("web", revision="latest"), component("web", wait=1)]
    found = faults(as_yaml(raw))
    assert [one.partition(": ")[2].partition(": ")[0] for one in found] == [
        "id",
        "metadata.name",
        "metadata.namespace",
        "spec.deploymentProfile.components[0].properties.revision",
        "spec.deploymentProfile.components[1].name",
        "spec.deploymentProfile.components[1].properties.wait",
        "spec.parameters.x.targets[0].pointer",
        "spec.parameters.x.targets[0].components[0]",
    ]
    lines = [int(one.partition(":")[0]) for one in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "got"), [("", "an empty file"), ("# nothing\n", "an empty file"), ("- a\n", "a list"), ("hello", "text")]
)
def test_what_is_no_deployment_at_all_is_told_so(text: str, got: str) -> None:
    assert faults(text.encode()) == [f"1: an ApplicationDeployment is expected, got {got}"]


def with_one(**properties: Any) -> Deployment:
    return deployment(deploymentProfile={"type": "compose", "components": [component("web", **properties)]})


@pytest.mark.parametrize("revision", ["1.0.0", "0.0.0", "1.0.0-rc1", "1.0.0_build.123", "2.0.0-a.1_b-2"])
def test_a_revision_is_a_version_with_an_underscore_for_the_plus(revision: str) -> None:
    (one,) = with_one(revision=revision).components
    assert one.revision == revision


@pytest.mark.parametrize(
    "revision", ["v1.0.0", "latest", "1.0.0+b", "01.0.0", "1.0", "1.0.0-", "1.0.0\n", "sha256:" + "1" * 64]
)
def test_a_tag_that_is_no_version_is_refused(revision: str) -> None:
    data = changed((*PROPERTIES, "revision"), revision)
    assert "SemVer 2.0 without v, with _ for +" in faults(data)[0]


@pytest.mark.parametrize(("timeout", "seconds"), [("0m0s", 0.0), ("8m30s", 510.0), ("100m0s", 6000.0)])
def test_a_timeout_is_minutes_and_seconds(timeout: str, seconds: float) -> None:
    (one,) = with_one(timeout=timeout).components
    assert one.timeout_s == seconds


def test_a_parameter_reaches_only_the_components_it_names() -> None:
    found = deployment(
        deploymentProfile={"type": "compose", "components": [component("web"), component("db")]},
        parameters={"a": parameter("1", "ENV.A", "web", "db"), "b": parameter(True, "B", "db")},
    )
    assert found.environment("web") == {"A": "1"}
    assert found.environment("db") == {"A": "1", "B": "true"}
    assert found.environment("other") == {}


@pytest.mark.parametrize("value", ["a\0b", "\0"])
def test_a_value_that_no_environment_can_hold_is_refused(value: str) -> None:
    data = changed((*GREETING, "value"), value)
    assert faults(data)[0].startswith("16: spec.parameters.greeting.value: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, ""),
        (7, "7"),
        (-7, "-7"),
        (1.0, "1"),
        (1.2, "1.2"),
        (0.1, "0.1"),
        (1e21, "1000000000000000000000"),
        (1e-7, "0.0000001"),
        ("1.20", "1.20"),
        ("", ""),
        ([1, "a", True], '[1,"a",true]'),
        (["ä"], '["ä"]'),
    ],
)
def test_a_value_becomes_text_in_one_way(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_a_pointer_loses_the_prefix_of_some_examples() -> None:
    assert variable_of("ENV.IDP_NAME") == "IDP_NAME"
    assert variable_of("IDP_NAME") == "IDP_NAME"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["compose", "helm", "web", ID, "1.0.0", "oci://a"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "value", "targets", "pointer", "components", "properties", "repository", "revision", "type"]), inner,
        max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.sampled_from([
        ("id",), ("kind",), ("apiVersion",), ("metadata",), ("metadata", "name"), ("metadata", "annotations"),
        ("spec",), ("spec", "parameters"), GREETING, (*GREETING, "targets"), TARGET, (*TARGET, "components"),
        PROFILE, (*PROFILE, "components"), COMPONENT, PROPERTIES,
    ]),
    VALUES,
)  # fmt: skip
def test_whatever_stands_in_a_field_is_read_or_refused_with_its_line(path: tuple[str | int, ...], value: Any) -> None:
    read_or_refused(lambda: parse_deployment(changed(path, value), what="f"), "f:")


def test_the_largest_document_is_checked_in_reasonable_time() -> None:
    assert ends_in_time(
        "from margo_oci.deployment import parse_deployment\n"
        "from margo_oci.errors import FormatError\n"
        "items = b'\\n'.join(b'  - {name: a%d}' % number for number in range(40_000))\n"
        "try:\n"
        "    parse_deployment(b'spec:\\n deploymentProfile:\\n  components:\\n' + items, what='f')\n"
        "except FormatError:\n"
        "    pass\n",
        cpu_s=8,
    )


def test_5_3_one_variable_of_one_component_has_one_value() -> None:
    twice = {"first": parameter("a", "NAME"), "second": parameter("b", "ENV.NAME")}
    with pytest.raises(FormatError, match=r"parameters.second.targets: ENV.NAME of web is set by first, too"):
        parse_deployment(as_yaml(document(parameters=twice)), what="x.yaml")
    profile = {"type": "compose", "components": [component("web"), component("db")]}
    apart = {"first": parameter("a", "NAME", "web"), "second": parameter("b", "NAME", "db")}
    assert parse_deployment(as_yaml(document(deploymentProfile=profile, parameters=apart)), what="x.yaml").parameters


@pytest.mark.parametrize(
    "pointer",
    [
        "DOCKER_HOST",
        "ENV.DOCKER_CONTEXT",
        "COMPOSE_FILE",
        "PATH",
        "LD_PRELOAD",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "GODEBUG",
    ],
)
def test_5_3_a_parameter_cannot_steer_the_container_tools(pointer: str) -> None:
    text = (Path(__file__).parents[1] / "vectors/margo/valid").glob("*compose.yaml")
    document = next(text).read_text().replace("ENV.ADMIN_NAME", pointer)
    with pytest.raises(FormatError, match="steers the container tools, not a workload"):
        parse_deployment(document.encode(), what="x.yaml")
