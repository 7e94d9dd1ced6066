"""Content on the disk: whole and right, or not there."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.archive import Entry
from margo_oci.content import Descriptor
from margo_oci.errors import RegistryError, TrustError
from margo_oci.store import Store, extract, remove_folder, write_whole

DATA = b"0123456789" * 10
BLOB = Descriptor.of(DATA, "a/b")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Somebody else's idea of which bits to drop."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def receive(store: Store, *chunks: bytes) -> None:
    """Take what a registry sends, which may break off."""
    with store.receive(BLOB) as part:
        for chunk in chunks:
            part.write(chunk)
        if part.have_bytes < BLOB.size:
            raise RegistryError("the line broke")


def test_a_blob_is_there_when_it_is_whole(store: Store) -> None:
    assert not store.has(BLOB)
    assert store.read(BLOB) is None
    receive(store, DATA[:40], DATA[40:])
    assert store.has(BLOB)
    assert not store.has_part(BLOB)
    assert store.read(BLOB) == DATA
    assert store.path(BLOB).name == BLOB.digest.removeprefix("sha256:")


def test_what_was_cut_off_goes_on_where_it_ended(store: Store) -> None:
    with pytest.raises(RegistryError, match="the line broke"):
        receive(store, DATA[:40])
    assert store.has_part(BLOB)
    assert not store.has(BLOB)
    with store.receive(BLOB) as part:
        assert part.have_bytes == 40
        part.write(DATA[40:])
    assert store.read(BLOB) == DATA


def test_what_was_cut_off_can_be_begun_anew(store: Store) -> None:
    with pytest.raises(RegistryError):
        receive(store, DATA[:40])
    with store.receive(BLOB) as part:
        part.restart()
        assert part.have_bytes == 0
        part.write(DATA)
    assert store.read(BLOB) == DATA


@pytest.mark.parametrize("wrong", [b"x" * 100, DATA + b"x", DATA[:-1] + b"x"])
def test_wrong_content_is_dropped(wrong: bytes, store: Store) -> None:
    with pytest.raises(TrustError) as refused:
        receive(store, wrong)
    assert refused.value.reason == "digest-mismatch"
    assert not store.has(BLOB)
    assert not store.has_part(BLOB)


def test_a_wrong_beginning_is_dropped_when_the_end_is_there(store: Store) -> None:
    with pytest.raises(RegistryError):
        receive(store, b"x" * 40)
    with pytest.raises(TrustError, match="tampered content or a broken registry"):
        receive(store, DATA[40:])
    assert not store.has_part(BLOB)
    receive(store, DATA)
    assert store.read(BLOB) == DATA


@pytest.mark.parametrize("left", [DATA, DATA + b"too much", b"y" * 100])
def test_a_part_that_leaves_nothing_to_ask_for_is_begun_anew(left: bytes, store: Store) -> None:
    store.ingest.mkdir(parents=True)
    store._part(BLOB).write_bytes(left)
    with store.receive(BLOB) as part:
        assert part.have_bytes == 0
        part.write(DATA)
    assert store.read(BLOB) == DATA


def test_a_part_is_never_written_through_a_link(store: Store, tmp_path: Path) -> None:
    store.ingest.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"mine")
    store._part(BLOB).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        receive(store, DATA)
    assert (tmp_path / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize("bad", [b"x" * 100, DATA[:50], b"", DATA + b"x"])
def test_a_blob_that_went_bad_on_the_disk_is_dropped_when_it_is_read(bad: bytes, store: Store) -> None:
    store.add(BLOB, DATA)
    store.path(BLOB).write_bytes(bad)
    assert store.read(BLOB) is None
    assert not store.has(BLOB)


def test_a_small_blob_is_kept_in_one_go(store: Store) -> None:
    store.add(BLOB, DATA)
    assert store.read(BLOB) == DATA
    with pytest.raises(TrustError):
        store.add(Descriptor.of(b"other", "a/b"), DATA)


def test_nothing_at_all_is_a_blob_too(store: Store) -> None:
    empty = Descriptor.of(b"", "a/b")
    store.add(empty, b"")
    assert store.read(empty) == b""


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(0, 100))
def test_however_it_comes_it_is_whole_or_not_there(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], cut: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store", numbered=True))
    for attempt in ([DATA[:cut]], chunks):
        before = store.read(BLOB)
        try:
            receive(store, *attempt)
        except (TrustError, RegistryError):
            assert store.read(BLOB) == before
        else:
            assert store.read(BLOB) == DATA


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_whole(file, b"old")
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_what_a_power_cut_left_beside_a_file_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_whole(file, b"old")
    (tmp_path / ".record.json.new").write_bytes(b"a longer text that was not finished")
    assert file.read_bytes() == b"old"
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"


def test_a_file_that_cannot_be_replaced_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "record.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "record.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / ".record.json.new").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "record.json", b"new")
    assert (tmp_path / "precious").read_bytes() == b"mine"


@pytest.mark.usefixtures("umask")
def test_whatever_the_umask_a_containers_user_can_read_what_was_unpacked(tmp_path: Path) -> None:
    entries = [
        Entry("config", folder=True),
        Entry("config/app.conf", b"x"),
        Entry("bin/start", b"#!/bin/sh\n", executable=True),
    ]
    extract(entries, tmp_path / "component")
    modes = {
        path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "component").rglob("*")
    }
    assert modes == {
        "component/config": 0o755,
        "component/config/app.conf": 0o644,
        "component/bin": 0o755,
        "component/bin/start": 0o755,
    }
    assert (tmp_path / "component" / "config" / "app.conf").read_bytes() == b"x"


def test_an_archive_is_unpacked_into_a_new_folder_only(tmp_path: Path) -> None:
    extract([Entry("a", b"1")], tmp_path / "component")
    with pytest.raises(FileExistsError):
        extract([Entry("a", b"2")], tmp_path / "component")
    assert (tmp_path / "component" / "a").read_bytes() == b"1"


def test_two_who_receive_one_blob_at_once_do_not_meet(store: Store) -> None:
    with store.receive(BLOB) as first:
        first.write(DATA[:2])
        with pytest.raises(RegistryError, match="the line broke"):
            receive(store, DATA[:40])
        with store.receive(BLOB) as second:
            assert second.have_bytes == 0
            second.write(DATA)
        assert store.read(BLOB) == DATA
        first.write(DATA[2:])
    assert store.read(BLOB) == DATA
    assert list(store.ingest.iterdir()) == []


def test_a_file_that_was_secret_stays_secret_whatever_was_left_beside_it(tmp_path: Path) -> None:
    left = tmp_path / ".secret.new"
    left.write_bytes(b"x")
    left.chmod(0o644)
    write_whole(tmp_path / "secret", b"y")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_what_a_power_cut_leaves_of_a_removed_folder_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "generation"
    (folder / "parts").mkdir(parents=True)
    with monkeypatch.context() as cut:
        cut.setattr("margo_oci.store.shutil.rmtree", lambda *_, **__: None)
        remove_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == [".generation.gone"]
    folder.mkdir()
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
