"""Issuing, renewing and watching heads in a simulated registry, and what a device reads there."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest

from margo_oci.ceremony import Change
from margo_oci.desired_state import Layer, build_layer
from margo_oci.errors import ConflictError, FormatError, NotFound, TrustError
from margo_oci.freshness import CARRIER_LIMIT_BYTES
from margo_oci.head import open_head, verify_head, verify_release
from margo_oci.heads import read_head
from margo_oci.issue import Attended, Issued, Issuer, what_is_behind
from margo_oci.manifest import Manifest
from margo_oci.publish import Publisher
from margo_oci.reference import parse_reference
from margo_oci.registry import Access, Registry
from margo_oci.root import Root, advance
from margo_oci.transfer import resolve
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import ID, OTHER_ID, SCOPE, deployment, key, lock
from tests.unit.trusted import DAY, NOW, role, root, rotated

STATE = parse_reference("registry.example/fleet/edge-17:latest")
T = TypeVar("T")


def layers(*ids: str) -> Sequence[Layer]:
    return [build_layer(deployment(one), lock()) for one in ids or (ID,)]


class Fleet:
    """One tag in a registry, an operator with a head key, and the time that he sets."""

    def __init__(self, trusted: Root | None = None) -> None:
        self.sim = SimulatedRegistry()
        self.root = trusted or root()
        self.now: datetime = NOW
        self.keys: Sequence[str] = ("head",)
        self.earlier: Sequence[Root] = ()

    @property
    def registry(self) -> Registry:
        return Registry(lambda _: Access(), transport_for=lambda _: self.sim.transport)

    @property
    def issuer(self) -> Issuer:
        signers = [key(name) for name in self.keys]
        return Issuer(
            self.registry, SimulatedUploader(self.sim), self.root, signers, lambda: self.now, earlier=self.earlier
        )

    def push(self, *ids: str, signer: str = "fleet", scope: str = SCOPE, counter: int | None = None) -> Manifest:
        peers = [key(name).public for name in ("fleet", "second", "new", "stranger")]
        publisher = Publisher(self.registry, SimulatedUploader(self.sim), key(signer), lambda: self.now, peers)
        work = publisher.publish(STATE, layers(*ids), scope=scope, counter=counter, change_scope=scope != SCOPE)
        return self.do(work).state.manifest

    def issue(self, **more: Any) -> Issued:
        return self.do(self.issuer.issue(STATE, **more))

    def renew(self, **more: Any) -> Issued:
        return self.do(self.issuer.renew(STATE, **more))

    def attend(self) -> Attended:
        return self.do(self.issuer.attend(STATE, within=2 * DAY))

    def refused(self, **more: Any) -> tuple[str, str]:
        with pytest.raises(TrustError) as refused:
            self.issue(**more)
        return refused.value.reason, str(refused.value)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_10_17_a_head_is_issued_for_what_was_verified(fleet: Fleet) -> None:
    manifest = fleet.push()
    issued = fleet.issue(scope=SCOPE).head
    assert (issued.version, issued.digest, issued.counter, issued.scope) == (1, manifest.digest, 1, SCOPE)
    assert (issued.issued, issued.expires) == (NOW, NOW + 7 * DAY)


def test_a_device_reads_head_and_signatures_with_one_request_and_the_next_look_costs_no_body(fleet: Fleet) -> None:
    manifest = fleet.push()
    fleet.issue()
    fleet.sim.forget()
    carried = fleet.do(read_head(fleet.registry, STATE))
    assert carried
    assert len(fleet.sim.requests) == 1
    head = verify_head(carried.head, fleet.root, scopes=[SCOPE], now=NOW)
    assert verify_release(manifest, carried.bundles, head, fleet.root).state.counter == 1
    assert fleet.do(read_head(fleet.registry, STATE, known=carried.digest)) is None
    assert fleet.sim.requests[-1].status == 304


def test_a_carrier_without_inlined_content_is_read_from_blobs(fleet: Fleet) -> None:
    fleet.push()
    fleet.issue()
    at = STATE.at("latest-head")
    manifest = fleet.do(resolve(fleet.registry, at))
    assert manifest
    bare = [type(one)(media_type=one.media_type, digest=one.digest, size=one.size) for one in manifest.layers]
    SimulatedUploader(fleet.sim).manifest(at, Manifest.build(manifest.artifact_type, bare).data)
    carried = fleet.do(read_head(fleet.registry, STATE))
    assert carried
    assert open_head(carried.head, fleet.root).version == 1


def test_10_15_a_carrier_of_more_than_256_kib_is_not_read(fleet: Fleet) -> None:
    SimulatedUploader(fleet.sim).manifest(STATE.at("latest-head"), b" " * (CARRIER_LIMIT_BYTES + 1))
    with pytest.raises(TrustError) as refused:
        fleet.do(read_head(fleet.registry, STATE))
    assert refused.value.reason == "too-large"


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"schemaVersion":2,"config":{},"layers":[]}'])
def test_rubbish_under_the_tag_of_a_head_is_refused(fleet: Fleet, content: bytes) -> None:
    SimulatedUploader(fleet.sim).manifest(STATE.at("latest-head"), content)
    with pytest.raises(TrustError) as refused:
        fleet.do(read_head(fleet.registry, STATE))
    assert refused.value.reason == "malformed"


def test_10_17_versions_rise_one_by_one(fleet: Fleet) -> None:
    fleet.push()
    assert [fleet.issue().head.version for _ in range(3)] == [1, 2, 3]
    fleet.push(ID, OTHER_ID)
    assert (fleet.issue().head.version, fleet.issue().head.counter) == (4, 2)


def test_10_17_no_head_is_issued_for_what_no_release_key_signed(fleet: Fleet) -> None:
    fleet.push(signer="stranger")
    assert fleet.refused()[0] == "wrong-key"


def test_10_17_no_head_is_issued_below_the_threshold_of_releases() -> None:
    fleet = Fleet(root(releases=role("fleet", "second", threshold=2)))
    fleet.push()
    assert fleet.refused()[0] == "below-threshold"
    fleet.push(signer="second")
    assert fleet.issue().head.counter == 1


def test_10_17_no_head_is_issued_for_another_scope(fleet: Fleet) -> None:
    fleet.push()
    assert fleet.refused(scope="edge-18") == (
        "wrong-scope", f"{STATE} is for scope {SCOPE!r}, asked for was 'edge-18'",
    )  # fmt: skip
    fleet.issue()
    fleet.push(ID, OTHER_ID, scope="edge-18")
    assert fleet.refused()[0] == "wrong-scope"


def test_10_17_no_head_goes_back(fleet: Fleet) -> None:
    old = fleet.push()
    fleet.push(ID, OTHER_ID)
    fleet.issue()
    SimulatedUploader(fleet.sim).manifest(STATE, old.data)
    reason, message = fleet.refused()
    assert reason == "rollback"
    assert "`margo-oci rollback` goes back in a way that devices take" in message


def test_10_17_a_head_that_somebody_else_put_there_is_not_counted_on_from(fleet: Fleet) -> None:
    fleet.push()
    stranger = Fleet(root(heads=role("stranger")))
    stranger.sim, stranger.keys = fleet.sim, ("stranger",)
    stranger.issue(version=2**53 - 1)
    reason, message = fleet.refused()
    assert reason == "wrong-key"
    assert "`margo-oci head issue --version N`" in message
    assert fleet.issue(version=8).head.version == 8
    with pytest.raises(FormatError, match="--version 8: the head there has version 8"):
        fleet.issue(version=8)


def test_10_17_two_who_issue_at_once_find_out(fleet: Fleet) -> None:
    fleet.push()

    class Interrupted(SimulatedUploader):
        def manifest(self, *arguments: Any, **more: Any) -> bool:
            done = super().manifest(*arguments, **more)
            fleet.now += timedelta(seconds=1)
            other = Issuer(fleet.registry, SimulatedUploader(self.sim), fleet.root, [key("head")], lambda: fleet.now)
            carried = asyncio.run(other.issue(STATE))
            assert carried.head.version == 2
            return done

    issuer = Issuer(fleet.registry, Interrupted(fleet.sim), fleet.root, [key("head")], lambda: NOW)
    with pytest.raises(ConflictError, match="somebody else issued a head right after"):
        fleet.do(issuer.issue(STATE))


def test_10_17_who_finds_another_head_before_the_tag_moves_stops(fleet: Fleet) -> None:
    fleet.push()
    first = fleet.issue().head

    class Interrupted(SimulatedUploader):
        met = False

        def blob(self, *arguments: Any) -> bool:
            if not self.met:
                self.met = True
                other = Issuer(
                    fleet.registry, SimulatedUploader(self.sim), fleet.root, [key("head")], lambda: fleet.now
                )
                asyncio.run(other.renew(STATE))
            return super().blob(*arguments)

    issuer = Issuer(fleet.registry, Interrupted(fleet.sim), fleet.root, [key("head")], lambda: NOW + DAY)
    with pytest.raises(ConflictError, match="somebody else issued a head meanwhile"):
        fleet.do(issuer.issue(STATE))
    carried = fleet.do(read_head(fleet.registry, STATE))
    assert carried
    assert open_head(carried.head, fleet.root).issued == first.issued, "the other's head is still there"


def test_a_head_key_that_the_root_does_not_know_is_told(fleet: Fleet) -> None:
    fleet.push()
    fleet.keys = ("stranger",)
    with pytest.raises(FormatError, match=r"stranger: root version 1 has as head keys only head \("):
        fleet.issue()


def test_too_few_head_keys_are_told() -> None:
    fleet = Fleet(root(heads=role("head", "spare", threshold=2)))
    fleet.push()
    with pytest.raises(FormatError, match=r"2 head keys must sign \(root version 1\), 1 are given"):
        fleet.issue()
    fleet.keys = ("head", "spare")
    assert fleet.issue().head.signed_by == ("head", "spare")


def test_an_expired_root_issues_nothing() -> None:
    fleet = Fleet(root(expires=NOW))
    fleet.push()
    assert fleet.refused()[0] == "root-expired"


def test_a_clock_that_is_behind_issues_nothing(fleet: Fleet) -> None:
    fleet.push()
    fleet.issue()
    fleet.now = NOW - DAY
    with pytest.raises(FormatError, match="set the clock first"):
        fleet.issue()


def test_a_renewed_head_names_the_same_release_for_longer(fleet: Fleet) -> None:
    manifest = fleet.push()
    fleet.issue()
    fleet.push(ID, OTHER_ID)
    fleet.now = NOW + 6 * DAY
    renewed = fleet.renew()
    assert (renewed.head.version, renewed.head.digest, renewed.head.expires) == (2, manifest.digest, NOW + 13 * DAY)


def test_only_what_expires_soon_is_renewed(fleet: Fleet) -> None:
    fleet.push()
    fleet.issue()
    assert not fleet.renew(within=2 * DAY).changed
    fleet.now = NOW + 5 * DAY
    assert fleet.renew(within=2 * DAY).changed


def test_only_a_tag_has_a_head(fleet: Fleet) -> None:
    manifest = fleet.push()
    with pytest.raises(FormatError, match="its head lies under <tag>-head"):
        fleet.do(fleet.issuer.issue(STATE.at(manifest.digest)))
    with pytest.raises(FormatError, match="at most 123 characters"):
        fleet.do(fleet.issuer.issue(STATE.at("t" * 124)))


def test_what_was_never_issued_is_not_renewed(fleet: Fleet) -> None:
    fleet.push()
    with pytest.raises(NotFound):
        fleet.renew()


def test_a_lost_head_key_is_replaced_by_the_root_and_the_count_goes_on(fleet: Fleet) -> None:
    fleet.push()
    fleet.issue()
    old = fleet.root
    fleet.root = advance(old, rotated(old, "a", "b", head=Change([key("new").public], ["head"]))).root
    fleet.keys = ("new",)
    assert fleet.refused()[0] == "wrong-key"
    fleet.earlier = [old]
    assert fleet.renew().head.version == 2
    carried = fleet.do(read_head(fleet.registry, STATE))
    assert carried
    with pytest.raises(TrustError) as refused:
        verify_head(carried.head, old, scopes=[SCOPE], now=NOW)
    assert refused.value.reason == "wrong-key", "a device that has not seen the new root looks for it now"


def test_a_lost_release_key_is_replaced_and_the_release_signed_again(fleet: Fleet) -> None:
    fleet.push()
    fleet.issue()
    old = fleet.root
    fleet.root = advance(old, rotated(old, "a", "b", release=Change([key("new").public], ["fleet"]))).root
    with pytest.raises(TrustError) as refused:
        fleet.renew()
    assert refused.value.reason == "wrong-key"
    fleet.push(signer="new")
    assert fleet.renew().head.version == 2


def test_a_watch_issues_what_is_new_and_renews_what_expires_and_else_rests(fleet: Fleet) -> None:
    fleet.push()
    assert "begin with `margo-oci head issue`" in str(fleet.attend().refused)
    assert fleet.issue().head.counter == 1
    assert fleet.attend() == Attended()
    fleet.push(ID, OTHER_ID)
    second = fleet.attend().issued
    assert second
    assert (second.head.counter, second.head.version) == (2, 2)
    fleet.now = NOW + 5 * DAY
    third = fleet.attend().issued
    assert third
    assert (third.head.counter, third.head.version) == (2, 3)


def test_a_watch_renews_the_good_release_while_the_tag_has_a_bad_one(fleet: Fleet) -> None:
    good = fleet.push()
    fleet.issue()
    fleet.push(ID, OTHER_ID, signer="stranger")
    assert isinstance(fleet.attend().refused, TrustError)
    fleet.now = NOW + 5 * DAY
    attended = fleet.attend()
    assert attended.issued
    assert attended.issued.head.digest == good.digest
    assert isinstance(attended.refused, TrustError)


def test_an_expired_head_is_not_renewed_by_a_timer(fleet: Fleet) -> None:
    """It may be an old one that was put back: renewed, it would be taken by devices that remember nothing."""
    fleet.push()
    fleet.issue()
    fleet.now = NOW + 8 * DAY
    with pytest.raises(TrustError) as refused:
        fleet.renew()
    assert refused.value.reason == "freeze"
    assert isinstance(fleet.attend().refused, TrustError)
    assert fleet.issue().head.version == 2, "a person may"


def test_the_tag_behind_a_head_is_told(fleet: Fleet) -> None:
    fleet.push()
    head = fleet.issue().head
    assert fleet.do(what_is_behind(fleet.registry, STATE, head)) == "same"
    fleet.push(ID, OTHER_ID)
    assert fleet.do(what_is_behind(fleet.registry, STATE, head)) == "newer"
    later = fleet.issue().head
    SimulatedUploader(fleet.sim).manifest(STATE, fleet.do(resolve(fleet.registry, STATE.at(head.digest))).data)  # type: ignore[union-attr]
    assert fleet.do(what_is_behind(fleet.registry, STATE, later)) == "older"
    assert fleet.do(what_is_behind(fleet.registry, STATE.at("other"), head)) == "none"
    SimulatedUploader(fleet.sim).manifest(STATE, b"{}")
    assert fleet.do(what_is_behind(fleet.registry, STATE, head)) == "other"
