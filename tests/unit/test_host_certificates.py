"""Certificates where Docker's and Podman's tools keep them."""

from pathlib import Path

import pytest

from margo_oci.errors import FormatError
from margo_oci.host_certificates import Certificates, certificate_folders, find_certificates

HOST = "registry.example:5000"


def keep(folder: Path, *names: str) -> Path:
    """Keep empty files for the host."""
    (folder / HOST).mkdir(parents=True)
    for name in names:
        (folder / HOST / name).touch()
    return folder / HOST


def test_the_users_folders_go_before_the_machines() -> None:
    home = Path("/home/op")
    assert certificate_folders({}, home) == [
        home / ".config/containers/certs.d",
        home / ".docker/certs.d",
        Path("/etc/containers/certs.d"),
        Path("/etc/docker/certs.d"),
    ]
    found = certificate_folders({"XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"}, home)
    assert found[:2] == [Path("/c/containers/certs.d"), Path("/d/certs.d")]


def test_the_first_folder_that_knows_the_host_counts(tmp_path: Path) -> None:
    mine, machine = tmp_path / "mine", tmp_path / "machine"
    kept = keep(mine, "ca.crt", "other.crt", "client.cert", "client.key", "notes.txt")
    keep(machine, "ca.crt")
    found = find_certificates([tmp_path / "none", mine, machine], HOST)
    assert found == Certificates((kept / "ca.crt", kept / "other.crt"), kept / "client.cert", kept / "client.key")
    assert find_certificates([mine, machine], "registry.example") == Certificates()


def test_an_empty_folder_says_nothing(tmp_path: Path) -> None:
    keep(tmp_path / "mine")
    kept = keep(tmp_path / "machine", "ca.crt")
    assert find_certificates([tmp_path / "mine", tmp_path / "machine"], HOST).ca_files == (kept / "ca.crt",)


@pytest.mark.parametrize(
    ("name", "message"), [("client.cert", "its key is missing"), ("client.key", "its certificate is missing")]
)
def test_half_a_client_certificate_is_told(name: str, message: str, tmp_path: Path) -> None:
    kept = keep(tmp_path, "ca.crt", name)
    with pytest.raises(FormatError, match=f"{kept / name}: {message}"):
        find_certificates([tmp_path], HOST)
