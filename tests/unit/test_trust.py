"""The rules of trust: who may say what a device runs, and every way in which that is refused."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from margo_oci import notary, simple_signing
from margo_oci.cosign import PAYLOAD_TYPE, RELEASE, STATEMENT_TYPE, bundle, pae, sign
from margo_oci.desired_state import COUNTER, SCOPE, DesiredState
from margo_oci.envelopes import JWS
from margo_oci.errors import FormatError, TrustError
from margo_oci.identity import Identity
from margo_oci.keys import FileKey
from margo_oci.manifest import Manifest
from margo_oci.signatures import Attached, Found, SignedBy
from margo_oci.trust import Policy, Seen, TrustAnything, Verified, look_at, recall, signers_of
from margo_oci.trust import verify as verify_found
from tests.unit.chains import Certified, authorities, certify, chain, root, subject_name
from tests.unit.scenes import DIGEST, OTHER_DIGEST, key, layer, state
from tests.unit.scenes import SCOPE as OWN_SCOPE

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)
POLICY = Policy([key().public], [OWN_SCOPE])


def signed(one: DesiredState, signer: FileKey | None = None) -> bytes:
    return sign(one.manifest.digest, signer or key(), name="registry.example/fleet/edge-17")


def said(one: DesiredState, *, predicate: str = RELEASE, digests: tuple[str, ...] = (), payload: bytes = b"") -> bytes:
    """A bundle whose signature holds, whatever it says."""
    subjects = [{"digest": {"sha256": digest.removeprefix("sha256:")}} for digest in digests or (one.manifest.digest,)]
    statement = {"_type": STATEMENT_TYPE, "predicateType": predicate, "predicate": {}, "subject": subjects}
    payload = payload or json.dumps(statement).encode()
    return bundle(payload, key().sign(pae(PAYLOAD_TYPE, payload)), hint=key().public.hint)


def found(bundles: Sequence[bytes]) -> Found:
    return Found([Attached("bundle", data) for data in bundles])


def verify(manifest: Manifest, bundles: Sequence[bytes], policy: Policy, *, last: Seen | None = None) -> Verified:
    return verify_found(manifest, found(bundles), policy, now=NOON, last=last)


def refusal(one: DesiredState, *bundles: bytes, policy: Policy = POLICY, last: Seen | None = None) -> tuple[str, str]:
    with pytest.raises(TrustError) as refused:
        verify(one.manifest, bundles, policy, last=last)
    return refused.value.reason, str(refused.value)


def test_a_state_signed_by_a_key_of_the_policy_is_accepted() -> None:
    one = state()
    verified = verify(one.manifest, [signed(one)], POLICY)
    assert verified.state == one
    assert verified.signed_by == "fleet"


def test_any_key_of_the_policy_will_do() -> None:
    one = state()
    policy = Policy([key("old").public, key("new").public], [OWN_SCOPE])
    assert verify(one.manifest, [signed(one, key("new"))], policy).signed_by == "new"


def test_one_good_signature_among_bad_ones_is_enough() -> None:
    one = state()
    bundles = [b"rubbish", signed(one, key("stranger")), said(one, predicate="https://spdx.dev/Document"), signed(one)]
    assert verify(one.manifest, bundles, POLICY).signed_by == "fleet"


def test_6_3_a_state_without_a_signature_is_refused() -> None:
    reason, message = refusal(state())
    assert reason == "unsigned"
    assert message.endswith("has no signature: pushed without a key, or its signature was removed on the way")


def test_6_4_a_signature_by_a_stranger_is_refused_and_the_trusted_keys_are_named() -> None:
    one = state()
    reason, message = refusal(one, signed(one, key("stranger")))
    assert reason == "wrong-key"
    assert message == (
        f"{one.manifest.digest}: signed, but by no key that is trusted here: fleet ({key().public.fingerprint})"
    )


def test_6_4_the_hint_beside_a_signature_plays_no_part() -> None:
    one = state()
    raw = json.loads(signed(one))
    raw["verificationMaterial"]["publicKey"]["hint"] = key("stranger").public.hint
    assert verify(one.manifest, [json.dumps(raw).encode()], POLICY).signed_by == "fleet"
    raw = json.loads(signed(one, key("stranger")))
    raw["verificationMaterial"]["publicKey"]["hint"] = key().public.hint
    assert refusal(one, json.dumps(raw).encode())[0] == "wrong-key"


def test_6_5_a_signed_list_of_parts_is_no_release() -> None:
    one = state()
    reason, message = refusal(one, said(one, predicate="https://spdx.dev/Document"))
    assert reason == "not-a-release"
    assert message.endswith("fleet signed 'https://spdx.dev/Document' for it, which is no release")


def test_6_6_a_signature_from_elsewhere_is_refused() -> None:
    one = state()
    reason, message = refusal(one, said(one, digests=(DIGEST,)))
    assert reason == "moved-signature"
    assert message == f"{one.manifest.digest}: its signature is for {DIGEST}: moved here from there"


def test_6_6_a_signature_over_this_and_more_is_over_something_else() -> None:
    one = state()
    reason, message = refusal(one, said(one, digests=(one.manifest.digest, OTHER_DIGEST)))
    assert reason == "moved-signature"
    assert OTHER_DIGEST in message


@pytest.mark.parametrize("data", [b"", b"{}", b"rubbish", b"\xff", b"[]"])
def test_6_3_what_is_no_bundle_is_a_malformed_signature(data: bytes) -> None:
    one = state()
    reason, message = refusal(one, data)
    assert reason == "malformed-signature"
    assert message.startswith(f"{one.manifest.digest}: bundle: ")


@pytest.mark.parametrize("payload", [b"rubbish", b"{}", b'{"a":1,"a":2}', b"\xff"])
def test_a_signed_payload_that_cannot_be_read_is_a_malformed_signature(payload: bytes) -> None:
    one = state()
    reason, message = refusal(one, said(one, payload=payload))
    assert reason == "malformed-signature"
    assert message.startswith(f"{one.manifest.digest}: statement: ")


def test_nothing_of_a_payload_is_read_before_its_signature_held() -> None:
    """With a stranger's signature the nonsense inside is never looked at: the refusal speaks of the key alone."""
    one = state()
    payload = b'{"a":1,"a":2}'
    strange = bundle(payload, key("stranger").sign(pae(PAYLOAD_TYPE, payload)), hint="")
    assert refusal(one, strange)[0] == "wrong-key"


def test_of_several_refusals_the_one_that_tells_most_is_reported() -> None:
    one = state()
    malformed, wrong = b"{}", signed(one, key("stranger"))
    other, moved = said(one, predicate="x"), said(one, digests=(DIGEST,))
    assert refusal(one, malformed, wrong, other, moved)[0] == "moved-signature"
    assert refusal(one, malformed, wrong, other)[0] == "not-a-release"
    assert refusal(one, malformed, wrong)[0] == "wrong-key"


def test_6_7_the_state_of_another_device_is_refused() -> None:
    one = state(scope="plant-3/line-1/edge-18")
    reason, message = refusal(one, signed(one))
    assert reason == "wrong-scope"
    assert message == (
        "this state is for scope 'plant-3/line-1/edge-18', here only plant-3/line-1/edge-17 is accepted: "
        "another device's state was put in this place"
    )


def test_a_part_of_the_own_scope_is_not_the_own_scope() -> None:
    for scope in ("plant-3/line-1", "plant-3/line-1/edge-17/sub", "Plant-3/line-1/edge-17"):
        one = state(scope=scope)
        assert refusal(one, signed(one))[0] == "wrong-scope"


def test_a_state_for_nobody_is_refused_where_a_scope_is_asked_for() -> None:
    raw = json.loads(state().manifest.data)
    del raw["annotations"][SCOPE]
    manifest = Manifest.from_bytes(json.dumps(raw).encode(), what="m")
    data = sign(manifest.digest, key(), name="a/b")
    with pytest.raises(TrustError, match=r"this state is for scope '\(none\)'"):
        verify(manifest, [data], POLICY)
    assert verify(manifest, [data], Policy([key().public])).state.scope == ""


def test_6_8_an_older_state_is_refused() -> None:
    one = state(counter=6)
    reason, message = refusal(one, signed(one), last=Seen(7, DIGEST))
    assert reason == "rollback"
    assert message == "counter 6 is lower than 7, seen before: an older state was replayed"


def test_6_9_a_counter_that_had_another_state_is_refused() -> None:
    one = state(counter=7)
    reason, message = refusal(one, signed(one), last=Seen(7, DIGEST))
    assert reason == "counter-reused"
    assert message == (
        f"counter 7 was seen with {DIGEST}, now with {one.manifest.digest}: two states were signed with one counter"
    )


def test_the_same_state_and_a_newer_one_are_accepted() -> None:
    one = state(counter=7)
    assert verify(one.manifest, [signed(one)], POLICY, last=Seen(7, one.manifest.digest)).state == one
    assert verify(one.manifest, [signed(one)], POLICY, last=Seen(6, DIGEST)).state == one


def test_who_signed_is_asked_before_for_whom_and_which() -> None:
    """A stranger must not learn or cause anything by counters and scopes: the signature comes first."""
    one = state(counter=1, scope="other")
    assert refusal(one, signed(one, key("stranger")), last=Seen(7, DIGEST))[0] == "wrong-key"
    assert refusal(one, signed(one), last=Seen(7, DIGEST))[0] == "wrong-scope"


def test_6_1_what_is_no_desired_state_is_malformed() -> None:
    manifest = Manifest.build("application/vnd.example+json", [layer()], {COUNTER: "1"})
    with pytest.raises(TrustError, match="artifactType: a desired state is expected") as refused:
        verify(manifest, [], POLICY)
    assert refused.value.reason == "malformed"


def test_a_policy_without_keys_cannot_be_made() -> None:
    with pytest.raises(FormatError, match="trust: at least one key is expected"):
        Policy([], [OWN_SCOPE])


def test_trusting_anything_says_that_nobody_was_asked() -> None:
    assert look_at(state().manifest, TrustAnything()).signed_by == "nobody (not checked)"
    with pytest.raises(FormatError, match="a desired state is expected"):
        look_at(Manifest.build("x/y", []), TrustAnything())


def test_6_2_a_state_is_recalled_by_the_digest_in_our_own_record() -> None:
    one = state()
    assert recall(one.manifest, Seen(7, one.manifest.digest)).state == one
    with pytest.raises(TrustError) as refused:
        recall(one.manifest, Seen(7, DIGEST))
    assert refused.value.reason == "digest-mismatch"
    assert str(refused.value) == f"recorded is {DIGEST}, kept is {one.manifest.digest}"


def test_6_12_as_many_signers_as_the_threshold_asks_for_must_have_signed() -> None:
    one = state()
    policy = Policy([key("a").public, key("b").public, key("c").public], [OWN_SCOPE], threshold=2)
    assert verify(one.manifest, [signed(one, key("c")), signed(one, key("a"))], policy).signed_by == "c, a"
    reason, message = refusal(one, signed(one, key("a")), signed(one, key("a")), policy=policy)
    assert reason == "below-threshold"
    assert "signed by a: 2 of those who are trusted must sign" in message


@pytest.mark.parametrize("threshold", [0, -1, 2])
def test_6_12_a_threshold_that_nobody_can_reach_or_miss_cannot_be_made(threshold: int) -> None:
    with pytest.raises(FormatError, match=f"threshold {threshold}: 1 to 1, the number of signers, is expected"):
        Policy([key().public, key().public], threshold=threshold)


def test_one_key_counts_once_whatever_formats_it_signed_in() -> None:
    one = state()
    simple = simple_signing.sign(one.manifest.digest, key(), name="registry.example/fleet/edge-17")
    both = Found(
        [Attached("simple-signing", simple.payload, signature=simple.signature), *found([signed(one)]).attached]
    )
    (by,) = signers_of(one.manifest.descriptor, both, Policy([key().public]), now=NOON)
    assert (by.name, by.format) == ("fleet", "simple-signing")


def by_certificate(*signers: Certified) -> Sequence[SignedBy]:
    """Who signed a state by certificates of the authority that is trusted, if it takes two."""
    one = state().manifest
    attached = [
        Attached("notary", notary.sign(one.descriptor, signer.signer, chain(signer, root()), now=NOON), JWS)
        for signer in signers
    ]
    return signers_of(one.descriptor, Found(attached), Policy(authorities=authorities(), threshold=2), now=NOON)


def test_6_12_two_names_with_a_key_each_are_two_signers() -> None:
    assert len(by_certificate(certify("ana", root()), certify("ben", root()))) == 2


def test_6_12_two_certificates_of_one_name_are_one_signer() -> None:
    named = [certify(key, root(), subject=subject_name(name)) for key, name in (("old", "Ana"), ("new", "ana "))]
    with pytest.raises(TrustError, match=r"signed by CN=Ana,O=example.org,.*: 2 of those who are trusted must sign"):
        by_certificate(*named)


def test_6_12_two_certificates_for_one_key_are_one_signer() -> None:
    both = [certify("shared", root(), subject=subject_name(name)) for name in ("ana", "ben")]
    with pytest.raises(TrustError, match="2 of those who are trusted must sign"):
        by_certificate(*both)


def test_6_12_who_shares_a_name_with_one_and_a_key_with_another_is_one_with_both() -> None:
    ana, ben = certify("a", root(), subject=subject_name("ana")), certify("b", root(), subject=subject_name("ben"))
    between = certify("b", root(), subject=subject_name("ana"))
    assert len(by_certificate(ana, ben)) == 2
    with pytest.raises(TrustError, match="2 of those who are trusted must sign"):
        by_certificate(ana, ben, between)
    assert len(by_certificate(ana, ben, between, certify("c", root()))) == 2


def test_a_simple_signature_over_something_else_was_moved() -> None:
    simple = simple_signing.sign(DIGEST, key(), name="registry.example/fleet/edge-17")
    moved = Found([Attached("simple-signing", simple.payload, signature=simple.signature)])
    with pytest.raises(TrustError) as refused:
        signers_of(state().manifest.descriptor, moved, Policy([key().public]), now=NOON)
    assert refused.value.reason == "moved-signature"


def test_a_keyless_signature_counts_only_when_somebody_vouches_for_it() -> None:
    one = state()
    raw = json.loads(signed(one))
    raw["verificationMaterial"] = {"certificate": {"rawBytes": ""}, "tlogEntries": []}
    reason, message = refusal(one, json.dumps(raw).encode())
    assert (reason, message.endswith("signed keyless, and no identity is trusted here")) == ("bad-identity", True)


def test_what_could_not_be_read_is_told_if_nothing_else_was_there() -> None:
    unread = Found(refused=[TrustError("too-large", "too large")])
    with pytest.raises(TrustError, match="too large"):
        signers_of(state().manifest.descriptor, unread, POLICY, now=NOON)


def test_a_policy_has_another_digest_when_anything_in_it_changes() -> None:
    some = [
        Policy([key().public]),
        Policy([key().public, key("b").public]),
        Policy([key().public, key("b").public], threshold=2),
        Policy([key().public], ["edge-17"]),
        Policy([key().public], identities=[Identity("ci@example.org", "https://issuer.example")]),
    ]
    assert len({one.digest for one in some}) == len(some)
