"""What would move: tags that lead elsewhere than the published lock, newer versions, and documents that take them."""

import asyncio

import pytest

from margo_oci.access import Access
from margo_oci.desired_state import Lock, build_layer, build_state
from margo_oci.errors import FormatError
from margo_oci.locks import Move, locks_of, moves, updates
from margo_oci.registry import Registry
from margo_oci.revising import revised
from margo_oci.versions import Newer, is_release, newer
from tests.simulators.registry import SimulatedRegistry
from tests.unit.scenes import DIGEST, ID, OTHER_DIGEST, SCOPE, as_yaml, component, deployment, document

HELLO = "oci://registry.example/components/hello:1.4.0"
WEB = "registry.example/images/web:stable"

WRITTEN = """\
# gr\u00fc\u00dfe: revision: 1.4.0 in a comment stays
id: a3e2f5dc-912e-494f-8395-52cf3769bc06
metadata: {name: hello, namespace: plant-3}
spec:
  applicationId: com-example-hello
  deploymentProfile:
    type: compose
    components:
      - name: web   # the first
        properties:
          revision:   "1.4.0"      # Renovate moves this
          repository: oci://registry.example/components/hello
      - {name: db, properties: {repository: 'oci://registry.example/components/db', revision: 2.0.0}}
""".encode()


def test_4_8_a_tag_that_leads_elsewhere_moves() -> None:
    found = moves({ID: Lock({HELLO: DIGEST}, {WEB: DIGEST})}, {ID: Lock({HELLO: DIGEST}, {WEB: OTHER_DIGEST})})
    assert found == [Move(deployment=ID, kind="image", source=WEB, old=DIGEST, new=OTHER_DIGEST)]
    assert not found[0].is_alarming


def test_4_8_a_version_that_moves_is_an_alarm() -> None:
    (found,) = moves({ID: Lock({HELLO: DIGEST}, {})}, {ID: Lock({HELLO: OTHER_DIGEST}, {})})
    assert found.is_alarming
    (found,) = moves({ID: Lock({}, {"nginx:v1.4.0": DIGEST})}, {ID: Lock({}, {"nginx:v1.4.0": OTHER_DIGEST})})
    assert found.is_alarming


def test_4_8_what_was_not_locked_yet_is_new_and_no_alarm() -> None:
    (found,) = moves({}, {ID: Lock({HELLO: DIGEST}, {})})
    assert (found.old, found.is_alarming) == ("", False)


def test_4_8_locks_are_read_out_of_the_manifest_alone() -> None:
    lock = Lock({HELLO: DIGEST}, {})
    layers = [build_layer(deployment(), lock).descriptor]
    assert locks_of(build_state(layers, counter=1, scope=SCOPE), what="state") == {ID: lock}


@pytest.mark.parametrize(
    ("current", "tags", "found"),
    [
        ("1.4.0", ["1.3.9", "1.4.0", "latest", "v1.5.0"], []),
        ("1.4.0", ["1.4.1", "1.4.10", "1.5.0", "2.0.0", "3.1.0"],
         [Newer("1.4.10", "patch"), Newer("1.5.0", "minor"), Newer("3.1.0", "major")]),
        ("1.4.0", ["1.4.1-rc1", "2.0.0-alpha"], []),
        ("2.0.0-rc1", ["2.0.0-rc2", "2.0.0", "2.0.0-beta"], [Newer("2.0.0", "patch")]),
        ("1.4.0_build1", ["1.4.0_build-2"], []),
        ("stable", ["1.0.0"], []),
    ],
)  # fmt: skip
def test_4_8_newer_versions_are_ordered_as_semver_has_it(current: str, tags: list[str], found: list[Newer]) -> None:
    assert newer(current, tags) == found


def test_versions_with_a_v_are_versions_too_and_other_tags_are_not() -> None:
    assert [is_release(tag) for tag in ("1.4.0", "v1.4.0", "1.4", "latest")] == [True, True, False, False]


def test_4_8_the_tags_of_a_repository_are_asked_for_once() -> None:
    sim = SimulatedRegistry()
    for tag in ("1.4.0", "1.4.1", "2.0.0"):
        sim.put_manifest("components/hello", tag, b"{}")
    one = deployment()
    older = deployment(deploymentProfile={"type": "compose", "components": [component("web", revision="1.0.0")]})
    gone = deployment(
        deploymentProfile={
            "type": "compose",
            "components": [component("web", repository="oci://registry.example/gone")],
        }
    )

    async def work() -> dict[str, list[str]]:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            found = await updates(registry, [one, older, gone])
            return {source: [newer.version for newer in update.found] for source, update in found.items()}

    found = asyncio.run(work())
    assert found["oci://registry.example/components/hello:1.0.0"] == ["1.4.1", "2.0.0"]
    assert "oci://registry.example/gone:1.0.0" not in found
    assert sum("tags/list" in one.path for one in sim.requests) == 2


def test_a_document_keeps_every_byte_but_the_revisions() -> None:
    changed = revised(WRITTEN, {"web": "1.4.1", "db": "2.1.0"}, what="hello.yaml")
    expected = WRITTEN.replace(b'"1.4.0"      #', b'"1.4.1"      #').replace(b"revision: 2.0.0}", b"revision: 2.1.0}")
    assert changed == expected
    assert revised(WRITTEN, {}, what="hello.yaml") == WRITTEN
    plain = WRITTEN.replace(b'"1.4.0"', b"1.4.0")
    assert revised(plain, {"web": "1.4.1"}, what="hello.yaml") == plain.replace(b"1.4.0      #", b"1.4.1      #")


def test_a_document_with_a_byte_order_mark_keeps_it() -> None:
    changed = revised(b"\xef\xbb\xbf" + WRITTEN, {"db": "2.1.0"}, what="hello.yaml")
    assert changed.startswith(b"\xef\xbb\xbf# gr")
    assert b"revision: 2.1.0}" in changed


def test_a_revision_that_is_written_in_a_strange_way_is_left_to_a_person() -> None:
    data = as_yaml(document()).replace(b"revision: 1.0.0", b"revision: |-\n            1.0.0")
    with pytest.raises(FormatError, match="write it on one line"):
        revised(data, {"web": "1.0.1"}, what="hello.yaml")
