"""Section 12 of docs/format.md, rule by rule: packages, and deployments made of them."""

from typing import Any

import pytest
import yaml

from margo_oci.application import Description
from margo_oci.applications import Opened, at_version
from margo_oci.apppackage import (
    APP_ARTIFACT,
    DESCRIPTION_LAYER,
    RESOURCE,
    AppArtifact,
    build_package,
    open_description,
    parse_package,
)
from margo_oci.capabilities import Cpu, DeviceCapabilities
from margo_oci.constraints import Device, parse_device
from margo_oci.content import Descriptor
from margo_oci.deploying import Before, Wish, deployment_id, make_deployment, read_before, typed
from margo_oci.deployment import parse_deployment
from margo_oci.errors import FormatError
from margo_oci.manifest import TITLE, Manifest
from margo_oci.reference import parse_reference
from tests.unit.applications import application, described
from tests.unit.scenes import DIGEST

FILES = {"resources/icon.png": b"png", "resources/license.md": b"MIT"}
SOURCE = parse_reference(f"registry.example/apps/hello:1.4.0@{DIGEST}")


def packaged() -> AppArtifact:
    return build_package(described(), FILES)


def test_12_12_each_file_is_a_layer_of_its_own_type() -> None:
    manifest = packaged().manifest
    assert manifest.artifact_type == APP_ARTIFACT
    assert [(one.media_type, one.annotations.get(TITLE), one.annotations.get(RESOURCE)) for one in manifest.layers] == [
        (DESCRIPTION_LAYER, "margo.yaml", None),
        ("application/vnd.margo.app.icon.v1+png", "resources/icon.png", "metadata.catalog.application.icon"),
        (
            "application/vnd.margo.app.licenseFile.v1+markdown",
            "resources/license.md",
            "metadata.catalog.application.licenseFile",
        ),
    ]
    assert manifest.digest == packaged().manifest.digest
    assert {one.digest for one in manifest.layers} == set(packaged().blobs)


def test_12_12_a_file_that_is_not_there_cannot_be_packaged() -> None:
    with pytest.raises(FormatError) as refused:
        build_package(described(), {})
    assert str(refused.value) == "resources/icon.png: is missing, and metadata.catalog.application.icon names it"


def test_12_13_the_tag_is_the_version() -> None:
    there = parse_reference("registry.example/apps/hello", default_tag="")
    assert str(at_version(there, "1.4.0")) == "registry.example/apps/hello:1.4.0"
    assert at_version(there.at("1.4.0"), "1.4.0").tag == "1.4.0"
    with pytest.raises(FormatError, match=r"the tag is the version: 1\.4\.0 stands in metadata\.version"):
        at_version(there.at("latest"), "1.4.0")


def test_12_13_another_tag_is_read_with_a_warning() -> None:
    package = parse_package(packaged().manifest, what="hello")
    assert Opened(SOURCE, "1.4.0", package, described()).warning == ""
    assert "tag latest is not its version 1.4.0" in Opened(SOURCE, "latest", package, described()).warning


def layer(path: str, data: bytes = b"x", media_type: str = "text/markdown") -> Descriptor:
    return Descriptor.of(data, media_type, {TITLE: path})


def test_12_14_only_the_type_of_the_description_is_insisted_on() -> None:
    description = Descriptor.of(described().data, DESCRIPTION_LAYER)
    manifest = Manifest.build("", [layer("./resources/icon.png"), description, layer("resources/license.md")])
    package = parse_package(manifest, what="hello")
    assert sorted(package.files) == ["resources/icon.png", "resources/license.md"]
    assert open_description(package, described().data, what="hello").id == "com-example-hello"


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "one description and at most 64 layers are expected, got 0 and 0"),
        ([layer("margo.yaml", b"a", DESCRIPTION_LAYER)] * 2, "got 2 and 2"),
        ([layer("margo.yaml", b"a", DESCRIPTION_LAYER), layer("../x")], "'../x' is no path within a package"),
        ([layer("margo.yaml", b"a", DESCRIPTION_LAYER), layer("/etc/x")], "'/etc/x' is no path within a package"),
        ([layer("margo.yaml", b"a", DESCRIPTION_LAYER), layer("a"), layer("a", b"y")], "a stands twice"),
        ([layer("margo.yaml", b"a", DESCRIPTION_LAYER), layer("a"), layer("a/b")], "a/b lies below a, which is a file"),
        ([layer("margo.yaml", b"a" * 1_100_000, DESCRIPTION_LAYER)], "at most 1048576 are read"),
    ],
)
def test_12_14_what_is_no_package_or_too_much_is_refused(layers: list[Descriptor], words: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_package(Manifest.build(APP_ARTIFACT, layers), what="hello")
    assert words in str(refused.value)


def test_12_14_a_file_that_the_description_names_is_there() -> None:
    package = parse_package(
        Manifest.build(APP_ARTIFACT, [Descriptor.of(described().data, DESCRIPTION_LAYER)]), what="hello"
    )
    with pytest.raises(FormatError, match=r"resources/icon\.png is missing"):
        open_description(package, described().data, what="hello")


def wish(**changes: Any) -> Wish:
    given: dict[str, Any] = {"name": "hello", "scope": "edge-17", "source": SOURCE, **changes}
    return Wish(**given)


def made(description: Description | None = None, before: Before | None = None, **changes: Any) -> Any:
    """The deployment as plain values; what is made is always what `push` accepts."""
    data = make_deployment(description or described(), wish(**changes), before)
    assert parse_deployment(data, what="hello.yaml").id == deployment_id("edge-17", "hello")
    return yaml.safe_load(data)


def there(description: Description | None = None, **changes: Any) -> Before:
    return read_before(make_deployment(description or described(), wish(**changes)), what="hello.yaml")


def values(document: Any) -> dict[str, Any]:
    return {name: one["value"] for name, one in document["spec"]["parameters"].items()}


def test_12_15_constraints_and_extensions_are_copied_unmodified() -> None:
    raw = application("x-acme-extensions", {"for": "managers"})
    profile = raw["deploymentProfiles"][0]
    profile["deviceConstraints"] = {"capacityRequirements": {"cpu": {"cores": 1.5}, "memory": "512Mi"}}
    profile["x-acme-extensions"] = {"quoted": "1.20", "yes": "no"}
    profile["components"][0]["x-acme-extensions"] = {"a": [1, {"b": None}]}
    document = made(described(raw))
    copied = document["spec"]["deploymentProfile"]
    assert copied["deviceConstraints"] == profile["deviceConstraints"]
    assert copied["x-acme-extensions"] == profile["x-acme-extensions"]
    assert copied["components"] == profile["components"]
    assert "x-acme-extensions" not in document["spec"]
    assert "kind" not in document


def test_12_15_targets_are_those_of_the_profile_and_the_package_is_named() -> None:
    raw = application()
    other = application()["deploymentProfiles"][0] | {"id": "helm", "type": "helm.v3"}
    other["components"][0]["name"] = "chart"
    raw["deploymentProfiles"].append(other)
    raw["parameters"]["greeting"]["targets"].append({"pointer": "a.b", "components": ["chart", "web"]})
    raw["parameters"]["greeting"]["targets"][1]["components"] = ["chart"]
    document = made(described(raw))
    assert document["spec"]["parameters"]["greeting"]["targets"] == [{"pointer": "GREETING", "components": ["web"]}]
    notes = document["metadata"]["annotations"]
    assert notes == {
        "org.margo.oci.application": str(SOURCE), "org.margo.oci.profile": "small", "org.margo.oci.set": "[]",
        "org.margo.oci.scope": "edge-17",
    }  # fmt: skip
    helm = made(described(raw), profile="helm")
    assert helm["spec"]["deploymentProfile"]["type"] == "helm"
    assert helm["spec"]["parameters"]["greeting"]["targets"] == [{"pointer": "a.b", "components": ["chart"]}]


def test_12_16_what_is_given_goes_before_what_was_set_before_the_default() -> None:
    assert values(made()) == {"greeting": "Hello", "port": 18081}
    before = there(values={"greeting": "Hi"})
    assert values(made(before=before)) == {"greeting": "Hi", "port": 18081}
    assert values(made(before=before, values={"greeting": "Hey"}))["greeting"] == "Hey"
    newer = described(application("parameters.greeting.value", "Welcome"))
    assert values(made(newer, before))["greeting"] == "Hi"
    assert values(made(newer, there()))["greeting"] == "Welcome"


def test_12_16_all_values_that_do_not_fit_are_told_at_once() -> None:
    with pytest.raises(FormatError) as refused:
        make_deployment(described(), wish(values={"greeting": "x" * 46, "port": "http", "colour": "red"}))
    assert refused.value.faults == (
        "colour: no such parameter: greeting, port, site can be set",
        f"greeting: {'x' * 46!r} has 46 characters, at most 45 is expected",
        "port: a whole number is expected, got 'http'",
    )


def test_12_16_a_value_that_is_needed_is_asked_for() -> None:
    raw = application("parameters.greeting.value")
    with pytest.raises(FormatError, match="greeting: needs a value: --set greeting=…"):
        make_deployment(described(raw), wish())


def test_12_16_texts_of_a_command_line_become_what_the_schema_says() -> None:
    assert typed(described(), "port", "8080") == 8080
    assert typed(described(), "greeting", "8080") == "8080"
    assert typed(described(), "port", "many") == "many"


def test_12_17_an_immutable_value_stays() -> None:
    before = there(values={"port": 2000})
    with pytest.raises(FormatError, match="port: is immutable and was installed with 2000: undeploy it"):
        make_deployment(described(), wish(values={"port": 3000}), before)
    assert values(made(before=before, values={"port": 2000}))["port"] == 2000
    newer = described(application("parameters.port.value", 4000))
    assert values(made(newer, there()))["port"] == 18081


def device(architecture: str = "amd64", types: tuple[str, ...] = ("compose",)) -> Device:
    capabilities = DeviceCapabilities(
        id="edge-17", cpus=(Cpu(2, architecture),), memory="1Gi", storage="8Gi", deployment_types=types
    )
    return parse_device(capabilities.to_bytes(), what="edge-17.json")


def two_profiles() -> Description:
    raw = application()
    raw["deploymentProfiles"].append(application()["deploymentProfiles"][0] | {"id": "arm"})
    for profile, name in zip(raw["deploymentProfiles"], ("amd64", "arm64"), strict=True):
        cpu = {"cores": 1, "architectures": [name]}
        profile["deviceConstraints"] = {"capacityRequirements": {"cpu": cpu}}
    return described(raw)


def test_12_18_the_first_profile_that_the_device_can_run_is_taken() -> None:
    def chosen(one: Device) -> str:
        metadata = made(two_profiles(), device=one)["metadata"]
        assert metadata["deviceId"] == "edge-17"
        return str(metadata["annotations"]["org.margo.oci.profile"])

    assert chosen(device("amd64")) == "small"
    assert chosen(device("arm64")) == "arm"


def test_12_18_what_a_device_lacks_is_told_for_each_profile() -> None:
    with pytest.raises(FormatError) as refused:
        make_deployment(two_profiles(), wish(device=device("arm", ("helm",))))
    assert refused.value.faults == (
        "profile small: edge-17 lacks the deployment type compose, a processor with 1 cores of amd64",
        "profile arm: edge-17 lacks the deployment type compose, a processor with 1 cores of arm64",
    )


def test_12_18_where_nothing_decides_a_person_does() -> None:
    with pytest.raises(FormatError, match=r"small \(compose\), arm \(compose\): choose with --profile or"):
        make_deployment(two_profiles(), wish())
    with pytest.raises(FormatError, match="profile 'large': com-example-hello has small"):
        make_deployment(two_profiles(), wish(profile="large"))
    before = there(two_profiles(), profile="arm")
    assert made(two_profiles(), before)["metadata"]["annotations"]["org.margo.oci.profile"] == "arm"


def test_12_19_nothing_new_keeps_the_bytes_and_what_others_wrote() -> None:
    data = make_deployment(described(), wish())
    by_hand = data.replace(b"metadata:\n", b"metadata: # ours\n  labels: {line: three}\n").replace(
        b"  annotations:\n", b"  annotations:\n    org.margo.oci.dependsOn: database\n"
    )
    before = read_before(by_hand, what="hello.yaml")
    assert make_deployment(described(), wish(), before) == by_hand
    document = made(before=before, values={"greeting": "Hi"})
    assert document["metadata"]["labels"] == {"line": "three"}
    assert document["metadata"]["annotations"]["org.margo.oci.dependsOn"] == "database"
    assert document["metadata"]["annotations"]["org.margo.oci.set"] == '["greeting"]'


def test_12_19_comments_stay_when_something_else_changes_and_a_second_call_changes_nothing() -> None:
    data = make_deployment(described(), wish()).decode()
    by_hand = "# hall 3\n" + data.replace("  name: hello\n", "  name: hello  # of the line\n").replace(
        "    greeting:\n", "    # agreed with the shift\n    greeting:\n"
    )
    changed = make_deployment(
        described(), wish(values={"greeting": "Hi", "site": "Ulm"}), read_before(by_hand.encode(), what="hello.yaml")
    )
    plain = make_deployment(
        described(), wish(values={"greeting": "Hi", "site": "Ulm"}), read_before(data.encode(), what="hello.yaml")
    )
    without = [line.partition("#")[0].rstrip() for line in changed.decode().splitlines()]
    assert [line for line in without if line] == plain.decode().splitlines()
    assert changed.decode().count("#") == by_hand.count("#") == 3
    again = wish(values={"greeting": "Hi"})
    assert make_deployment(described(), again, read_before(changed, what="hello.yaml")) == changed


def test_12_19_what_was_made_for_one_scope_is_not_another_scopes() -> None:
    with pytest.raises(FormatError) as refused:
        make_deployment(described(), wish(scope="edge-18"), there())
    assert str(refused.value) == (
        "hello was made for the scope 'edge-17', and --scope says 'edge-18': name the one it has; "
        "or undeploy it, then deploy it anew for the other"
    )
    data = make_deployment(described(), wish())
    older = data.replace(b"    org.margo.oci.scope: edge-17\n", b"")
    assert older != data
    assert make_deployment(described(), wish(), read_before(older, what="hello.yaml")) == older


@pytest.mark.parametrize("notes", ["[a]", "text", "{org.margo.oci.set: 3}", '{org.margo.oci.set: "[[["}', "{a: 1}"])
def test_12_19_odd_annotations_of_others_hinder_nothing(notes: str) -> None:
    data = make_deployment(described(), wish())
    head, _, rest = data.partition(b"  annotations:\n")
    odd = head + f"  annotations: {notes}\nspec:".encode() + rest.partition(b"spec:")[2]
    assert values(made(before=read_before(odd, what="hello.yaml")))["greeting"] == "Hello"


def test_12_19_a_deployment_that_was_written_by_hand_keeps_id_and_values() -> None:
    older = f"""\
apiVersion: application.margo.org/v1alpha1
kind: ApplicationDeployment
metadata:
  name: hello
  namespace: hall-3
  annotations: {{id: {deployment_id("edge-17", "hello")}, applicationId: com-example-hello}}
spec:
  deploymentProfile:
    type: compose
    components: [{{name: web, properties: {{repository: "oci://registry.example/components/web", revision: 0.9.0}}}}]
  parameters:
    greeting: {{value: Moin, targets: [{{pointer: GREETING, components: [web]}}]}}
  x-acme-extensions: {{a: 1}}
"""
    document = made(before=read_before(older.encode(), what="hello.yaml"))
    assert values(document) == {"greeting": "Moin", "port": 18081}
    assert document["metadata"]["namespace"] == "hall-3"
    assert document["spec"]["x-acme-extensions"] == {"a": 1}
    assert "applicationId" not in document["metadata"]["annotations"]
    assert document["metadata"]["annotations"]["org.margo.oci.scope"] == "edge-17"
