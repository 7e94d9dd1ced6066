"""Section 10 of docs/format.md: the head and the root, rule by rule."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata
from tuf.api.metadata import Root as TufRoot

from margo_oci.carrier import build_carrier, build_chain, parse_carrier, parse_chain
from margo_oci.ceremony import Change
from margo_oci.content import Descriptor, canonical_json
from margo_oci.errors import FormatError, TrustError
from margo_oci.freshness import SeenHead, clock, head_tag
from margo_oci.head import JUMP_LIMIT, open_head, sign_head, verify_release
from margo_oci.manifest import Manifest
from margo_oci.reference import parse_reference
from margo_oci.root import Root, advance, follow
from margo_oci.trust import Seen
from margo_oci.tuf import PublicKeyTypes, canonical
from tests.unit.scenes import key, layer, state
from tests.unit.trusted import (
    DAY,
    NOW,
    YEAR,
    bundle_of,
    first_root,
    head_of,
    made_by,
    refusal,
    role,
    root,
    rotated,
    signed_by,
    signed_head,
    taken,
)


def edited(data: bytes, **changes: Any) -> bytes:
    """A root that says something else, signed again by a and b under the ids it had."""
    raw = json.loads(data)
    raw["signed"].update(changes)
    ids = {key(name).public.der: name for name in ("a", "b")}
    names = {keyid: ids[one.der] for keyid, one in ((k.id, k) for k in root().holders.keys) if one.der in ids}
    raw["signatures"] = [
        {"keyid": keyid, "sig": key(name).sign(canonical(raw["signed"])).hex()} for keyid, name in names.items()
    ]
    return canonical_json(raw)


def refused_root(data: bytes, after: Root | None = None) -> tuple[str, str]:
    with pytest.raises(TrustError) as refused:
        advance(after, data) if after else Root.from_bytes(data)
    return refused.value.reason, str(refused.value)


def test_10_1_a_document_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert refusal(signed_head(root()) + b" " * 16384, root())[0] == "malformed"
    assert refused_root(root().data + b" " * 65536)[0] == "malformed"


def test_10_1_a_key_that_stands_twice_is_refused_whoever_signed() -> None:
    data = signed_head(root()).replace(b'"version":5', b'"version":5,"version":6')
    assert refusal(data, root()) == ("malformed", "head: not usable JSON: key 'version' stands twice")


def test_10_1_a_number_with_a_fraction_is_refused() -> None:
    data = signed_head(root()).replace(b'"version":5', b'"version":5.0')
    assert "5.0: text, a number without a fraction" in refusal(data, root())[1]


def test_10_1_at_most_64_signatures_are_read() -> None:
    raw = json.loads(signed_head(root()))
    raw["signatures"] += [{"keyid": f"{i}", "sig": ""} for i in range(64)]
    assert "65 signatures, at most 64" in refusal(canonical_json(raw), root())[1]


def test_10_2_what_is_not_known_is_left_alone_and_stays_signed() -> None:
    keyid = root().heads.keys[0].id
    data = made_by("head", keyid, **{"x-later": {"a": [1, None, True, 'quote " and \\']}})
    assert taken(data, root()).version == 5
    assert refusal(data.replace(b"x-later", b"x-other"), root())[0] == "wrong-key"


def test_10_2_a_signature_that_is_listed_twice_is_refused() -> None:
    raw = json.loads(signed_head(root()))
    raw["signatures"] *= 2
    reason, message = refusal(canonical_json(raw), root())
    assert reason == "malformed"
    assert message.endswith("stands twice")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("_type", "snapshot", "_type: 'targets' is expected, got 'snapshot'"),
        ("spec_version", "2.0.0", "spec_version: 1.x is expected, got '2.0.0'"),
        ("version", 0, "version: a whole number from 1 to 9007199254740991 is expected, got 0"),
        ("version", True, "version: a whole number from 1 to 9007199254740991 is expected, got True"),
        ("version", "5", "version: a whole number from 1 to 9007199254740991 is expected, got '5'"),
        ("expires", "2026-11-28T12:00:00+00:00", "expires: a moment as 2026-11-21T09:33:39Z is expected"),
        ("expires", "2026-02-30T12:00:00Z", "expires: a moment as 2026-11-21T09:33:39Z is expected"),
        ("x-issued", None, "x-issued: a moment as 2026-11-21T09:33:39Z is expected, got None"),
        ("x-scope", "../edge-17", "scope '../edge-17'"),
        ("x-scope", 17, "scope ''"),
    ],
)
def test_10_2_a_field_that_is_not_as_it_should_be_is_refused(field: str, value: object, message: str) -> None:
    reason, words = refusal(made_by("head", root().heads.keys[0].id, **{field: value}), root())
    assert reason == "malformed"
    assert message in words


def test_10_3_the_usual_kinds_of_keys_sign_roots() -> None:
    signers = [
        CryptoSigner(ed25519.Ed25519PrivateKey.generate()),
        CryptoSigner(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        CryptoSigner.generate_ecdsa(),
    ]
    document = Metadata[TufRoot].from_bytes(first_root())
    for signer in signers:
        document.signed.add_key(signer.public_key, "root")
    document.signed.roles["root"].keyids = [signer.public_key.keyid for signer in signers]
    document.signed.roles["root"].threshold = 3
    for signer in signers:
        document.sign(signer, append=True)
    assert Root.from_bytes(document.to_bytes()).holders.threshold == 3
    document.signatures.popitem()
    assert refused_root(document.to_bytes())[0] == "root-unsigned"


def test_10_3_one_key_under_two_ids_counts_once() -> None:
    raw = json.loads(first_root())
    for keyid in list(raw["signed"]["roles"]["root"]["keyids"]):
        raw["signed"]["keys"][f"alias-{keyid}"] = raw["signed"]["keys"][keyid]
        raw["signed"]["roles"]["root"]["keyids"].append(f"alias-{keyid}")
    a = next(one for one in root().holders.keys if one.name == "a")
    signature = key("a").sign(canonical(raw["signed"])).hex()
    raw["signatures"] = [{"keyid": f"{alias}{a.id}", "sig": signature} for alias in ("", "alias-")]
    reason, message = refused_root(canonical_json(raw))
    assert reason == "root-unsigned"
    assert f"2 of its own keys must sign, signed by a ({a.id[:12]})" in message


def test_10_3_a_key_of_an_unknown_kind_counts_for_nothing_and_harms_nobody() -> None:
    raw = json.loads(root().data)["signed"]
    keys = {**raw["keys"], "of-tomorrow": {"keytype": "ml-dsa", "scheme": "ml-dsa-65/1", "keyval": {"public": "x"}}}
    roles = {
        **raw["roles"],
        "root": {**raw["roles"]["root"], "keyids": [*raw["roles"]["root"]["keyids"], "of-tomorrow"]},
    }
    assert len(Root.from_bytes(edited(root().data, keys=keys, roles=roles)).holders.keys) == 3


def test_10_3_a_threshold_that_cannot_be_reached_is_refused() -> None:
    raw = json.loads(root().data)["signed"]
    roles = {**raw["roles"], "targets": {**raw["roles"]["targets"], "threshold": 2}}
    reason, message = refused_root(edited(root().data, roles=roles))
    assert reason == "malformed"
    assert "2 keys must sign, and fewer are there" in message


def pem_of(public: PublicKeyTypes) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.mark.parametrize(
    ("kind", "scheme", "public"),
    [
        ("ecdsa", "ecdsa-sha2-nistp256", pem_of(ec.generate_private_key(ec.SECP384R1()).public_key())),
        ("ecdsa", "ecdsa-sha2-nistp256", pem_of(ed25519.Ed25519PrivateKey.generate().public_key())),
        ("rsa", "rsassa-pss-sha256", pem_of(rsa.generate_private_key(65537, 1024).public_key())),  # noqa: S505  (too small)
        ("rsa", "rsassa-pss-sha256", pem_of(key("a").key.public_key())),
        ("ed25519", "ed25519", "ab" * 31),
        ("ed25519", "ed25519", "not hex"),
        ("ecdsa", "ecdsa-sha2-nistp256", "not PEM"),
    ],
)
def test_10_3_a_key_that_is_not_what_it_is_called_is_refused(kind: str, scheme: str, public: str) -> None:
    keys = json.loads(root().data)["signed"]["keys"]
    odd = {"keytype": kind, "scheme": scheme, "keyval": {"public": public}}
    reason, message = refused_root(edited(root().data, keys={**keys, "odd": odd}))
    assert (reason, message) == ("malformed", f"root: keys.odd: not a usable '{scheme}' key")


def test_10_4_releases_are_signed_with_p_256_keys_only() -> None:
    keys = json.loads(root().data)["signed"]["keys"]
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    other = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": raw}}
    roles = {"release": {"keyids": ["other"], "threshold": 1}}
    data = edited(root().data, keys={**keys, "other": other}, **{"x-roles": roles})
    assert "releases are signed with P-256 keys only" in refused_root(data)[1]


def test_10_4_a_root_that_is_given_by_hand_is_signed_by_its_own_keys() -> None:
    assert Root.from_bytes(signed_by(first_root(), "a", "c")).version == 1
    reason, message = refused_root(signed_by(first_root(), "b"))
    assert reason == "root-unsigned"
    assert "the ceremony is not over (`margo-oci root sign`)" in message


def test_10_4_a_root_names_who_signs_heads_and_who_signs_releases() -> None:
    trusted = root(heads=role("head", "spare"), releases=role("fleet", "second", threshold=2))
    assert [one.name for one in trusted.heads.keys] == ["head", "spare"]
    assert ([one.name for one in trusted.release_keys], trusted.releases.threshold) == (["fleet", "second"], 2)
    assert "x-roles" in refused_root(edited(root().data, **{"x-roles": None}))[1]


def test_10_5_the_next_root_is_signed_by_the_old_holders_and_by_its_own() -> None:
    old = root()
    assert advance(old, rotated(old, "a", "b", "d", root=role("d", threshold=3))).root.version == 2
    assert "version 1's keys must sign" in refused_root(rotated(old, "a", "d", root=role("d", threshold=2)), old)[1]
    assert "its own keys must sign" in refused_root(rotated(old, "a", "b", root=role("d", threshold=3)), old)[1]


def test_10_5_the_chain_has_no_gap_and_does_not_go_back() -> None:
    first = root()
    second = advance(first, rotated(first, "a", "b")).root
    third = rotated(second, "a", "b")
    assert refused_root(third, first)[0] == "wrong-root"
    assert refused_root(first.data, second)[0] == "wrong-root"
    assert follow(first, [second.data, third]).root.version == 3


def test_10_5_a_chain_without_end_is_not_followed() -> None:
    with pytest.raises(TrustError, match="257 roots follow version 1, at most 256"):
        follow(root(), [b""] * 257)


def test_10_6_a_key_that_was_taken_away_is_told_and_one_that_came_is_not() -> None:
    first = root()
    more = advance(first, rotated(first, "a", "b", head=role("spare"), release=role("second")))
    assert (more.heads_changed, more.releases_changed) == (False, False)
    fewer = advance(more.root, rotated(more.root, "a", "b", head=Change(remove=["head"])))
    assert (fewer.heads_changed, fewer.releases_changed) == (True, False)
    other = advance(more.root, rotated(more.root, "a", "b", release=Change(remove=["fleet"])))
    assert (other.heads_changed, other.releases_changed) == (False, True)


def test_10_6_a_key_that_was_taken_away_and_came_back_on_the_way_was_taken_away() -> None:
    first = root(heads=role("head", "spare"))
    without = rotated(first, "a", "b", head=Change(remove=["head"]))
    again = rotated(advance(first, without).root, "a", "b", head=role("head"))
    assert follow(first, [without, again]).heads_changed


def test_10_7_only_the_last_root_of_a_chain_must_not_be_expired() -> None:
    first = root(expires=NOW - DAY)
    reached = follow(first, [rotated(first, "a", "b", expires=NOW + DAY)]).root
    reached.check_fresh(NOW)
    with pytest.raises(TrustError, match="root version 2 expired at 2026-11-22T12:00:00Z") as refused:
        reached.check_fresh(NOW + DAY)
    assert refused.value.reason == "root-expired"


def test_10_8_a_head_names_one_state_with_digest_length_and_counter() -> None:
    said = json.loads(signed_head(root()))["signed"]
    one = state()
    assert said["targets"] == {
        "desired-state": {
            "length": len(one.manifest.data),
            "hashes": {"sha256": one.manifest.digest.removeprefix("sha256:")},
            "custom": {"counter": "7"},
        }
    }
    assert (said["x-scope"], said["x-issued"]) == (one.scope, "2026-11-21T12:00:00Z")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "exactly one"),
        ({"desired-state": {}, "other": {}}, "exactly one"),
        ({"desired-state": {"hashes": {"sha256": "A" * 64}, "length": 1, "custom": {"counter": "1"}}}, "sha256"),
        ({"desired-state": {"hashes": {"sha256": "a" * 64}, "length": 0, "custom": {"counter": "1"}}}, "length"),
        ({"desired-state": {"hashes": {"sha256": "a" * 64}, "length": 1, "custom": {"counter": "01"}}}, "counter"),
        ({"desired-state": {"hashes": {"sha256": "a" * 64}, "length": 1}}, "counter"),
    ],
)
def test_10_8_a_head_that_does_not_is_refused(targets: object, message: str) -> None:
    reason, words = refusal(made_by("head", root().heads.keys[0].id, targets=targets), root())
    assert reason == "malformed"
    assert message in words


@pytest.mark.parametrize("life", [timedelta(0), -DAY, timedelta(days=367)])
def test_10_8_a_head_lives_at_most_a_year_and_longer_than_nothing(life: timedelta) -> None:
    with pytest.raises(FormatError, match="at most 366 days"):
        signed_head(root(), expires=NOW + life)


def test_10_9_a_head_without_a_signature_is_refused() -> None:
    raw = json.loads(signed_head(root()))
    raw["signatures"][0]["sig"] = ""
    assert refusal(canonical_json(raw), root())[0] == "head-unsigned"


def test_10_9_a_head_by_a_stranger_is_refused_under_whatever_id() -> None:
    reason, message = refusal(made_by("stranger", root().heads.keys[0].id), root())
    assert reason == "wrong-key"
    assert f"root version 1 trusts head ({root().heads.keys[0].id[:12]})" in message


def test_10_9_neither_a_holder_nor_a_release_key_signs_heads() -> None:
    for name in ("a", "fleet"):
        keyid = next(one.id for one in (*root().holders.keys, *root().releases.keys) if one.name == name)
        assert refusal(made_by(name, keyid), root())[0] == "wrong-key"


def test_10_9_fewer_head_keys_than_the_root_asks_for_are_refused() -> None:
    lenient, strict = root(heads=role("head", "spare")), root(heads=role("head", "spare", threshold=2))
    assert "signed by 1 of the 2 keys" in refusal(signed_head(lenient), strict)[1]
    assert taken(signed_head(strict, "head", "spare"), strict).signed_by == ("head", "spare")


def test_10_9_nothing_that_is_said_is_read_before_the_signature_held() -> None:
    assert refusal(made_by("stranger", root().heads.keys[0].id, _type="nonsense"), root())[0] == "wrong-key"


def test_10_9_the_head_of_another_device_is_refused() -> None:
    reason, message = refusal(signed_head(root()), root(), scope="edge-18")
    assert reason == "wrong-scope"
    assert "here only edge-18 is accepted" in message


def test_10_10_an_older_head_is_refused() -> None:
    last = taken(signed_head(root(), version=6), root()).seen
    assert refusal(signed_head(root(), version=5), root(), last=last) == (
        "rollback", "head version 5 is lower than 6, seen before: an older head was replayed",
    )  # fmt: skip


def test_10_10_the_same_version_with_another_content_is_refused() -> None:
    last = taken(signed_head(root()), root()).seen
    assert taken(signed_head(root()), root(), last=last).version == 5
    assert refusal(signed_head(root(), expires=NOW + DAY), root(), last=last)[0] == "version-reused"


def test_10_10_a_version_far_above_the_last_is_refused() -> None:
    last = taken(signed_head(root()), root()).seen
    assert taken(signed_head(root(), version=5 + JUMP_LIMIT), root(), last=last)
    assert refusal(signed_head(root(), version=6 + JUMP_LIMIT), root(), last=last)[0] == "fast-forward"


def test_10_10_a_head_from_before_the_floor_of_the_root_is_refused() -> None:
    trusted = root(floor=NOW)
    assert taken(signed_head(trusted), trusted)
    reason, message = refusal(signed_head(trusted, issued=NOW - timedelta(seconds=1)), trusted)
    assert reason == "rollback"
    assert "asks for 2026-11-21T12:00:00Z or later" in message


def test_10_11_an_expired_head_is_never_accepted() -> None:
    assert taken(signed_head(root()), root(), now=NOW + 7 * DAY - timedelta(seconds=1))
    reason, message = refusal(signed_head(root()), root(), now=NOW + 7 * DAY)
    assert reason == "freeze"
    assert "head version 5 expired at 2026-11-28T12:00:00Z, and it is 2026-11-28T12:00:00Z" in message


def test_10_11_what_was_accepted_is_looked_at_again_after_every_poll() -> None:
    seen = taken(signed_head(root()), root()).seen
    seen.check_fresh(NOW + 6 * DAY)
    with pytest.raises(TrustError) as refused:
        seen.check_fresh(NOW + 7 * DAY)
    assert refused.value.reason == "freeze"


def test_what_a_device_remembers_of_a_head_survives_a_restart() -> None:
    seen = taken(signed_head(root()), root()).seen
    assert SeenHead.from_dict(json.loads(json.dumps(seen.to_dict())), at="record") == seen
    for broken in (None, {}, {**seen.to_dict(), "version": "5"}, {**seen.to_dict(), "issued": 0}):
        with pytest.raises(FormatError, match=r"^record"):
            SeenHead.from_dict(broken, at="record")


def test_10_12_it_is_not_before_what_is_known_to_be_past() -> None:
    no_clock = datetime(1970, 1, 1, tzinfo=UTC)
    assert clock(no_clock, NOW, None, NOW - DAY) == NOW
    assert clock(NOW, None) == NOW


def test_10_12_a_device_without_a_clock_takes_a_head_and_knows_better_afterwards() -> None:
    build_time = NOW - 2 * YEAR
    seen = taken(signed_head(root()), root(), now=clock(datetime(1970, 1, 1, tzinfo=UTC), build_time)).seen
    later = clock(datetime(1970, 1, 2, tzinfo=UTC), build_time, seen.issued)
    assert later == NOW
    old = signed_head(root(), version=6, issued=NOW - 30 * DAY, expires=NOW - 23 * DAY)
    assert refusal(old, root(), now=later, last=seen)[0] == "freeze"


def test_10_12_a_device_with_a_good_clock_may_refuse_heads_from_the_future() -> None:
    data = signed_head(root(), issued=NOW + DAY)
    assert taken(data, root(), latest=NOW + DAY)
    assert refusal(data, root(), latest=NOW + DAY - timedelta(seconds=1))[0] == "from-the-future"


def test_10_13_the_state_is_the_one_that_the_head_names() -> None:
    one, trusted = state(), root()
    head = open_head(signed_head(trusted), trusted)
    assert verify_release(one.manifest, bundle_of(one), head, trusted).state == one
    for other in (state(counter=8), state(layers=[]), state(layers=[layer(), Descriptor.of(b"", "text/plain")])):
        with pytest.raises(TrustError, match="parts of two releases were put together") as refused:
            verify_release(other.manifest, bundle_of(other), head, trusted)
        assert refused.value.reason == "mix-and-match"


@pytest.mark.parametrize("changes", [{"counter": 8}, {"length": 1}])
def test_10_13_the_head_says_of_it_what_it_says_itself(changes: dict[str, Any]) -> None:
    one, trusted = state(), root()
    head = open_head(sign_head(head_of(one, **changes), trusted, [key("head")]), trusted)
    with pytest.raises(TrustError) as refused:
        verify_release(one.manifest, bundle_of(one), head, trusted)
    assert refused.value.reason == "mix-and-match"


def released(trusted: Root, bundles: Sequence[bytes]) -> str:
    one = state()
    head = open_head(sign_head(head_of(one), trusted, [key("head")]), trusted)
    try:
        verify_release(one.manifest, bundles, head, trusted)
    except TrustError as error:
        return error.reason
    return "verified"


def test_10_14_a_release_is_signed_by_as_many_release_keys_as_the_root_asks_for() -> None:
    two = root(releases=role("fleet", "second", threshold=2))
    assert released(two, bundle_of(state(), "second", "fleet")) == "verified"
    assert released(two, bundle_of(state(), "fleet")) == "below-threshold"
    assert released(two, bundle_of(state(), "fleet", "fleet")) == "below-threshold"
    assert released(two, bundle_of(state(), "fleet", "stranger")) == "below-threshold"
    assert released(two, bundle_of(state(), "stranger")) == "wrong-key"
    assert released(two, ()) == "unsigned"


def test_10_14_the_counter_of_releases_still_counts() -> None:
    one, trusted = state(), root()
    head = open_head(sign_head(head_of(one), trusted, [key("head")]), trusted)
    with pytest.raises(TrustError) as refused:
        verify_release(one.manifest, bundle_of(one), head, trusted, last=Seen(8, one.manifest.digest))
    assert refused.value.reason == "rollback"


def test_10_15_one_manifest_carries_the_head_and_the_signatures_of_its_release() -> None:
    data, bundles = signed_head(root()), bundle_of(state())
    manifest = build_carrier(data, bundles)
    assert manifest.artifact_type == "application/vnd.org.margo.oci.head.v1+json"
    carrier = parse_carrier(Manifest.from_bytes(manifest.data, what="head"))
    assert (carrier.head.data, [one.data for one in carrier.bundles]) == (data, list(bundles))
    assert len(manifest.data) < 4096
    assert str(head_tag(parse_reference("registry.example/fleet/edge-17:latest"))).endswith(":latest-head")


def test_10_15_inlined_content_is_what_its_descriptor_names() -> None:
    raw = json.loads(build_carrier(signed_head(root()), bundle_of(state())).data)
    raw["layers"][0]["data"] = raw["layers"][1]["data"]
    with pytest.raises(FormatError, match=r"layers\[0\]\.data"):
        Manifest.from_bytes(canonical_json(raw), what="head")


def test_10_15_a_long_bundle_is_fetched_as_a_blob() -> None:
    carrier = parse_carrier(build_carrier(signed_head(root()), [b"x" * 8193]))
    assert carrier.bundles[0].data is None


def test_10_15_something_else_under_the_tag_of_a_head_is_refused() -> None:
    for other in (state().manifest, build_carrier(b"{}", [b"%d" % i for i in range(17)])):
        with pytest.raises(FormatError, match="a head is expected"):
            parse_carrier(other)


def test_10_16_all_roots_lie_under_one_tag_by_their_names() -> None:
    roots = {n: Descriptor.of(b"%d" % n, "application/vnd.tuf.metadata+json") for n in (2, 1, 10)}
    manifest = Manifest.from_bytes(build_chain(roots).data, what="roots")
    names = [one.annotations["tuf.io/filename"] for one in manifest.layers]
    assert names == ["1.root.json", "2.root.json", "10.root.json"]
    assert {n: one.digest for n, one in parse_chain(manifest).items()} == {n: one.digest for n, one in roots.items()}
    twice = Manifest.build("application/x", [manifest.layers[0], manifest.layers[0]])
    with pytest.raises(FormatError, match=r"1\.root\.json stands twice"):
        parse_chain(twice)


def test_keys_are_written_as_others_write_them() -> None:
    public = key("a").key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    assert json.loads(root().data)["signed"]["keys"][CryptoSigner(key("a").key).public_key.keyid]["keyval"] == {
        "public": pem
    }
