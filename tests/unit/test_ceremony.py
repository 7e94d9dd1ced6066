"""Ceremonies: holders on different machines, keys that come and go, and the chain in a registry."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from margo_oci.ceremony import Change, add_signature, begin, publish_root, read_roots, standing
from margo_oci.content import canonical_json, digest_of
from margo_oci.errors import ConflictError, FormatError, NotFound, TrustError
from margo_oci.heads import newer_roots
from margo_oci.reference import parse_reference
from margo_oci.registry import Access, Registry
from margo_oci.root import Root, advance
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import key
from tests.unit.trusted import DAY, NOW, first_root, role, root, rotated, signed_by

TRUST = parse_reference("registry.example/fleet/trust:trust")
T = TypeVar("T")


class Place:
    """A registry, and what an operator and a device do there with roots."""

    def __init__(self) -> None:
        self.sim = SimulatedRegistry()

    def publish(self, data: bytes) -> bool:
        return self._do(publish_root(self.registry, SimulatedUploader(self.sim), TRUST, data))

    def look(self, trusted: Root) -> Root:
        return self._do(newer_roots(self.registry, TRUST, trusted)).root

    @property
    def registry(self) -> Registry:
        return Registry(lambda _: Access(), transport_for=lambda _: self.sim.transport)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)


@pytest.fixture
def place() -> Place:
    return Place()


def test_holders_sign_one_after_the_other_and_see_who_is_missing() -> None:
    data = first_root()
    assert [part.missing for part in standing(data).parts] == [2]
    data = add_signature(data, key("a"))
    (part,) = standing(data).parts
    assert (part.missing, [one.name for one in part.waiting_for]) == (1, ["b", "c"])
    assert not standing(data).complete
    assert standing(add_signature(data, key("c"))).complete


def test_signing_twice_is_signing_once() -> None:
    data = add_signature(add_signature(first_root(), key("a")), key("a"))
    assert len(json.loads(data)["signatures"]) == 1


def test_a_stranger_has_no_part_in_a_ceremony() -> None:
    with pytest.raises(FormatError, match=r"head: no root key of version 1: a \([0-9a-f]{12}\), b .* may sign$"):
        add_signature(first_root(), key("head"))


def test_a_holder_who_leaves_signs_the_next_version_with_the_one_before_at_hand() -> None:
    old = root()
    data = rotated(old, root=Change(add=[key("d").public], remove=["a"]))
    with pytest.raises(FormatError, match="give the version before with --previous"):
        add_signature(data, key("a"))
    data = signed_by(data, "a", "b", "d", previous=old)
    found = standing(data, previous=old)
    assert [(part.whose, [one.name for one in part.signed]) for part in found.parts] == [
        ("version 1", ["a", "b"]), ("version 2", ["b", "d"]),
    ]  # fmt: skip
    assert found.complete
    assert advance(old, data).root.version == 2


def test_a_threshold_that_cannot_be_reached_is_refused_before_anybody_signs() -> None:
    with pytest.raises(FormatError, match=r"roles\.root: 3 keys must sign, and fewer are there"):
        begin({"root": role("a", "b", threshold=3), "head": role("head"), "release": role("fleet")}, expires=NOW)
    with pytest.raises(FormatError, match="fewer are there"):
        rotated(root(), "a", "b", release=Change(remove=["fleet"]))


def test_keys_leave_by_name_or_by_the_beginning_of_their_id() -> None:
    a = root().holders.keys[0]
    data = rotated(root(), root=Change(remove=[a.id[:8]]))
    assert a.id not in json.loads(data)["signed"]["keys"]
    with pytest.raises(FormatError, match="root key 'nobody': 0 keys are called so"):
        rotated(root(), root=Change(remove=["nobody"]))


def test_a_key_that_has_another_role_stays_in_the_list() -> None:
    both = root(heads=role("head", "fleet"))
    data = json.loads(rotated(both, head=Change(remove=["fleet"])))["signed"]
    assert len(data["keys"]) == len(json.loads(both.data)["signed"]["keys"])


def test_what_others_wrote_into_a_root_is_kept() -> None:
    raw = json.loads(first_root())
    raw["signed"]["x-other"] = {"note": "kept"}
    trusted = Root.from_bytes(signed_by(canonical_json(raw), "a", "b"))
    assert json.loads(rotated(trusted))["signed"]["x-other"] == {"note": "kept"}


def test_only_a_root_that_is_signed_is_rotated() -> None:
    with pytest.raises(TrustError, match="the ceremony is not over"):
        rotated(standing(first_root()).root, "a", "b")


def test_devices_find_the_next_root_under_the_tag(place: Place) -> None:
    first = root()
    second = rotated(first, "a", "b")
    assert place.publish(first.data)
    assert place.look(first).version == 1
    assert place.publish(second)
    third = rotated(Root.from_bytes(second), "b", "c", expires=NOW + DAY)
    assert place.publish(third)
    place.sim.forget()
    assert place.look(first).version == 3
    assert len(place.sim.requests) == 3


def test_a_root_that_is_there_already_is_not_published_again(place: Place) -> None:
    first = root()
    place.publish(first.data)
    assert not place.publish(first.data)
    assert not place.publish(signed_by(first.data, "c")), "the same with one signature more"


def test_a_gap_is_refused(place: Place) -> None:
    first = root()
    second = Root.from_bytes(rotated(first, "a", "b"))
    with pytest.raises(FormatError, match="version 1 comes before version 2: publish it first"):
        place.publish(second.data)
    place.publish(first.data)
    with pytest.raises(FormatError, match="version 2 comes before version 3"):
        place.publish(rotated(second, "a", "b"))


def test_10_16_who_finds_another_root_before_the_tag_moves_stops(place: Place) -> None:
    first = root()
    place.publish(first.data)
    theirs, ours = rotated(first, "a", "b"), rotated(first, "b", "c", expires=NOW + DAY)

    class Interrupted(SimulatedUploader):
        met = False

        def blob(self, *arguments: Any) -> bool:
            if not self.met:
                self.met = True
                place.publish(theirs)
            return super().blob(*arguments)

    with pytest.raises(ConflictError, match="somebody else published a root meanwhile"):
        asyncio.run(publish_root(place.registry, Interrupted(place.sim), TRUST, ours))
    assert place.look(first).data == theirs


def test_an_unfinished_ceremony_is_not_published(place: Place) -> None:
    with pytest.raises(TrustError) as refused:
        place.publish(signed_by(first_root(), "a"))
    assert refused.value.reason == "root-unsigned"
    first = root()
    place.publish(first.data)
    with pytest.raises(TrustError, match="version 1's keys must sign"):
        place.publish(rotated(first, "a", "d", root=role("d", threshold=2)))


def test_another_history_is_never_overwritten(place: Place) -> None:
    first = root()
    place.publish(first.data)
    with pytest.raises(ConflictError, match="has another version 1: its history is not overwritten"):
        place.publish(root(expires=NOW + DAY).data)
    place.publish(rotated(first, "a", "b"))
    with pytest.raises(ConflictError, match="has another version 2"):
        place.publish(rotated(first, "a", "c", expires=NOW + DAY))


def test_something_else_under_the_tag_is_not_overwritten(place: Place) -> None:
    SimulatedUploader(place.sim).manifest(TRUST, b'{"schemaVersion":2,"config":{},"layers":[]}')
    with pytest.raises(TrustError, match="config"):
        place.publish(root().data)


def test_what_was_reached_before_a_chain_breaks_counts(place: Place) -> None:
    first = root()
    second = rotated(first, "a", "b")
    third = rotated(Root.from_bytes(second), "a", "b")
    for data in (first.data, second, third):
        place.publish(data)
    place.sim.blobs[digest_of(third)] = b"x" * len(third)
    assert place.look(first).version == 2
    with pytest.raises(TrustError) as refused:
        place.look(Root.from_bytes(second))
    assert refused.value.reason == "digest-mismatch"


def test_a_chain_that_breaks_leads_nowhere(place: Place) -> None:
    first = root()
    second = rotated(first, "a", "b")
    place.publish(first.data)
    place.publish(second)
    place.sim.blobs[digest_of(second)] = b"x" * len(second)
    with pytest.raises(TrustError) as refused:
        place.look(first)
    assert refused.value.reason == "digest-mismatch"


def test_a_registry_without_a_chain_changes_nothing(place: Place) -> None:
    assert place.look(root()).version == 1
    assert asyncio.run(read_roots(place.registry, TRUST)) == ("", ())
    with pytest.raises(NotFound):
        asyncio.run(place.registry.digest(TRUST))
