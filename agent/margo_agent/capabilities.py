"""What this machine is and has, as Linux tells it in /proc and /sys: processors, memory, disk, what is attached.

`root` is where /proc and /sys are; the standard's words for all of it are in `margo_oci.capabilities`.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from margo_agent.config import AgentConfig
from margo_oci.capabilities import ARCHITECTURES, UNKNOWN, Cpu, DeviceCapabilities, Peripheral
from margo_oci.jsonfields import line

FILE_LIMIT_BYTES = 256 * 1024
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64", "armv6l": "arm", "armv7l": "arm", "armv8l": "arm"}
_PCI_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
# What makers of boards leave in DMI when they have nothing to say.
_PLACEHOLDERS = re.compile(
    r"|none|0+|default string|to be filled by o\.e\.m\.|not (specified|available)"
    r"|system (manufacturer|product name|serial number)",
    re.IGNORECASE,
)
_RS232 = re.compile(r"tty(S|AMA|USB|O|mxc|THS)[0-9]+")


def find_capabilities(
    config: AgentConfig, *, machine: str, storage_bytes: int, root: Path = Path("/")
) -> DeviceCapabilities:
    """Return what the device can do; what `about` says of it goes before what is found.

    `machine` is the kernel's word for the architecture, `storage_bytes` the size of the disk that workloads live on.
    """
    sys, about = root / "sys", config.about
    return DeviceCapabilities(
        id=line(config.device),
        vendor=line(about.vendor) or _identity(sys, "sys_vendor") or _tree_vendor(sys) or UNKNOWN,
        model_number=line(about.model_number) or _identity(sys, "product_name") or _tree(sys, "model") or UNKNOWN,
        serial_number=line(about.serial_number)
        or _identity(sys, "product_serial")
        or _tree(sys, "serial-number")
        or UNKNOWN,
        cpus=(Cpu(_cores(root), _architecture(machine)),),
        memory=size(_memory_bytes(root)),
        storage=size(storage_bytes),
        peripherals=tuple(_peripherals(root)),
        interfaces=tuple(sorted(set(_interfaces(sys)))),
        otel_collector=bool(config.report.otlp),
        labels=config.about.labels,
    )


def size(count: int) -> str:
    """Return bytes as the standard's examples write them, such as `59Gi`."""
    for unit, factor in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f}".removesuffix(".0") + unit
    return str(count)


def _architecture(machine: str) -> str:
    found = _ARCHITECTURE.get(machine, machine)
    return found if found in ARCHITECTURES else ""


def _cores(root: Path) -> int:
    """Count what is present; a machine whose kernel does not say so has at least one."""
    found = re.findall(r"(\d+)(?:-(\d+))?", _text(root / "sys/devices/system/cpu/present"))
    counted = sum(int(last or first) - int(first) + 1 for first, last in found)
    return counted or len(re.findall(r"(?m)^processor\s*:", _text(root / "proc/cpuinfo"))) or 1


def _memory_bytes(root: Path) -> int:
    found = re.search(r"(?m)^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"))
    return int(found[1]) * 1024 if found else 0


def _identity(sys: Path, name: str) -> str:
    """Return a field of DMI, if a maker filled it in."""
    text = _line(sys / "class/dmi/id" / name)
    return "" if _PLACEHOLDERS.fullmatch(text) else text


def _tree(sys: Path, name: str) -> str:
    """Return a property of the device tree, which ends with a NUL."""
    return _line(sys / "firmware/devicetree/base" / name)


def _tree_vendor(sys: Path) -> str:
    """`compatible` begins with `vendor,model`."""
    vendor, comma, _ = _tree(sys, "compatible").partition(",")
    return vendor if comma else ""


def _peripherals(root: Path) -> Iterator[Peripheral]:
    sys = root / "sys"
    for card in _names(sys / "class/drm", r"card[0-9]+"):
        vendor = _line(sys / "class/drm" / card / "device/vendor")
        yield Peripheral("gpu", _PCI_VENDORS.get(vendor, ""))
    for connector in _names(sys / "class/drm", r"card[0-9]+-.+"):
        if _line(sys / "class/drm" / connector / "status") == "connected":
            yield Peripheral("display", "", connector.partition("-")[2])
    for video in _names(sys / "class/video4linux", r"video[0-9]+"):
        if _line(sys / "class/video4linux" / video / "index") in ("", "0"):  # the others are more of the same camera
            yield Peripheral("camera", "", _line(sys / "class/video4linux" / video / "name"))
    for sound in _names(sys / "class/sound", r"pcmC[0-9]+D[0-9]+[cp]"):
        card = re.sub(r"D.*", "", sound.removeprefix("pcmC"))
        yield Peripheral(
            "microphone" if sound.endswith("c") else "speaker", "", _line(root / "proc/asound" / f"card{card}" / "id")
        )


def _interfaces(sys: Path) -> Iterator[str]:
    net = sys / "class/net"
    for name in _names(net, r".+"):
        kind = _line(net / name / "type")
        if kind == "280":  # ARPHRD_CAN, also without a device behind it
            yield "canbus"
        elif not (net / name / "device").exists():
            continue  # a bridge, a tunnel, the loopback
        elif (net / name / "wireless").exists() or (net / name / "phy80211").exists():
            yield "wifi"
        elif name.startswith("ww"):
            yield "cellular"
        elif kind == "1":
            yield "ethernet"
    if _names(sys / "class/bluetooth", r"hci[0-9]+"):
        yield "bluetooth"
    if _names(sys / "bus/usb/devices", r"usb[0-9]+"):
        yield "usb"
    for tty in _names(sys / "class/tty", _RS232.pattern):
        # The kernel makes ports that are not there; those have no type.
        if _line(sys / "class/tty" / tty / "type") not in ("", "0") or tty.startswith("ttyUSB"):
            yield "rs232"


def _names(folder: Path, pattern: str) -> Sequence[str]:
    with suppress(OSError):
        return sorted(name for name in os.listdir(folder) if re.fullmatch(pattern, name))  # noqa: PTH208  (names alone are wanted)
    return ()


def _line(file: Path) -> str:
    return line(_text(file).split("\0")[0].strip())


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(FILE_LIMIT_BYTES).decode(errors="replace")
    except OSError:
        return ""
