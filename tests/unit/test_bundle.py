"""What `bundle` writes, where to, and what it leaves as it is."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from margo_cli.main import cli
from margo_oci.bundle import open_existing
from margo_oci.errors import FormatError, MargoError
from margo_oci.layout import open_layout, tar_of

NOWHERE = "127.0.0.1:1/fleet/edge-17:latest"  # nobody answers: what comes so far was not refused


def refused(*arguments: str) -> MargoError:
    done = CliRunner().invoke(cli, ["bundle", NOWHERE, "--plain-http", *arguments], standalone_mode=False)
    assert isinstance(done.exception, MargoError)
    return done.exception


def test_13_4_a_tar_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    there = tmp_path / "backup.tar"
    there.write_bytes(b"somebody's own")
    error = refused("-o", str(there))
    assert isinstance(error, FormatError)
    assert "it is there already" in str(error)
    assert "name another, or have it replaced with --force" in str(error)
    assert not isinstance(refused("-o", str(there), "--force"), FormatError)
    assert there.read_bytes() == b"somebody's own"


def test_13_4_an_earlier_bundle_makes_way_for_a_newer_one(tmp_path: Path) -> None:
    earlier = tmp_path / "site.tar"
    earlier.write_bytes(b"".join(tar_of([], [])))
    assert not isinstance(refused("-o", str(earlier)), FormatError)
    assert open_layout(earlier).entries == []


def test_13_4_force_is_no_way_around_what_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("somebody's own")
    (tmp_path / "folder.tar").mkdir()
    for name, words in (("notes", "it is there already"), ("folder.tar", "a folder is there")):
        error = refused("-o", str(tmp_path / name), "--force")
        assert isinstance(error, FormatError)
        assert words in str(error)
        assert "--force" not in str(error)
    assert not list(tmp_path.glob("*.part"))


def test_13_4_a_tar_is_one_in_capitals_too(tmp_path: Path) -> None:
    (tmp_path / "SITE.TAR").write_bytes(b"there")
    with pytest.raises(FormatError, match="it is there already"):
        open_existing(tmp_path / "SITE.TAR")
    assert open_existing(tmp_path / "SITE.TAR", replace_tar=True) is None
    with pytest.raises(FormatError, match=r"a folder or a \.tar"):
        open_existing(tmp_path / "site.tar.GZ")
