"""CBOR has one reading, and what we write is read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.cbor import Tagged, encode_cbor, parse_cbor
from margo_oci.errors import FormatError
from tests.unit.scenes import read_or_refused

LEAVES = st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-9, 99) | st.text(), inner, max_size=4)
        | st.builds(Tagged, st.integers(0, 2**64 - 1), inner)
    ),
    max_leaves=12,
)


def read(data: bytes) -> object:
    return parse_cbor(data, what="x", limit_bytes=64 * 1024)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1903e8", 1000),
        ("1bffffffffffffffff", 2**64 - 1),
        ("20", -1),
        ("3903e7", -1000),
        ("4401020304", b"\x01\x02\x03\x04"),
        ("62c3bc", "ü"),
        ("83010203", [1, 2, 3]),
        ("a201020304", {1: 2, 3: 4}),
        ("c11a514b67b0", Tagged(1, 1363896240)),
        ("f4", False),
        ("f5", True),
        ("f6", None),
    ],
)
def test_the_examples_of_the_standard(data: str, value: object) -> None:
    """RFC 8949, appendix A."""
    assert read(bytes.fromhex(data)) == value
    if value is not None:
        assert encode_cbor(value) == bytes.fromhex(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "it ends too early"),
        ("0000", "1 bytes follow after its end"),
        ("5f", "a length that is not given beforehand"),
        ("9fff", "a length that is not given beforehand"),
        ("bfff", "a length that is not given beforehand"),
        ("1817", "not in its shortest form"),
        ("190018", "not in its shortest form"),
        ("1a0000ffff", "not in its shortest form"),
        ("1b00000000ffffffff", "not in its shortest form"),
        ("f90000", "a float or a special value"),
        ("f7", "a float"),
        ("a20102", "it ends too early"),
        ("a201000100", "key 1 stands twice"),
        ("a1f500", "a key is a whole number or text"),
        ("a18000", "a key is a whole number or text"),
        ("61ff", "text that is not UTF-8"),
        ("9b00ffffffffffffff", "it ends before"),
        ("5b00ffffffffffffff", "it ends too early"),
        ("818181818181818100", "nested deeper than 8 levels"),
    ],
)
def test_whatever_has_two_readings_is_refused(data: str, words: str) -> None:
    with pytest.raises(FormatError) as refused:
        read(bytes.fromhex(data))
    assert words in str(refused.value)


def test_it_is_read_up_to_its_limit() -> None:
    with pytest.raises(FormatError, match="x: 2 bytes, at most 1 are read"):
        parse_cbor(b"00", what="x", limit_bytes=1)


@given(VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    data = encode_cbor(value)  # type: ignore[arg-type]
    back = read_or_refused(lambda: read(data), "x: not usable CBOR: nested deeper")
    assert back is None or back == value


@given(st.binary(max_size=200))
def test_any_bytes_are_one_value_or_a_format_error(data: bytes) -> None:
    value = read_or_refused(lambda: read(data), "x: ")
    if value is not None and "None" not in repr(value):
        assert encode_cbor(value) == data  # type: ignore[arg-type]
