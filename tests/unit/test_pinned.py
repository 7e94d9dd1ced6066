"""What is refused before it is published: what nobody signed whom the policy trusts, and what does not run there."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import pytest

from margo_oci.access import Access
from margo_oci.content import EMPTY_JSON, Descriptor, canonical_json
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import FileKey
from margo_oci.manifest import IMAGE_INDEX, IMAGE_MANIFEST, Manifest
from margo_oci.pinned import Pinned, check_platforms, check_signed, pinned
from margo_oci.platforms import Platform, worded_platforms
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.signing import Attacher
from margo_oci.transfer import Judge
from margo_oci.trust import Policy
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import OTHER_ID, deployment, key

HOST = "registry.example"
ARM = Platform.of("arm64")
AMD = Platform.of("amd64")


def noon() -> datetime:
    return datetime(2026, 8, 1, 12, tzinfo=UTC)


class Place:
    """A registry with one component and images, and who judges them."""

    def __init__(self) -> None:
        self.sim = SimulatedRegistry(host=HOST)
        self.component = self._put("components/hello", Manifest.build("application/x.component", []).data)

    def image(self, name: str, *platforms: str) -> Pinned:
        """Put an index over images for `platforms`."""
        listed = [self._one(name, platform) for platform in platforms]
        index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": listed}
        return Pinned("image", self._put(name, canonical_json(index)), ("a.yaml",))

    def single(self, name: str, architecture: str) -> Pinned:
        """Put an image without an index."""
        config = canonical_json({"os": "linux", "architecture": architecture})
        self.sim.put_blob(name, config)
        described = Descriptor.of(config, "application/vnd.oci.image.config.v1+json")
        raw = {"schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "config": described.to_dict(), "layers": []}
        return Pinned("image", self._put(name, canonical_json(raw)), ("a.yaml",))

    def _one(self, name: str, platform: str) -> dict[str, object]:
        system, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        manifest = Manifest.build(f"application/x.{architecture}", [])
        self._put(name, manifest.data)
        described = {"os": system, "architecture": architecture, **({"variant": variant} if variant else {})}
        return {**manifest.descriptor.to_dict(), "platform": described}

    def _put(self, repository: str, data: bytes) -> Reference:
        self.sim.put_blob(repository, EMPTY_JSON)
        digest = Descriptor.of(data, IMAGE_MANIFEST).digest
        self.sim.put_manifest(repository, digest, data)
        return Reference(HOST, repository, "", digest)

    def sign(self, at: Reference, by: FileKey) -> None:
        """Sign what is there, as cosign v3 does."""
        data = self.sim.repositories[at.repository].manifests[at.digest]

        async def work(registry: Registry) -> None:
            media_type = IMAGE_INDEX if b'"manifests"' in data else IMAGE_MANIFEST
            await Attacher(registry, SimulatedUploader(self.sim), noon).sign(at, Descriptor.of(data, media_type), by)

        self.run(work)

    def run(self, work: Callable[[Registry], Awaitable[None]]) -> None:
        """Do something with the registry."""

        async def inside() -> None:
            async with Registry(lambda _: Access(), transport_for=lambda _: self.sim.transport) as registry:
                await work(registry)

        asyncio.run(inside())

    def judged(self, found: Sequence[Pinned], *keys: FileKey) -> None:
        """Ask for signatures by one of `keys`."""
        judge = Judge(Policy([one.public for one in keys]), noon)
        self.run(lambda registry: check_signed(registry, found, lambda _: judge))


@pytest.fixture
def place() -> Place:
    return Place()


def test_4_6_what_is_not_signed_is_refused_with_every_document_that_leads_to_it(place: Place) -> None:
    found = [Pinned("component", place.component, ("a.yaml: component hello",)), place.image("web", "linux/amd64")]
    with pytest.raises(TrustError) as refused:
        place.judged(found, key())
    assert refused.value.reason == "unsigned"
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"a.yaml: component hello: component {HOST}/components/hello@sha256:")
    assert f"`margo-oci sign {place.component}`" in first
    assert second.startswith(f"a.yaml: image {HOST}/web@sha256:")


def test_4_6_a_signature_of_a_trusted_key_over_the_index_is_enough(place: Place) -> None:
    web = place.image("web", "linux/amd64", "linux/arm64")
    place.sign(web.reference, key())
    place.judged([web], key())
    with pytest.raises(TrustError, match="signed, but by no key that is trusted here") as refused:
        place.judged([web], key("stranger"))
    assert refused.value.reason == "wrong-key"


def test_4_6_where_no_entry_of_the_policy_fits_nothing_is_accepted(place: Place) -> None:
    def judge_for(reference: Reference) -> Judge:
        raise FormatError(f"{reference.name}: no entry of trust.components fits this repository")

    found = [Pinned("component", place.component, ("a.yaml: component hello",))]
    with pytest.raises(TrustError, match=r"no entry of trust.components fits"):
        place.run(lambda registry: check_signed(registry, found, judge_for))


def test_4_6_what_many_deployments_share_is_asked_for_once(place: Place) -> None:
    one, two = deployment(), deployment(OTHER_ID)
    digest = place.component.digest
    lock = Lock({one.components[0].source: digest}, {"web:1": digest, f"{HOST}/web:1": digest})
    found = pinned({"a.yaml": (one, lock), "b.yaml": (two, lock)})
    assert [it.kind for it in found] == ["component", "image", "image"]
    assert found[0].users == (
        f"a.yaml: component {one.components[0].name}",
        f"b.yaml: component {one.components[0].name}",
    )
    assert found[1].reference.name == "registry-1.docker.io/library/web"
    many = pinned({f"{number}.yaml": (one, lock) for number in range(9)})
    assert "0.yaml: component" in str(many[0])
    assert "and 6 more" in str(many[0])


def test_4_7_an_image_without_the_platform_is_refused_and_says_what_it_has(place: Place) -> None:
    web = place.image("web", "linux/amd64", "linux/arm/v7", "unknown/unknown")
    with pytest.raises(FormatError) as refused:
        place.run(lambda registry: check_platforms(registry, [web, place.single("job", "amd64")], [ARM]))
    assert refused.value.faults == (
        f"{web}: no image for linux/arm64: it has linux/amd64, linux/arm/v7",
        f"{place.single('job', 'amd64')}: no image for linux/arm64: it has linux/amd64",
    )


@pytest.mark.parametrize(
    ("platform", "told"),
    [
        (Platform("arm", "v6"), "linux/arm/v6"), (Platform.of("armv7l"), "linux/arm/v7"), (ARM, "linux/arm64"),
        (AMD, "linux/amd64"), (Platform("amd64", "v3"), "linux/amd64/v3"), (Platform.of("riscv64"), "linux/riscv64"),
    ],
)  # fmt: skip
def test_a_platform_is_told_with_its_variant_where_there_are_several(platform: Platform, told: str) -> None:
    assert str(platform) == told


def test_4_7_every_platform_that_is_named_must_be_there(place: Place) -> None:
    web = place.image("web", "linux/amd64", "linux/arm64")
    place.run(lambda registry: check_platforms(registry, [web], [ARM, AMD]))
    with pytest.raises(FormatError, match="no image for linux/riscv64"):
        place.run(lambda registry: check_platforms(registry, [web], [ARM, Platform.of("riscv64")]))


def test_4_7_components_have_no_platform(place: Place) -> None:
    found = [Pinned("component", place.component, ("a.yaml: component hello",))]
    place.run(lambda registry: check_platforms(registry, found, [ARM]))


def test_platforms_are_written_as_people_know_them() -> None:
    assert worded_platforms([{"os": "linux", "architecture": "arm", "variant": "v7"}, None]) == (
        "linux/arm/v7, (it does not say)"
    )
    assert worded_platforms([]) == "none"
