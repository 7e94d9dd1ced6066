"""What a Compose Archive may hold, and the one door to Compose."""

from pathlib import Path
from typing import Any

import pytest

from margo_oci.compose import Compose, faults_of_template, find_compose, images_of, images_of_template
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


def test_a_path_that_only_the_deployment_knows_is_left_to_it(tmp_path: Path) -> None:
    assert faults_of_template(model(env_file=[{"path": "${SITE}.env"}]), tmp_path) == ([], [])


def test_a_secret_file_is_a_fault_whether_it_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch()
    one = {**model(), "secrets": {"key": {"file": "key.pem"}}}
    assert faults_of_template(one, tmp_path) == (["secrets.key.file: secrets must not be shipped"], [])


def test_a_device_builds_nothing(tmp_path: Path) -> None:
    assert faults_of_template({"services": {"web": {"build": {"context": "."}}}}, tmp_path) == (
        ["services.web: no image: a device builds nothing, push the image and name it"],
        [],
    )
    assert faults_of_template(model(build={"context": "."}), tmp_path) == (
        [],
        ["services.web.build: ignored: a device builds nothing"],
    )


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


def test_hashes_are_read_service_by_service(tmp_path: Path) -> None:
    compose = script(tmp_path, "printf 'web abc\\ndb def\\n'")
    assert compose.hashes(tmp_path / "web.json", project="p", variables={}) == {"web": "abc", "db": "def"}
