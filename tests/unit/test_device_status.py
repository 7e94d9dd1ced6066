"""What a device writes about itself, and that nobody has to trust what stands there to read it."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_oci.capabilities import Cpu, DeviceCapabilities, Peripheral, parse_capabilities
from margo_oci.content import digest_of
from margo_oci.device_report import device_tag
from margo_oci.device_status import DeviceStatus, parse_device_status
from margo_oci.errors import FormatError
from margo_oci.events import Event, lines_of, parse_events
from margo_oci.fleet import Meant, all_well, standing, why
from margo_oci.reference import TAG
from margo_oci.status import (
    CODES,
    ComponentStatus,
    DeploymentStatus,
    Fault,
    parse_status_manifest,
)
from tests.unit.scenes import ROOT

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
FAULT = Fault("unhealthy", "pump", "component pump: service web is unhealthy")
PUMP = DeploymentStatus(
    id="00000000-0000-4000-8000-000000000002",
    name="pump",
    state="failed",
    since="2026-11-21T11:00:00Z",
    adopted=7,
    components=(ComponentStatus("pump", "failed", FAULT), ComponentStatus("probe", "pending")),
    error=FAULT,
)
STATUS = DeviceStatus(
    device="edge-17",
    written="2026-11-21T12:00:00Z",
    agent="0.1.0",
    source="registry.example/fleet/edge-17:latest",
    digest=digest_of(b"state"),
    counter=7,
    scope="edge-17",
    settled=True,
    head_version=3,
    head_expires="2026-11-28T12:00:00Z",
    outcome="applied",
    applied="2026-11-21T11:00:00Z",
    heartbeat_s=900,
    deployments=(PUMP,),
    free_bytes=10,
    total_bytes=20,
    engine="docker",
    engine_version="28.1",
    last_event=12,
    dropped_events=1,
)
EVENTS = (
    Event(kind="accepted", number=3, time="2026-11-21T11:00:00Z", digest=digest_of(b"state"), counter=7),
    Event(kind="deployment", number=5, time="2026-11-21T11:00:01Z", deployment="1", name="pump", state="installed"),
)


def manifest(**changes: Any) -> bytes:
    """A DeploymentStatusManifest of rc.3."""
    return json.dumps({**PUMP.manifest(), **changes}).encode()


def test_11_1_a_deployment_is_reported_as_the_standard_has_it() -> None:
    assert PUMP.manifest() == {
        "deploymentId": "00000000-0000-4000-8000-000000000002",
        "adoptedManifestVersion": 7,
        "status": {"state": "failed", "error": FAULT.to_dict()},
        "components": [
            {"name": "pump", "state": "failed", "error": FAULT.to_dict()},
            {"name": "probe", "state": "pending"},
        ],
    }
    assert parse_status_manifest(manifest()) == replace(PUMP, name="", since="")


def test_11_1_the_older_shape_is_there_on_request_and_read() -> None:
    older = PUMP.older_manifest("gateway/edge-17")
    assert (older["apiVersion"], older["kind"]) == ("v1", "DeploymentStatusManifest")
    assert older["deviceId"] == "gateway/edge-17"
    assert "adoptedManifestVersion" not in older
    assert parse_status_manifest(json.dumps(older).encode()).state == "failed"


def test_a_document_of_the_standards_own_examples_is_read() -> None:
    example = {
        "apiVersion": "v1", "kind": "DeploymentStatusManifest", "deploymentId": "a3e2f5dc-912e-494f-8395-52cf3769bc06",
        "status": {"state": "installed"}, "components": [{"name": "frontend", "state": "installed"},
        {"name": "backend", "state": "failed", "error": {"code": "ERR_IMAGE_PULL", "message": "access denied"}}],
    }  # fmt: skip
    read = parse_status_manifest(json.dumps(example).encode())
    assert read.components[1].error == Fault("ERR_IMAGE_PULL", "", "access denied")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": {"state": "great"}}, "status.state: one of failed, removing"),
        ({"adoptedManifestVersion": 0}, "adoptedManifestVersion: a whole number from 1"),
        ({"adoptedManifestVersion": 1.5}, "adoptedManifestVersion"),
        ({"deploymentId": ""}, "deploymentId: a text is expected"),
        ({"deploymentId": "a\x1b[2J"}, "deploymentId: a printable line"),
        ({"components": {}}, "components: a list of at most 256 objects"),
        ({"components": [{"name": "pump", "state": "installed"}] * 257}, "at most 256"),
        ({"components": [{"state": "installed"}]}, r"components\[0\].name"),
        ({"kind": "Other"}, "kind: DeploymentStatusManifest is expected"),
        ({"status": []}, "status: an object is expected"),
    ],
)
def test_a_hostile_deployment_status_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_status_manifest(manifest(**changes))


def test_11_2_every_code_is_in_the_documents() -> None:
    page = (ROOT / "docs" / "status.md").read_text()
    assert [code for code in CODES if f"| `{code}` |" not in page] == []


def test_a_device_status_is_read_back_the_same() -> None:
    assert parse_device_status(STATUS.to_bytes()) == STATUS
    least = DeviceStatus(device="edge-17", written="2026-11-21T12:00:00Z")
    assert parse_device_status(least.to_bytes()) == least


def test_fields_of_a_later_agent_are_left_alone() -> None:
    raw = {**STATUS.to_dict(), "mood": "good"}
    assert parse_device_status(json.dumps(raw).encode()) == STATUS


@pytest.mark.parametrize(
    "changes",
    [
        {"device": ""},
        {"device": "edge\n17"},
        {"device": "\u202egnp.egde"},
        {"device": "x" * 256},
        {"device": 7},
        {"written": "yesterday"},
        {"written": "2026-11-21T12:00:00+01:00"},
        {"counter": -1},
        {"counter": 2**64},
        {"counter": True},
        {"digest": "sha256:abc"},
        {"digest": ["sha256"]},
        {"message": "\x1b]0;owned\x07"},
        {"message": "x" * 2001},
        {"heartbeatSeconds": 10**12},
        {"deployments": [{"id": "1", "state": "installed"}] * 4097},
        {"deployments": ["1"]},
        {"deployments": [{"id": "1", "state": []}]},
        {"head": []},
        {"disk": {"freeBytes": "all"}},
        {"settled": "yes"},
    ],
)
def test_11_3_a_hostile_device_status_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^device status"):
        parse_device_status(json.dumps({**STATUS.to_dict(), **changes}).encode())


def test_what_changes_all_the_time_is_no_news() -> None:
    later = replace(STATUS, written="2026-11-21T13:00:00Z", free_bytes=5)
    assert later.steady == STATUS.steady
    assert replace(STATUS, reason="rollback").steady != STATUS.steady


def test_events_are_read_back_the_same() -> None:
    assert parse_events(lines_of(EVENTS)) == list(EVENTS)
    assert parse_events(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        lines_of(EVENTS[::-1]),
        lines_of([EVENTS[0], EVENTS[0]]),
        lines_of(EVENTS)[:-10],
        b"{}\n",
        b"[]\n",
        b'{"kind":"party","number":1,"time":"2026-11-21T12:00:00Z"}\n',
        lines_of(replace(EVENTS[0], number=n) for n in range(1, 1002)),  # type: ignore[arg-type]
        b"\n" * 2000,
        b" " * (2**20 + 1),
    ],
)
def test_11_5_hostile_events_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^events"):
        parse_events(data)


def test_capabilities_are_read_back_the_same() -> None:
    found = DeviceCapabilities(
        id="edge-17",
        vendor="Example",
        cpus=(Cpu(4, "arm64"),),
        memory="3.7Gi",
        storage="59Gi",
        peripherals=(Peripheral("gpu", "NVIDIA", "T1"),),
        interfaces=("ethernet", "wifi"),
        labels={"line": "1", "slots": [1, 2], "spare": False},
    )
    assert parse_capabilities(found.to_bytes()) == found


@pytest.mark.parametrize(
    "labels",
    [{"a": {}}, {"a": None}, {"a": [[1]]}, {"a": ["x", 1]}, {"a\n": 1}, {"a": "x" * 256}, [], {"a": [1] * 257}],
)
def test_hostile_labels_are_refused(labels: object) -> None:
    raw = {**DeviceCapabilities(id="edge-17").to_dict(), "labels": labels}
    with pytest.raises(FormatError, match=r"labels"):
        parse_capabilities(json.dumps(raw).encode())


@given(st.text(min_size=1, max_size=300))
def test_11_4_every_device_has_a_tag_of_its_own(device: str) -> None:
    assert TAG.fullmatch(device_tag(device))
    assert device_tag(device) != device_tag(f"{device}/")


def test_11_4_a_device_that_can_be_a_tag_is_one() -> None:
    assert device_tag("edge-17") == "edge-17"
    assert device_tag("line 1/edge-17").startswith("line-1-edge-17-")


MEANT = Meant(STATUS.digest, 7)
WELL = replace(STATUS, deployments=())


@pytest.mark.parametrize(
    ("status", "meant", "word"),
    [
        (WELL, MEANT, "up-to-date"),
        (WELL, None, "up-to-date"),
        (replace(WELL, settled=False), MEANT, "applying"),
        (WELL, Meant(digest_of(b"newer"), 8), "behind"),
        (WELL, Meant(digest_of(b"older"), 6), "ahead"),
        (STATUS, MEANT, "failed"),
        (replace(WELL, outcome="failed"), MEANT, "failed"),
        (replace(WELL, outcome="refused", reason="rollback"), MEANT, "refused"),
        (replace(WELL, stale="head version 3 expired"), MEANT, "head-expired"),
        (replace(WELL, waiting="until 22:00"), MEANT, "waiting"),
        (replace(WELL, written="2026-11-21T11:29:59Z"), MEANT, "stale"),
        (replace(WELL, written="2026-11-21T11:30:00Z"), MEANT, "up-to-date"),
        (replace(WELL, written="2020-01-01T00:00:00Z", heartbeat_s=0), MEANT, "up-to-date"),
        (replace(STATUS, written="2026-11-21T10:00:00Z"), MEANT, "stale"),
    ],
)
def test_a_device_stands_by_its_last_word(status: DeviceStatus, meant: Meant | None, word: str) -> None:
    assert standing(status, meant, now=NOW) == word


def test_a_report_that_does_not_count_says_nothing() -> None:
    assert standing(WELL, MEANT, now=NOW, doubt="wrong-key") == "doubtful"


def test_what_is_wrong_is_said() -> None:
    assert why(STATUS, "failed") == "pump: unhealthy: component pump: service web is unhealthy"
    refused = replace(WELL, outcome="refused", reason="rollback", message="counter 1 is lower than 2")
    assert why(refused, "refused") == "rollback: counter 1 is lower than 2"
    assert why(replace(WELL, waiting="until 22:00"), "waiting") == "until 22:00"
    assert why(WELL, "up-to-date") == ""


def test_nobody_reporting_is_not_well() -> None:
    assert not all_well([])
    assert not all_well(["up-to-date", "waiting"])
    assert all_well(["up-to-date"])


def test_a_status_of_the_future_is_fresh() -> None:
    ahead = replace(WELL, written="2026-11-21T13:00:00Z")
    assert standing(ahead, MEANT, now=NOW - timedelta(days=1)) == "up-to-date"
