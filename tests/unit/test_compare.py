"""What changes between two states, in words and in bytes."""

from collections.abc import Mapping

from margo_cli.compare import Side, compare
from margo_oci.deployment import Deployment, parse_deployment
from margo_oci.desired_state import Lock
from tests.unit.scenes import DIGEST, ID, OTHER_DIGEST, OTHER_ID, deployment, lock


def side(*deployments: Deployment, locks: Mapping[str, Lock | None] | None = None, **layers: int) -> Side:
    return Side({one.id: one for one in deployments}, locks or {}, layers, manifest_bytes=1000)


def test_the_same_is_no_difference_and_costs_nothing() -> None:
    one = side(deployment(), a=10)
    difference = compare(one, one)
    assert difference.same
    assert difference.fetch_bytes == 0


def test_what_comes_and_goes_is_named() -> None:
    difference = compare(side(deployment(), a=10), side(deployment(OTHER_ID), b=20))
    assert difference.added == {OTHER_ID: "hello"}
    assert difference.removed == {ID: "hello"}
    assert not difference.same


def test_a_device_fetches_new_layers_and_the_manifest() -> None:
    difference = compare(side(deployment(), a=10, b=5), side(deployment(), deployment(OTHER_ID), b=5, c=20))
    assert difference.fetch_bytes == 1020


def test_a_changed_document_is_shown_line_by_line() -> None:
    old = deployment()
    new = parse_deployment(old.data.replace(b"plant-3", b"plant-4"), what="f")
    (change,) = compare(side(old), side(new)).changed
    assert (change.id, change.name, list(change.lock)) == (ID, "hello", [])
    assert list(change.diff)[:2] == ["--- old/hello.yaml", "+++ new/hello.yaml"]
    assert "-  namespace: plant-3" in change.diff
    assert "+  namespace: plant-4" in change.diff


def test_a_change_that_cannot_be_seen_is_said_in_words() -> None:
    old = deployment()
    new = parse_deployment(old.data.replace(b"\n", b"\r\n"), what="f")
    (change,) = compare(side(old), side(new)).changed
    assert change.diff == ["(only line ends or the last newline differ)"]


def test_a_tag_that_moved_is_a_change() -> None:
    old, new = side(deployment(), locks={ID: lock()}), side(deployment(), locks={ID: lock(OTHER_DIGEST)})
    (change,) = compare(old, new).changed
    assert list(change.diff) == []
    assert change.lock == [f"registry.example/web:1: {DIGEST} -> {OTHER_DIGEST}"]


def test_what_is_locked_no_more_or_newly_is_told() -> None:
    old, new = Lock({"a": DIGEST}, {}), Lock({}, {"b": DIGEST})
    (change,) = compare(side(deployment(), locks={ID: old}), side(deployment(), locks={ID: new})).changed
    assert change.lock == [f"a: {DIGEST} -> (gone)", f"b: (not there) -> {DIGEST}"]


def test_a_folder_has_no_locks_and_so_none_that_differ() -> None:
    assert compare(side(deployment(), locks={ID: lock()}), side(deployment())).same
