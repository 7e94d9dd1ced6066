"""What `margo-oci component` does without a network: validate, and where pull may write."""

import json
import os
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from margo_cli import component_check
from margo_cli.component_pull import check_place, write_folder
from margo_cli.folder import read_component
from margo_cli.main import cli
from margo_oci.archive import Entry
from margo_oci.compose import compose_missing
from margo_oci.composefile import NO_SECRETS
from margo_oci.errors import FormatError
from margo_oci.faults import located
from margo_oci.interpolation import variables_of
from margo_oci.package import COMPOSE, NO_KEYS, QUADLET, build_component
from tests.simulators.outages import RENAME, Outage, during
from tests.unit.scenes import as_yaml, hostile, member

WEB = "services:\n  web:\n    image: registry.example/web:1\n"
DEVELOP = "not accepted: it is for the machine of a developer"
BIND = "/dev/ttyS0 is a path of the device: not shipped"
UNIT = "[Container]\nImage=registry.example/web:1\n"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["component", *map(str, arguments)], standalone_mode=False)


def validate(*arguments: object) -> tuple[int, str]:
    done = call("validate", *arguments)
    assert done.exception is None, done.exception
    return done.return_value or 0 if done.exit_code == 0 else done.exit_code, done.output


def folder(at: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    return at


def packed(at: Path, files: Mapping[str, str], *, quadlet: bool = False) -> Path:
    named = {name: Entry(name, text.encode()) for name, text in files.items()}
    form = QUADLET if quadlet else COMPOSE
    at.write_bytes(build_component(named, name="hello", version="1.0.0", form=form).layer)
    return at


def test_a_valid_component_is_told_as_such(tmp_path: Path) -> None:
    hello = folder(tmp_path / "hello", {"compose.yaml": WEB, "README.md": "", ".git/config": ""})
    assert call("validate", hello).output == f"{hello}: valid, a Compose component of 2 files\n"
    pump = folder(tmp_path / "pump", {"web.container": UNIT})
    assert call("validate", pump).output == f"{pump}: valid, a Quadlet component of 1 file\n"
    for archive in (packed(tmp_path / "a.tar.gz", {"compose.yaml": WEB}),
                    packed(tmp_path / "b.tar.gz", {"web.container": UNIT}, quadlet=True)):  # fmt: skip
        assert "valid, a " in call("validate", archive).output


def test_all_faults_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    hello = folder(tmp_path / "hello", {
        "compose.yaml": "include: [part.yaml]\nservices:\n  web:\n    image: x\n    env_file: gone.env\n",
        "part.yaml": "services: {part: {image: y, develop: {}}}\nsecrets: {s: {file: s.txt}}\n",
        "key.pem": "-----BEGIN PRIVATE KEY-----",
    })  # fmt: skip
    (hello / "link").symlink_to("/etc/passwd")
    code, output = validate(hello)
    assert code == 2
    assert output.splitlines() == [
        f"error: {hello}/link: only plain files are packaged, no links, sockets or devices (rule 7.5)",
        f"error: {hello}/key.pem: {NO_KEYS} (rule 8.5)",
        f"error: {hello}/compose.yaml:5:5: services.web.env_file: 'gone.env' is not in the archive (rule 8.7)",
        f"error: {hello}/part.yaml:1:29: services.part.develop: {DEVELOP} (rule 8.8)",
        f"error: {hello}/part.yaml:2:15: secrets.s.file: {NO_SECRETS} (rule 8.5)",
    ]


def test_compose_has_the_last_word_and_its_faults_have_places(tmp_path: Path) -> None:
    text = WEB + "  db:\n    image: x\n    ports: {a: b}\n"
    code, output = validate(folder(tmp_path / "a", {"compose.yaml": text}))
    assert (code, "a/compose.yaml:6:5: compose config: " in output) == (2, True)
    assert "services.db.ports must be a" in output
    included = {"compose.yaml": "include: [part.yaml]\n" + WEB, "part.yaml": "services:\n  db:\n    build: .\n"}
    code, output = validate(folder(tmp_path / "b", included))
    assert (code, "b/part.yaml:2:3: services.db: no image: a device builds nothing" in output) == (2, True)


def test_what_compose_finds_is_told_beside_what_our_rules_found_and_nothing_twice(tmp_path: Path) -> None:
    text = (
        "services:\n  web:\n    image: x\n    env_file: gone.env\n    develop: {}\n"
        "    volumes: ['../up:/up', './no:/no']\n"
        "  db:\n    build: .\nconfigs: {c: {file: c.txt}}\nsecrets: {s: {file: s.txt}}\n"
    )
    a = folder(tmp_path / "a", {"compose.yaml": text, "key.pem": "-----BEGIN PRIVATE KEY-----"})
    code, output = validate(a)
    told = [line.removeprefix(f"error: {a}/") for line in output.splitlines()]
    assert (code, [line.partition(" (rule")[0] for line in told]) == (2, [
        f"key.pem: {NO_KEYS}",
        f"compose.yaml:5:5: services.web.develop: {DEVELOP}",
        "compose.yaml:6:5: services.web.volumes: '../up' leads out of the archive",
        f"compose.yaml:10:15: secrets.s.file: {NO_SECRETS}",
        "compose.yaml:4:5: services.web.env_file: 'gone.env' is not in the archive",
        "compose.yaml:9:15: configs.c.file: 'c.txt' is not in the archive",
        "compose.yaml:7:3: services.db: no image: a device builds nothing, push the image and name it",
        "compose.yaml:6:5: services.web.volumes: no is not in the archive: data belongs into a named volume",
    ])  # fmt: skip
    strange = {"compose.yaml": WEB + "    ports: {a: b}\n    use_api_socket: true\n"}
    assert validate(folder(tmp_path / "b", strange))[1].count("error: ") == 2
    strange = {"compose.yaml": WEB + "    foo: 1\n"}
    assert validate(folder(tmp_path / "c", strange))[1].count("error: ") == 1


def test_what_compose_refuses_in_words_that_are_new_here_is_told() -> None:
    words = "services.web additional properties {} not allowed"
    told = [located("c", "8.8", "not accepted", field="services.web.foo")]
    for key, repeated in (("'foo'", True), ("'foo', 'bar'", False), ('"foo"', False)):
        assert component_check._repeats(located("c", "8.6", words.format(key)), told) is repeated
    assert not component_check._repeats(located("c", "8.6", words.format("foo")), [])


@pytest.mark.parametrize(
    "files",
    [
        {"compose.yaml": WEB + "    env_file: /etc/hostname\n    ports: {a: b}\n"},
        {"compose.yaml": "include: [gone.yaml]\n" + WEB + "    ports: {a: b}\n"},
        {"compose.yaml": WEB + "    ports: {a: b}\n", ".env": "COMPOSE_FILE=/etc/hostname\n"},
        {"compose.yaml": "include: [a/b.yaml]\n" + WEB + "    ports: {a: b}\n", "a/b.yaml": "{}",
         "a/.env": "COMPOSE_FILE=/etc/hostname\n"},
    ],
)  # fmt: skip
def test_compose_is_not_asked_where_it_would_read_or_obey_something_else(tmp_path: Path, files: dict[str, str]) -> None:
    code, output = validate(folder(tmp_path, files))
    assert (code, output.count("error: ")) == (2, 1), output
    assert "compose config" not in output


def test_warnings_alone_are_no_error(tmp_path: Path) -> None:
    hello = folder(tmp_path / "hello", {"compose.yaml": WEB + "    build: .\n    volumes: ['/dev/ttyS0:/dev/ttyS0']\n"})
    code, output = validate(hello)
    assert code == 0
    assert output.splitlines()[:2] == [
        f"warning: {hello}/compose.yaml:4:5: services.web.build: ignored: a device builds nothing (rule 8.5)",
        f"warning: {hello}/compose.yaml:5:5: services.web.volumes: {BIND} (rule 8.5)",
    ]


def test_8_9_what_is_mounted_is_in_the_archive_or_a_path_of_the_device(tmp_path: Path) -> None:
    volumes = ["./page:/page", "../up:/up", "/dev:/dev", {"type": "bind", "source": "page/../../up", "target": "/b"}]
    web = {"image": "x", "volumes": [*volumes, "data:/data"]}
    text = as_yaml({"services": {"web": web}}).decode()
    hello = folder(tmp_path / "hello", {"compose.yaml": text + "volumes: {data: }\n", "page/index.html": ""})
    assert validate(hello)[1].splitlines() == [
        f"error: {hello}/compose.yaml:4:5: services.web.volumes: {source!r} leads out of the archive (rule 8.9)"
        for source in ("../up", "page/../../up")
    ]
    web["volumes"] = ["./page:/page", "data:/data"]
    bound = {"data": {"driver_opts": {"type": "none", "o": "bind,ro", "device": "/srv"}}}
    folder(hello, {"compose.yaml": as_yaml({"services": {"web": web}, "volumes": bound}).decode()})
    code, output = validate(hello)
    assert code == 0
    assert "services.web.volumes: page is mounted from the archive, read-only: the standard ships no bind" in output
    assert "compose.yaml:9:5: volumes.data.driver_opts: /srv is a path of the device: not shipped" in output


def test_without_compose_it_is_said_that_its_parser_did_not_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise FormatError(compose_missing("x86_64"))

    monkeypatch.setattr(component_check, "compose", missing)
    code, output = validate(folder(tmp_path, {"compose.yaml": WEB}))
    assert code == 2
    assert "Compose's own parser did not see it: Docker Compose is missing: install docker-compose-plugin" in output
    assert validate(folder(tmp_path / "q", {"web.container": UNIT}))[0] == 0


def test_an_archive_of_others_is_checked_too(tmp_path: Path) -> None:
    archive = tmp_path / "hello.tar.gz"
    archive.write_bytes(hostile(
        member("hello/compose.yaml", WEB.encode()), member("/etc/passwd"), member("hello/../x"),
        member("hello/su", mode=0o4755), member("hello/dev", kind=tarfile.CHRTYPE),
    ))  # fmt: skip
    code, output = validate(archive)
    assert code == 2
    assert output.splitlines() == [
        f"error: {archive}: path '/etc/passwd' is absolute: not accepted (rule 7.5)",
        f"error: {archive}: path 'hello/../x' is with ..: not accepted (rule 7.5)",
        f"error: {archive}: hello/su: setuid, setgid and sticky bits are not accepted (rule 7.5)",
        f"error: {archive}: hello/dev: only plain files and folders are accepted (rule 7.5)",
    ]
    archive.write_bytes(b"no archive")
    assert "not usable gzip" in validate(archive)[1]
    archive.write_bytes(hostile(member("hello/docker-compose.yml", b"services: {}")))
    assert f"{archive}: compose.yaml is missing: rename docker-compose.yml (rule 8.4)" in validate(archive)[1]


def test_json_and_sarif_say_the_same(tmp_path: Path) -> None:
    hello = folder(tmp_path / "hello", {"compose.yaml": WEB + "    develop: {}\n"})
    said = json.loads(call("validate", hello, "-o", "json").output)
    assert said == {
        "path": str(hello), "type": "compose", "valid": False, "composeChecked": True, "files": ["hello/compose.yaml"],
        "faults": [{"file": f"{hello}/compose.yaml", "level": "error", "rule": "8.8", "field": "services.web.develop",
                    "line": 4, "column": 5, "message": "not accepted: it is for the machine of a developer"}],
    }  # fmt: skip
    run = json.loads(call("validate", hello, "-o", "sarif").output)["runs"][0]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("8.8", "error")
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == f"file://{hello}/compose.yaml"
    assert place["region"] == {"startLine": 4, "startColumn": 5}
    assert {result["ruleId"]} <= {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(hostile(member("a/compose.yaml", b"models: {}\n" + WEB.encode())))
    (result,) = json.loads(call("validate", archive, "-o", "sarif").output)["runs"][0]["results"]
    assert result["message"]["text"].endswith("a/compose.yaml:1:1: models: not accepted: it would get round the lock")
    assert result["locations"] == [{"physicalLocation": {"artifactLocation": {"uri": f"file://{archive}"}}}]


def test_sarif_names_files_by_uris_and_no_place_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = {"a #1/büro.pem": "-----BEGIN PRIVATE KEY-----"}
    folder(tmp_path / "50% of:it", {"compose.yaml": WEB, **key})
    (result,) = json.loads(call("validate", "50% of:it", "-o", "sarif").output)["runs"][0]["results"]
    assert result["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "50%25%20of%3Ait/a%20%231/b%C3%BCro.pem"}}}
    ]
    (fault,) = json.loads(call("validate", "50% of:it", "-o", "json").output)["faults"]
    assert (fault["file"], fault["line"], fault["column"]) == ("50% of:it/a #1/büro.pem", None, None)


def test_8_11_the_folder_of_a_quadlet_archive_is_called_as_its_component(tmp_path: Path) -> None:
    archive = packed(tmp_path / "q.tar.gz", {"web.container": UNIT}, quadlet=True)
    assert validate(archive, "--name", "hello")[0] == 0
    code, output = validate(archive, "--name", "pump")
    assert (code, output) == (
        2, f"error: {archive}: the folder 'hello' must be called 'pump', as the component (rule 8.11)\n"
    )  # fmt: skip
    assert validate(folder(tmp_path / "Hello World", {"web.container": UNIT}))[0] == 2
    assert validate(tmp_path / "Hello World", "--name", "hello")[0] == 0


def test_the_kind_may_be_said(tmp_path: Path) -> None:
    both = folder(tmp_path / "both", {"compose.yaml": WEB, "web.container": UNIT})
    assert "a Compose component" in validate(both)[1]
    assert "a Quadlet component" in validate(both, "--type", "quadlet")[1]
    assert validate(folder(tmp_path / "q", {"web.container": UNIT}), "--type", "compose")[0] == 2


def test_push_tells_each_fault_as_one_of_the_folder(tmp_path: Path) -> None:
    hello = folder(
        tmp_path / "hello", {"compose.yaml": WEB + "    develop: {}\n", "tls/key.pem": "-----BEGIN PRIVATE KEY-----"}
    )
    done = call("push", hello, "127.0.0.1:1/components/hello:1.0.0", "--plain-http")
    assert isinstance(done.exception, FormatError)
    assert done.exception.faults == (
        f"{hello}/tls/key.pem: {NO_KEYS}",
        f"{hello}/compose.yaml:4: services.web.develop: not accepted: it is for the machine of a developer",
    )


def test_pull_writes_a_folder_whole_and_replaces_none_that_is_not_its_own(tmp_path: Path) -> None:
    entries = [Entry("compose.yaml", b"one"), Entry("sub", folder=True), Entry("sub/run.sh", b"", executable=True)]
    hello = tmp_path / "new" / "hello"
    write_folder(entries, hello, force=False)
    assert {path: one.executable for path, one in read_component(hello)[0].items()} == {
        "compose.yaml": False, "sub/run.sh": True
    }  # fmt: skip
    with pytest.raises(FormatError, match="hello is there and not empty: nothing was written; --force replaces it"):
        write_folder(entries, hello, force=False)
    write_folder([Entry("web.container", b"two")], hello, force=True)
    assert list(read_component(hello)[0]) == ["web.container"]
    other = folder(tmp_path / "other", {"letters.txt": "dear"})
    with pytest.raises(FormatError, match="other is there and holds no component: it is not replaced"):
        write_folder(entries, other, force=True)
    (tmp_path / "empty").mkdir()
    write_folder(entries, tmp_path / "empty", force=False)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "new", "other"]


def test_who_stops_a_pull_at_any_moment_keeps_one_of_the_two(tmp_path: Path) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    for moment in (1, 2):
        hello = folder(tmp_path / str(moment), {"compose.yaml": "old"})
        with during(Outage(stop, moment, (RENAME,), below=str(tmp_path))) as outage, pytest.raises(KeyboardInterrupt):
            write_folder([Entry("compose.yaml", b"new")], hello, force=True)
        assert outage.struck
        assert (hello / "compose.yaml").read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["1", "2"]


def test_pull_writes_neither_over_a_file_nor_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(FormatError, match="is there and is no folder"):
            check_place(tmp_path / name, force=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="this is where you are"):
        check_place(Path(), force=True)


def test_defaults_that_nest_endlessly_are_read_in_no_time() -> None:
    nested = "".join(f"${{A{number}:-" for number in range(20_000)) + "}" * 20_000
    begun_s = time.process_time()
    found = variables_of(nested)
    assert (len(found), len(found["A0"].default or ""), found["A19999"].default) == (20_000, 1000, "")
    assert time.process_time() - begun_s < 5


def test_a_pipe_is_no_archive_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar.gz")
    assert str(call("validate", tmp_path / "x.tar.gz").exception) == (
        f"{tmp_path}/x.tar.gz: a folder or an archive file is expected, no pipe, socket or device"
    )


def test_variables_of_a_template_have_their_defaults() -> None:
    template = {"services": {"web": {"image": "x:${TAG:-1}", "command": ["$A $$B ${C?say it} ${D}", "${E-${F:-x}}"],
                                     "labels": {"a": "${TAG} ${G:+set} ${D:-later} ${"}, "n": 1}}}  # fmt: skip
    assert {one.name: (one.default, one.required) for one in variables_of(template).values()} == {
        "A": (None, False), "C": (None, True), "D": ("later", False), "E": ("${F:-x}", False),
        "F": ("x", False), "G": (None, False),
        "TAG": ("1", False),
    }  # fmt: skip
