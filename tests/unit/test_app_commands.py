"""What `margo-oci app` and `deploy` do without a network: init, validate, undeploy, and the order of versions."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from margo_cli.bounded import bounded
from margo_cli.deploy import _check_move, _tell_lost
from margo_cli.folder import read_deployments
from margo_cli.main import cli
from margo_cli.scaffold import variables_in
from margo_oci.application import check_description
from margo_oci.applications import Opened
from margo_oci.apppackage import build_package, parse_package
from margo_oci.deploying import Before, Wish, make_deployment, read_before
from margo_oci.errors import FormatError
from margo_oci.reference import parse_reference
from margo_oci.versions import newest_first
from tests.unit.applications import application, described
from tests.unit.scenes import ID, OTHER_ID, as_yaml, document

INIT = ("--name", "Hello world", "--vendor", "Example Ltd", "--repository", "registry.example:5000/demo")


def call(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin, standalone_mode=False)


def test_what_init_writes_is_valid_and_can_be_pushed(tmp_path: Path) -> None:
    done = call("app", "init", str(tmp_path / "hello"), *INIT)
    assert done.exception is None, done.output
    checked = call("app", "validate", str(tmp_path / "hello"))
    assert "hello-world 1.0.0 is valid; profiles: hello-world-compose (compose)" in checked.output
    (one,) = read_deployments(tmp_path / "hello" / "states" / "example")
    assert one.deployment.environment("hello-world") == {"GREETING": "Hello", "PORT": "8080"}
    assert one.deployment.components[0].source == "oci://registry.example:5000/demo/components/hello-world:1.0.0"


def test_init_asks_for_what_is_not_given_and_overwrites_nothing(tmp_path: Path) -> None:
    folder = str(tmp_path / "hello")
    done = call("app", "init", folder, stdin="Hello\nExample Ltd\nregistry.example\n")
    assert "Name of the application" in done.output
    before = (tmp_path / "hello" / "margo.yaml").read_bytes()
    again = call("app", "init", folder, *INIT[2:], "--name", "Hello")
    assert isinstance(again.exception, FormatError)
    assert again.exception.faults[0] == f"{folder}/margo.yaml is there: nothing was written"
    assert (tmp_path / "hello" / "margo.yaml").read_bytes() == before


def test_where_nobody_answers_the_options_to_give_are_named(tmp_path: Path) -> None:
    done = call("app", "init", str(tmp_path / "x"), "--vendor", "Example Ltd", stdin="Hello\n")
    assert isinstance(done.exception, click.UsageError)
    assert done.exception.exit_code == 2
    assert str(done.exception.message) == "nobody is there to answer: give --name, --repository"
    assert not (tmp_path / "x").exists()


def test_the_example_sets_nothing_that_need_not_be_set(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services:\n  a:\n    image: a\n    command: ['${EMPTY:-}', '${FLAG:+yes}', '${OTHER+yes}', '${ONE-1}', "
        "'${BOTH:+yes}${BOTH:?}', '${MUST:?}', '$PLAIN']\n"
    )
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "compose.yaml"))
    assert "states/example says change-me for both, must, plain: set them" in done.stderr
    (one,) = read_deployments(tmp_path / "x" / "states" / "example")
    assert one.deployment.environment("hello-world") == {
        "ONE": "1", **dict.fromkeys(("BOTH", "MUST", "PLAIN"), "change-me"),
    }  # fmt: skip


def test_deploy_writes_over_no_link(tmp_path: Path) -> None:
    (tmp_path / "shared").write_bytes(as_yaml(document()))
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "hello.yaml").symlink_to("../shared")
    there = ("--app", "registry.example/apps/hello:1.0.0", "--scope", "edge-17", "--out", str(tmp_path / "states"))
    refused = call("deploy", "hello", *there).exception
    assert str(refused) == f"{tmp_path}/states/hello.yaml: a plain file is expected, no link, pipe, socket or device"
    assert (tmp_path / "states" / "hello.yaml").is_symlink()


def test_variables_of_an_existing_compose_file_become_parameters(tmp_path: Path) -> None:
    text = (
        "services:\n  a:\n    image: a:${TAG:-1}\n    # ${NOT_THIS}\n    command: $${NOR_THIS} ${PORT} ${DOCKER_HOST}\n"
    )
    (tmp_path / "compose.yaml").write_text(text)
    found = variables_in({"compose.yaml": text.encode()})
    assert {name: one.default for name, one in found.items()} == {"TAG": "1", "PORT": None}
    call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "compose.yaml"), "--older")
    raw = yaml.safe_load((tmp_path / "x" / "margo.yaml").read_text())
    assert raw["kind"] == "ApplicationDescription"
    assert sorted(raw["parameters"]) == ["port", "tag"]
    assert (tmp_path / "x" / "hello-world" / "compose.yaml").read_text() == text


@pytest.mark.parametrize(
    ("text", "name", "default"),
    [
        ('${JS:-{"a":1}}', "JS", '{"a":1}'),
        ("${A:-${B:-c}}", "A", None),
        ("${A:-${B:-c}}", "B", "c"),
        ("$UNBRACED", "UNBRACED", None),
        ("${PORT:-1} ${PORT:-1}", "PORT", "1"),
        (["${PORT:-1}", "${PORT:-2}"], "PORT", None),
    ],
)
def test_a_default_is_what_compose_takes_for_it_or_left_to_compose(
    text: str | list[str], name: str, default: str | None
) -> None:
    compose = yaml.safe_dump({"services": {"a": {"command": text}}}).encode()
    assert variables_in({"compose.yaml": compose})[name].default == default


def test_variables_of_included_files_are_parameters_and_those_of_comments_are_not() -> None:
    files = {"compose.yaml": b"include: [more.yaml]\nservices: {}  # ${NOT_THIS}\n",
             "more.yaml": b"services: {b: {image: '${IMG:?which}'}}\n"}  # fmt: skip
    assert {name: one.required for name, one in variables_in(files).items()} == {"IMG": True}


def test_files_that_a_compose_file_names_come_along_and_what_it_requires_has_to_be_set(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "conf").mkdir(parents=True)
    for name in ("web.env", "conf/site.conf", "notes.txt", ".env"):
        (mine / name).write_text(name)
    (tmp_path / "outside").write_text("nobody's business")
    (mine / "more.yaml").write_text("services:\n  b:\n    image: b\n    env_file: [../outside, gone.env]\n")
    (mine / "compose.yaml").write_text(
        "include: [more.yaml]\nservices:\n  a:\n    image: a\n    env_file: web.env\n    configs: [site]\n"
        "    ports: ['${PORT:?which}:80', '${OTHER:-81}:81']\nconfigs:\n  site: {file: ./conf/site.conf}\n"
    )
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(mine / "compose.yaml"))
    component = tmp_path / "x" / "hello-world"
    taken = {str(file.relative_to(component)) for file in component.rglob("*") if file.is_file()}
    assert taken == {"compose.yaml", "more.yaml", "web.env", "conf/site.conf"}
    assert f"{mine}/.env does not come along: make parameters of its values" in done.stderr
    assert f"{mine}/web.env comes along, as {component}/web.env: see that nothing secret stands in it" in done.stderr
    raw = yaml.safe_load((tmp_path / "x" / "margo.yaml").read_text())
    assert [one["schema"] for one in raw["configuration"]["sections"][0]["settings"]] == ["someText", "anyText"]
    assert {one["name"]: one["allowEmpty"] for one in raw["configuration"]["schema"]} == {
        "someText": False, "anyText": True,
    }  # fmt: skip
    assert "change-me" in (tmp_path / "x" / "states" / "example" / "hello-world.yaml").read_text()


@pytest.mark.parametrize(
    "path", [".env", ".env.local", "app/.env.prod", "s/.ENV", ".env/web", "tls.p12", "key", "link.env"]
)
def test_what_looks_like_secrets_does_not_come_along_and_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    if path == "link.env":
        (tmp_path / path).symlink_to("/etc/passwd")
    else:
        (tmp_path / path).write_text("a\n-----BEGIN EC PRIVATE KEY-----\n" if path == "key" else "PASSWORD=hunter2\n")
    (tmp_path / "compose.yaml").write_text(f"services: {{a: {{image: a, env_file: {path}}}}}\n")
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "compose.yaml"))
    assert f"{tmp_path / path} does not come along: " in done.stderr
    component = tmp_path / "x" / "hello-world"
    assert f"compose.yaml:1: services.a.env_file: '{path}' is not in the archive" in done.stderr
    assert [file.name for file in component.rglob("*")] == ["compose.yaml"]
    checked = call("component", "validate", str(component))
    assert f"services.a.env_file: '{path}' is not in the archive" in checked.stderr


def test_the_dotenv_of_an_included_project_stays_also_where_nobody_names_it(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".env").write_text("PASSWORD=hunter2\n")
    (tmp_path / "s" / "more.yaml").write_text("services: {a: {image: '${IMAGE:?}'}}\n")
    (tmp_path / "compose.yaml").write_text("include: [s/more.yaml]\n")
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "compose.yaml"))
    assert f"{tmp_path}/s/.env does not come along: " in done.stderr
    assert not (tmp_path / "x" / "hello-world" / "s" / ".env").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "compose config: empty compose file"),
        (b"services: {}\n", "at least one service is expected"),
        (b"- a\n", "top-level object must be a mapping"),
        (b"\x7fELF\xff\xfe", "not UTF-8"),
        (b"services: {'a b': {image: a}}\n", "additional properties 'a b' not allowed"),
        (b"x: &a [1, 1]\ny: &b [" + b"*a, " * 20_000 + b"]\nservices: {a: {image: a}}\n", "more than 50000 values"),
        (b"include: [../x/compose.yaml]\n", "include[0]: '../x/compose.yaml' leads out of the archive"),
        (b"include: ['oci://registry.example/x']\n", "'oci://registry.example/x' leads out of the archive"),
    ],
)  # fmt: skip
def test_of_what_is_no_application_nothing_is_written(tmp_path: Path, text: bytes, fault: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(text)
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "mine.yaml"))
    assert isinstance(done.exception, FormatError)
    assert done.exception.faults[0].startswith(f"{tmp_path}/mine.yaml:")
    assert fault in str(done.exception)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: {a: {build: .}}\n", "services.a: no image: a device builds nothing, push the image and name it"),
        ("services: {a: {}}\n", "services.a: no image"),
        ("include: [../x]\nservices: {a: {image: a}}\n", "include[0]: '../x' leads out of the archive"),
        ("services: {a: {image: a, develop: {}}}\n", "services.a.develop: not accepted"),
    ],
)
def test_what_a_person_has_to_mend_is_the_next_step(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "compose.yaml").write_text(text)
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "compose.yaml"))
    component = tmp_path / "x" / "hello-world"
    assert f"for you to look at: {component}/compose.yaml:1:" in done.stderr
    assert words in done.stderr
    mend = f"next: mend {component}, until it is valid: margo-oci component validate {component}\n"
    assert mend in done.stderr


def test_what_services_mount_stays_and_is_named(tmp_path: Path) -> None:
    for name in ("init.sql", "pg.conf", "both.conf"):
        (tmp_path / name).touch()
    (tmp_path / "compose.yaml").write_text(
        "services:\n  a:\n    image: a\n    volumes: [./init.sql:/i, data:/d, /etc/x:/x, ./gone:/g, ../up:/u]\n"
        "  b:\n    image: b\n    configs: [c]\n    volumes:\n"
        "      - {type: bind, source: pg.conf, target: /p}\n      - ./both.conf:/b\n"
        "volumes: {data: {}}\nconfigs: {c: {file: both.conf}}\n"
    )
    done = call("app", "init", str(tmp_path / "x"), *INIT, "--compose", str(tmp_path / "compose.yaml"))
    left = [line.partition(": ")[0] for line in done.stderr.splitlines() if "a service mounts it" in line]
    assert left == [f"{tmp_path}/{name} does not come along" for name in ("init.sql", "pg.conf")]


@pytest.mark.parametrize(
    ("option", "value"), [("--name", "…"), ("--id", "A"), ("--version", "v1"), ("--repository", "x")]
)
def test_init_refuses_what_would_not_be_valid(tmp_path: Path, option: str, value: str) -> None:
    done = call("app", "init", str(tmp_path / "x"), *INIT, option, value)
    assert isinstance(done.exception, FormatError)
    assert not (tmp_path / "x").exists()


def package(folder: Path, raw: dict[str, Any]) -> Path:
    (folder / "resources").mkdir(exist_ok=True)
    for name in ("icon.png", "license.md"):
        (folder / "resources" / name).touch()
    (folder / "margo.yaml").write_bytes(as_yaml(raw))
    return folder


def test_validate_tells_every_fault_with_its_place_and_ends_with_2(tmp_path: Path) -> None:
    done = call("app", "validate", str(package(tmp_path, application("metadata.version", 1.0))))
    assert done.return_value == 2 or done.exit_code == 2
    file = tmp_path / "margo.yaml"
    assert (
        f"error: {file}:4:3: metadata.version: text is expected, got 1.0: put it in quotes (rule 12.3)" in done.output
    )


def test_validate_for_programs_says_the_same(tmp_path: Path) -> None:
    folder = package(tmp_path, application("metadata.licence", "MIT"))
    (fault,) = json.loads(call("app", "validate", str(folder), "-o", "json").stdout)["faults"]
    log = json.loads(call("app", "validate", str(folder), "-o", "sarif").stdout)
    (result,) = log["runs"][0]["results"]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert (result["ruleId"], result["level"]) == ("12.11", "error") == (fault["rule"], fault["level"])
    assert region == {"startLine": fault["line"], "startColumn": fault["column"]}
    assert result["ruleId"] in {rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]}


def test_a_fault_of_the_whole_file_names_no_line(tmp_path: Path) -> None:
    file = tmp_path / "margo.yaml"
    file.write_bytes(b"a: \xff")
    assert f"error: {file}: not UTF-8: " in call("app", "validate", str(file)).output
    (fault,) = json.loads(call("app", "validate", str(file), "-o", "json").stdout)["faults"]
    assert (fault["line"], fault["column"]) == (None, None)
    (result,) = json.loads(call("app", "validate", str(file), "-o", "sarif").stdout)["runs"][0]["results"]
    assert result["locations"] == [{"physicalLocation": {"artifactLocation": {"uri": f"file://{file}"}}}]


def test_12_5_a_file_that_is_named_and_not_there_is_a_fault(tmp_path: Path) -> None:
    (package(tmp_path, application()) / "resources" / "icon.png").unlink()
    done = call("app", "validate", str(tmp_path))
    assert (
        "metadata.catalog.application.icon: 'resources/icon.png' is not there: add it, or leave it out" in done.output
    )


@pytest.mark.parametrize("linked", ["resources/icon.png", "resources", "margo.yaml"])
def test_12_5_a_link_in_a_package_is_refused_wherever_it_leads(tmp_path: Path, linked: str) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    package(folder, application())
    (folder / linked).rename(tmp_path / "outside")
    (folder / linked).symlink_to(tmp_path / "outside")
    refused = f"'resources/icon.png' is a link at {linked}: put the file itself there"
    refused = "margo.yaml: a plain file is expected, no link" if linked == "margo.yaml" else refused
    checked = call("app", "validate", str(folder))
    assert refused in f"{checked.output}{checked.exception}"
    pushed = call("app", "push", str(folder), "localhost:5000/apps/x", "--plain-http")
    assert isinstance(pushed.exception, FormatError)
    assert refused in str(pushed.exception)


def test_a_component_that_is_a_link_is_not_pushed_with_its_package(tmp_path: Path) -> None:
    call("app", "init", str(tmp_path / "hello"), *INIT)
    (tmp_path / "hello" / "hello-world").rename(tmp_path / "outside")
    (tmp_path / "hello" / "hello-world").symlink_to(tmp_path / "outside")
    done = call("app", "push", str(tmp_path / "hello"), "localhost:5000/apps/x", "--with-components", "--plain-http")
    assert "hello-world: is a link" in str(done.exception)


def test_a_pipe_is_no_description_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "margo.yaml")
    for path in (tmp_path, tmp_path / "margo.yaml"):
        done = call("app", "validate", str(path))
        assert str(done.exception) == (
            f"{tmp_path}/margo.yaml: a plain file is expected, no link, pipe, socket or device"
        )


def test_a_description_of_a_thousand_lines_is_checked_in_little_time(tmp_path: Path) -> None:
    raw = application()
    for i in range(150):
        raw["parameters"][f"p{i}"] = {"value": "x", "targets": [{"pointer": f"P{i}", "components": ["web"]}]}
    folder = package(tmp_path, raw)
    assert (folder / "margo.yaml").read_text().count("\n") > 950
    began = time.process_time()
    check_description((folder / "margo.yaml").read_bytes(), what="margo.yaml")
    assert time.process_time() - began < 0.15
    code = (
        "import sys, resource; from margo_cli.main import cli\n"
        "cli.main(['app', 'validate', sys.argv[1]], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 0.5  # of a processor that others may slow down; 0.15 s when idle


def test_a_regular_expression_without_end_is_given_up(tmp_path: Path) -> None:
    raw = application("configuration.schema.0.regexMatch", "(a+)+$")
    raw["parameters"]["greeting"]["value"] = "a" * 40 + "b"
    with pytest.raises(FormatError, match=r"not checked within 0\.1 s of a processor"), bounded("margo.yaml", 0.1):
        check_description(as_yaml(raw), what="margo.yaml")


def test_a_lower_version_is_named_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    before = deployed_from("1.5.0-rc.1")
    with pytest.raises(FormatError) as refused:
        _check_move("hello", opened(), before, upgrade=True, named=False)
    assert str(refused.value) == (
        "hello has 1.5.0-rc.1, and the newest finished version is 1.4.0, a lower one: if that is meant, "
        "--app registry.example/apps/hello:1.4.0"
    )
    _check_move("hello", opened(), before, upgrade=True, named=True)
    assert capsys.readouterr().err == "warning: hello goes back from 1.5.0-rc.1 to 1.4.0, a lower version\n"
    for there in ("1.4.0", "1.4.0-rc.1", "1.3.9"):
        _check_move("hello", opened(), deployed_from(there), upgrade=True, named=False)
    assert capsys.readouterr().err == ""


def test_a_comment_that_goes_with_what_it_stood_at_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    data = deployed_from("1.4.0").deployment.data
    before = read_before(
        data.replace(b"spec:\n", b"spec: # kept\n").replace(b"value: Hello", b"value: Hello # told"), what="x"
    )
    _tell_lost(Path("hello.yaml"), before, before.deployment.data)
    assert capsys.readouterr().err == ""
    _tell_lost(Path("hello.yaml"), before, before.deployment.data.replace(b"# told", b""))
    assert capsys.readouterr().err == "warning: hello.yaml: comments that are lost: # told\n"


@pytest.mark.parametrize("namespace", ["Hall 3", "hall.3", "-hall", "a\nb", "x" * 64])
def test_a_namespace_that_no_cluster_takes_is_refused_before_anybody_is_asked(tmp_path: Path, namespace: str) -> None:
    there = ("--app", "registry.example/apps/hello:1.0.0", "--scope", "edge-17", "--out", str(tmp_path))
    refused = call("deploy", "hello", *there, "--namespace", namespace).exception
    assert isinstance(refused, FormatError)
    assert str(refused).startswith(f"--namespace {namespace!r:.80}: 1 to 63 lower-case letters, digits and dashes")


def test_undeploy_takes_out_one_file_and_nothing_that_others_need(tmp_path: Path) -> None:
    other = document(OTHER_ID)
    other["metadata"] |= {"name": "web", "annotations": {"org.margo.oci.dependsOn": "hello"}}
    (tmp_path / "a.yaml").write_bytes(as_yaml(document(ID)))
    (tmp_path / "b.yaml").write_bytes(as_yaml(other))
    refused = call("undeploy", "hello", "--out", str(tmp_path)).exception
    assert str(refused) == f"{tmp_path}/b.yaml: depends on hello: change that first"
    assert call("undeploy", "web", "--out", str(tmp_path)).exception is None
    done = call("undeploy", "hello", "--out", str(tmp_path))
    assert "is empty now: push it with --allow-empty" in done.output
    assert list(tmp_path.iterdir()) == []


def opened() -> Opened:
    artifact = build_package(described(), {"resources/icon.png": b"", "resources/license.md": b""})
    place = parse_reference("registry.example/apps/hello").at(artifact.manifest.digest)
    return Opened(place, "1.4.0", parse_package(artifact.manifest, what="hello"), described())


def deployed_from(version: str) -> Before:
    wish = Wish(name="hello", scope="edge-17", source=parse_reference(f"registry.example/apps/hello:{version}"))
    return read_before(make_deployment(described(), wish), what="hello.yaml")


def test_versions_are_ordered_as_semver_says() -> None:
    tags = [
        "1.0.0",
        "1.10.0",
        "1.2.0",
        "latest",
        "1.10.0-rc.2",
        "1.10.0-rc.10",
        "1.10.0-alpha",
        "1.1",
        "v2.0.0",
        "sha256-1",
    ]
    assert newest_first(tags) == [
        "1.10.0", "1.10.0-rc.10", "1.10.0-rc.2", "1.10.0-alpha", "1.2.0", "1.1", "1.0.0",
    ]  # fmt: skip
