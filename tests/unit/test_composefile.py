"""A Compose file is looked at before Compose may see it: nothing it names lies outside its archive."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.archive import Entry
from margo_oci.compose import Compose, find_compose
from margo_oci.composefile import NO_SECRETS, SERVICE_KEYS, faults_of_model, faults_of_service
from margo_oci.composereads import FILES_LIMIT, reads_only_the_archive, steers_no_compose
from margo_oci.errors import FormatError
from margo_oci.faults import Located
from margo_oci.package import COMPOSE, build_component, open_archive
from margo_oci.yamltree import parse_tree
from tests.unit.scenes import hostile, member, read_or_refused

PROFILE = "unconfined is the only profile that is no file of the device"
WEB = "services: {web: {image: x}}\n"


def entries(compose: str, **files: str) -> list[Entry]:
    """A component in an archive; in names of files `__` stands for a slash."""
    named = {name.replace("__", "/"): text for name, text in files.items()}
    return [Entry(f"top/{name}", text.encode()) for name, text in {"compose.yaml": compose, **named}.items()]


def faults(compose: str, files: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with a component, told without the folder."""
    found = reads_only_the_archive(
        [Entry(f"top/{name}", text.encode()) for name, text in {"compose.yaml": compose, **(files or {})}.items()]
    )
    return [str(fault).removeprefix("top/") for fault in found]


def service(text: str) -> str:
    return f"services:\n  web:\n    image: x\n    {text}\n"


ORDINARY = """\
name: shop
x-base: &base
  restart: unless-stopped
  env_file: [common.env]
  environment: &environment {A: "${A:-1}", B: $B}
services:
  web:
    <<: *base
    image: registry.example/web:${TAG:-1}
    environment: {<<: *environment, C: "3"}
    env_file:
      - app.env
      - {path: "local.env", required: false}
      - {path: ./sub/more.env, format: raw}
    label_file: labels
    configs: [page]
    volumes: ["data:/data", "/dev/ttyS0:/dev/ttyS0", {type: tmpfs, target: /tmp}]
    security_opt: ["no-new-privileges:true", "seccomp:unconfined"]
    x-note: {anything: at all}
  worker:
    <<: [*base]
    extends: {file: sub/worker.yaml, service: worker}
    ports: !override []
    command: !reset null
  twin: {extends: web}
volumes: {data: }
configs: {page: {file: ./page.html}, inline: {content: "${A}"}}
secrets: {token: {environment: TOKEN}}
"""
FILES = {
    "app.env": "X=1", "common.env": "Y=1", "sub/more.env": "Z=1", "labels": "a=b", "page.html": "hi",
    "sub/worker.yaml": "services: {worker: {image: y, env_file: worker.env, extends: {service: base}}, base: {}}",
    "sub/worker.env": "W=1",
}  # fmt: skip


def real(folder: Path, files: Mapping[str, str]) -> Compose:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Compose(find_compose(), {"PATH": "/usr/bin:/bin", "HOME": str(folder / "home")})


def test_an_ordinary_file_with_anchors_merge_keys_and_extends_has_no_faults(tmp_path: Path) -> None:
    assert faults(ORDINARY, FILES) == []
    model = real(tmp_path, {"compose.yaml": ORDINARY, **FILES}).model(tmp_path, project="p", variables={})
    assert model["services"]["worker"]["environment"] == {"A": "1", "B": "", "W": "1", "Y": "1"}
    assert faults_of_model(model) == []


STOLEN = "SECRET=of-the-operator"
THIEVES = {
    "include": "include: [OUTSIDE/other.yaml]\n" + WEB,
    "include with env_file": "include: [{path: part.yaml, env_file: OUTSIDE/stolen.env}]\n" + WEB,
    "extends": service("extends: {file: OUTSIDE/other.yaml, service: other}"),
    "env_file": service("env_file: OUTSIDE/stolen.env"),
    "env_file, long": service("env_file: [{path: OUTSIDE/stolen.env}]"),
    "env_file that need not be": service("env_file: [{path: OUTSIDE/stolen.env, required: false}]"),
    "env_file in a variable": service("env_file: ${F:-OUTSIDE/stolen.env}"),
    "env_file at home": service("env_file: ~/stolen.env"),
    "label_file": service("label_file: [OUTSIDE/stolen.env]"),
    "two steps up": service("env_file: sub/../../stolen.env"),
    "merged": "x-a: &a {env_file: OUTSIDE/stolen.env}\nservices: {web: {<<: *a, image: x}}",
    "merged from a list": "x-a: &a {env_file: OUTSIDE/stolen.env}\nservices: {web: {<<: [*a], image: x}}",
    "an alias": "x-a: &a OUTSIDE/stolen.env\nservices: {web: {image: x, env_file: [*a]}}",
    "an alias of all": "x-a: &a {web: {image: x, env_file: OUTSIDE/stolen.env}}\nservices: *a",
    "escaped": 'services: {web: {image: x, "env\\x5ffile": OUTSIDE/stolen.env}}',
    "a second document": WEB + "---\n" + service("env_file: OUTSIDE/stolen.env"),
}


@pytest.mark.parametrize("thief", THIEVES)
def test_8_7_what_compose_would_read_outside_is_refused_before_it_runs(thief: str, tmp_path: Path) -> None:
    """With the real Compose: each of these does tell what stands in the operator's file, if it is let run."""
    outside = tmp_path / "outside"
    folder = outside / "archive"
    text = THIEVES[thief].replace("OUTSIDE", str(outside))
    stolen = {"stolen.env": STOLEN, "home/stolen.env": STOLEN, "archive/home/stolen.env": STOLEN,
              "other.yaml": f"services: {{other: {{image: x, labels: [{STOLEN}]}}}}",
              "archive/sub/x": "", "archive/part.yaml": "services: {a: {image: \"${SECRET}\"}}"}  # fmt: skip
    real(outside, stolen)
    told = real(folder, {"compose.yaml": text}).model(folder, project="p", variables={})
    assert "of-the-operator" in str(told)
    assert faults(text, {"sub/x": "", "part.yaml": "services: {}", "~/stolen.env": ""}) != []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (service("env_file: gone.env"), "compose.yaml:4: services.web.env_file: 'gone.env' is not in the archive"),
        (service("env_file: /etc/x"), "compose.yaml:4: services.web.env_file: '/etc/x' leads out of the archive"),
        (service("env_file: [{path: ../x}]"), "compose.yaml:4: services.web.env_file: '../x' leads out of the archive"),
        (service("label_file: ${F}"),
         "compose.yaml:4: services.web.label_file: '${F}' holds a variable: name the file itself"),
        (service("extends: {service: a, file: 'https://x.example/a.git'}"),
         "compose.yaml:4: services.web.extends.file: 'https://x.example/a.git' leads out of the archive"),
        (WEB + "configs: {c: {file: C:/x}}", "compose.yaml:2: configs.c.file: 'C:/x' leads out of the archive"),
        (WEB + "configs: {c: {file: '$$x'}}",
         "compose.yaml:2: configs.c.file: '$$x' holds a variable: name the file itself"),
        (WEB + "secrets: {s: {file: app.env}}", f"compose.yaml:2: secrets.s.file: {NO_SECRETS}"),
        (WEB + "models: {m: {model: x}}", "compose.yaml:2: models: not accepted: it would get round the lock"),
        (service("credential_spec: {file: app.env}"),
         "compose.yaml:4: services.web.credential_spec: not accepted: it reads files of the device"),
        (service("volumes: [{type: image, source: x, target: /x}]"),
         "compose.yaml:4: services.web.volumes: type 'image' is not accepted: it would get round the lock"),
        (service("security_opt: ['seccomp:/etc/x']"),
         f"compose.yaml:4: services.web.security_opt: 'seccomp:/etc/x' is not accepted: {PROFILE}"),
    ],
)  # fmt: skip
def test_8_7_a_fault_names_file_line_and_key(text: str, fault: str) -> None:
    assert faults(text, {"app.env": ""}) == [fault]


def test_8_7_a_file_that_is_extended_is_held_to_the_same_rules() -> None:
    text = service("extends: {file: sub/a.yaml, service: a}")
    assert faults(text, {"sub/a.yaml": "services: {a: {env_file: a.env, extends: {file: b.yaml, service: b}}}",
                         "sub/b.yaml": "services: {b: {label_file: /etc/x, develop: {watch: []}}}"}) == [
        "sub/a.yaml:1: services.a.env_file: 'a.env' is not in the archive",
        "sub/b.yaml:1: services.b.develop: not accepted: it is for the machine of a developer",
        "sub/b.yaml:1: services.b.label_file: '/etc/x' leads out of the archive",
    ]  # fmt: skip


def test_files_that_extend_each_other_are_looked_at_once_and_are_not_many() -> None:
    ring = service("extends: {file: compose.yaml, service: web}")
    assert faults(ring) == []
    chain = {f"{n}.yaml": f"services: {{a: {{extends: {{file: {n + 1}.yaml, service: a}}}}}}" for n in range(40)}
    found = faults(service("extends: {file: 0.yaml, service: a}"), {**chain, "40.yaml": "services: {a: {}}"})
    assert found == [f"{FILES_LIMIT - 1}.yaml: more than {FILES_LIMIT} files extend or include each other"]


def test_8_7_it_is_checked_before_an_archive_is_made_and_before_one_is_unpacked() -> None:
    text = service("env_file: /etc/passwd").encode()
    with pytest.raises(FormatError, match=r"^hello/compose.yaml:4: services.web.env_file: "):
        build_component({"compose.yaml": Entry("compose.yaml", text)}, name="hello", version="1.0.0")
    with pytest.raises(FormatError, match=r"^c: a/compose.yaml:4: services.web.env_file: "):
        open_archive(hostile(member("a/compose.yaml", text)), what="c")


@pytest.mark.parametrize(
    "line", ["COMPOSE_FILE=/x", "export COMPOSE_PROJECT_NAME=x", "DOCKER_HOST: tcp://x", " COMPOSE_ENV_FILES =x",
             "LD_PRELOAD=x", "COMPOSE_ENV_FILES"]
)  # fmt: skip
def test_8_8_a_dotenv_steers_no_compose(line: str) -> None:
    (found,) = steers_no_compose(entries(WEB, **{".env": f"A=1\n{line}\n"}))
    fault = str(found)
    assert fault.startswith("top/.env:2: ")
    assert fault.endswith(" is not accepted: it steers Compose, not the workload")


@pytest.mark.parametrize(
    "before", ["\ufeff", "A='x' ", 'A="x"', "A='x\ny'\t", 'A: "x\\" y" export ', "\u00a0"],
    ids=["a byte order mark", "a quoted value", "no blank", "lines in quotes", "an escaped quote", "an odd blank"],
)  # fmt: skip
def test_8_8_a_name_in_a_dotenv_is_found_wherever_compose_finds_it(before: str, tmp_path: Path) -> None:
    text = "services: {web: {image: 'x:${TAG}'}}"
    compose = real(tmp_path, {"compose.yaml": text, ".env": f"{before}TAG=2\n"})
    assert compose.model(tmp_path, project="p", variables={})["services"]["web"]["image"] == "x:2"
    (found,) = steers_no_compose(entries(WEB, **{".env": f"{before}DOCKER_HOST=tcp://x\n"}))
    assert "DOCKER_HOST is not accepted" in str(found)


def test_8_8_a_dotenv_gives_defaults_and_switches_profiles(tmp_path: Path) -> None:
    dotenv = "# COMPOSE_FILE=x\nTAG=2\nCOMPOSE_PROFILES=debug\n"
    text = "services: {web: {image: 'x:${TAG}'}, shell: {image: y, profiles: [debug]}}"
    assert steers_no_compose(entries(text, **{".env": dotenv, "sub__.env": "COMPOSE_FILE=x"})) == []
    model = real(tmp_path, {"compose.yaml": text, ".env": dotenv}).model(tmp_path, project="p", variables={})
    assert {name: one["image"] for name, one in model["services"].items()} == {"web": "x:2", "shell": "y"}


def test_8_8_the_real_compose_takes_no_steering_from_a_dotenv(tmp_path: Path) -> None:
    """What the rule refuses by its name would do nothing even where a name is hidden from it."""
    (tmp_path / "stolen.env").write_text(STOLEN)
    dotenv = f"COMPOSE_FILE={tmp_path}/other.yaml\nCOMPOSE_ENV_FILES={tmp_path}/stolen.env\nCOMPOSE_PROJECT_NAME=x\n"
    compose = real(tmp_path / "a", {"compose.yaml": "services: {web: {image: 'x:${SECRET:-no}'}}", ".env": dotenv})
    model = compose.model(tmp_path / "a", project="p", variables={})
    assert (model["name"], model["services"]["web"]["image"]) == ("p", "x:no")


@pytest.mark.parametrize("key", ["provider", "use_api_socket", "models", "develop", "credential_spec", "new_in_2027"])
def test_8_8_a_service_has_known_keys_only(key: str) -> None:
    (fault,) = faults_of_service("web", {"image": "x", "command": None, "x-note": 1, key: {"type": "x"}})
    assert fault.startswith(f"services.web.{key}: not accepted: ")
    assert faults_of_service("web", {key: None}) == []


def test_8_8_a_model_has_known_keys_only_and_volumes_of_the_device() -> None:
    web = {"volumes": [{"type": "image", "source": "x"}, {"type": "bind"}, "a:/a"], "security_opt": ["seccomp=/x"]}
    assert faults_of_model({"name": "p", "services": {"web": web}, "models": {"m": {}}}) == [
        "models: not accepted: it would get round the lock",
        "services.web.volumes: type 'image' is not accepted: it would get round the lock",
        f"services.web.security_opt: 'seccomp=/x' is not accepted: {PROFILE}",
    ]


def test_the_keys_that_are_known_are_those_of_the_real_compose(tmp_path: Path) -> None:
    """Compose names what it does not know; it must know all that stands in the list."""
    text = "services: {web: {image: x, %s: {no: such}}}"
    compose = real(tmp_path, {"compose.yaml": text % "nonsense"})
    with pytest.raises(FormatError, match="additional properties 'nonsense' not allowed"):
        compose.model(tmp_path, project="p", variables={})
    listed = ", ".join(f"{key}: {{no: such}}" for key in sorted(SERVICE_KEYS - {"image", "extends"}))
    (tmp_path / "compose.yaml").write_text(f"services: {{web: {{image: x, {listed}}}}}")
    with pytest.raises(FormatError) as refused:
        compose.model(tmp_path, project="p", variables={})
    assert "additional properties" not in str(refused.value).split("services.web.")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", "2: not usable YAML: "),
        ("? [a]\n: b", "1: a key is text, without a tag"),
        ("!!binary aW5jbHVkZQ==: [/x]", "1: a key is text, without a tag"),
        ("a: !!binary L2V0Yy94", "1: tags ('tag:yaml.org,2002:binary') are not accepted"),
        ("a: !!python/object/apply:os.system [id]", "1: tags ('tag:yaml.org,2002:python/object/apply:os.system')"),
        ("a: 1\na: 2", "2: 'a' stands twice"),
        ("a: *b", "1: *b names nothing that ends before it"),
        ("a: &b [*b]", "1: *b names nothing that ends before it"),
        ("a: &b {c: *b}", "1: *b names nothing that ends before it"),
        ("a: 1\n---\na: 2", "2: one document a file is expected"),
        ("---\n---\na: 2", "2: one document a file is expected"),
        ("# \u2028include: [/x]", "1: the character U+2028 is not accepted"),
        ("a: 1\n# \rinclude: [/x]", "2: the character U+000D is not accepted"),
        ("[" * 40 + "]" * 40, "1: nested deeper than 32 levels"),
        ("[" * 400_000, "1: nested deeper than 32 levels"),
        ("x: " + "y" * 1_048_576, " 1048579 bytes, at most 1048576 are read"),
    ],
)
def test_7_6_yaml_that_parsers_may_read_in_two_ways_is_refused(text: str, words: str) -> None:
    (fault,) = faults(text)
    assert fault.removeprefix("compose.yaml:").startswith(words)


def bomb(levels: int, first: str, following: str) -> str:
    lines = [f"x-0: &a0 {first}", *(f"x-{n}: &a{n} {following.replace('*a', f'*a{n - 1}')}" for n in range(1, levels))]
    return "\n".join([*lines, WEB])


@pytest.mark.parametrize(
    "text",
    [
        bomb(10, "[x, x]", "[*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]"),
        bomb(20, "{a: b}", "{c: *a, d: *a, e: *a}"),
        bomb(20, "{a: b}", "{<<: [*a, *a, *a, *a]}"),
        "a: [" + "x, " * 60_000 + "]",
    ],
)
def test_7_6_aliases_that_expand_to_too_much_are_refused(text: str) -> None:
    """Compose itself would expand them for as long as it is let."""
    (fault,) = faults(text)
    assert fault.endswith(": more than 50000 values, counting what aliases stand for")


def test_7_6_aliases_do_not_nest_deeper_than_what_is_written_out() -> None:
    def merged(times: int) -> bytes:
        links = "\n".join(f"x-{i}: &b{i} {{<<: {{<<: *b{i - 1}}}}}" for i in range(1, times))
        return f"x-0: &b0 {{a: 1}}\n{links}\nservices: {{web: {{image: x, <<: *b{times - 1}}}}}\n".encode()

    assert parse_tree(merged(14), what="c").nearest("services.web.a").text == "1"
    with pytest.raises(FormatError, match="nested deeper than 32 levels, counting what aliases stand for"):
        parse_tree(merged(600), what="c")


def test_what_nests_too_deeply_to_be_checked_is_a_fault_of_its_component() -> None:
    def endless(entries: Sequence[Entry]) -> list[Located]:
        return endless(entries)

    with pytest.raises(FormatError, match="c: nested too deeply to be checked"):
        open_archive(hostile(member("a/compose.yaml", b"{}")), what="c", form=replace(COMPOSE, rules=(endless,)))


def test_a_value_is_found_by_its_dotted_name() -> None:
    tree = parse_tree(ORDINARY.encode(), what="f")
    assert [tree.nearest(at).line for at in ("services.web.image", "services.web.gone", "gone", "configs.page")] == [
        9, 7, 1, 27,
    ]  # fmt: skip


@given(st.text(alphabet=":-[]{}&*!<\"'#\n x$/~.%", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(lambda: parse_tree(text.encode(), what="f"), "f:")
    for fault in reads_only_the_archive(entries(text)):
        assert str(fault).startswith("top/compose.yaml:")


def test_yaml_of_our_own_writing_is_read() -> None:
    text = yaml.safe_dump({"services": {"web": {"image": "x", "env_file": ["a.env"]}}})
    assert faults(text, {"a.env": ""}) == []
