"""Attached documents, signed and not, on registries with and without the referrers API; and what a tree shows of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from margo_oci.attest import Attachment, Document, attach, attest
from margo_oci.attestation import DOCUMENT_LIMIT_BYTES, TYPES, document_type
from margo_oci.content import Descriptor, canonical_json
from margo_oci.cosign import parse_bundle
from margo_oci.desired_state import build_state
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import FileKey
from margo_oci.manifest import IMAGE_MANIFEST, Manifest
from margo_oci.registry import Access, Registry
from margo_oci.signatures import Format, SignedBy
from margo_oci.signing import Attacher, Forms
from margo_oci.transfer import Judge, referrers
from margo_oci.tree import NODE_LIMIT, Node, tree
from margo_oci.trust import Policy
from tests.simulators.plant import NOON, SOURCE
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader
from tests.unit.chains import private_key
from tests.unit.scenes import key

T = TypeVar("T")
SPDX = {"spdxVersion": "SPDX-2.3", "packages": []}
DOCUMENTS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "sbom-spdx": (SPDX, "https://spdx.dev/Document"),
    "sbom-cyclonedx": ({"bomFormat": "CycloneDX", "specVersion": "1.6"}, "https://cyclonedx.org/bom"),
    "vex": ({"@context": "https://openvex.dev/ns/v0.2.0", "statements": []}, "https://openvex.dev/ns"),
    "provenance": ({"buildDefinition": {}, "runDetails": {}}, "https://slsa.dev/provenance/v1"),
    "vuln": ({"scanner": {}, "metadata": {}}, "https://cosign.sigstore.dev/attestation/vuln/v1"),
}


class Desk:
    """Somebody who attaches things to a state in a registry."""

    def __init__(self, sim: SimulatedRegistry) -> None:
        self.sim = sim
        state = build_state([], counter=1, scope="edge-17")
        self.subject = state.manifest.descriptor
        sim.put_manifest(SOURCE.repository, SOURCE.tag, state.manifest.data)

    def ask(self, question: Callable[[Registry], Awaitable[T]]) -> T:
        async def asked() -> T:
            async with Registry(lambda _: Access(), transport_for=lambda _: self.sim.transport) as registry:
                return await question(registry)

        return asyncio.run(asked())

    def attacher(self, registry: Registry, forms: Forms = Forms()) -> Attacher:  # noqa: B008
        return Attacher(registry, SimulatedUploader(self.sim), lambda: NOON, forms)

    def attach(self, document: Document, signer: FileKey | None = None) -> Attachment:
        if signer is None:
            return self.ask(lambda registry: attach(self.attacher(registry), SOURCE, self.subject, document))
        return self.ask(lambda registry: attest(self.attacher(registry), SOURCE, self.subject, document, signer))

    def sign(self, signer: FileKey, forms: Forms = Forms()) -> Sequence[Format]:  # noqa: B008
        return self.ask(lambda registry: self.attacher(registry, forms).sign(SOURCE, self.subject, signer))

    def verify(self, *signers: FileKey, threshold: int = 1) -> Sequence[SignedBy]:
        judge = Judge(Policy([one.public for one in signers], threshold=threshold), lambda: NOON)
        return self.ask(lambda registry: judge.signers(registry, SOURCE, self.subject))

    def tree(self) -> Node:
        return self.ask(lambda registry: tree(registry, SOURCE))

    def listed(self) -> Sequence[Descriptor]:
        return self.ask(lambda registry: referrers(registry, SOURCE, self.subject.digest))

    def drop_referrers(self) -> None:
        """Remove all that refers to the subject, by whatever way it is listed."""
        place = self.sim.repositories[SOURCE.repository]
        place.tags.pop(self.subject.digest.replace(":", "-"), None)
        for digest in [one for one, data in place.manifests.items() if b'"subject"' in data]:
            del place.manifests[digest]

    def manifest(self, digest: str) -> Manifest:
        return Manifest.from_bytes(self.sim.repositories[SOURCE.repository].manifests[digest], what="manifest")


@pytest.fixture(params=[True, False], ids=["referrers API", "referrers tag"])
def desk(request: pytest.FixtureRequest) -> Desk:
    return Desk(SimulatedRegistry(referrers_api=request.param))


def document(name: str = "sbom-spdx", value: Any = None) -> Document:
    return Document(
        document_type(name), canonical_json(DOCUMENTS[name][0] if value is None else value), "document.json"
    )


@pytest.mark.parametrize("name", TYPES)
def test_a_document_is_attached_as_it_is_and_only_once(desk: Desk, name: str) -> None:
    first, again = desk.attach(document(name)), desk.attach(document(name))
    assert (first.made, again) == (True, Attachment(first.digest, made=False))
    [listed] = desk.listed()
    assert (listed.digest, listed.artifact_type) == (first.digest, TYPES[name].media_type)
    [layer] = desk.manifest(first.digest).layers
    assert layer.annotations == {"org.opencontainers.image.title": "document.json"}
    assert desk.sim.blobs[layer.digest] == document(name).data


@pytest.mark.parametrize("name", TYPES)
def test_a_signed_document_is_an_attestation_of_its_type_and_made_once(desk: Desk, name: str) -> None:
    first, again = desk.attach(document(name), key("sbom")), desk.attach(document(name), key("sbom"))
    value, predicate_type = DOCUMENTS[name]
    assert again == Attachment(first.digest, made=False, predicate_type=predicate_type)
    manifest = desk.manifest(first.digest)
    assert manifest.annotations["dev.sigstore.bundle.predicateType"] == predicate_type
    envelope = parse_bundle(desk.sim.blobs[manifest.layers[0].digest])
    assert key("sbom").public.verifies(envelope.signature, envelope.signed)
    said = json.loads(envelope.payload)
    assert (said["predicateType"], said["predicate"]) == (predicate_type, value)
    assert said["subject"][0]["digest"] == {"sha256": desk.subject.digest.removeprefix("sha256:")}


def test_another_key_or_another_document_makes_another_attestation(desk: Desk) -> None:
    newer = document(value={**SPDX, "name": "newer"})
    made = {desk.attach(document(), key("a")), desk.attach(document(), key("b")), desk.attach(newer, key("a"))}
    assert [one.made for one in made] == [True, True, True]
    assert len(desk.listed()) == 3


def test_an_older_provenance_keeps_its_own_predicate_type(desk: Desk) -> None:
    older = document("provenance", {"builder": {"id": "x"}, "buildType": "y"})
    assert desk.attach(older, key("sbom")).predicate_type == "https://slsa.dev/provenance/v0.2"


def test_any_media_type_can_be_attached_and_json_can_be_signed(desk: Desk) -> None:
    manual = Document(document_type("application/pdf"), b"%PDF", "manual.pdf")
    assert desk.attach(manual).made
    with pytest.raises(FormatError, match=r"manual\.pdf: not usable JSON"):
        desk.attach(manual, key("sbom"))
    made = desk.attach(Document(document_type("application/vnd.example+json"), b'{"a":1}', "a.json"), key("sbom"))
    assert made.predicate_type == "https://cosign.sigstore.dev/attestation/v1"
    envelope = parse_bundle(desk.sim.blobs[desk.manifest(made.digest).layers[0].digest])
    assert json.loads(envelope.payload)["predicate"] == {"Data": {"a": 1}}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("signer", [None, key("sbom")], ids=["unsigned", "signed"])
def test_what_is_not_of_its_type_is_refused(desk: Desk, name: str, signer: FileKey | None) -> None:
    with pytest.raises(FormatError, match=f"document.json: not of type {name}: .* expected"):
        desk.attach(document(name, {"something": "else"}), signer)
    assert desk.listed() == []


def test_too_large_a_document_and_an_unknown_type_are_refused(desk: Desk) -> None:
    with pytest.raises(FormatError, match=f"at most {DOCUMENT_LIMIT_BYTES} are attached"):
        desk.attach(Document(document_type("application/pdf"), bytes(DOCUMENT_LIMIT_BYTES + 1), "manual.pdf"))
    with pytest.raises(FormatError, match=r"type 'sbom': one of sbom-spdx, .* is expected, or a media type"):
        document_type("sbom")


def test_a_large_attestation_is_found_again(desk: Desk) -> None:
    large = document(value={**SPDX, "comment": "x" * 300_000})
    assert [desk.attach(large, key("sbom")).made for _ in range(2)] == [True, False]


def test_an_attestation_is_never_a_release_even_by_the_key_of_releases(desk: Desk) -> None:
    desk.attach(document(), key("fleet"))
    with pytest.raises(
        TrustError, match=r"fleet signed 'https://spdx\.dev/Document' for it, which is no release"
    ) as no:
        desk.verify(key("fleet"))
    assert no.value.reason == "not-a-release"


def test_an_unsigned_document_signs_nothing(desk: Desk) -> None:
    desk.attach(document())
    with pytest.raises(TrustError) as refused:
        desk.verify(key("fleet"))
    assert refused.value.reason == "unsigned"


def test_many_attestations_do_not_crowd_out_the_release(desk: Desk) -> None:
    for number in range(20):
        desk.attach(document(value={**SPDX, "name": str(number)}), key("fleet"))
    desk.sign(key("fleet"))
    assert [one.format for one in desk.verify(key("fleet"))] == ["bundle"]


def test_an_attestation_does_not_hide_a_second_signature_under_the_tag_of_cosign_v2(desk: Desk) -> None:
    desk.sign(key("second"))
    desk.drop_referrers()
    desk.sign(key("fleet"), Forms(simple=False))
    desk.attach(document(), key("sbom"))
    signers = desk.verify(key("fleet"), key("second"), threshold=2)
    assert [one.format for one in signers] == ["bundle", "simple-signing"]


def test_whose_key_also_signs_releases_is_told_from_others(desk: Desk) -> None:
    def released_by(signer: FileKey) -> bool:
        return desk.ask(lambda registry: desk.attacher(registry).released_by(SOURCE, desk.subject, signer))

    assert not released_by(key("fleet"))
    desk.sign(key("fleet"))
    assert (released_by(key("fleet")), released_by(key("sbom"))) == (True, False)


def test_a_release_that_only_cosign_v2_signed_is_seen(desk: Desk) -> None:
    def only_simple() -> bool:
        return desk.ask(lambda registry: desk.attacher(registry).only_simple(SOURCE, desk.subject))

    assert not only_simple()
    desk.sign(key("fleet"))
    assert not only_simple()
    desk.drop_referrers()
    assert only_simple()


def words(node: Node) -> Iterator[str]:
    for child in node.children:
        yield child.what
        yield from words(child)


def test_a_tree_shows_all_that_hangs_on_a_state_in_words(desk: Desk) -> None:
    desk.sign(key("fleet"))
    desk.attach(document("vex"))
    desk.attach(document("sbom-cyclonedx"), key("sbom"))
    data = desk.sim.repositories[SOURCE.repository].manifests[desk.subject.digest]
    for counter in range(1, 14):
        desk.sim.put_manifest(SOURCE.repository, f"{SOURCE.tag}-counter-{counter}", data)
    root = desk.tree()
    assert (root.what, root.digest, root.tag) == ("desired state", desk.subject.digest, SOURCE.tag)
    shown = list(words(root))
    assert sorted(shown[:3]) == [
        "Sigstore bundle: attestation of sbom-cyclonedx", "Sigstore bundle: release signature", "vex, unsigned",
    ]  # fmt: skip
    assert shown[3:] == ["cosign v2 signatures: 1", *(f"release {number}" for number in range(13, 3, -1)), "releases"]
    assert root.children[-1].note.startswith("3 older ones are not shown")
    assert {one.created for one in root.children[:3]} == {"2026-08-01T12:00:00Z"}


def test_a_tree_goes_down_to_what_hangs_on_what_hangs_there(desk: Desk) -> None:
    first = desk.attach(document())
    subject = desk.manifest(first.digest).descriptor
    desk.ask(lambda registry: desk.attacher(registry).sign(SOURCE, subject, key("fleet")))
    assert list(words(desk.tree())) == ["sbom-spdx, unsigned", "Sigstore bundle: release signature"]


def test_a_tree_that_refers_to_itself_or_lists_what_is_gone_ends() -> None:
    desk = Desk(SimulatedRegistry())
    first = desk.attach(document())
    gone = Descriptor(media_type=IMAGE_MANIFEST, digest="sha256:" + "9" * 64, size=7, artifact_type="a/b\x1b[31m")
    listed = [desk.subject, desk.manifest(first.digest).descriptor, gone]
    index = {"schemaVersion": 2, "manifests": [one.to_dict() for one in listed]}
    for digest in (desk.subject.digest, first.digest):
        desk.sim.put_manifest(SOURCE.repository, digest.replace(":", "-"), canonical_json(index))
    root = desk.tree()
    assert list(words(root)) == ["sbom-spdx, unsigned", "a/b [31m"]
    assert "does not have it" in root.children[1].note


def test_a_tree_tells_what_is_listed_at_a_wrong_place() -> None:
    desk = Desk(SimulatedRegistry())
    other = build_state([], counter=2, scope="edge-17").manifest
    desk.sim.put_manifest(SOURCE.repository, other.digest, other.data)
    index = canonical_json({"schemaVersion": 2, "manifests": [other.descriptor.to_dict()]})
    desk.sim.put_manifest(SOURCE.repository, desk.subject.digest.replace(":", "-"), index)
    [listed] = desk.tree().children
    assert (listed.what, listed.note) == ("desired state", "listed here, but it refers to something else")


def test_a_tree_has_so_many_nodes_and_no_more() -> None:
    desk = Desk(SimulatedRegistry())
    many = [Descriptor(media_type=IMAGE_MANIFEST, digest=f"sha256:{n:064x}", size=7) for n in range(NODE_LIMIT)]
    index = canonical_json({"schemaVersion": 2, "manifests": [one.to_dict() for one in many]})
    desk.sim.put_manifest(SOURCE.repository, desk.subject.digest.replace(":", "-"), index)
    root = desk.tree()
    assert (len(list(words(root))), root.note) == (NODE_LIMIT, f"only {NODE_LIMIT} are shown")


def test_a_tree_of_nothing_but_an_image_is_one_line() -> None:
    desk = Desk(SimulatedRegistry())
    image = {"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
             "digest": "sha256:" + "1" * 64, "size": 2}, "layers": []}  # fmt: skip
    desk.sim.put_manifest(SOURCE.repository, SOURCE.tag, canonical_json(image))
    assert (desk.tree().what, list(words(desk.tree()))) == ("image", [])


def test_a_key_of_another_curve_attests_nothing(desk: Desk) -> None:
    pem = private_key("P-384", "other").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(FormatError, match="P-256"):
        desk.attach(document(), FileKey.from_pem(pem, None, name="other.key", use="notary"))
