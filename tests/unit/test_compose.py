"""What a Compose Archive may hold, and the one door to Compose."""

from pathlib import Path
from typing import Any

import pytest

from margo_oci.compose import (
    Compose,
    compose_missing,
    faults_of_template,
    find_compose,
    images_of,
    images_of_template,
    without_default,
)
from margo_oci.composefile import NO_SECRETS
from margo_oci.errors import ApplyError, FormatError


def model(**service: Any) -> dict[str, Any]:
    return {"services": {"web": {"image": "registry.example/web:1", **service}}}


def script(folder: Path, text: str) -> Compose:
    """A stand-in for the Compose program, to see how it is called and what becomes of its answers."""
    file = folder / "docker-compose"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return Compose([str(file)], {"PATH": "/usr/bin:/bin"})


def test_images_are_named_once_each_in_order() -> None:
    services = {"a": {"image": "y"}, "b": {"image": "x"}, "c": {"image": "y"}, "d": {"build": "."}}
    assert images_of({"services": services}) == ["x", "y"]


def test_a_service_behind_a_profile_leads_to_no_image() -> None:
    assert images_of_template({"services": {"a": {"image": "x"}, "b": {"image": "y", "profiles": ["debug"]}}}) == ["x"]


def test_an_archive_without_secrets_and_strays_has_no_faults(tmp_path: Path) -> None:
    (tmp_path / "app.env").touch()
    (tmp_path / "app.conf").touch()
    one = model(env_file=[{"path": "app.env"}], volumes=[{"type": "volume", "source": "data"}])
    one["configs"] = {"app": {"file": str(tmp_path / "app.conf")}, "inline": {"content": "x"}}
    one["secrets"] = {"key": {"environment": "KEY"}}
    assert faults_of_template(one, tmp_path) == ([], [])


@pytest.mark.parametrize("path", ["gone.env", "../app.env", "/etc/hostname", "link/hostname"])
def test_a_file_that_is_not_in_the_archive_is_a_fault(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    (tmp_path / "app.env").touch()
    (folder / "link").symlink_to("/etc")
    faults, _ = faults_of_template(model(env_file=[{"path": path}]), folder)
    assert faults == [f"services.web.env_file: {path} is not in the archive"]
    faults, _ = faults_of_template({**model(), "configs": {"app": {"file": path}}}, folder)
    assert faults == [f"configs.app.file: {path} is not in the archive"]


def test_a_path_with_a_variable_in_it_is_a_fault(tmp_path: Path) -> None:
    """Whoever fills it in would choose which file Compose reads."""
    assert faults_of_template(model(env_file=[{"path": "${SITE}.env"}]), tmp_path) == (
        ["services.web.env_file: ${SITE}.env is not in the archive"],
        [],
    )


def test_a_file_that_need_not_be_there_may_be_missing_but_not_lie_outside(tmp_path: Path) -> None:
    assert faults_of_template(model(env_file=[{"path": "gone.env", "required": False}]), tmp_path) == ([], [])
    faults, _ = faults_of_template(model(env_file=[{"path": "/etc/gone.env", "required": False}]), tmp_path)
    assert faults == ["services.web.env_file: /etc/gone.env is not in the archive"]


def test_what_is_missing_is_named_as_the_archive_has_it(tmp_path: Path) -> None:
    model = {"services": {"web": {"image": "web:1", "env_file": [{"path": f"{tmp_path}/app/.env"}]}}}
    faults, _ = faults_of_template(model | {"configs": {"c": {"file": f"{tmp_path}/c.txt"}}}, tmp_path)
    assert faults == [
        "services.web.env_file: app/.env is not in the archive", "configs.c.file: c.txt is not in the archive",
    ]  # fmt: skip


def test_what_a_device_does_not_run_is_a_fault(tmp_path: Path) -> None:
    faults, _ = faults_of_template({**model(provider={"type": "x"}), "models": {"m": {}}}, tmp_path)
    assert faults == [
        "models: not accepted: it would get round the lock",
        "services.web.provider: not accepted: it would get round the lock",
    ]


def test_a_secret_file_is_a_fault_whether_it_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch()
    one = {**model(), "secrets": {"key": {"file": "key.pem"}}}
    assert faults_of_template(one, tmp_path) == ([f"secrets.key.file: {NO_SECRETS}"], [])
    assert "write ${MARGO_FILES}/NAME, and put the file, encrypted with `margo-oci encrypt`" in NO_SECRETS


def test_a_device_builds_nothing(tmp_path: Path) -> None:
    assert faults_of_template({"services": {"web": {"build": {"context": "."}}}}, tmp_path) == (
        ["services.web: no image: a device builds nothing, push the image and name it"],
        [],
    )
    assert faults_of_template(model(build={"context": "."}), tmp_path) == (
        [],
        ["services.web.build: ignored: a device builds nothing"],
    )


def test_8_9_what_is_mounted_of_the_archive_must_be_in_it(tmp_path: Path) -> None:
    """The engine would make the folder, in what other deployments share."""
    one = model(volumes=[{"type": "bind", "source": f"{tmp_path}/data", "target": "/data"}])
    fault = "services.web.volumes: data is not in the archive: data belongs into a named volume"
    assert faults_of_template(one, tmp_path) == ([fault], [])
    (tmp_path / "data").mkdir()
    words = "data is mounted from the archive, read-only: the standard ships no bind mounts, prefer configs"
    assert faults_of_template(one, tmp_path) == ([], [f"services.web.volumes: {words}"])


def test_a_bind_mount_is_a_path_of_the_device(tmp_path: Path) -> None:
    one = model(volumes=[{"type": "bind", "source": "/dev/ttyS0", "target": "/dev/ttyS0"}, "data:/data"])
    assert faults_of_template(one, tmp_path) == (
        [],
        ["services.web.volumes: /dev/ttyS0 is a path of the device: not shipped"],
    )


def test_compose_sees_the_variables_of_the_deployment_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    monkeypatch.setenv("COMPOSE_FILE", "/elsewhere.yaml")
    compose = script(tmp_path, "env")
    seen = compose.run(["config"], file=None, project="p", variables={"SITE": "3", "PATH": "/evil"}, timeout_s=10)
    names = {line.partition("=")[0] for line in seen.splitlines()} - {"PWD", "SHLVL", "_", "OLDPWD"}
    assert names == {"PATH", "SITE", "COMPOSE_EXPERIMENTAL_GIT_REMOTE", "COMPOSE_EXPERIMENTAL_OCI_REMOTE"}
    assert "PATH=/usr/bin:/bin" in seen.splitlines()


@pytest.mark.parametrize("remote", ["oci://127.0.0.1:9/x/y:1", "https://127.0.0.1:9/a.git#main:sub"])
def test_8_5_a_compose_file_fetches_nothing_from_elsewhere(tmp_path: Path, remote: str) -> None:
    """With the real Compose: what it would fetch, no digest of ours would cover."""
    (tmp_path / "compose.yaml").write_text(f"include: ['{remote}']\nservices: {{a: {{image: x}}}}\n")
    with pytest.raises(FormatError, match="remote resource is disabled"):
        Compose(find_compose(), {"PATH": "/usr/bin:/bin"}).template(tmp_path)


def test_compose_is_told_project_folder_and_file(tmp_path: Path) -> None:
    compose = script(tmp_path, 'printf "%s\\n" "$@"')
    said = compose.run(["up", "--detach"], file=tmp_path / "a" / "compose.yaml", project="web-1", timeout_s=10)
    assert said.split() == [
        "--project-name", "web-1", "--progress", "quiet", "--project-directory", str(tmp_path / "a"),
        "--file", str(tmp_path / "a" / "compose.yaml"), "up", "--detach",
    ]  # fmt: skip


def test_an_error_is_told_in_the_words_of_compose(tmp_path: Path) -> None:
    compose = script(tmp_path, "echo 'level=warning x' >&2; echo 'no such image' >&2; exit 17")
    with pytest.raises(ApplyError, match=r"^compose up: no such image$"):
        compose.run(["up"], file=None, project="p", timeout_s=10)
    with pytest.raises(ApplyError, match=r"^compose up: failed without a word$"):
        script(tmp_path, "exit 1").run(["up"], file=None, project="p", timeout_s=10)


def test_a_compose_that_is_missing_or_hangs_is_an_error_that_can_be_handled(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match=r"^compose up: .*No such file or directory"):
        Compose([str(tmp_path / "gone")], {}).run(["up"], file=None, project="p", timeout_s=10)
    with pytest.raises(ApplyError, match=r"^compose up: not done after 0 s$"):
        script(tmp_path, "exec tail -f /dev/null").run(["up"], file=None, project="p", timeout_s=0.05)


def test_a_model_longer_than_anyone_needs_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"^compose.yaml: compose config: the model has more than 16777216 bytes$"):
        script(tmp_path, "yes").template(tmp_path)


def test_an_error_behind_many_words_is_told(tmp_path: Path) -> None:
    flood = "i=0; while [ $i -lt 9000 ]; do echo 'level=warning no such variable' >&2; i=$((i+1)); done"
    with pytest.raises(FormatError, match=r"^compose.yaml: compose config: no such image$"):
        script(tmp_path, f"{flood}; echo 'no such image' >&2; exit 15").template(tmp_path)


def test_a_compose_that_breaks_down_is_told_without_its_stack(tmp_path: Path) -> None:
    text = "printf 'runtime: out of memory\n\ngoroutine 1:\nmain.main()\n a.go:1\n b.go:2\n c.go:3\n' >&2; exit 2"
    with pytest.raises(FormatError, match=r"compose config: runtime: out of memory \(it may use 1073741824 bytes "):
        script(tmp_path, text).template(tmp_path)


def test_words_of_a_stranger_do_not_move_the_cursor(tmp_path: Path) -> None:
    with pytest.raises(ApplyError) as error:
        script(tmp_path, r"printf 'no \033[2J\r\302\233 image\007\n' >&2; exit 1").run(
            ["up"], file=None, project="p", timeout_s=10
        )
    assert str(error.value) == "compose up: no  [2J image"


def test_a_config_that_hangs_is_given_up_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("margo_oci.compose.CONFIG_TIMEOUT_S", 0.1)
    with pytest.raises(FormatError, match=r"compose config: not done after 0 s$"):
        script(tmp_path, "tail -f /dev/null & tail -f /dev/null").template(tmp_path)


def test_the_real_compose_may_use_so_much_memory_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of a hundred kilobytes, forty thousand times: four gigabytes."""
    monkeypatch.setattr("margo_oci.compose.CONFIG_MEMORY_LIMIT_BYTES", 256 * 1024 * 1024)
    labels = ", ".join(f"k{number}: '{'${A}' * 100}'" for number in range(400))
    (tmp_path / "compose.yaml").write_text(f"services: {{web: {{image: x, labels: {{{labels}}}}}}}")
    compose = Compose(find_compose(), {"PATH": "/usr/bin:/bin"})
    with pytest.raises(FormatError, match=r"memory.* \(it may use 268435456 bytes to read a Compose file\)$"):
        compose.model(tmp_path, project="p", variables={"A": "x" * 100_000})


def test_the_real_compose_may_use_so_much_of_a_processor_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("margo_oci.compose.CONFIG_CPU_LIMIT_S", 1)
    bomb = "x-0: &a0 [x]\n" + "".join(f"x-{n}: &a{n} [{f'*a{n - 1}, ' * 10}]\n" for n in range(1, 10))
    (tmp_path / "compose.yaml").write_text(bomb + "services: {web: {image: x}}")
    with pytest.raises(FormatError, match=r"compose config: killed: it may use a processor for 1 s$"):
        Compose(find_compose(), {"PATH": "/usr/bin:/bin"}).template(tmp_path)


def test_a_value_with_a_nul_character_is_an_error_that_can_be_handled(tmp_path: Path) -> None:
    with pytest.raises(ApplyError, match=r"^compose up: "):
        script(tmp_path, "exit 0").run(["up"], file=None, project="p", variables={"A": "a\0b"}, timeout_s=10)


@pytest.mark.parametrize("answer", ["{}", '{"services":{}}', '{"services":[]}', "[]", "rubbish", ""])
def test_a_model_without_services_is_a_fault_of_the_file(answer: str, tmp_path: Path) -> None:
    compose = script(tmp_path, f"echo '{answer}'")
    with pytest.raises(FormatError, match=r"^compose.yaml: "):
        compose.template(tmp_path)


def test_a_fault_in_the_file_is_told_without_our_folders(tmp_path: Path) -> None:
    compose = script(tmp_path, f"echo '{tmp_path}/compose.yaml: services.web.image must be a string' >&2; exit 15")
    with pytest.raises(FormatError) as refused:
        compose.model(tmp_path, project="p", variables={})
    assert str(refused.value) == "compose.yaml: compose config: compose.yaml: services.web.image must be a string"


def test_what_nobody_set_is_read_from_the_words_of_compose(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x, labels: {a: $A, b: '${B:-$C}', d: '${D-}'}}}")
    filled = Compose(find_compose(), {"PATH": "/usr/bin:/bin"}).filled(tmp_path, project="p", variables={"A": "1"})
    assert filled.unset == {"C"}
    assert filled.model["services"]["web"]["labels"] == {"a": "1", "b": "", "d": ""}


def test_variables_without_a_default_are_seen_in_a_template() -> None:
    found = without_default(model(labels=["$A ${B} ${C:-x} ${D:?x} ${E?x} ${F:+x} $$G $${H} ${I-${J}}"]))
    assert found == {"A", "B", "D", "E", "J"}


def test_hashes_are_read_service_by_service(tmp_path: Path) -> None:
    compose = script(tmp_path, "printf 'web abc\\ndb def\\n'")
    assert compose.hashes(tmp_path / "web.json", project="p", variables={}) == {"web": "abc", "db": "def"}


def test_where_compose_is_missing_the_way_to_get_it_is_one_of_this_machine() -> None:
    assert "pip install 'margo-oci[compose]'" in compose_missing("x86_64")
    for machine in ("aarch64", "armv7l", "riscv64"):
        words = compose_missing(machine)
        assert f"docker-compose-linux-{machine} " in words
        assert "pip install" not in words
