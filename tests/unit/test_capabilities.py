"""What a machine says of itself in /proc and /sys, in the words of the standard."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from margo_agent.capabilities import find_capabilities, size
from margo_agent.config import AgentConfig
from margo_agent.settings import About, ReportSettings
from margo_oci.capabilities import DeviceCapabilities, parse_capabilities
from tests.simulators.plant import Plant


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return Plant(tmp_path / "device").device._config()


def machine(root: Path, files: dict[str, str]) -> Path:
    """Lay out a machine's files; a path that ends with / is a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text)
    return root


def found(config: AgentConfig, root: Path, **more: Any) -> DeviceCapabilities:
    return find_capabilities(config, root=root, **{"machine": "x86_64", "storage_bytes": 64 * 2**30, **more})


PC = {
    "proc/meminfo": "MemTotal:        3884036 kB\nMemFree: 1 kB\n",
    "sys/devices/system/cpu/present": "0-3\n",
    "sys/class/dmi/id/sys_vendor": "Example GmbH\n",
    "sys/class/dmi/id/product_name": "Box 3000\n",
    "sys/class/dmi/id/product_serial": "Default string\n",
    "sys/class/net/lo/type": "772\n",
    "sys/class/net/eth0/type": "1\n",
    "sys/class/net/eth0/device/": "",
    "sys/class/net/docker0/type": "1\n",
    "sys/class/net/wlan0/type": "1\n",
    "sys/class/net/wlan0/device/": "",
    "sys/class/net/wlan0/wireless/": "",
    "sys/class/net/can0/type": "280\n",
    "sys/class/net/wwan0/type": "65534\n",
    "sys/class/net/wwan0/device/": "",
    "sys/class/bluetooth/hci0/": "",
    "sys/bus/usb/devices/usb1/": "",
    "sys/class/tty/ttyS0/type": "4\n",
    "sys/class/tty/ttyS1/type": "0\n",
    "sys/class/drm/card0/device/vendor": "0x10de\n",
    "sys/class/drm/card0-HDMI-A-1/status": "connected\n",
    "sys/class/drm/card0-DP-1/status": "disconnected\n",
    "sys/class/video4linux/video0/name": "Camera 1080p\n",
    "sys/class/video4linux/video0/index": "0\n",
    "sys/class/video4linux/video1/name": "Camera 1080p\n",
    "sys/class/video4linux/video1/index": "1\n",
    "sys/class/sound/pcmC0D0c/": "",
    "sys/class/sound/pcmC0D0p/": "",
    "proc/asound/card0/id": "PCH\n",
}


def test_a_pc_is_described_as_the_standard_wants_it(config: AgentConfig, tmp_path: Path) -> None:
    raw = found(config, machine(tmp_path / "pc", PC)).to_dict()
    assert raw == {
        "properties": {
            "id": "edge-17",
            "vendor": "Example GmbH",
            "modelNumber": "Box 3000",
            "serialNumber": "unknown",
            "cpus": [{"cores": 4, "architecture": "amd64"}],
            "memory": "3.7Gi",
            "storage": "64Gi",
            "peripherals": [
                {"type": "gpu", "manufacturer": "NVIDIA"},
                {"type": "display", "model": "HDMI-A-1"},
                {"type": "camera", "model": "Camera 1080p"},
                {"type": "microphone", "model": "PCH"},
                {"type": "speaker", "model": "PCH"},
            ],
            "interfaces": [
                {"type": "bluetooth"}, {"type": "canbus"}, {"type": "cellular"}, {"type": "ethernet"},
                {"type": "rs232"}, {"type": "usb"}, {"type": "wifi"},
            ],
            "otelCollector": False,
            "supportedRuntimes": ["oci"],
            "supportedDeploymentTypes": ["compose"],
        }
    }  # fmt: skip


def test_a_board_is_known_by_its_device_tree(config: AgentConfig, tmp_path: Path) -> None:
    board = {
        "sys/firmware/devicetree/base/model": "Example Board 4\0",
        "sys/firmware/devicetree/base/compatible": "example,board-4\0example,soc\0",
        "sys/firmware/devicetree/base/serial-number": "10000000abcdef\0",
        "proc/cpuinfo": "processor\t: 0\nprocessor\t: 1\n",
    }
    seen = found(config, machine(tmp_path / "board", board), machine="aarch64")
    assert (seen.vendor, seen.model_number, seen.serial_number) == ("example", "Example Board 4", "10000000abcdef")
    assert (seen.cpus[0].cores, seen.cpus[0].architecture) == (2, "arm64")


def test_what_the_configuration_says_goes_first(config: AgentConfig, tmp_path: Path) -> None:
    about = About(vendor="Ours", model_number="M", serial_number="7", labels={"line": 3})
    told = replace(config, about=about, report=ReportSettings(otlp="http://127.0.0.1:4318"))
    seen = found(told, machine(tmp_path / "pc", PC))
    assert (seen.vendor, seen.model_number, seen.serial_number) == ("Ours", "M", "7")
    assert (seen.labels, seen.otel_collector) == ({"line": 3}, True)


def test_a_machine_that_says_nothing_has_what_must_be_there(config: AgentConfig, tmp_path: Path) -> None:
    seen = found(config, tmp_path / "nothing", machine="riscv64", storage_bytes=0)
    assert parse_capabilities(seen.to_bytes()) == seen
    assert (seen.vendor, seen.cpus[0].cores, seen.cpus[0].architecture) == ("unknown", 1, "")


def test_this_machine_can_be_described(config: AgentConfig) -> None:
    seen = found(config, Path("/"))
    assert parse_capabilities(seen.to_bytes()) == seen
    assert seen.memory.endswith("i")


def test_sizes_are_written_as_in_the_examples_of_the_standard() -> None:
    assert [size(count) for count in (59 * 2**30, 512 * 2**20, 1536, 12)] == ["59Gi", "512Mi", "1.5Ki", "12"]
