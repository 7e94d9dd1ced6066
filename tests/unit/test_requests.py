"""What a push asks of a registry: what is known is not asked for again, what safety needs is."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from margo_oci.desired_state import Layer
from margo_oci.manifest import parse_index
from margo_oci.publish import Publisher, Release
from margo_oci.reference import Reference
from margo_oci.signed import SignatureFolder
from margo_oci.signing import Attacher, Forms
from margo_oci.transfer import signatures, simple_image
from margo_oci.trust import Policy, signers_of
from tests.simulators.plant import NOON, SCOPE, SOURCE, Plant
from tests.simulators.pushing import wired
from tests.unit.scenes import key

V3 = Forms(simple=False)
BOTH = Forms(simple=True)


class Operator:
    """Publishes to a simulated registry, and counts what that asks of it."""

    def __init__(self, plant: Plant, folder: Path, forms: Forms, *, mounts: bool = True) -> None:
        self.plant = plant
        self.uploader, self.wire = wired(plant.sim, mounts=mounts)
        self.forms = forms
        self.kept = SignatureFolder(folder / "signatures")

    def push(self, *layers: Layer, at: Reference = SOURCE) -> Release:
        """Publish; what was asked before is forgotten."""
        self.plant.sim.forget()
        self.wire.sent.clear()
        publisher = Publisher(
            self.plant.device.registry(), self.uploader, self.plant.key, lambda: datetime(2026, 8, 1, tzinfo=UTC),
            forms=self.forms, kept=self.kept,
        )  # fmt: skip
        return asyncio.run(publisher.publish(at, layers, scope=SCOPE))

    @property
    def requests(self) -> int:
        """How many requests that were."""
        return len(self.plant.sim.requests) + len(self.wire.sent)

    def sent(self, method: str) -> list[str]:
        """Where to something was sent."""
        return [one.url for one in self.wire.sent if one.method == method]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


@pytest.mark.parametrize(("forms", "most"), [(V3, 13), (BOTH, 18)], ids=["cosign v3", "and the tag of cosign v2"])
@pytest.mark.parametrize("count", [2, 12])
def test_one_of_many_that_changes_costs_about_a_dozen_requests_however_many_there_are(
    plant: Plant, tmp_path: Path, forms: Forms, most: int, count: int
) -> None:
    operator = Operator(plant, tmp_path, forms)
    rest = [plant.workload(f"pump-{number}", "a").layer for number in range(1, count)]
    operator.push(plant.workload("pump-0", "a").layer, *rest)
    release = operator.push(plant.workload("pump-0", "b").layer, *rest)
    assert release.state.counter == 2
    assert len(release.uploaded) == 1
    assert operator.requests == most


def test_the_looks_that_safety_needs_are_among_them(plant: Plant, tmp_path: Path) -> None:
    operator = Operator(plant, tmp_path, V3)
    operator.push(plant.workload("pump", "a").layer)
    manifest = operator.push(plant.workload("pump", "b").layer).state.manifest
    looks = [f"{one.method} {one.path.rpartition('/')[2]} {one.status}" for one in plant.sim.requests]
    assert looks == [
        "GET latest 200", "HEAD latest-counter-2 404", f"HEAD {manifest.digest} 404", "HEAD latest 200",
        "HEAD latest-counter-2 200",
    ]  # fmt: skip


def test_without_what_was_kept_the_last_release_is_verified_by_the_registry_s_signature(
    plant: Plant, tmp_path: Path
) -> None:
    Operator(plant, tmp_path, V3).push(plant.workload("pump", "a").layer)
    elsewhere = Operator(plant, tmp_path / "other", V3)
    assert elsewhere.push(plant.workload("pump", "b").layer).state.counter == 2
    assert elsewhere.requests == 13 + 4


def test_2_8_a_signature_that_is_kept_counts_only_if_it_holds(plant: Plant, tmp_path: Path) -> None:
    operator = Operator(plant, tmp_path, V3)
    operator.push(plant.workload("pump", "a").layer)
    for kept in (tmp_path / "signatures").iterdir():
        kept.write_bytes(kept.read_bytes().replace(b"payload", b"nothing"))
    assert operator.push(plant.workload("pump", "b").layer).state.counter == 2
    assert operator.requests == 13 + 4


def test_what_an_earlier_release_had_is_not_sent_again(plant: Plant, tmp_path: Path) -> None:
    operator = Operator(plant, tmp_path, V3)
    for recipe in ("a", "b"):
        operator.push(plant.workload("pump", recipe).layer)
    layer = plant.workload("pump", "a").layer
    assert operator.push(layer).uploaded == frozenset()
    assert not any(layer.descriptor.digest.partition(":")[2] in url for url in operator.sent("PUT"))


def test_a_registry_that_mounts_nothing_gets_every_layer(plant: Plant, tmp_path: Path) -> None:
    operator = Operator(plant, tmp_path, V3, mounts=False)
    layer = plant.workload("pump", "a").layer
    assert operator.push(layer).uploaded == {layer.descriptor.digest}


def test_the_same_state_under_another_tag_keeps_the_signatures_that_it_has(plant: Plant, tmp_path: Path) -> None:
    operator = Operator(plant, tmp_path, BOTH)
    layer = plant.workload("pump", "a").layer
    release = operator.push(layer)
    sigs = plant.sim.repositories[SOURCE.repository].tags
    before = {name: digest for name, digest in sigs.items() if name.startswith("sha256-")}
    again = operator.push(layer, at=SOURCE.at("canary"))
    assert again.state.manifest.digest == release.state.manifest.digest
    assert {name: digest for name, digest in sigs.items() if name.startswith("sha256-")} == before
    index = plant.sim.repositories[SOURCE.repository].manifests[before[release.state.manifest.digest.replace(":", "-")]]
    assert len(parse_index(index, what="index")) == 1


def test_what_others_signed_is_listed_still_although_a_registry_that_mounts_nothing_hides_it(
    plant: Plant, tmp_path: Path
) -> None:
    operator = Operator(plant, tmp_path, BOTH, mounts=False)
    layer = plant.workload("pump", "a").layer
    subject = operator.push(layer).state.manifest.descriptor
    other = key("other")
    attacher = Attacher(plant.device.registry(), operator.uploader, lambda: NOON)
    asyncio.run(attacher.sign(SOURCE, subject, other))
    operator.push(layer, at=SOURCE.at("stable"))
    found = asyncio.run(signatures(plant.device.registry(), SOURCE, subject.digest))
    for one in (plant.key, other):
        assert signers_of(subject, found, Policy([one.public]), now=NOON)
    image = asyncio.run(simple_image(plant.device.registry(), SOURCE, subject.digest))
    assert image
    assert len(image.layers) == 2


def test_a_registry_that_lists_referrers_itself_gets_no_list(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.sim.referrers_api = True
    operator = Operator(plant, tmp_path, V3)
    for recipe in ("a", "b"):
        operator.push(plant.workload("pump", recipe).layer)
    assert operator.requests == 12
