"""YAML without surprises."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.errors import FormatError
from margo_oci.yamldoc import parse_yaml
from tests.unit.scenes import ends_in_time, read_or_refused

TEXT = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF))
KEYS = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=40)  # YAML: up to 1,024 bytes
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1.20", 1.2),
        ("'1.20'", "1.20"),
        ("1.20.3", "1.20.3"),
        ("2026-11-21", "2026-11-21"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("-3", -3),
        ("+3", 3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("'true'", "true"),
        ('"7"', "7"),
        ("|\n  7\n", "7\n"),
        ("=", "="),
        ("<<", "<<"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("٣", "٣"),
        ("1" * 41, "1" * 41),
    ],
)
def test_a_plain_scalar_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}".encode(), what="f").value["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x\n", "f:2: aliases (*x) are not accepted: write it out"),
        ("a: !!str 1\n", "f:1: tags ('tag:yaml.org,2002:str') are not accepted"),
        (
            "a: 1\nb: !!python/object/apply:os.system ['x']\n",
            "f:2: tags ('tag:yaml.org,2002:python/object/apply:os.system') are not accepted",
        ),
        ("a: !<%1b[31mx> x\n", r"f:1: tags ('\x1b[31mx') are not accepted"),
        ("a: !secret x\n", "f:1: tags ('!secret') are not accepted"),
        ("a: 1\nb: 2\na: 3\n", "f:3: 'a' stands twice"),
        ("a: 1\n'a': 3\n", "f:2: 'a' stands twice"),
        ("a: 1\n---\nb: 1\n", "f:3: one document a file is expected, here starts another"),
        ("? [1]\n: 2\n", "f:1: a key is text"),
        ("a: [1\n", "f:2: not usable YAML: "),
        ("a:\n\t- 1\n", "f:2: not usable YAML: "),
        ("a: b: c\n", "f:1: not usable YAML: mapping values are not allowed in this context"),
        ("a: 'open\n", "f:"),
        ("a: \x07\n", "f:1: not usable YAML: "),
        ("[" * 100_000, "f:1: nested deeper than 32 levels"),
        ("a: " * 100_000, "f:1: not usable YAML: "),
        ("- " * 100_000, "f:1: nested deeper than 32 levels"),
        ("{a: " * 40 + "1" + "}" * 40, "f:1: nested deeper than 32 levels"),
    ],
)
def test_a_trap_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_yaml(text.encode(), what="f")
    assert str(refused.value).startswith(message)


def test_a_bomb_of_aliases_goes_off_nowhere() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{two}: &{two} [*{one}, *{one}, *{one}, *{one}]" for one, two in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(FormatError, match=r"f:2: aliases \(\*a\) are not accepted"):
        parse_yaml("\n".join(lines).encode(), what="f")


def test_a_merge_is_a_key_like_any_other() -> None:
    assert parse_yaml(b"<<: {a: 1}\nb: 2\n", what="f").value == {"<<": {"a": 1}, "b": 2}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: \xff\n", "f: not UTF-8: invalid start byte at byte 3"),
        ("a: ä".encode("latin-1"), "f: not UTF-8: "),
        ("a: 1".encode("utf-16"), "f: not UTF-8: "),
        (b"#" * (1024 * 1024 + 1), "f: 1048577 bytes, at most 1048576 are read"),
    ],
)
def test_what_is_no_text_or_too_much_of_it_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_yaml(data, what="f")
    assert str(refused.value).startswith(message)


def test_a_mark_that_editors_put_in_front_is_no_content() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: 1\n", what="f").value == {"a": 1}


def test_every_value_knows_its_line() -> None:
    document = parse_yaml(b"# comment\na:\n  - b: 1\n\n  - c:\n      - 2\n", what="f")
    assert document.line(()) == 2
    assert document.line(("a", 0, "b")) == 3
    assert document.line(("a", 1, "c", 0)) == 6
    assert document.line(("a", 1, "gone", "deeper")) == 5
    assert document.line(("gone",)) == 2


def test_the_largest_document_is_read_in_reasonable_time() -> None:
    assert ends_in_time(
        "from margo_oci.yamldoc import parse_yaml\n"
        "data = b'\\n'.join(b'key-%d: value-1' % number for number in range(49_999))\n"
        "assert len(parse_yaml(data, what='f').value) == 49_999\n",
        cpu_s=6,
    )


@given(PLAIN)
def test_json_is_yaml(value: Any) -> None:
    assert parse_yaml(json.dumps({"value": value}).encode(), what="f").value == {"value": value}


@given(st.binary() | st.text().map(str.encode) | st.text("ab:-[]{}&*!|>'\"\n %#?,~1.", max_size=40).map(str.encode))
def test_any_bytes_are_a_document_or_a_format_error(data: bytes) -> None:
    read_or_refused(lambda: parse_yaml(data, what="f"), "f")
