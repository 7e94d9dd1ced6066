"""Reports of devices in a registry: found by tag and beside the state, and believed only with the device's own key."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from margo_oci.content import Descriptor, canonical_json
from margo_oci.cosign import PAYLOAD_TYPE, bundle, pae, sign
from margo_oci.device_report import (
    ARTIFACT_TYPE,
    EVENTS_TYPE,
    PREDICATE_TYPE,
    STATUS_TYPE,
    BuiltReport,
    Contents,
    build_report,
    check_signed,
    parse_report,
)
from margo_oci.device_status import DeviceStatus
from margo_oci.errors import FormatError, TrustError
from margo_oci.events import lines_of
from margo_oci.keys import FileKey
from margo_oci.manifest import Manifest, build_index
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.reports import REFERRERS_AT_MOST, DeviceKeys, DeviceReport, ReportPusher, ReportReader, Unreadable
from margo_oci.signatures import Attached, check
from tests.simulators.plant import NOON, SOURCE, Plant, running_plant
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import key
from tests.unit.test_device_status import EVENTS, STATUS, WELL

BELOW = Reference(SOURCE.host, f"{SOURCE.repository}/status")
T = TypeVar("T")


@dataclass
class Fleet:
    """Devices that report to a registry, and an operator who reads it with the keys `known`."""

    plant: Plant
    known: dict[str, FileKey] = field(default_factory=dict)

    def built(self, status: DeviceStatus, signer: FileKey, subject: Descriptor | None = None) -> BuiltReport:
        """Build a report."""
        contents = Contents(status.device, status.to_bytes(), lines_of(EVENTS), b"")
        return build_report(contents, signer, subject)

    def report(self, status: DeviceStatus, *, by: str, tag: str = "") -> None:
        """Have a device report under its tag, signed with the key called `by`."""
        report = self.built(status, key(by))
        self.ask(lambda pusher, _: pusher.under_tag(BELOW.at(tag or status.device), report))

    def report_beside(self, status: DeviceStatus, *, by: str, replaces: str = "") -> str:
        """Have a device report beside the state; return the digest of the report."""
        digest = self.plant.sim.repositories[SOURCE.repository].tags[SOURCE.tag]
        data = self.plant.sim.repositories[SOURCE.repository].manifests[digest]
        report = self.built(status, key(by), Manifest.from_bytes(data, what="state").descriptor)
        self.ask(lambda pusher, _: pusher.beside_state(SOURCE, report, replaces=replaces))
        return report.manifest.digest

    def ask(self, question: Callable[[ReportPusher, ReportReader], Awaitable[T]]) -> T:
        """Talk to the registry."""

        async def asked() -> T:
            async with self.plant.device.registry() as registry:
                keys = DeviceKeys({device: one.public for device, one in self.known.items()})
                pusher = ReportPusher(registry, SimulatedUploader(self.plant.sim))
                return await question(pusher, ReportReader(registry, keys, whole=True))

        return asyncio.run(asked())

    def found(self) -> Sequence[DeviceReport | Unreadable]:
        """What the operator finds."""
        return self.ask(lambda _, reader: reader.for_state(SOURCE))

    def seen(self) -> dict[str, tuple[str, str]]:
        """Who signed the report of each device, or what is doubtful about it."""
        return {one.status.device: (one.signed_by, one.doubt) for one in self.found() if isinstance(one, DeviceReport)}

    def put(self, tag: str, manifest: Manifest, *blobs: bytes) -> None:
        """Put anything where reports are."""
        for blob in blobs:
            self.plant.sim.put_blob(BELOW.repository, blob)
        self.plant.sim.put_manifest(BELOW.repository, tag, manifest.data)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(running_plant(tmp_path), {"edge-17": key("a"), "edge-18": key("b")})


def status_of(device: str, **changes: Any) -> DeviceStatus:
    return replace(WELL, device=device, source=str(SOURCE), **changes)


def test_11_4_reports_are_found_under_the_tags_of_devices(fleet: Fleet) -> None:
    fleet.report(status_of("edge-17"), by="a")
    fleet.report(status_of("edge-18"), by="b")
    assert fleet.seen() == {"edge-17": ("a", ""), "edge-18": ("b", "")}
    (first, _) = fleet.found()
    assert isinstance(first, DeviceReport)
    assert first.status == status_of("edge-17")
    assert first.events == list(EVENTS)
    assert first.at == f"{BELOW.name}:edge-17"


def test_no_device_reports_where_nothing_lies(fleet: Fleet) -> None:
    assert fleet.found() == []


def test_a_device_of_another_state_is_not_shown(fleet: Fleet) -> None:
    fleet.report(replace(status_of("edge-17"), source=str(SOURCE.at("test"))), by="a")
    fleet.report(replace(status_of("edge-18"), source=f"plant.local:5000/{SOURCE.repository}:{SOURCE.tag}"), by="b")
    assert list(fleet.seen()) == ["edge-18"]


def test_11_6_a_report_is_one_manifest_with_all_of_it(fleet: Fleet) -> None:
    report = fleet.built(STATUS, key("a"))
    raw = json.loads(report.manifest.data)
    assert raw["artifactType"] == ARTIFACT_TYPE
    assert [layer["mediaType"] for layer in raw["layers"]] == [
        STATUS_TYPE,
        EVENTS_TYPE,
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    ]
    assert all("data" in layer for layer in raw["layers"])
    assert raw["annotations"] == {"org.margo.oci.device": "edge-17"}
    assert [layer.digest for layer, _ in report.blobs] == [layer["digest"] for layer in raw["layers"]]


def test_11_6_what_is_long_is_not_carried_along_and_read_all_the_same(fleet: Fleet) -> None:
    long = status_of("edge-17", deployments=(STATUS.deployments[0],) * 40)
    report = fleet.built(long, key("a"))
    assert report.manifest.layers[0].data is None
    fleet.report(long, by="a")
    (found,) = fleet.found()
    assert isinstance(found, DeviceReport)
    assert len(found.status.deployments) == 40


def test_11_7_a_report_signed_by_a_stranger_does_not_count(fleet: Fleet) -> None:
    fleet.report(status_of("edge-17"), by="root2")
    assert fleet.seen() == {"edge-17": ("", "wrong-key")}


def test_11_8_the_key_of_one_device_does_not_speak_for_another(fleet: Fleet) -> None:
    fleet.report(status_of("edge-18"), by="a")
    assert fleet.seen() == {"edge-18": ("", "wrong-key")}


def test_11_8_a_device_whose_key_is_not_known_is_unverified(fleet: Fleet) -> None:
    fleet.report(status_of("edge-19"), by="a")
    assert fleet.seen() == {"edge-19": ("", "unverified")}


def test_11_8_a_false_report_does_not_stand_in_for_one_that_counts(fleet: Fleet) -> None:
    fleet.report(status_of("edge-17"), by="a")
    fleet.report(status_of("edge-17", written="2027-01-01T00:00:00Z"), by="root2", tag="other")
    assert fleet.seen() == {"edge-17": ("a", "")}


def changed(report: BuiltReport, layers: Sequence[Descriptor]) -> Manifest:
    return Manifest.build(ARTIFACT_TYPE, layers, report.manifest.annotations)


def test_11_7_a_status_that_was_changed_does_not_count(fleet: Fleet) -> None:
    report = fleet.built(status_of("edge-17", outcome="failed"), key("a"))
    better = Descriptor.of(status_of("edge-17").to_bytes(), STATUS_TYPE, inline=True)
    fleet.put("edge-17", changed(report, [better, *report.manifest.layers[1:]]))
    assert fleet.seen() == {"edge-17": ("", "moved-signature")}


def test_11_7_events_cannot_be_taken_away(fleet: Fleet) -> None:
    report = fleet.built(status_of("edge-17"), key("a"))
    fleet.put("edge-17", changed(report, [report.manifest.layers[0], report.manifest.layers[2]]))
    assert fleet.seen() == {"edge-17": ("", "moved-signature")}


def test_11_7_a_report_without_a_signature_is_unsigned(fleet: Fleet) -> None:
    report = fleet.built(status_of("edge-17"), key("a"))
    fleet.put("edge-17", changed(report, report.manifest.layers[:2]))
    assert fleet.seen() == {"edge-17": ("", "unsigned")}


def test_11_7_what_a_device_signed_is_no_release() -> None:
    report = build_report(Contents("edge-17", STATUS.to_bytes(), b"", b""), key("a"))
    bundle_data = report.blobs[-1][1]
    for subject in (report.manifest.descriptor, report.manifest.layers[0]):
        with pytest.raises(TrustError) as refused:
            check(subject, Attached("bundle", bundle_data), [key("a").public], now=NOON)
        assert refused.value.reason == "not-a-release"
        assert PREDICATE_TYPE in str(refused.value)


def test_11_7_a_release_is_no_report() -> None:
    report = build_report(Contents("edge-17", STATUS.to_bytes(), b"", b""), key("a"))
    layers = parse_report(report.manifest)
    release = sign(layers.status.digest, key("a"), name="registry.example/fleet/edge-17")
    with pytest.raises(TrustError) as refused:
        check_signed(layers, release, key("a").public)
    assert refused.value.reason == "not-a-status"


def test_a_signature_that_cannot_be_read_is_told(fleet: Fleet) -> None:
    report = fleet.built(status_of("edge-17"), key("a"))
    nonsense = b"{}"
    broken = Descriptor.of(nonsense, "application/vnd.dev.sigstore.bundle.v0.3+json", inline=True)
    fleet.put("edge-17", changed(report, [*report.manifest.layers[:2], broken]))
    assert fleet.seen() == {"edge-17": ("", "malformed-signature")}


def test_a_statement_with_nonsense_in_it_is_told() -> None:
    layers = parse_report(build_report(Contents("edge-17", STATUS.to_bytes(), b"", b""), key("a")).manifest)
    payload = canonical_json({"_type": "https://in-toto.io/Statement/v1", "subject": []})
    data = bundle(payload, key("a").sign(pae(PAYLOAD_TYPE, payload)), hint="")
    with pytest.raises(TrustError) as refused:
        check_signed(layers, data, key("a").public)
    assert refused.value.reason == "malformed-signature"


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([], "a layer application/.*json is expected"),
        ([Descriptor.of(b"{}", STATUS_TYPE, inline=True)] * 2, "one layer .* is expected, got 2"),
        ([Descriptor.of(b"{}", STATUS_TYPE, inline=True)], r"device: a text is expected"),
        ([Descriptor.of(b"\xff" * 40, STATUS_TYPE, inline=True)], "not usable JSON"),
        ([Descriptor(media_type=STATUS_TYPE, digest=f"sha256:{'0' * 64}", size=2**40)], "at most 2097152 are read"),
        ([Descriptor.of(STATUS.to_bytes(), STATUS_TYPE, inline=True),
          Descriptor.of(b"{}\n", EVENTS_TYPE, inline=True)], "events .*kind: one of"),
    ],
)  # fmt: skip
def test_11_3_what_is_no_report_is_said_to_be_none_and_hides_no_other(
    fleet: Fleet, layers: Sequence[Descriptor], why: str
) -> None:
    fleet.put("edge-16", Manifest.build(ARTIFACT_TYPE, layers))
    fleet.report(status_of("edge-17"), by="a")
    found = fleet.found()
    assert [one.status.device for one in found if isinstance(one, DeviceReport)] == ["edge-17"]
    (unreadable,) = (one for one in found if isinstance(one, Unreadable))
    assert unreadable.at.endswith("/status:edge-16")
    assert re.search(why, unreadable.why)


def test_an_image_among_the_reports_is_none(fleet: Fleet) -> None:
    fleet.put("edge-16", Manifest.build("application/vnd.example", []))
    (found,) = fleet.found()
    assert isinstance(found, Unreadable)
    assert "application/vnd.example" in found.why


@pytest.mark.parametrize("api", [True, False], ids=["with referrers API", "with the tag that stands in for it"])
def test_11_4_a_report_beside_the_state_is_found_there(fleet: Fleet, api: bool) -> None:
    fleet.plant.sim.referrers_api = api
    fleet.report_beside(status_of("edge-17"), by="a")
    assert fleet.seen() == {"edge-17": ("a", "")}


def test_11_4_a_device_that_is_behind_is_found_beside_the_state_before(fleet: Fleet) -> None:
    sim = fleet.plant.sim
    fleet.report_beside(status_of("edge-17"), by="a")
    first = sim.repositories[SOURCE.repository].tags[SOURCE.tag]
    sim.repositories[SOURCE.repository].tags[f"{SOURCE.tag}-counter-1"] = first
    fleet.plant.publish(fleet.plant.workload("pump", "b"), counter=2)
    assert sim.repositories[SOURCE.repository].tags[SOURCE.tag] != first
    assert fleet.seen() == {"edge-17": ("a", "")}


@pytest.mark.parametrize("api", [True, False], ids=["with referrers API", "with the tag that stands in for it"])
def test_11_9_the_report_before_is_taken_away_where_that_can_be(fleet: Fleet, api: bool) -> None:
    fleet.plant.sim.referrers_api = api
    before = fleet.report_beside(status_of("edge-17"), by="a")
    later = fleet.report_beside(status_of("edge-17", reason="x"), by="a", replaces=before)
    listed = fleet.ask(lambda _, reader: reader._beside(SOURCE))
    assert [one.at for one in listed] == [f"{SOURCE.name}@{later}"]


def test_11_9_a_registry_that_deletes_nothing_gets_the_new_report_all_the_same(fleet: Fleet) -> None:
    fleet.plant.sim.referrers_api, fleet.plant.sim.deletes = True, False
    before = fleet.report_beside(status_of("edge-17", reason="x"), by="a")
    fleet.report_beside(status_of("edge-17", written="2026-11-21T12:00:01Z"), by="a", replaces=before)
    (found,) = fleet.found()
    assert isinstance(found, DeviceReport)
    assert found.status.written == "2026-11-21T12:00:01Z"


def test_11_9_reports_do_not_crowd_out_signatures(fleet: Fleet) -> None:
    sim = fleet.plant.sim
    digest = sim.repositories[SOURCE.repository].tags[SOURCE.tag]
    others = [Descriptor.of(b"%d" % n, "application/vnd.oci.image.manifest.v1+json") for n in range(REFERRERS_AT_MOST)]
    sim.put_manifest(SOURCE.repository, digest.replace(":", "-"), build_index(others))
    with pytest.raises(FormatError, match="crowd out signatures"):
        fleet.report_beside(status_of("edge-17"), by="a")


def test_a_registry_lists_its_repositories_page_by_page(fleet: Fleet) -> None:
    fleet.report(status_of("edge-17"), by="a")
    fleet.plant.sim.page_size = 1

    async def listed(registry: Registry) -> Sequence[str]:
        async with registry:
            return await registry.repositories(SOURCE.host)

    names = asyncio.run(listed(fleet.plant.device.registry()))
    assert {SOURCE.repository, BELOW.repository} <= set(names)


def test_11_9_who_does_not_report_for_two_heartbeats_is_stale() -> None:
    last = status_of("edge-17", heartbeat_s=900, written="2026-11-21T12:00:00Z")
    assert not last.overdue(datetime(2026, 11, 21, 12, 30, 0, tzinfo=UTC))
    assert last.overdue(datetime(2026, 11, 21, 12, 30, 1, tzinfo=UTC))


def test_11_10_what_lies_among_reports_decides_nothing_on_a_device(fleet: Fleet) -> None:
    fleet.report(status_of("edge-17", outcome="refused", settled=False), by="root2")
    fleet.report_beside(status_of("edge-17", outcome="failed"), by="a")
    assert fleet.plant.device.once().outcome == "unchanged"
    fleet.plant.publish(fleet.plant.workload("pump", "b"), counter=2)
    assert fleet.plant.device.once().outcome == "applied"
