"""`margo-oci keygen`: two files, never over others, the private one for its owner alone."""

import errno
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from margo_cli.keygen import keygen
from margo_oci.errors import FormatError
from margo_oci.keys import FileKey, PasswordNeeded, PublicKey


def run(*arguments: str, password: str | None = None) -> Result:
    environment = {"MARGO_OCI_KEY_PASSWORD": password}
    return CliRunner().invoke(keygen, arguments, env=environment, catch_exceptions=True)


def test_a_pair_is_written_and_its_fingerprint_told(tmp_path: Path) -> None:
    done = run("-o", str(tmp_path / "keys"), "--name", "fleet", "--no-password")
    assert done.exit_code == 0
    private, public = tmp_path / "keys" / "fleet.key", tmp_path / "keys" / "fleet.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = PublicKey.from_pem(public.read_bytes(), name="fleet.pub")
    assert done.stdout.strip() == key.fingerprint
    assert FileKey.from_pem(private.read_bytes(), None, name="fleet.key").public.der == key.der


def test_the_password_comes_from_the_environment(tmp_path: Path) -> None:
    assert run("-o", str(tmp_path), password="secret").exit_code == 0
    data = (tmp_path / "margo.key").read_bytes()
    assert FileKey.from_pem(data, b"secret", name="k")
    with pytest.raises(PasswordNeeded):
        FileKey.from_pem(data, None, name="k")


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    """A secret that a pipeline forgot to set must not leave a key unencrypted."""
    done = run("-o", str(tmp_path), password="")
    assert "the password is empty" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_without_a_password_and_a_terminal_it_must_be_meant(tmp_path: Path) -> None:
    done = run("-o", str(tmp_path))
    assert isinstance(done.exception, FormatError)
    assert str(done.exception) == ("set MARGO_OCI_KEY_PASSWORD, or pass --no-password for an unencrypted key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["margo.key", "margo.pub"])
def test_keys_are_never_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    done = run("-o", str(tmp_path), "--no-password")
    assert str(done.exception) == f"{tmp_path / there} is there already: keys are never overwritten"
    assert (tmp_path / there).read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == [there]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a"])
def test_a_name_is_a_file_name(name: str, tmp_path: Path) -> None:
    done = run("-o", str(tmp_path), "--name", name, "--no-password")
    assert str(done.exception) == f"--name {name!r}: a file name is expected"


@pytest.mark.parametrize("full_at", [1, 2])
def test_a_full_disk_leaves_no_half_of_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int) -> None:
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = run("-o", str(tmp_path), "--no-password")
    assert isinstance(done.exception, OSError)
    assert str(done.exception.filename).startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert run("-o", str(tmp_path), "--no-password").exit_code == 0
