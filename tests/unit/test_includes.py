"""`include` of files of the archive: walked as Compose reads them, and held to the same rules (format 8.7, 8.8)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from margo_oci.archive import FAULT_LIMIT, Entry
from margo_oci.compose import Compose, faults_of_template, find_compose
from margo_oci.composereads import FILES_LIMIT, _steering, reads_only_the_archive, steers_no_compose, walk
from margo_oci.errors import FormatError
from margo_oci.faults import Located
from margo_oci.package import COMPOSE

WEB = "services: {web: {image: x}}\n"
ANY = "services: {a: {image: a}}"
SHOP = {
    "compose.yaml": """\
include:
  - sub/one.yaml
  - {path: other/alone.yaml}
  - path: [other/two.yaml, other/over.yaml]
    project_directory: sub
    env_file: [other/x.env]
  - {path: here.yaml, project_directory: .}
services: {web: {image: x}}
""",
    "here.yaml": "services: {here: {image: here, env_file: sub/one.env}}",
    "sub/one.yaml": """\
include: [deep/three.yaml]
services:
  one: {image: 'one:${TAG:-none}', env_file: one.env, configs: [page], extends: {file: deep/base.yaml, service: b}}
configs: {page: {file: page.html}}
""",
    "sub/page.html": "hi", "sub/.env": "TAG=sub", "sub/one.env": "A=sub",
    "sub/base.yaml": "services: {b: {command: sub}}",
    "sub/deep/three.yaml": "include: [more/four.yaml]\nservices: {three: {image: 'three:${T}', env_file: three.env}}",
    "sub/deep/.env": "T=deep", "sub/deep/three.env": "D=deep",
    "sub/deep/base.yaml": "services: {b: {command: deep, label_file: labels}}", "sub/deep/labels": "L=deep",
    "sub/deep/more/four.yaml": "services: {four: {image: four, env_file: four.env, volumes: ['./d:/d']}}",
    "sub/deep/more/four.env": "F=more", "sub/deep/more/d/x": "",
    "other/alone.yaml": "services: {alone: {image: alone, env_file: alone.env}}", "other/alone.env": "O=other",
    "other/two.yaml": "services: {two: {image: 'two:${X}', env_file: one.env, extends: {file: base.yaml, service: b}}}",
    "other/over.yaml": "services: {two: {labels: [over]}}",
    "other/base.yaml": "services: {b: {command: other}}", "other/x.env": "X=xx",
}  # fmt: skip


def entries(files: Mapping[str, str]) -> list[Entry]:
    return [Entry(f"top/{name}", text.encode()) for name, text in files.items()]


def faults(text: str, **files: str) -> list[str]:
    named = {name.replace("__", "/").replace("_", "."): words for name, words in files.items()}
    found = reads_only_the_archive(entries({"compose.yaml": text, **named}))
    return [str(fault).removeprefix("top/") for fault in found]


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def real(home: Path) -> Compose:
    return Compose(find_compose(), {"PATH": "/usr/bin:/bin", "HOME": str(home)})


def model(folder: Path) -> dict[str, Any]:
    return real(folder).model(folder, project="p", variables={})["services"]  # type: ignore[no-any-return]


def test_8_7_every_form_of_include_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    """What is in the archive, and nothing else, decides: each file lies where the walk looks for it."""
    assert reads_only_the_archive(entries(SHOP)) == []
    services = model(written(tmp_path / "top", SHOP))
    assert {name: one["image"] for name, one in services.items()} == {
        "web": "x", "here": "here", "one": "one:sub", "three": "three:deep", "four": "four", "alone": "alone",
        "two": "two:xx",
    }  # fmt: skip
    assert {name: one.get("environment") for name, one in services.items()} == {
        "web": None, "here": {"A": "sub"}, "one": {"A": "sub"}, "three": {"D": "deep"}, "four": {"F": "more"},
        "alone": {"O": "other"}, "two": {"A": "sub"},
    }  # fmt: skip
    assert (services["one"]["command"], services["two"]["command"]) == (["deep"], ["sub"])
    assert services["one"]["labels"] == {"L": "deep"}
    assert services["four"]["volumes"][0]["source"] == str(tmp_path / "top/sub/deep/more/d")


NOT_READ = {"compose.yaml", "sub/.env", "sub/deep/.env", "other/base.yaml", "sub/page.html", "sub/deep/more/d/x"}


@pytest.mark.parametrize("gone", sorted(set(SHOP) - NOT_READ))
def test_8_7_what_the_walk_misses_compose_misses(gone: str, tmp_path: Path) -> None:
    files = {name: text for name, text in SHOP.items() if name != gone}
    found = reads_only_the_archive(entries(files))
    assert found
    assert all(f"{Path(gone).name}' is not in the archive" in str(one) for one in found)
    with pytest.raises(FormatError, match="compose config"):
        model(written(tmp_path / "top", files))


def test_8_7_a_template_keeps_variables_of_included_files(tmp_path: Path) -> None:
    """The lock fills them in with a deployment's parameters; the files' own variables are defaults."""
    folder = written(tmp_path / "top", SHOP)
    template = real(tmp_path).template(folder)
    assert template["services"]["one"]["image"] == "one:${TAG:-none}"
    words = "is mounted from the archive, read-only: the standard ships no bind mounts, prefer configs"
    assert faults_of_template(template, folder) == ([], [f"services.four.volumes: sub/deep/more/d {words}"])
    filled = real(tmp_path).model(folder, project="p", variables={"TAG": "7"})
    assert filled["services"]["one"]["image"] == "one:7"


def test_8_7_compose_stands_in_the_archive_when_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose 2.40 looks for the `env_file` of a nested include from where it was started."""
    elsewhere = written(tmp_path / "elsewhere", {"sub/three.env": "T=stolen"})
    files = {
        "compose.yaml": "include: [sub/one.yaml]\n" + WEB,
        "sub/one.yaml": "include: [{path: three.yaml, env_file: three.env}]\nservices: {}",
        "sub/three.yaml": "services: {three: {image: 'three:${T}'}}", "sub/three.env": "T=ours",
    }  # fmt: skip
    folder = written(tmp_path / "top", files)
    monkeypatch.chdir(elsewhere)
    assert model(folder)["three"]["image"] == "three:ours"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("include: [gone.yaml]", "compose.yaml:1: include[0]: 'gone.yaml' is not in the archive"),
        ("include: [/etc/x.yaml]", "compose.yaml:1: include[0]: '/etc/x.yaml' leads out of the archive"),
        ("include: [a.yaml, ../x.yaml]", "compose.yaml:1: include[1]: '../x.yaml' leads out of the archive"),
        ("include: [~/x.yaml]", "compose.yaml:1: include[0]: '~/x.yaml' leads out of the archive"),
        ("include: ['${F}']", "compose.yaml:1: include[0]: '${F}' holds a variable: name the file itself"),
        ("include: ['https://x.example/a.git']",
         "compose.yaml:1: include[0]: 'https://x.example/a.git' leads out of the archive"),
        ("include: ['oci://x.example/a:1']",
         "compose.yaml:1: include[0]: 'oci://x.example/a:1' leads out of the archive"),
        ("include: [github.com/a/b.git]", "compose.yaml:1: include[0]: 'github.com/a/b.git' is not in the archive"),
        ("include:\n  - path: [a.yaml, b.yaml]", "compose.yaml:2: include[0]: 'b.yaml' is not in the archive"),
        ("include: [{path: a.yaml, project_directory: gone}]",
         "compose.yaml:1: include[0].project_directory: 'gone' is no folder of the archive"),
        ("include: [{path: a.yaml, project_directory: ..}]",
         "compose.yaml:1: include[0].project_directory: '..' is no folder of the archive"),
        ("include: [{path: a.yaml, env_file: gone.env}]",
         "compose.yaml:1: include[0].env_file: 'gone.env' is not in the archive"),
        ("include: [{path: a.yaml, env_file: [/etc/x]}]",
         "compose.yaml:1: include[0].env_file: '/etc/x' leads out of the archive"),
        ("include: [{env_file: a.yaml}]", "compose.yaml:1: include[0]: path is missing: name the file to include"),
        ("x-i: &i {path: a.yaml}\ninclude: [{<<: *i}]",
         "compose.yaml:2: include[0]: merge keys are not accepted here: write it out"),
    ],
)  # fmt: skip
def test_8_7_an_include_names_files_of_the_archive_only(text: str, fault: str) -> None:
    assert faults(f"{text}\n{WEB}", a_yaml=ANY) == [fault]


def test_8_5_an_include_fetches_nothing_from_a_network(tmp_path: Path) -> None:
    """Compose takes some paths of the archive for addresses of Git: that it would ask there is switched off."""
    files = {"compose.yaml": "include: [github.com/x/y.git]\n" + WEB, "github.com/x/y.git": ANY}
    assert reads_only_the_archive(entries(files)) == []
    with pytest.raises(FormatError, match="git remote resource is disabled"):
        model(written(tmp_path / "top", files))


@pytest.mark.parametrize(
    "text", ["include: []", "include:", "include: [{path: a.yaml, env_file: []}]", "include: [a.yaml]"]
)
def test_8_7_an_empty_list_names_nothing(text: str, tmp_path: Path) -> None:
    files = {"compose.yaml": f"{text}\nservices: {{web: {{image: x, env_file: [], label_file: []}}}}", "a.yaml": ANY}
    assert reads_only_the_archive(entries(files)) == []
    assert "web" in model(written(tmp_path / "top", files))


def test_8_7_what_an_included_file_holds_is_checked_by_the_same_rules() -> None:
    bad = "services: {a: {env_file: /etc/x, develop: {}}}\nmodels: {m: }"
    assert faults("include: [a.yaml]\n" + WEB, a_yaml=bad) == [
        "a.yaml:2: models: not accepted: it would get round the lock",
        "a.yaml:1: services.a.develop: not accepted: it is for the machine of a developer",
        "a.yaml:1: services.a.env_file: '/etc/x' leads out of the archive",
    ]  # fmt: skip


@pytest.mark.parametrize("more", ["project_directory: .", "env_file: a.env"])
def test_8_7_of_nested_files_compose_looks_for_these_elsewhere(more: str) -> None:
    nested = f"include: [{{path: c.yaml, {more}}}]"
    found = faults("include: [sub/compose.yaml]\n" + WEB, sub__compose_yaml=nested, sub__c_yaml=ANY, sub__a_env="")
    assert found == ["sub/compose.yaml:1: include[0]: project_directory and env_file stand in compose.yaml only"]


def test_8_7_files_that_include_each_other_are_looked_at_once_and_are_not_many() -> None:
    assert faults("include: [compose.yaml]\n" + WEB) == []
    chain = {f"{n}_yaml": f"include: [{n + 1}.yaml]" for n in range(40)} | {"40_yaml": ANY}
    assert faults("include: [0.yaml]\n" + WEB, **chain) == [
        f"{FILES_LIMIT - 1}.yaml: more than {FILES_LIMIT} files extend or include each other"
    ]


def test_8_7_a_file_is_looked_at_again_for_each_folder_its_paths_may_start_from() -> None:
    text = "include: [a.yaml, {path: a.yaml, project_directory: sub}]\n" + WEB
    (fault,) = faults(text, a_yaml="services: {a: {env_file: x.env}}", x_env="", sub__y="")
    assert fault == "a.yaml:1: services.a.env_file: 'x.env' is not in the archive"


@pytest.mark.parametrize(
    ("text", "file"),
    [("include: [sub/a.yaml]", "sub/.env"), ("include: [{path: sub/a.yaml, project_directory: .}]", ".env"),
     ("include: [{path: sub/a.yaml, env_file: sub/b.env}]", "sub/b.env")],
)  # fmt: skip
def test_8_8_variables_of_an_include_steer_no_compose(text: str, file: str) -> None:
    files = {"compose.yaml": f"{text}\n{WEB}", "sub/a.yaml": ANY, file: "A=1\nDOCKER_HOST=tcp://x\n"}
    assert [str(one) for one in reads_only_the_archive(entries(files))] == [
        f"top/{file}:2: DOCKER_HOST is not accepted: it steers Compose, not the workload"
    ]


def test_a_place_is_found_in_the_file_that_has_it() -> None:
    path, node = walk(entries(SHOP)).place_of("services.four.volumes")
    assert (path, node.line) == ("top/sub/deep/more/four.yaml", 1)
    assert walk(entries(SHOP)).place_of("services.nobody")[0] == "top/compose.yaml"


def test_a_file_of_variables_is_looked_at_once_however_often_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def steering(path: str, data: bytes) -> Iterator[Located]:
        looked.append(path)
        return _steering(path, data)

    monkeypatch.setattr("margo_oci.composereads._steering", steering)
    named = "[" + ", ".join(["{path: sub/a.yaml, env_file: x.env}", "{path: sub/a.yaml}"] * 50) + "]"
    files = {"compose.yaml": f"include: {named}", "sub/a.yaml": ANY, "sub/.env": "A=1", "x.env": "DOCKER_HOST=x"}
    (fault,) = reads_only_the_archive([Entry(f"top/{path}", text.encode()) for path, text in files.items()])
    assert str(fault).startswith("top/x.env:1: DOCKER_HOST is not accepted")
    assert sorted(looked) == ["top/sub/.env", "top/x.env"]


def test_of_very_many_faults_the_first_are_told() -> None:
    missing = ", ".join(f"gone{number}.env" for number in range(150))
    text = f"services: {{web: {{image: x, env_file: [{missing}]}}}}"
    faults = COMPOSE.faults_of([Entry("top/compose.yaml", text.encode())])
    assert (len(faults), str(faults[-1])) == (FAULT_LIMIT + 1, "and 50 more")
    steering = Entry("top/.env", b"DOCKER_HOST=x\n" * 150)
    assert len(steers_no_compose([steering])) == FAULT_LIMIT
