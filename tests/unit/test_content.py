"""JSON from outside, descriptors, and the one way to read bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.content import (
    EMPTY_CONFIG,
    Descriptor,
    Verifier,
    canonical_json,
    check,
    digest_of,
    parse_json,
    string_map,
)
from margo_oci.errors import FormatError, TrustError
from tests.unit.scenes import DIGEST, ends_in_time, read_or_refused

TYPE = "application/octet-stream"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Values that look right at first sight, so that every check of a descriptor gets its turn.
DESCRIPTORS = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": JSON | st.just(TYPE),
        "digest": JSON | st.just(DIGEST),
        "size": JSON | st.integers(0, 9),
        "annotations": JSON | st.dictionaries(st.text(), st.text()),
        "artifactType": JSON,
    },
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":2}', "index: not usable JSON: key 'a' stands twice"),
        (b'{"x":{"a":1,"a":1}}', "index: not usable JSON: key 'a' stands twice"),
        (b'{"a":NaN}', "index: not usable JSON: NaN is no JSON number"),
        (b'{"a":-Infinity}', "index: not usable JSON: -Infinity is no JSON number"),
        (b"[1]", "index: a JSON object is expected, got list"),
        (b'"text"', "index: a JSON object is expected, got str"),
        (b"null", "index: a JSON object is expected, got NoneType"),
        (b"", "index: not usable JSON: Expecting value"),
        (b'{"a":1', "index: not usable JSON"),
        (b'{"a":1} {}', "index: not usable JSON: Extra data"),
        (b'{"a":"\xff"}', "index: not usable JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "index: not usable JSON"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "index: nested deeper than 32 levels"),
        (b'{"a":' + b"[" * 100_000, "index: not usable JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "index: not usable JSON"),
    ],
)
def test_unusable_json_is_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_json(data, what="index")
    assert str(refused.value).startswith(message)


def test_json_is_read_up_to_its_limit_and_not_parsed_beyond() -> None:
    assert parse_json(b'{"a":1}', what="bundle", limit_bytes=7) == {"a": 1}
    with pytest.raises(FormatError, match="bundle: 8 bytes, at most 7 are read"):
        parse_json(b'{"a":10}', what="bundle", limit_bytes=7)


def test_thirty_two_levels_are_read_and_one_more_is_not() -> None:
    assert parse_json(b'{"a":' * 31 + b"{}" + b"}" * 31, what="manifest")
    with pytest.raises(FormatError, match="nested deeper than 32 levels"):
        parse_json(b'{"a":' * 32 + b"{}" + b"}" * 32, what="manifest")


def test_half_a_character_is_no_text() -> None:
    """JSON can spell a lone surrogate, which no UTF-8 can hold: whoever encodes it later would stumble."""
    with pytest.raises(FormatError, match="manifest: "):
        parse_json(b'{"a":"\\ud800"}', what="manifest")


def test_json_is_utf_8_and_nothing_else() -> None:
    with pytest.raises(FormatError, match="manifest: "):
        parse_json('{"a":1}'.encode("utf-16"), what="manifest")


def test_a_number_that_is_too_large_is_no_number() -> None:
    with pytest.raises(FormatError, match="manifest: "):
        parse_json(b'{"a":1e999}', what="manifest")


def test_a_key_twice_among_very_many_is_found_at_once() -> None:
    """Looking for it must not take the square of the keys: this is read before any signature."""
    assert ends_in_time(
        "from margo_oci.content import parse_json\n"
        "from margo_oci.errors import FormatError\n"
        "keys = [b'\"%d\":0' % number for number in range(100_000, -1, -1)]\n"
        "try:\n"
        "    parse_json(b'{' + b','.join([*keys, b'\"0\":0']) + b'}', what='manifest')\n"
        "    raise SystemExit(1)\n"
        "except FormatError as refused:\n"
        "    raise SystemExit(\"key '0' stands twice\" not in str(refused))\n"
    )


@given(st.binary())
def test_any_bytes_are_an_object_or_a_format_error(data: bytes) -> None:
    assert isinstance(read_or_refused(lambda: parse_json(data, what="any"), "any: "), dict | None)


@given(st.dictionaries(TEXT, st.integers() | TEXT | st.none()))
def test_canonical_json_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    assert parse_json(canonical_json(value), what="value") == value
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_canonical_json_is_sorted_utf_8_without_blanks() -> None:
    assert canonical_json({"b": [1, 2], "a": "ä"}) == '{"a":"ä","b":[1,2]}'.encode()


def test_the_empty_config_is_the_one_every_registry_knows() -> None:
    assert EMPTY_CONFIG.to_dict() == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mediaType": None}, "layers[2].mediaType: unusable media type None"),
        ({"mediaType": "text"}, "layers[2].mediaType: unusable media type 'text'"),
        ({"mediaType": "a/b\n"}, "layers[2].mediaType: unusable media type"),
        ({"digest": "sha256:" + "A" * 64}, "layers[2].digest: sha256:<64 lower-case hex> is expected, got"),
        ({"digest": "sha512:" + "a" * 128}, "layers[2].digest: sha256:"),
        ({"digest": DIGEST + "\n"}, "layers[2].digest: sha256:"),
        ({"digest": 7}, "layers[2].digest: sha256:<64 lower-case hex> is expected, got 7"),
        ({"size": -1}, "layers[2].size: a size in bytes is expected, got -1"),
        ({"size": True}, "layers[2].size: a size in bytes is expected, got True"),
        ({"size": 1.0}, "layers[2].size: a size in bytes is expected, got 1.0"),
        ({"size": 2**63}, "layers[2].size: a size in bytes is expected, got 9223372036854775808"),
        ({"annotations": {"a": 1}}, "layers[2].annotations: a map of strings is expected"),
        ({"annotations": []}, "layers[2].annotations: a map of strings is expected"),
    ],
)
def test_a_descriptor_that_breaks_a_rule_is_named_by_its_place(change: dict[str, Any], message: str) -> None:
    raw = {"mediaType": TYPE, "digest": DIGEST, "size": 3} | change
    with pytest.raises(FormatError) as refused:
        Descriptor.from_dict(raw, at="layers[2]")
    assert str(refused.value).startswith(message)


@given(JSON | DESCRIPTORS)
def test_any_value_is_a_descriptor_or_a_format_error(raw: object) -> None:
    descriptor = read_or_refused(lambda: Descriptor.from_dict(raw, at="config"), "config")
    assert not descriptor or Descriptor.from_dict(descriptor.to_dict(), at="again") == descriptor


@given(st.binary(), st.dictionaries(st.text(), st.text()))
def test_a_descriptor_is_read_back_as_it_was(data: bytes, annotations: dict[str, str]) -> None:
    descriptor = Descriptor.of(data, TYPE, annotations)
    assert Descriptor.from_dict(json.loads(json.dumps(descriptor.to_dict())), at="layer") == descriptor


def test_absent_annotations_are_an_empty_map() -> None:
    assert string_map(None, at="annotations") == {}


@given(st.binary(min_size=1), st.data())
def test_content_in_pieces_is_the_same_content(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    verifier = Verifier(Descriptor.of(data, TYPE))
    assert verifier.feed(data[:cut]) + verifier.feed(data[cut:]) == data
    verifier.finish()


@given(st.binary(), st.binary())
def test_only_the_content_that_is_named_passes(data: bytes, other: bytes) -> None:
    descriptor = Descriptor.of(data, TYPE)
    if data == other:
        assert check(other, descriptor) == data
    else:
        with pytest.raises(TrustError) as refused:
            check(other, descriptor)
        assert refused.value.reason == "digest-mismatch"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abcd", "got more than the declared 3 bytes: tampered content or a broken registry"),
        (b"ab", "got 2 of 3 declared bytes: tampered content"),
        (b"abx", f"got content with digest {digest_of(b'abx')}: tampered content"),
    ],
)
def test_content_that_is_not_what_was_named_tells_what_came(data: bytes, message: str) -> None:
    with pytest.raises(TrustError) as refused:
        check(data, Descriptor.of(b"abc", TYPE))
    assert str(refused.value).startswith(f"{digest_of(b'abc')}: {message}")


def test_a_flood_is_cut_off_at_the_first_byte_too_many() -> None:
    verifier = Verifier(Descriptor.of(b"abc", TYPE))
    verifier.feed(b"abc")
    with pytest.raises(TrustError, match="more than the declared 3 bytes"):
        verifier.feed(b"d")


def inlined(content: bytes, **changes: object) -> dict[str, object]:
    """A descriptor that carries its content, changed."""
    return {**Descriptor.of(content, "text/plain", inline=True).to_dict(), **changes}


def test_a_descriptor_carries_its_content_if_asked_to() -> None:
    assert Descriptor.of(b"hello", "text/plain").data is None
    assert "data" not in Descriptor.of(b"hello", "text/plain").to_dict()
    for data in (b"", b"h", b"hello", bytes(65536)):
        assert Descriptor.from_dict(inlined(data), at="layer").data == data


@pytest.mark.parametrize(
    "raw",
    [
        inlined(b"hello", data="aGVsbE8="),
        inlined(b"hello", data="aGVsbG8"),
        inlined(b"hello", data="aGVs bG8="),
        inlined(b"hello", data=None),
        inlined(b"hello", data="aGVsbG8=" * 1000),
        inlined(b"hello", size=4),
        inlined(bytes(65537)),
    ],
)
def test_7_3_inlined_content_that_is_not_what_it_should_be_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=r"^layer\.data: "):
        Descriptor.from_dict(raw, at="layer")
