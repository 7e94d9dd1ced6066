"""The artifact for Flux and Argo CD: their media types, one plain layer, and a tag that moves only when it must."""

import asyncio
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from margo_oci.access import Access
from margo_oci.content import Descriptor, canonical_json, digest_of
from margo_oci.desired_state import ARTIFACT_TYPE, COUNTER, LAYER_TYPE, LOCK, NO_ORIGIN, SCOPE, Lock, Origin
from margo_oci.errors import FormatError
from margo_oci.flux import FluxArtifact, FluxPublisher, FluxRelease, build_flux
from margo_oci.reference import parse_reference
from margo_oci.registry import Registry
from margo_oci.transfer import Judge
from margo_oci.trust import Policy
from tests.simulators.plant import SOURCE, Plant
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import as_yaml, document, key, state

PLACE = parse_reference("registry.example/fleet/edge-17:latest-flux")
FILES = {"pump.yaml": as_yaml(document()), "valve.yaml": b"id: x\n"}
COMMIT = Origin("a" * 40, "https://git.example/plant.git")


def noon() -> datetime:
    return datetime(2026, 8, 1, 12, tzinfo=UTC)


def built(files: Mapping[str, bytes] = FILES, origin: Origin = NO_ORIGIN, rev: str = "") -> FluxArtifact:
    return build_flux(PLACE, files, origin, rev=rev)


def published(sim: SimulatedRegistry, artifact: FluxArtifact) -> FluxRelease:
    async def work() -> FluxRelease:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            return await FluxPublisher(registry, SimulatedUploader(sim), key(), noon).publish(PLACE, artifact)

    return asyncio.run(work())


def test_15_1_it_is_what_flux_takes() -> None:
    raw = json.loads(built().manifest.data)
    assert raw["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert raw["config"]["mediaType"] == "application/vnd.cncf.flux.config.v1+json"
    assert [layer["mediaType"] for layer in raw["layers"]] == ["application/vnd.cncf.flux.content.v1.tar+gzip"]
    assert "artifactType" not in raw


def test_15_1_its_layer_has_plain_files_at_its_root_byte_for_byte() -> None:
    with tarfile.open(fileobj=io.BytesIO(built().layer), mode="r:gz") as tar:
        members = tar.getmembers()
        assert {one.name: tar.extractfile(one).read() for one in members} == FILES  # type: ignore[union-attr]
    assert all(one.isreg() for one in members)


def test_15_2_the_same_documents_give_the_same_bytes_in_any_order() -> None:
    assert built(dict(reversed(FILES.items()))) == built()
    config = json.loads(built().config)
    assert config["rootfs"]["diff_ids"] == [digest_of(gzip.decompress(built().layer))]


@pytest.mark.parametrize(
    ("origin", "rev", "source", "revision"),
    [
        (COMMIT, "main", "https://git.example/plant.git", f"main@sha1:{'a' * 40}"),
        (COMMIT, "a" * 40, "https://git.example/plant.git", f"sha1:{'a' * 40}"),
        (COMMIT, "", "https://git.example/plant.git", f"sha1:{'a' * 40}"),
        (NO_ORIGIN, "", "oci://registry.example/fleet/edge-17", f"latest-flux@{digest_of(built().layer)}"),
    ],
)
def test_15_3_its_annotations_say_where_it_comes_from(origin: Origin, rev: str, source: str, revision: str) -> None:
    annotations = built(origin=origin, rev=rev).manifest.annotations
    assert annotations == {
        "org.opencontainers.image.source": source, "org.opencontainers.image.revision": revision,
    }  # fmt: skip


def test_15_3_the_time_is_noted_when_asked_for() -> None:
    artifact = build_flux(PLACE, FILES, COMMIT, created="2026-08-01T12:00:00Z")
    assert artifact.manifest.annotations["org.opencontainers.image.created"] == "2026-08-01T12:00:00Z"


def test_15_4_it_is_signed_in_all_forms_and_the_tag_moves_once() -> None:
    sim = SimulatedRegistry()
    release = published(sim, built(origin=COMMIT, rev="main"))
    assert release.changed
    tags = sim.repositories[PLACE.repository].tags
    assert tags["latest-flux"] == release.digest
    assert f"{release.digest.replace(':', '-')}.sig" in tags
    before = dict(tags)
    other = Origin("b" * 40, COMMIT.source)
    assert published(sim, built(origin=other, rev="main")) == FluxRelease(PLACE, release.digest, False)
    assert tags == before

    async def signers() -> list[str]:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            subject = Descriptor.of(built(origin=COMMIT, rev="main").manifest.data, "x/y")
            judge = Judge(Policy([key().public]), noon)
            return [one.name for one in await judge.signers(registry, PLACE, subject)]

    assert asyncio.run(signers())


def test_15_4_other_content_moves_the_tag() -> None:
    sim = SimulatedRegistry()
    first = published(sim, built())
    second = published(sim, built({"pump.yaml": b"id: y\n"}))
    assert second.changed
    assert second.digest != first.digest
    assert sim.repositories[PLACE.repository].tags["latest-flux"] == second.digest


def test_15_4_a_tag_that_holds_something_else_is_not_overwritten() -> None:
    sim = SimulatedRegistry()
    sim.put_manifest(PLACE.repository, PLACE.tag, state().manifest.data)
    with pytest.raises(FormatError, match="something else than an artifact for Flux"):
        published(sim, built())


def test_15_4_nothing_is_signed_that_was_not_made_here(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    work = plant.workload("pump", "a")
    place = SOURCE.at("latest-flux")
    artifact = build_flux(place, {"pump.yaml": work.deployment.data}, NO_ORIGIN)
    forged = json.loads(artifact.manifest.data)  # the same layer, as a state with a lock of the forger's
    forged["artifactType"] = ARTIFACT_TYPE
    forged["annotations"] = {SCOPE: "edge-17", COUNTER: "99"}
    forged["layers"][0] |= {"mediaType": LAYER_TYPE, "annotations": {LOCK: Lock({}, {}).to_json()}}
    plant.sim.put_manifest(place.repository, place.tag, canonical_json(forged))
    uploader = SimulatedUploader(plant.sim)

    async def push() -> FluxRelease:
        async with plant.device.registry() as registry:
            return await FluxPublisher(registry, uploader, plant.key, noon).publish(place, artifact)

    done = asyncio.run(push())
    assert (done.changed, done.digest) == (True, artifact.manifest.digest)
    plant.put_bytes(canonical_json(forged))
    assert (plant.device.once().reason, plant.device.engine.running) == ("unsigned", {})
