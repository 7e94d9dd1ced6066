"""Archives: the same bytes everywhere when we write them, nothing believed when we read them."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from margo_oci.archive import ENTRY_LIMIT, Entry, pack, safe_path, unpack
from margo_oci.content import digest_of
from margo_oci.deployment import parse_deployment
from margo_oci.desired_state import build_layer
from margo_oci.errors import FormatError
from margo_oci.package import build_component
from tests.unit.scenes import VECTORS, ends_in_time, gzip_of, hostile, member, read_or_refused, tar_of

BLOCK = 512
END = bytes(2 * BLOCK)
FILES = {
    path: Entry(path, data, executable)
    for path, data, executable in (
        ("hello/compose.yaml", b"services:\n  web:\n    image: registry.example/web:1\n", False),
        ("hello/bin/start", b"#!/bin/sh\n", True),
        ("hello/" + "long/" * 40 + "ä.txt", b"more than a hundred characters", False),
        ("hello/large", b"0123456789abcdef" * 8192, False),
    )
}

# Names that can stand side by side: no file is also a folder, no two differ by case alone.
PARTS = st.text("abcdefghijklmnop0123456789._- äß日", min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..")
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def header(name: str = "a", *, kind: bytes = b"0", size: bytes = b"", mode: int = 0o644, extra: bytes = b"") -> bytes:
    """A tar header with a right checksum and whatever else is asked for; `extra` is put at byte 345."""
    info = tarfile.TarInfo(name)
    info.mode = mode
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:BLOCK])
    raw[156:157] = kind
    raw[124 : 124 + len(size)] = size
    raw[345 : 345 + len(extra)] = extra
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def base_256(number: int) -> bytes:
    """A number as GNU tar writes what does not fit into octal digits, negative ones included."""
    sign = b"\xff" if number < 0 else b"\x80"
    return sign + number.to_bytes(11, "big", signed=number < 0)


def pax(records: bytes, *, kind: bytes = b"x") -> bytes:
    """A pax header with these very records."""
    return header("pax", kind=kind, size=b"%011o\0" % len(records)) + records.ljust(
        -(-len(records) // BLOCK) * BLOCK, b"\0"
    )


def refused(tar: bytes) -> str:
    """Return with which words a tar is refused."""
    with pytest.raises(FormatError) as error:
        unpack(gzip_of(tar), what="layer")
    assert str(error.value).startswith("layer: ")
    return str(error.value).removeprefix("layer: ")


def test_the_bytes_of_an_archive_are_fixed() -> None:
    """If this fails, every device fetches every layer again: change the vector only if that is meant."""
    assert digest_of(pack(FILES)) == "sha256:ef193cc8bec82b2eacf354e6d7d1f0b726d288cb60080d4c9301deaa6185cb85"


def test_the_order_in_which_files_are_named_plays_no_part() -> None:
    assert pack(dict(reversed(FILES.items()))) == pack(FILES)


def test_the_machine_plays_no_part() -> None:
    code = (
        "import os, sys, time\n"
        "os.umask(0o077)\n"
        "time.tzset()\n"
        "from margo_oci.archive import Entry, pack\n"
        "sys.stdout.buffer.write(pack({'a/b': Entry('a/b', b'x', True)}))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "TZ": "Asia/Kathmandu", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "77"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == pack({"a/b": Entry("a/b", b"x", executable=True)})


def test_an_archive_is_an_ordinary_tar_gz() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(FILES)), mode="r:gz") as tar:
        members = tar.getmembers()
        assert [one.name for one in members] == sorted(FILES)
        assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in members} == {(0, 0, "", "", 0)}
        assert {one.name: one.mode for one in members} == {
            path: 0o755 if file.executable else 0o644 for path, file in FILES.items()
        }
    assert gzip.decompress(pack(FILES)).endswith(END)


@given(st.dictionaries(NAMES, st.tuples(st.binary(max_size=2000), st.booleans()), max_size=6))
@example({})
@example({"a": (b"\0" * 0x1FFFE, False)})
def test_what_is_packed_is_unpacked_as_it_was(files: dict[str, tuple[bytes, bool]]) -> None:
    entries = {path: Entry(path, data, executable) for path, (data, executable) in files.items()}
    data = pack(entries)
    assert pack(entries) == data
    unpacked = read_or_refused(lambda: unpack(data, what="layer"), "layer: ")
    # Names that differ by case alone, or a file where another needs a folder: what cannot be unpacked everywhere.
    assert unpacked in (None, [entries[path] for path in sorted(entries)])


@given(st.binary(max_size=3000))
@example(b"\x1f\x8b")
def test_any_bytes_are_an_archive_or_a_format_error(data: bytes) -> None:
    read_or_refused(lambda: unpack(data, what="layer"), "layer: ")
    read_or_refused(lambda: unpack(gzip_of(data), what="layer"), "layer: ")


GOOD = tar_of(
    member("top/compose.yaml", b"services: {}"),
    member("top/sub", kind=tarfile.DIRTYPE, mode=0o755),
    member("top/sub/" + "long" * 40, b"content" * 100),
    member("top/link", kind=tarfile.SYMTYPE, link="compose.yaml"),
    member("top/hard", kind=tarfile.LNKTYPE, link="top/compose.yaml"),
    member("top/ä", b"x", pax={"comment": "hello", "size": "1"}),
)


def mended(tar: bytes, at: int) -> bytes:
    """Give the header around `at` a right checksum again, so that what was changed is looked at."""
    start = at // BLOCK * BLOCK
    block = bytearray(tar[start : start + BLOCK])
    if len(block) == BLOCK:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return tar[:start] + bytes(block) + tar[start + len(block) :]


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4),
    st.none() | st.integers(0, len(GOOD)),
    st.booleans(),
)
def test_a_damaged_archive_is_read_or_refused(changes: list[tuple[int, bytes]], cut: int | None, mend: bool) -> None:
    tar = GOOD
    for at, data in changes:
        tar = tar[:at] + data + tar[at + len(data) :]
        tar = mended(tar, at) if mend else tar
    for entry in read_or_refused(lambda: unpack(gzip_of(tar[:cut]), what="layer"), "layer: ") or ():
        assert safe_path(entry.path, "layer") == entry.path
        assert not entry.link


@given(st.binary(max_size=60), st.sampled_from([b"x", b"g", b"L", b"K", b"S", b"V", b"X"]))
def test_any_extension_header_is_read_or_refused(records: bytes, kind: bytes) -> None:
    read_or_refused(lambda: unpack(gzip_of(pax(records, kind=kind) + header() + END), what="layer"), "layer: ")


@given(st.lists(st.tuples(st.sampled_from(["path", "linkpath", "size", "mtime", "uid", "uname", "hdrcharset",
                                           "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name",
                                           "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize",
                                           "GNU.sparse.numblocks", "GNU.sparse.offset"]),
                          st.sampled_from(["0", "1", "-1", "1.5", "", "nan", "9" * 30, "9" * 5000, "0,1,2", "BINARY",
                                           "a/../b", "/a"])), max_size=6))  # fmt: skip
def test_any_pax_record_is_read_or_refused(records: list[tuple[str, str]]) -> None:
    read_or_refused(
        lambda: unpack(hostile(member("a", b"1\n0\n1\n".ljust(BLOCK), pax=dict(records))), what="layer"), "layer: "
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "path '/etc/passwd' is absolute: not accepted"),
        ("../out", "path '../out' is with ..: not accepted"),
        ("top/../../out", "path 'top/../../out' is with ..: not accepted"),
        ("top\\..\\out", "path 'top\\\\..\\\\out' is with a backslash: not accepted"),
        ("top/a\nb", "path 'top/a\\nb' is with a control character: not accepted"),
        ("top/\x1b[2J", "path 'top/\\x1b[2J' is with a control character: not accepted"),
        ("top/" + "a" * 1024, "is too long: not accepted"),
        (".", "path '.' is empty: not accepted"),
    ],
)
def test_a_path_that_leads_astray_is_refused(name: str, message: str) -> None:
    assert message in refused(tar_of(member(name)))


@pytest.mark.parametrize(
    ("kind", "what"),
    [(tarfile.CHRTYPE, "character device"), (tarfile.BLKTYPE, "block device"), (tarfile.FIFOTYPE, "pipe"), (b"Z", "")],
)
def test_only_files_and_folders_come_out_of_an_archive(kind: bytes, what: str) -> None:
    assert refused(tar_of(member("top/a", kind=kind))) == "top/a: only plain files and folders are accepted", what


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_no_file_runs_as_somebody_else(mode: int, kind: bytes) -> None:
    message = "top/a: setuid, setgid and sticky bits are not accepted"
    assert refused(tar_of(member("top/a", kind=kind, mode=mode, link="b"))) == message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/shadow", "../../etc/shadow", "other/file", "top", "top/link", "top/gone", ""])
def test_a_link_that_names_no_file_beside_it_is_refused(kind: bytes, target: str) -> None:
    tar = tar_of(member("top/file"), member("other/file"), member("top/link", kind=kind, link=target))
    assert "which is no file beside it in the archive" in refused(tar)


def test_a_link_to_a_link_is_refused() -> None:
    tar = tar_of(
        member("top/file"),
        member("top/one", kind=tarfile.SYMTYPE, link="file"),
        member("top/two", kind=tarfile.SYMTYPE, link="one"),
    )
    assert refused(tar) == "top/two: links to 'top/one', which is no file beside it in the archive"


@pytest.mark.parametrize(("kind", "target"), [(tarfile.SYMTYPE, "sub/../file"), (tarfile.LNKTYPE, "top/file")])
def test_a_link_to_a_file_beside_it_is_a_copy_of_it(kind: bytes, target: str) -> None:
    tar = tar_of(member("top/link", kind=kind, link=target), member("top/file", b"content", mode=0o755))
    assert unpack(gzip_of(tar), what="layer") == [
        Entry("top/link", b"content", executable=True),
        Entry("top/file", b"content", executable=True),
    ]


def test_links_cannot_unpack_to_more_than_the_limit() -> None:
    """A link is written out as a copy: ten thousand links to one large file would fill a disk."""
    links = [member(f"top/{number}", kind=tarfile.LNKTYPE, link="top/file") for number in range(5)]
    with pytest.raises(FormatError, match="layer: unpacks to more than 4000000 bytes"):
        unpack(hostile(member("top/file", b"0123456789" * 100_000), *links), what="layer", limit_bytes=4_000_000)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("top/a", "top/a"),
        ("top/a", "top/A"),
        ("top/ä", "top/a\u0308"),
        ("top/straße", "top/STRASSE"),
        ("top/a", "./top/./a"),
        ("top/a", "top//a"),
    ],
)
def test_no_path_stands_twice_however_it_is_spelt(first: str, second: str) -> None:
    assert refused(tar_of(member(first), member(second))).endswith("this path stands twice")


def test_no_folder_stands_where_a_file_is() -> None:
    folder = member("top/a", kind=tarfile.DIRTYPE)
    assert refused(tar_of(member("top/a"), folder)) == "top/a: this path stands twice"
    assert refused(tar_of(folder, member("top/A"))) == "top/A: this path stands twice"


@pytest.mark.parametrize("below", ["top/a/b", "top/A/b/c"])
def test_nothing_lies_below_a_file(below: str) -> None:
    assert refused(tar_of(member("top/a"), member(below))) == f"{below}: lies below a file"
    assert refused(tar_of(member(below), member("top/a"))) == f"{below}: lies below a file"


def test_nothing_lies_below_a_link() -> None:
    tar = tar_of(member("top/file"), member("top/l", kind=tarfile.SYMTYPE, link="file"), member("top/l/b"))
    assert refused(tar) == "top/l/b: lies below a file"


def test_a_folder_may_be_named_again() -> None:
    folder = member("top", kind=tarfile.DIRTYPE)
    assert unpack(hostile(folder, folder), what="layer") == [Entry("top", folder=True)] * 2


def test_a_bomb_is_refused_by_its_ratio() -> None:
    bomb = gzip_of(bytes(50_000_000))
    assert len(bomb) < 50_000
    with pytest.raises(FormatError, match=r"layer: unpacks to more than .* bytes: a decompression bomb?"):
        unpack(bomb, what="layer")


def test_a_bomb_is_refused_by_its_size() -> None:
    with pytest.raises(FormatError, match="layer: unpacks to more than 4096 bytes"):
        unpack(hostile(member("a", bytes(8192))), what="layer", limit_bytes=4096)


def test_more_entries_than_anyone_needs_are_refused() -> None:
    blocks = b"".join(header(f"top/{number}") for number in range(ENTRY_LIMIT + 1))
    assert refused(blocks + END) == "more than 10000 entries"
    assert len(unpack(gzip_of(blocks[:-BLOCK] + END), what="layer")) == ENTRY_LIMIT


def test_deep_folders_do_not_hold_up_the_device() -> None:
    assert ends_in_time(
        "from margo_oci.archive import Entry, pack, unpack\n"
        "paths = ['a/' * 500 + str(number) for number in range(4000)]\n"
        "assert len(unpack(pack({path: Entry(path) for path in paths}), what='layer')) == 4000\n",
        cpu_s=6,
    )


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_is_compressed_once_more_is_no_tar(compress: Any) -> None:
    """The limits are held against the first unpacking: a second one would get round them."""
    assert "not a usable tar" in refused(compress(GOOD))
    assert "not a usable tar" in refused(compress(GOOD)[:60])


def test_a_gzip_that_is_cut_off_is_refused() -> None:
    with pytest.raises(FormatError, match="layer: gzip ends too early"):
        unpack(gzip_of(GOOD)[:-5], what="layer")


def test_a_gzip_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(gzip_of(GOOD))
    data[-8] ^= 1
    with pytest.raises(FormatError, match=r"layer: not usable gzip: .*incorrect data check"):
        unpack(bytes(data), what="layer")


def test_nothing_may_hide_after_the_end_of_the_gzip() -> None:
    with pytest.raises(FormatError, match="layer: 4 bytes after the gzip's end"):
        unpack(gzip_of(GOOD) + b"more", what="layer")
    with pytest.raises(FormatError, match="bytes after the gzip's end"):
        unpack(gzip_of(GOOD) + gzip_of(GOOD), what="layer")
    assert unpack(gzip_of(GOOD) + bytes(512), what="layer")


def test_a_tar_that_is_cut_off_is_refused() -> None:
    whole = tar_of(member("top/a", b"x" * 2000))
    for cut in (1, 100, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 1000):
        assert refused(whole[:cut]).startswith("not a usable tar: ")


def test_an_empty_tar_is_an_empty_list() -> None:
    assert unpack(gzip_of(END), what="layer") == []


NUMBERS = [-1, -512, -1024, -(2**60), 2**40, 2**62, 2**80]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", [b"0", b"7", b"S"])
def test_a_size_that_cannot_be_is_refused(number: int, kind: bytes) -> None:
    refused(header("top/a", kind=kind, size=base_256(number)) + header("top/b") + END)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", [b"1", b"2", b"5", b"x", b"g", b"L", b"K"])
def test_a_size_where_none_belongs_is_read_past_or_refused(number: int, kind: bytes) -> None:
    entries = read_or_refused(
        lambda: unpack(gzip_of(header("a", kind=kind, size=base_256(number)) + header("b") + END), what="layer"),
        "layer: ",
    )
    assert entries is None or {entry.path for entry in entries} <= {"a", "b"}


@pytest.mark.parametrize("size", [b"-0000000001\0", b"99999999999\0", b"abc\0", b"7" * 12, b"\x80" + b"\xff" * 11])
def test_a_size_that_is_no_number_is_refused(size: bytes) -> None:
    refused(header("top/a", size=size) + END)


@pytest.mark.parametrize(
    "records",
    [
        b"16 size=99999999\n",
        b"99 path=a\n",
        b"0 path=a\n",
        b"9 path=/a\n",
        b"11 path=../a\n",
        b"8 size=-1\n",
        b"-9 path=a\n",
        b"path=a\n",
        b"99999999999999999999 path=a\n",
    ],
)
def test_a_pax_header_cannot_say_what_a_header_may_not(records: bytes) -> None:
    """It is read past, or refused; what it never does is lead out of the folder or end in another error."""
    entries = read_or_refused(lambda: unpack(gzip_of(pax(records) + header("top/a") + END), what="layer"), "layer: ")
    assert entries is None or [entry.path for entry in entries] == ["top/a"]


def test_a_pax_header_for_all_files_cannot_rename_them_outwards() -> None:
    assert "is absolute" in refused(pax(b"12 path=/et\n", kind=b"g") + header("top/a") + END)


def test_sparse_files_are_refused_in_every_spelling() -> None:
    message = "only plain files and folders are accepted"
    assert message in refused(header("top/a", kind=b"S", extra=bytes(137)) + END)
    for version in ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "top/b",
                     "GNU.sparse.realsize": "1000000000000"},
                    {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}):  # fmt: skip
        tar = tar_of(member("top/a", b"1\n0\n1\n".ljust(BLOCK, b"\0") + b"x", pax=version))
        assert message in refused(tar)


def test_a_sparse_map_that_does_not_end_is_refused() -> None:
    block = bytearray(header("top/a", kind=b"S"))
    block[482] = 1  # "more of the map follows", and then the tar ends
    refused(mended(bytes(block), 0))


def test_a_known_deployment_and_a_known_component_have_fixed_digests() -> None:
    """They only change with the format. A changelog line tells operators then that every layer is fetched anew."""
    file = VECTORS / "margo" / "valid" / "gateway-directed.yaml"
    layer = build_layer(parse_deployment(file.read_bytes(), what=file.name)).descriptor
    assert (layer.digest, layer.size) == (
        "sha256:082607a28ad92222d94217b3ea4036eff9061031a5558eee7900ffc5b6c1c931",
        4119,
    )
    component = build_component(
        {"compose.yaml": Entry("compose.yaml", b"services:\n  web:\n    image: registry.example/web:1\n")},
        name="hello",
        version="1.0.0",
    )
    assert (
        component.manifest.layers[0].digest == "sha256:f85280bb7b2cab487b16d5e5b61c3f44626b0d59e22943300851c920e9a0616d"
    )
    assert component.manifest.digest == "sha256:5de1971927803adb865092a86dd2d6cc984bff9d3d4ddf721534bb983030ea68"


def test_7_5_what_bsdtar_notes_beside_a_file_is_passed_over() -> None:
    notes = {"LIBARCHIVE.creationtime": "1700000000.5", "SCHILY.fflags": "arch", "SCHILY.dev": "2049", "atime": "1.25"}
    data = hostile(member("./a", kind=b"5", pax=notes), member("./a/b", b"x", pax=notes), pax={"comment": "libarchive"})
    assert [(one.path, one.data) for one in unpack(data, what="c")] == [("a", b""), ("a/b", b"x")]


def test_7_5_all_entries_that_break_a_rule_are_told_up_to_a_limit() -> None:
    with pytest.raises(FormatError) as refused:
        unpack(hostile(*(member(f"/{number}") for number in range(200))), what="c")
    assert len(refused.value.faults) == 100
    assert refused.value.faults[1] == "c: path '/1' is absolute: not accepted"
