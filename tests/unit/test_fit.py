"""What a model asks of a device, held against what the device has."""

from typing import Any

import pytest

from margo_agent.fit import Facts, Port, faults_of, needs_of
from margo_oci.platforms import Platform

AMD64 = Platform.of("x86_64")


def faults(service: dict[str, Any], **facts: Any) -> list[str]:
    needs = needs_of([{"services": {"web": service}}])
    return faults_of(needs, Facts(**{"platform": AMD64, "memory_bytes": 1000, "cpus": 2, "gpu": False, **facts}))


def test_5_13_what_asks_for_nothing_fits() -> None:
    assert faults({"image": "web"}) == []


def test_5_13_a_port_that_somebody_else_has_is_told() -> None:
    ports = [{"target": 80, "published": "8080", "protocol": "tcp", "host_ip": "127.0.0.1"}]
    taken = {Port(8080, "tcp", "127.0.0.1"): "the container other"}
    assert faults({"ports": ports}, taken=taken) == [
        "services.web.ports: 127.0.0.1:8080/tcp is taken by the container other"
    ]
    assert faults({"ports": ports}, taken={Port(8080, "udp", "127.0.0.1"): "x"}) == []


def test_of_a_range_one_free_port_is_enough() -> None:
    ports = [{"target": 80, "published": "8080-8081"}]
    assert faults({"ports": ports}, taken={Port(8080): "x"}) == []
    assert faults({"ports": ports}, taken={Port(8080): "x", Port(8081): "y"}) == [
        "services.web.ports: 8080/tcp to 8081, each of them, is taken by x"
    ]


@pytest.mark.parametrize("ports", [[{"target": 80}], [{"target": 80, "published": ""}], [{"published": "x"}], None])
def test_what_publishes_no_port_needs_none(ports: Any) -> None:
    assert needs_of([{"services": {"web": {"ports": ports}}}]).publishings == []


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        (Port(80), Port(80), True),
        (Port(80), Port(80, "tcp", "127.0.0.1"), True),
        (Port(80, "tcp", "127.0.0.1"), Port(80), True),
        (Port(80, "tcp", "127.0.0.1"), Port(80, "tcp", "10.0.0.1"), False),
        (Port(80), Port(80, "udp"), False),
        (Port(80), Port(81), False),
    ],
)
def test_two_ports_meet_where_both_cannot_be_had(one: Port, other: Port, meets: bool) -> None:
    assert one.meets(other) == meets


@pytest.mark.parametrize(
    "device", ["/dev/ttyUSB0:/dev/ttyS0:rwm", {"source": "/dev/ttyUSB0", "target": "/dev/ttyS0", "permissions": "rwm"}]
)
def test_5_13_a_device_that_is_not_there_is_told(device: Any) -> None:
    absent = frozenset({"/dev/ttyUSB0"})
    assert faults({"devices": [device]}, absent=absent) == ["services.web.devices[0]: /dev/ttyUSB0 is not there"]


def test_a_device_by_name_is_for_the_engine_to_find() -> None:
    assert needs_of([{"services": {"web": {"devices": ["vendor.com/gpu=all"]}}}]).paths == {}


@pytest.mark.parametrize(("made", "found"), [(False, 1), (True, 0), (None, 0)])
def test_5_13_a_path_that_nobody_makes_must_be_there(made: bool | None, found: int) -> None:
    volume = {"type": "bind", "source": "/opt/data", "target": "/d", "bind": {"create_host_path": made}}
    assert len(faults({"volumes": [volume]}, absent=frozenset({"/opt/data"}))) == found


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        ({"mem_limit": "1001"}, "services.web.mem_limit: 1001 bytes of memory are asked for, this device has 1000"),
        (
            {"deploy": {"resources": {"reservations": {"memory": "2000"}}}},
            (
                "services.web.deploy.resources.reservations.memory: 2000 bytes of memory are asked for, "
                "this device has 1000"
            ),
        ),
        ({"cpus": 2.5}, "services.web.cpus: 2.5 processors are asked for, this device has 2"),
        ({"platform": "linux/arm64"}, "services.web.platform: linux/arm64 is wanted, this device is linux/amd64"),
        (
            {"deploy": {"resources": {"reservations": {"devices": [{"capabilities": ["gpu"]}]}}}},
            "services.web: a GPU is asked for, this device has none",
        ),
    ],
)
def test_5_13_more_than_the_machine_has_is_told(service: dict[str, Any], fault: str) -> None:
    assert faults(service) == [fault]


def test_5_13_what_is_reserved_is_summed() -> None:
    model = {"services": {name: {"mem_reservation": "600"} for name in ("a", "b")}}
    found = faults_of(needs_of([model]), Facts(platform=AMD64, memory_bytes=1000))
    assert found == ["1200 bytes of memory are reserved, this device has 1000"]


def test_5_13_all_that_stands_in_the_way_is_said_at_once() -> None:
    service = {"mem_limit": "2000", "cpus": 8, "devices": ["/dev/x"], "ports": [{"published": "1"}]}
    assert len(faults(service, absent=frozenset({"/dev/x"}), taken={Port(1): "x"})) == 4


@pytest.mark.parametrize("wanted", ["linux/amd64", "linux/x86_64"])
def test_a_platform_that_is_the_devices_own_fits(wanted: str) -> None:
    assert faults({"platform": wanted}) == []


@pytest.mark.parametrize(
    ("machine", "offered", "rank"),
    [
        ("x86_64", {"architecture": "amd64"}, "v1"),
        ("x86_64", {"architecture": "amd64", "variant": "v3"}, None),
        ("armv7l", {"architecture": "arm", "variant": "v6"}, "v6"),
        ("armv7l", {"architecture": "arm", "variant": "v7"}, "v7"),
        ("armv6l", {"architecture": "arm", "variant": "v7"}, None),
        ("aarch64", {"architecture": "arm64"}, "v8"),
        ("aarch64", {"architecture": "arm64", "variant": "v8"}, "v8"),
        ("riscv64", {"architecture": "riscv64"}, ""),
        ("x86_64", {"architecture": "arm64"}, None),
    ],
)
def test_a_machine_runs_variants_up_to_its_own(machine: str, offered: dict[str, str], rank: str | None) -> None:
    assert Platform.of(machine).rank({"os": "linux", **offered}) == rank
    assert Platform.of(machine).rank({"os": "windows", **offered}) is None
