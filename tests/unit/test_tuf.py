"""Signed documents against python-tuf, both ways, and under every change of a byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.metadata import Root as TufRoot
from tuf.api.serialization.json import JSONSerializer

from margo_oci.content import canonical_json
from margo_oci.errors import FormatError, TrustError
from margo_oci.head import verify_release
from margo_oci.keys import PublicKey
from margo_oci.root import Root, advance
from margo_oci.tuf import Document, canonical, key_id
from tests.unit.scenes import key, state
from tests.unit.trusted import NOW, YEAR, bundle_of, first_root, refusal, role, root, rotated, signed_head, taken

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_canonical_json_is_that_of_securesystemslib(value: Any) -> None:
    theirs = encode_canonical(value)
    assert isinstance(theirs, str)
    try:
        expected = theirs.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: `parse_json` lets none in
    assert canonical(value) == expected


def test_canonical_json_leaves_control_characters_as_they_are() -> None:
    assert (
        canonical({"b": 'a "quote"\n\\', "a": [1, -2, True, None]})
        == b'{"a":[1,-2,true,null],"b":"a \\"quote\\"\n\\\\"}'
    )


@pytest.mark.parametrize("value", [1.5, {"a": 1.0}, b"bytes", {1: "number as a key"}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        canonical(value)


def test_key_ids_are_those_that_tuf_tools_compute() -> None:
    assert {key_id(key(name).public) for name in ("a", "b", "c")} == {one.id for one in root().holders.keys}


def test_python_tuf_verifies_our_head_under_our_root() -> None:
    trusted = Metadata[TufRoot].from_bytes(root().data)
    document = Metadata[Targets].from_bytes(signed_head(root()))
    trusted.signed.verify_delegate("targets", document.signed_bytes, document.signatures)
    target = document.signed.targets["desired-state"]
    target.verify_length_and_hashes(state().manifest.data)
    assert document.signed.expires.isoformat() == "2026-11-28T12:00:00+00:00"


def test_python_tuf_refuses_our_head_under_another_root() -> None:
    trusted = Metadata[TufRoot].from_bytes(root(heads=role("spare")).data)
    document = Metadata[Targets].from_bytes(signed_head(root()))
    with pytest.raises(UnsignedMetadataError):
        trusted.signed.verify_delegate("targets", document.signed_bytes, document.signatures)


def test_python_tuf_follows_our_roots() -> None:
    first = root()
    second = rotated(first, "a", "b", "d", root=role("d", threshold=3))
    old, new = Metadata[TufRoot].from_bytes(first.data), Metadata[TufRoot].from_bytes(second)
    old.signed.verify_delegate("root", new.signed_bytes, new.signatures)
    new.signed.verify_delegate("root", new.signed_bytes, new.signatures)
    assert advance(first, second).root.version == 2


@pytest.mark.parametrize("compact", [True, False])
def test_we_verify_a_head_that_python_tuf_made(compact: bool) -> None:
    one = state()
    target = TargetFile.from_data("desired-state", one.manifest.data, ["sha256"])
    target.unrecognized_fields["custom"] = {"counter": str(one.counter)}
    more = {"x-scope": one.scope, "x-issued": "2026-11-21T12:00:00Z"}
    document = Metadata(Targets(5, expires=NOW + YEAR, targets={target.path: target}, unrecognized_fields=more))
    document.sign(CryptoSigner(key("head").key))
    head = taken(document.to_bytes(JSONSerializer(compact=compact)), root())
    assert verify_release(one.manifest, bundle_of(one), head, root()).state == one


HEAD, ROOT = signed_head(root()), root().data


@given(st.integers(0, len(HEAD) - 1), st.integers(1, 255))
def test_a_head_with_one_changed_byte_says_the_same_or_is_refused(place: int, change: int) -> None:
    data = bytearray(HEAD)
    data[place] ^= change
    try:
        head = taken(bytes(data), root())
    except TrustError:
        return
    assert head.content == taken(HEAD, root()).content


@given(st.integers(0, len(ROOT) - 1), st.integers(1, 255))
def test_a_root_with_one_changed_byte_says_the_same_or_is_refused(place: int, change: int) -> None:
    data = bytearray(ROOT)
    data[place] ^= change
    try:
        found = Root.from_bytes(bytes(data))
    except TrustError:
        return
    said = Document.from_bytes(found.data, what="root", limit_bytes=10**6).signed_bytes
    assert said == Document.from_bytes(ROOT, what="root", limit_bytes=10**6).signed_bytes


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        found += paths(inner, (*path, name))
    return found


@pytest.mark.parametrize("original", [HEAD, ROOT], ids=["head", "root"])
@given(data=st.data())
def test_whatever_stands_in_a_document_only_refusals_come_of_it(original: bytes, data: st.DataObject) -> None:
    raw = json.loads(original)
    path = data.draw(st.sampled_from(paths(raw)))
    inner = raw
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = data.draw(VALUES)
    try:
        changed = canonical_json(raw)
    except UnicodeEncodeError:
        return
    try:
        taken(changed, root()) if original is HEAD else Root.from_bytes(changed)
    except TrustError:
        return
    assert raw["signed"] == json.loads(original)["signed"]


@given(st.binary(max_size=200))
def test_rubbish_is_refused(data: bytes) -> None:
    assert refusal(data, root())[0] == "malformed"
    with pytest.raises(TrustError):
        Root.from_bytes(data)


def test_a_next_root_that_the_old_holders_did_not_sign_is_not_even_parsed() -> None:
    raw = json.loads(first_root())
    raw["signed"]["version"] = "nonsense"
    with pytest.raises(TrustError, match="version 1's keys must sign") as refused:
        advance(root(), canonical_json(raw))
    assert refused.value.reason == "root-unsigned"


def test_release_keys_are_those_that_policies_take() -> None:
    assert root().release_keys == (PublicKey("fleet", key("fleet").public.der),)
