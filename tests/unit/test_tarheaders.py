"""Headers of a tar are looked at before tarfile parses them."""

import tarfile

import pytest

from margo_oci.archive import Entry, unpack
from margo_oci.errors import FormatError
from margo_oci.tarheaders import EXTENSION_LIMIT_BYTES, check_records
from tests.unit.scenes import gzip_of, hostile, member, tar_of
from tests.unit.test_archive import END, header, pax, refused


def record(key: str, value: str) -> bytes:
    """One pax record; its own length is part of it."""
    rest = f" {key}={value}\n"
    length = next(number for number in range(len(rest), len(rest) + 8) if number == len(str(number)) + len(rest))
    return f"{length}{rest}".encode()


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_7_4_a_long_header_is_refused_before_it_is_parsed(kind: bytes) -> None:
    """Each record makes tarfile look at all that follows: a megabyte of them would hold up a device for hours."""
    assert refused(pax(b"1 " * 500_000, kind=kind) + header() + END) == "a tar header of more than 8192 bytes"


@pytest.mark.parametrize("records", [b"1 " * 2000, b"5 a=b\n", b"99 a=b\n", b"0 a=b\n", b"x"])
def test_7_4_a_pax_header_that_is_not_well_formed_is_refused_before_it_is_parsed(records: bytes) -> None:
    assert refused(pax(records) + header() + END) == "not a usable tar: a pax header that is not well-formed"


def test_7_4_a_long_number_in_a_header_is_refused_before_it_is_searched() -> None:
    assert refused(pax(record("comment", "9" * 4000)) + header() + END) == (
        "a tar header with a number of more than 64 digits"
    )


def test_a_sparse_map_is_refused_before_it_is_read() -> None:
    assert refused(pax(record("GNU.sparse.major", "1")) + header() + END).startswith("only plain files and folders")


def test_7_4_headers_without_end_are_refused() -> None:
    """Each of these is read past, and so none of them counts as an entry."""
    many = b"".join(pax(record("comment", "x")) + header(f"a{number}") for number in range(100))
    assert len(unpack(gzip_of(many + END), what="layer")) == 100
    longer = (header("l", kind=b"L", size=b"%011o\0" % 2) + b"a".ljust(512, b"\0")) * 3
    assert refused((longer + header()) * 7000 + END) == "more than 2 tar headers for each entry"


def test_7_4_records_for_all_entries_are_few() -> None:
    records = b"".join(record(f"comment{number}", "x") for number in range(65))
    assert refused(pax(records, kind=b"g") + header() + END) == "more than 64 pax records for all entries"


def test_records_one_after_the_other_are_well_formed() -> None:
    check_records(record("path", "a/b=c\nd") + record("mtime", "1700000000.123456789") + bytes(300), "layer")
    check_records(b"", "layer")


def test_names_as_long_as_they_may_be_are_read() -> None:
    name = "top/" + "a/" * 500 + "x"
    assert unpack(hostile(member(name)), what="layer") == [Entry(name, b"x")]
    assert 4 * len(name) < EXTENSION_LIMIT_BYTES


@pytest.mark.parametrize("name", ["./", ".", "./."])
def test_7_5_the_folder_that_was_packed_is_no_entry(name: str) -> None:
    """`tar czf x.tgz .` writes one."""
    tar = tar_of(member(name, kind=tarfile.DIRTYPE), member("./top/a"))
    assert unpack(gzip_of(tar), what="layer") == [Entry("top/a", b"x")]
    with pytest.raises(FormatError, match="is empty: not accepted"):
        unpack(hostile(member(name, kind=tarfile.FIFOTYPE)), what="layer")
