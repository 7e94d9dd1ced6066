"""Which signatures are found beside a digest, whatever else somebody put there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from margo_oci import notary
from margo_oci.content import EMPTY_JSON, Descriptor
from margo_oci.desired_state import build_state
from margo_oci.errors import FormatError
from margo_oci.manifest import REFERRER_COUNT_LIMIT, Manifest, build_index
from margo_oci.registry import Access, Registry
from margo_oci.signatures import Format
from margo_oci.signing import Attacher, Forms
from margo_oci.transfer import Judge
from margo_oci.trust import Policy
from tests.simulators.plant import NOON, SOURCE
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit import chains
from tests.unit.scenes import key

T = TypeVar("T")
STATE = build_state([], counter=1, scope="edge-17").manifest
TAG = STATE.digest.replace(":", "-")


@pytest.fixture
def sim() -> SimulatedRegistry:
    """A registry with one state, not signed."""
    sim = SimulatedRegistry()
    sim.put_manifest(SOURCE.repository, SOURCE.tag, STATE.data)
    return sim


def ask(sim: SimulatedRegistry, question: Callable[[Registry], Awaitable[T]]) -> T:
    async def asked() -> T:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            return await question(registry)

    return asyncio.run(asked())


def sign(sim: SimulatedRegistry, forms: Forms) -> list[Format]:
    async def signed(registry: Registry) -> list[Format]:
        attacher = Attacher(registry, SimulatedUploader(sim), lambda: NOON, forms)
        return list(await attacher.sign(SOURCE, STATE.descriptor, key()))

    return ask(sim, signed)


def signers(sim: SimulatedRegistry) -> list[Format]:
    judge = Judge(Policy([key().public]), lambda: NOON)
    return [one.format for one in ask(sim, lambda registry: judge.signers(registry, SOURCE, STATE.descriptor))]


def listed(sim: SimulatedRegistry, *carriers: Manifest) -> None:
    entries = [
        Descriptor(
            media_type=one.descriptor.media_type, digest=one.digest, size=len(one.data), artifact_type=one.artifact_type
        )
        for one in carriers
    ]
    for one in carriers:
        sim.put_manifest(SOURCE.repository, one.digest, one.data)
    sim.put_manifest(SOURCE.repository, TAG, build_index(entries))


def test_a_notary_signature_does_not_hide_the_tag_of_cosign_v2(sim: SimulatedRegistry) -> None:
    sign(sim, Forms())
    sim.put_blob(SOURCE.repository, EMPTY_JSON)
    junk = Manifest.build(
        notary.ARTIFACT_TYPE, [Descriptor.of(EMPTY_JSON, "application/jose+json")], subject=STATE.descriptor
    )
    listed(sim, junk)
    assert signers(sim) == ["simple-signing"]


def test_a_registry_that_takes_the_referrers_tag_for_the_subject_itself_does_no_harm(sim: SimulatedRegistry) -> None:
    sign(sim, Forms())
    sim.put_manifest(SOURCE.repository, TAG, STATE.data)
    assert signers(sim) == ["simple-signing"]


def test_no_more_is_listed_than_is_read(sim: SimulatedRegistry) -> None:
    many = [
        Manifest.build(f"application/vnd.scan.n{number}", [], subject=STATE.descriptor)
        for number in range(REFERRER_COUNT_LIMIT)
    ]
    listed(sim, *many)
    with pytest.raises(FormatError, match="no more than that are read: delete what is not needed any more"):
        sign(sim, Forms())


def test_a_chain_for_another_key_is_found_out_before_anything_is_signed(sim: SimulatedRegistry) -> None:
    chain = chains.chain(chains.leaf(), chains.root())
    before = dict(sim.repositories[SOURCE.repository].tags)
    with pytest.raises(FormatError):
        sign(sim, Forms(chain=chain))
    assert sim.repositories[SOURCE.repository].tags == before
