"""Folders of documents and components, as people keep them."""

import os
from pathlib import Path

import pytest

from margo_cli import folder as folder_room
from margo_cli.folder import read_component, read_deployments
from margo_oci.errors import FormatError
from tests.unit.scenes import ID, OTHER_ID, as_yaml, document


def test_every_document_of_a_folder_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(as_yaml(document()))
    (tmp_path / "a.yaml").write_bytes(as_yaml(document(OTHER_ID)))
    (tmp_path / "README.md").write_text("no document")
    (tmp_path / "sub").mkdir()
    found = read_deployments(tmp_path)
    assert [(one.file.name, one.deployment.id) for one in found] == [("a.yaml", OTHER_ID), ("b.yaml", ID)]


def test_one_id_in_two_files_is_told_with_both(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(as_yaml(document(ID)))
    (tmp_path / "b.yaml").write_bytes(as_yaml(document(ID.upper())))
    with pytest.raises(FormatError) as refused:
        read_deployments(tmp_path)
    assert str(refused.value) == f"{tmp_path}/b.yaml:1: id: {ID} stands in {tmp_path}/a.yaml, too"


def test_another_ending_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(as_yaml(document()))
    (tmp_path / "b.yml").write_bytes(as_yaml(document(OTHER_ID)))
    with pytest.raises(FormatError) as refused:
        read_deployments(tmp_path)
    assert str(refused.value) == f"{tmp_path}/b.yml: ends in .yml: rename it to b.yaml, or it is not published"


def test_a_folder_that_is_called_as_a_document_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(as_yaml(document()))
    (tmp_path / "b.yaml").mkdir()
    with pytest.raises(FormatError, match=r"b.yaml: is a folder: documents lie side by side"):
        read_deployments(tmp_path)


def test_links_and_pipes_are_no_documents_wherever_they_lead(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(as_yaml(document()))
    (tmp_path / "a.yaml").symlink_to("outside")
    (tmp_path / "b.yaml").symlink_to("gone.yaml")
    os.mkfifo(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_bytes(as_yaml(document("x")))
    with pytest.raises(FormatError) as refused:
        read_deployments(tmp_path)
    assert list(refused.value.faults[:3]) == [
        f"{tmp_path}/{name}.yaml: a plain file is expected, no link, pipe, socket or device" for name in "abc"
    ]
    assert len(refused.value.faults) == 4


def test_files_that_lie_behind_a_link_or_in_no_folder_do_not_go_with_a_deployment(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_bytes(as_yaml(document(ID if name == "a" else OTHER_ID)))
    (tmp_path / "a.files").symlink_to("/etc/ssl")
    (tmp_path / "b.files").touch()
    with pytest.raises(FormatError) as refused:
        read_deployments(tmp_path)
    assert list(refused.value.faults) == [
        f"{tmp_path}/{name}.files: a folder with the files of a deployment is expected, no link and no file"
        for name in "ab"
    ]


def test_the_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(as_yaml(document("x")))
    (tmp_path / "b.yaml").write_bytes(b"a: 1\na: 2\n")
    (tmp_path / "c.yaml").write_bytes(b"")
    (tmp_path / "d.yml").touch()
    with pytest.raises(FormatError) as refused:
        read_deployments(tmp_path)
    assert [fault.removeprefix(f"{tmp_path}/") for fault in refused.value.faults] == [
        "a.yaml:1: id: 'x' does not fit: a UUID",
        "b.yaml:2: 'a' stands twice",
        "c.yaml:1: an ApplicationDeployment is expected, got an empty file",
        "d.yml: ends in .yml: rename it to d.yaml, or it is not published",
    ]


def test_a_folder_may_lack_what_is_about_to_be_deployed(tmp_path: Path) -> None:
    raw = document()
    raw["metadata"]["annotations"] = {"org.margo.oci.dependsOn": "database"}
    (tmp_path / "a.yaml").write_bytes(as_yaml(raw))
    assert len(read_deployments(tmp_path, complete=False)) == 1
    with pytest.raises(FormatError, match="database"):
        read_deployments(tmp_path)


def test_an_empty_folder_must_be_meant(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match="an empty state makes devices remove everything; if that is meant, --allow-empty"
    ):
        read_deployments(tmp_path)
    assert read_deployments(tmp_path, allow_empty=True) == []


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="gone: a folder with ApplicationDeployments"):
        read_deployments(tmp_path / "gone", allow_empty=True)
    with pytest.raises(FormatError, match=r"gone: a folder with compose.yaml or with units of Quadlet is expected"):
        read_component(tmp_path / "gone")


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * 1_100_000)
    with pytest.raises(FormatError, match=r"a.yaml: 1048577 bytes, at most 1048576 are read"):
        read_deployments(tmp_path)


def test_14_2_a_private_key_is_not_published_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_bytes(as_yaml(document()))
    (tmp_path / "hello.files").mkdir()
    (tmp_path / "hello.files" / "tls.pem").write_bytes(b"# ours\n-----BEGIN EC PRIVATE KEY-----\n")
    with pytest.raises(FormatError, match=r"hello\.files/tls\.pem: a private key .* `margo-oci encrypt`"):
        read_deployments(tmp_path)


def test_a_component_is_all_its_files_with_what_is_executable(tmp_path: Path) -> None:
    for path in ("compose.yaml", "config/app.conf", "bin/start", ".env", ".git/config", "sub/.DS_Store"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bin" / "start").chmod(0o750)
    found, _ = read_component(tmp_path)
    assert sorted(found) == [".env", "bin/start", "compose.yaml", "config/app.conf"]
    assert found["bin/start"].executable
    assert not found["compose.yaml"].executable
    assert found["config/app.conf"].data == b"config/app.conf"


def test_links_and_pipes_are_not_packaged(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").touch()
    (tmp_path / "a").symlink_to("compose.yaml")
    (tmp_path / "b").symlink_to("/etc")
    os.mkfifo(tmp_path / "c")
    _, faults = read_component(tmp_path)
    assert faults == [(name, "only plain files are packaged, no links, sockets or devices") for name in "abc"]


def test_a_component_has_a_size_that_devices_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_room, "UNPACKED_LIMIT_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(FormatError, match="more than 10 bytes or 10000 files"):
        read_component(tmp_path)
