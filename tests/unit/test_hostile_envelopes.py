"""Whatever is changed in a valid envelope: it never verifies, and nothing but our own errors is raised."""

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from margo_oci.cbor import Tagged, encode_cbor, parse_cbor
from margo_oci.envelopes import COSE, JWS
from margo_oci.errors import TrustError
from margo_oci.notary import verify
from tests.unit.chains import NOW, SUBJECT, authorities, cose, jws
from tests.unit.test_content import JSON

GOOD_JWS, GOOD_COSE, POLICY = jws(), cose(), authorities()
WHOLE = parse_cbor(GOOD_COSE, what="COSE", limit_bytes=64 * 1024)
PARTS = ("payload", "protected", "signature")


def counts(data: bytes, media_type: str) -> bool:
    try:
        verify(data, media_type, SUBJECT, POLICY, now=NOW)
    except TrustError:
        return False
    return True


def flipped(data: bytes, at: int, flip: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


def test_they_are_good_as_they_are() -> None:
    assert counts(GOOD_JWS, JWS)
    assert counts(GOOD_COSE, COSE)


@given(
    st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from([JWS, COSE, "x/y"])
)
def test_any_bytes_are_refused(data: bytes, media_type: str) -> None:
    assert not counts(data, media_type)


@given(st.integers(0), st.integers(1, 255), st.sampled_from(PARTS))
def test_a_jws_with_another_letter_is_refused(at: int, flip: int, part: str) -> None:
    raw = json.loads(GOOD_JWS)
    raw[part] = flipped(raw[part].encode(), at, flip).decode("latin-1")
    assert not counts(json.dumps(raw).encode(), JWS)


@given(st.sampled_from([*PARTS, "header", "more"]), JSON)
def test_a_jws_with_another_part_is_refused(part: str, value: Any) -> None:
    assert not counts(json.dumps(json.loads(GOOD_JWS) | {part: value}).encode(), JWS)


@given(st.integers(0), st.integers(1, 255))
def test_a_jws_with_another_byte_says_the_same_or_is_refused(at: int, flip: int) -> None:
    data = flipped(GOOD_JWS, at, flip)
    if counts(data, JWS):  # blanks, and the header that nobody signed: its agent, its certificates' own spellings
        changed, good = json.loads(data), json.loads(GOOD_JWS)
        assert [changed[part] for part in PARTS] == [good[part] for part in PARTS]


@given(st.integers(0), st.integers(1, 255))
def test_a_cose_with_another_byte_says_the_same_or_is_refused(at: int, flip: int) -> None:
    data = flipped(GOOD_COSE, at, flip)
    if counts(data, COSE):
        changed = parse_cbor(data, what="COSE", limit_bytes=64 * 1024)
        assert [changed.value[part] for part in (0, 2, 3)] == [WHOLE.value[part] for part in (0, 2, 3)]


@given(st.integers(0), st.integers(1, 255), st.sampled_from([0, 2, 3]))
def test_a_cose_with_another_byte_in_what_is_signed_is_refused(at: int, flip: int, part: int) -> None:
    parts = list(WHOLE.value)
    parts[part] = flipped(parts[part], at, flip)
    assert not counts(encode_cbor(Tagged(18, parts)), COSE)


@given(st.integers(0), st.integers(1, 255), st.integers(0, 1))
def test_a_changed_certificate_is_refused(at: int, flip: int, which: int) -> None:
    parts = list(WHOLE.value)
    certificates = list(parts[1][33])
    certificates[which] = flipped(certificates[which], at, flip)
    parts[1] = {33: certificates}
    assert not counts(encode_cbor(Tagged(18, parts)), COSE)


@given(st.integers(0, len(GOOD_COSE) - 1), st.integers(0, len(GOOD_COSE) - 1))
def test_a_cose_with_a_piece_missing_is_refused(begin: int, end: int) -> None:
    assume(begin < end)
    assert not counts(GOOD_COSE[:begin] + GOOD_COSE[end:], COSE)
