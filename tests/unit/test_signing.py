"""Signing what a registry has: a signature that is there is not made again, and junk beside it stands for none."""

from datetime import timedelta

import pytest

from margo_oci import notary, simple_signing
from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.manifest import Manifest
from margo_oci.registry import Registry
from margo_oci.signing import NOTARY_COUNT_LIMIT, Forms
from tests.simulators.plant import NOON, SOURCE
from tests.simulators.registry import SimulatedRegistry
from tests.unit.chains import SUBJECT, certify, chain, leaf, root
from tests.unit.scenes import key
from tests.unit.test_attach import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk(SimulatedRegistry())


def sig_tag(desk: Desk) -> str:
    return simple_signing.tag_of(desk.subject.digest)


def sig_image(desk: Desk) -> Manifest:
    return desk.manifest(desk.sim.repositories[SOURCE.repository].tags[sig_tag(desk)])


def spoil_first_layer(desk: Desk) -> None:
    """Leave the annotation of the first signature under cosign v2's tag no base64."""
    raw = parse_json(sig_image(desk).data, what="signatures")
    raw["layers"][0]["annotations"][simple_signing.SIGNATURE] = "no base64!"
    desk.sim.put_manifest(SOURCE.repository, sig_tag(desk), canonical_json(raw))


def test_the_image_of_cosign_v2_is_read_once_to_sign(desk: Desk) -> None:
    desk.sign(key("fleet"))
    desk.sim.requests.clear()
    desk.sign(key("fleet"))
    assert [one.method for one in desk.sim.requests if one.path.endswith(".sig")] == ["GET"]


def test_a_bad_layer_of_cosign_v2_hides_no_other(desk: Desk) -> None:
    desk.sign(key("stranger"))
    desk.sign(key("fleet"))
    spoil_first_layer(desk)
    desk.drop_referrers()
    assert [one.name for one in desk.verify(key("fleet"))] == ["fleet"]


def test_a_bad_layer_of_cosign_v2_does_not_stop_ours(desk: Desk) -> None:
    desk.sign(key("stranger"))
    spoil_first_layer(desk)
    assert desk.sign(key("fleet")) == ["bundle", "simple-signing"]
    assert desk.sign(key("fleet")) == []
    assert len(sig_image(desk).layers) == 2


def test_without_the_tag_of_cosign_v2_none_is_made(desk: Desk) -> None:
    assert desk.sign(key("fleet"), Forms(simple=False)) == ["bundle"]


CHAIN = Forms(simple=False, chain=chain())


def carry(desk: Desk, envelope: bytes) -> None:
    """List an envelope as a signature by our chain, whatever it is."""
    carrier = notary.signature_manifest(envelope, chain(), desk.subject, created="2027-01-01T00:00:00Z")

    async def carried(registry: Registry) -> None:
        await desk.attacher(registry).carry(SOURCE, carrier, envelope)

    desk.ask(carried)


def test_a_notary_signature_is_made_once(desk: Desk) -> None:
    assert desk.sign(leaf().signer, CHAIN) == ["bundle", "notary"]
    assert desk.sign(leaf().signer, CHAIN) == []


def test_junk_with_our_thumbprints_does_not_stand_for_our_notary_signature(desk: Desk) -> None:
    carry(desk, b"junk")
    carry(desk, notary.sign(SUBJECT, leaf().signer, chain(), now=NOON))
    assert desk.sign(leaf().signer, CHAIN) == ["bundle", "notary"]
    assert desk.sign(leaf().signer, CHAIN) == []


def test_a_notary_signature_with_another_chain_is_not_ours(desk: Desk) -> None:
    renewed = certify("signer P-256", root())
    carry(desk, notary.sign(desk.subject, leaf().signer, chain(renewed, root()), now=NOON))
    assert desk.sign(leaf().signer, CHAIN) == ["bundle", "notary"]


def test_a_notary_signature_that_expired_is_made_anew(desk: Desk) -> None:
    then, expiry = NOON - timedelta(hours=2), NOON - timedelta(hours=1)
    carry(desk, notary.sign(desk.subject, leaf().signer, chain(), now=then, expiry=expiry))
    assert desk.sign(leaf().signer, CHAIN) == ["bundle", "notary"]


def test_a_notary_signature_that_no_verifier_would_look_at_is_not_made(desk: Desk) -> None:
    for number in range(NOTARY_COUNT_LIMIT):
        carry(desk, b"junk %d" % number)
    with pytest.raises(FormatError, match="3 Notary signatures: verifiers look at no more"):
        desk.sign(leaf().signer, CHAIN)
