"""Image layouts: read from folders and tars with limits, refused when hostile, written the same each time."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from margo_oci.content import Descriptor, canonical_json, digest_of
from margo_oci.errors import FormatError, TrustError
from margo_oci.layout import ENTRY_LIMIT, INDEX_LIMIT_BYTES, MARKER_DATA, NAME, frame, index_of, open_layout, tar_of
from margo_oci.store import Store
from tests.unit.scenes import gzip_of, member
from tests.unit.scenes import tar_of as any_tar

BLOB = b"content of a blob"
DESCRIPTOR = Descriptor.of(BLOB, "application/octet-stream", {NAME: "registry.example/fleet/edge-17:latest"})
PATH = f"blobs/sha256/{digest_of(BLOB)[7:]}"
FILES: Mapping[str, bytes] = {"oci-layout": MARKER_DATA, "index.json": index_of([DESCRIPTOR]), PATH: BLOB}


def folder_of(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def tar(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "site.tar").write_bytes(data)
    return tmp_path / "site.tar"


def members(files: Mapping[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(name, data) for name, data in files.items()]


def test_13_1_a_folder_and_a_tar_of_it_are_read_alike(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "site", FILES)
    for layout in (open_layout(folder), open_layout(tar(tmp_path, any_tar(*members(FILES))))):
        assert [entry.digest for entry in layout.entries] == [DESCRIPTOR.digest]
        assert layout.size_bytes(DESCRIPTOR.digest) == len(BLOB)
        assert b"".join(layout.pieces(DESCRIPTOR.digest)) == BLOB
        assert b"".join(layout.pieces(DESCRIPTOR.digest, 3, 4)) == BLOB[3:7]
        assert layout.small(DESCRIPTOR.digest) == BLOB
        assert layout.size_bytes("sha256:" + "0" * 64) is None
        assert layout.small("sha256:" + "0" * 64) is None


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("oci-layout", None, "oci-layout is missing: an OCI image layout is expected"),
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}', "version 1.0.0 is expected"),
        ("oci-layout", b" " * 5000, "at most 4096 are read"),
        ("index.json", None, "index.json is missing"),
        ("index.json", b"[]", "a JSON object is expected"),
        ("index.json", b"{}", "an image index is expected"),
        ("index.json", b'{"manifests":[{}]}', r"manifests\[0\].mediaType"),
        ("index.json", b" " * (8 * 2**20 + 1), "at most 8388608 are read"),
        ("index.json", b'{"manifests":[' + b"0," * ENTRY_LIMIT + b"0]}", "at most 20000 are read"),
    ],
)
def test_13_1_what_is_no_layout_is_refused(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    files = {**FILES, name: data}
    folder = folder_of(tmp_path / "site", {name: data for name, data in files.items() if data is not None})
    with pytest.raises(FormatError, match=words):
        open_layout(folder)


def test_13_2_no_link_in_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(BLOB)
    for linked in (PATH, "blobs/sha256", "blobs", "index.json"):
        folder = folder_of(tmp_path / linked.replace("/", "-"), FILES)
        (folder / linked).rename(tmp_path / "elsewhere" if linked != PATH else tmp_path / "moved")
        (folder / linked).symlink_to(tmp_path / "elsewhere" if linked != PATH else tmp_path / "secret")
        with pytest.raises(FormatError, match="expected"):
            open_layout(folder).small(DESCRIPTOR.digest)
        if (tmp_path / "elsewhere").is_dir():
            (tmp_path / "elsewhere").rename(tmp_path / f"{linked.replace('/', '-')}-gone")


def test_13_2_a_pipe_in_a_folder_holds_nobody_up(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "site", FILES)
    (folder / PATH).unlink()
    os.mkfifo(folder / PATH)
    with pytest.raises(FormatError, match="a plain file is expected"):
        open_layout(folder).size_bytes(DESCRIPTOR.digest)


def test_13_2_a_folder_in_place_of_a_blob_is_refused_and_not_left_open(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "site", FILES)
    layout = open_layout(folder)
    (folder / PATH).unlink()
    (folder / PATH).mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(FormatError, match="a plain file is expected"):
            layout.size_bytes(DESCRIPTOR.digest)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_13_2_a_digest_leads_out_of_no_folder(tmp_path: Path) -> None:
    layout = open_layout(folder_of(tmp_path / "site", FILES))
    assert layout.size_bytes("sha256:../../index.json") is None
    assert layout.small("../index.json") is None
    for digest in ("sha256:../../index.json", "sha256:" + "0" * 64):
        assert not list(layout.pieces(digest, 0, 100))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_13_3_a_tar_with_anything_but_files_and_folders_is_refused(tmp_path: Path, kind: bytes) -> None:
    data = any_tar(*members(FILES), member("blobs/sha256/" + "1" * 64, kind=kind, link="/etc/shadow"))
    with pytest.raises(FormatError, match="only plain files and folders are accepted"):
        open_layout(tar(tmp_path, data))


def test_13_3_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    for name in ("index.json", f"./{PATH}"):
        with pytest.raises(FormatError, match="stands twice"):
            open_layout(tar(tmp_path, any_tar(*members(FILES), member(name, b"{}"))))


def test_13_3_other_names_lead_nowhere(tmp_path: Path) -> None:
    strangers = ("../index.json", "/etc/passwd", "manifest.json", "blobs/sha256/../../oci-layout", "blobs/md5/1")
    data = any_tar(*(member(name, b"{}") for name in strangers), *members(FILES))
    layout = open_layout(tar(tmp_path, data))
    assert [entry.digest for entry in layout.entries] == [DESCRIPTOR.digest]
    assert [path.name for path in tmp_path.iterdir()] == ["site.tar"]


def test_13_3_a_tar_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    whole = any_tar(member("blobs/sha256/" + "1" * 64, bytes(4096)), *members(FILES))
    with pytest.raises(FormatError, match="this tar is cut off"):
        open_layout(tar(tmp_path, whole[:2048]))


def test_13_3_a_compressed_tar_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="it is compressed: unpack it first"):
        open_layout(tar(tmp_path, gzip_of(bytes(os.urandom(4096)))))
    with pytest.raises(FormatError, match="not a usable tar"):
        open_layout(tar(tmp_path, b"x" * 4096))


def test_13_3_what_pax_headers_say_of_name_and_size_counts(tmp_path: Path) -> None:
    renamed = member("other", BLOB, pax={"path": f"./{PATH}", "mtime": "1.5"})
    files = {name: data for name, data in FILES.items() if name != PATH}
    layout = open_layout(tar(tmp_path, any_tar(renamed, *members(files))))
    assert layout.small(DESCRIPTOR.digest) == BLOB


@pytest.mark.parametrize("pax", [{"size": "9" * 18}, {"size": "-1"}, {"comment": "x" * 9000}, {"size": "9" * 60}])
def test_13_3_a_hostile_header_is_refused(tmp_path: Path, pax: Mapping[str, str]) -> None:
    with pytest.raises(FormatError):
        open_layout(tar(tmp_path, any_tar(member("x", BLOB, pax=pax), *members(FILES))))


def test_13_3_a_gnu_long_name_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as made:
        for name, data in (("long/" * 60, b""), *FILES.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    assert open_layout(tar(tmp_path, buffer.getvalue())).small(DESCRIPTOR.digest) == BLOB


def test_13_3_what_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="No such file"):
        open_layout(tmp_path / "nothing.tar")


def test_13_3_a_tar_that_became_a_pipe_or_a_link_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(FormatError, match="a plain file is expected"):
        open_layout(tmp_path / "pipe.tar")
    whole = tar(tmp_path, any_tar(*members(FILES)))
    (tmp_path / "link.tar").symlink_to(whole)
    with pytest.raises(FormatError, match="symbolic link"):
        open_layout(tmp_path / "link.tar")
    layout = open_layout((tmp_path / "link.tar").resolve())
    whole.unlink()
    os.mkfifo(whole)
    with pytest.raises(FormatError, match="a plain file is expected"):
        layout.small(DESCRIPTOR.digest)


def test_13_4_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    other = Descriptor.of(b"other", "text/plain", {NAME: "registry.example/a:1"})
    one, two = (b"".join(tar_of(entries, [(DESCRIPTOR, iter([BLOB]))])) for entries in
                ([DESCRIPTOR, other], [other, DESCRIPTOR]))  # fmt: skip
    assert one == two
    layout = open_layout(tar(tmp_path, one))
    assert layout.small(DESCRIPTOR.digest) == BLOB
    assert {entry.digest for entry in layout.entries} == {DESCRIPTOR.digest, other.digest}


def test_13_4_a_store_becomes_a_layout(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(DESCRIPTOR, BLOB)
    frame(tmp_path, [DESCRIPTOR])
    assert open_layout(tmp_path).small(DESCRIPTOR.digest) == BLOB
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_13_1_no_more_entries_are_written_than_are_read() -> None:
    many = [Descriptor.of(b"", "text/plain", {NAME: f"registry.example/a:{number}"}) for number in range(ENTRY_LIMIT)]
    assert index_of(many)
    with pytest.raises(FormatError, match=r"20001 entries .* take fewer references at once"):
        index_of([*many, DESCRIPTOR])
    with pytest.raises(FormatError, match="at most 20000 in 8388608 are read"):
        index_of([Descriptor.of(b"", "text/plain", {NAME: "x" * INDEX_LIMIT_BYTES})])


@pytest.mark.parametrize("name", [".index.json.new", ".oci-layout.new"])
def test_13_2_a_link_on_a_stick_leads_nobody_who_writes_a_bundle_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    folder = folder_of(tmp_path / "site", FILES)
    (folder / name).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        frame(folder, [DESCRIPTOR])
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_13_5_a_blob_that_is_not_what_its_name_says_is_no_blob(tmp_path: Path) -> None:
    layout = open_layout(folder_of(tmp_path, {**FILES, PATH: BLOB[::-1]}))
    with pytest.raises(TrustError) as refused:
        layout.small(DESCRIPTOR.digest)
    assert refused.value.reason == "digest-mismatch"


def test_13_1_an_index_has_no_key_twice(tmp_path: Path) -> None:
    listed = canonical_json([DESCRIPTOR.to_dict()])
    data = b'{"manifests":' + listed + b',"manifests":[]}'
    with pytest.raises(FormatError, match="stands twice"):
        open_layout(folder_of(tmp_path, {**FILES, "index.json": data}))
