"""What a Compose model asks of the device it is to run on, held against what the device has. Rules only, no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from margo_oci.platforms import Platform

PORTS_LIMIT = 4096


@dataclass(frozen=True, order=True)
class Port:
    """One port of the device; `address` "" is all of them."""

    number: int
    protocol: str = "tcp"
    address: str = ""

    def __str__(self) -> str:
        return f"{self.address + ':' if self.address else ''}{self.number}/{self.protocol}"

    def meets(self, other: "Port") -> bool:
        """Tell whether not both can be had."""
        alike = (self.number, self.protocol) == (other.number, other.protocol)
        return alike and (self.address == other.address or "" in (self.address, other.address))


@dataclass(frozen=True)
class Publishing:
    """What a service publishes: any one of `ports`."""

    service: str
    ports: Sequence[Port]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the services of a deployment need, by the place in the model that says so."""

    publishings: Sequence[Publishing] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    platforms: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    reserved_bytes: int = 0
    cpus: Mapping[str, float] = field(default_factory=dict)
    gpus: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the device has; what nobody could find out is left open. `taken` says by whom a port is."""

    platform: Platform
    memory_bytes: int = 0
    cpus: int = 0
    gpu: bool = True
    taken: Mapping[Port, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()


def needs_of(models: Sequence[Mapping[str, Any]]) -> Needs:
    """Return what these models, of one deployment, need."""
    services = [(name, one) for model in models for name, one in model["services"].items()]
    reserved = [size for _, one in services if (size := _number(_reserved(one)))]
    return Needs(
        publishings=[publishing for name, one in services for publishing in _publishings(name, one)],
        paths={at: path for name, one in services for at, path in _paths(name, one)},
        platforms={f"services.{name}.platform": str(one["platform"]) for name, one in services if one.get("platform")},
        memory_bytes={at: int(size) for name, one in services for at, size in _memory(name, one)},
        reserved_bytes=int(sum(reserved)),
        cpus={at: count for name, one in services for at, count in _cpus(name, one)},
        gpus=[f"services.{name}" for name, one in services if _wants_gpu(one)],
    )


def faults_of(needs: Needs, facts: Facts) -> list[str]:
    """Return why the device does not fit; empty if it does."""
    found = [_port_fault(one, facts) for one in needs.publishings if all(port in facts.taken for port in one.ports)]
    found += [f"{at}: {path} is not there" for at, path in needs.paths.items() if path in facts.absent]
    for at, wanted in needs.platforms.items():
        if not _suits(wanted, facts.platform):
            found.append(f"{at}: {wanted} is wanted, this device is {facts.platform}")
    if facts.memory_bytes:
        for at, size in needs.memory_bytes.items():
            if size > facts.memory_bytes:
                found.append(f"{at}: {size} bytes of memory are asked for, this device has {facts.memory_bytes}")
        if needs.reserved_bytes > facts.memory_bytes and not found:
            found.append(f"{needs.reserved_bytes} bytes of memory are reserved, this device has {facts.memory_bytes}")
    if facts.cpus:
        for at, count in needs.cpus.items():
            if count > facts.cpus:
                found.append(f"{at}: {count:g} processors are asked for, this device has {facts.cpus}")
    return found + [f"{at}: a GPU is asked for, this device has none" for at in needs.gpus if not facts.gpu]


def _port_fault(one: Publishing, facts: Facts) -> str:
    first = one.ports[0]
    which = f"{first}" if len(one.ports) == 1 else f"{first} to {one.ports[-1].number}, each of them,"
    return f"services.{one.service}.ports: {which} is taken by {facts.taken[first]}"


def _publishings(service: str, one: Mapping[str, Any]) -> Iterator[Publishing]:
    if str(one.get("network_mode", "")).startswith(("host", "none", "container:")):
        return
    for port in one.get("ports") or ():
        first, _, last = str(port.get("published") or "").partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            continue
        address = str(port.get("host_ip") or "")
        numbers = range(int(first), min(int(last or first), int(first) + PORTS_LIMIT) + 1)
        ports = [
            Port(number, str(port.get("protocol") or "tcp"), "" if address in ("0.0.0.0", "::") else address)  # noqa: S104  (compared)
            for number in numbers
            if 0 < number < 2**16
        ]
        if ports:
            yield Publishing(service, ports)


def _paths(service: str, one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for number, device in enumerate(one.get("devices") or ()):
        source = device.get("source", "") if isinstance(device, dict) else str(device).partition(":")[0]
        if str(source).startswith("/"):  # else it is the name of a CDI device
            yield f"services.{service}.devices[{number}]", str(source)
    for number, volume in enumerate(one.get("volumes") or ()):
        if volume.get("type") == "bind" and (volume.get("bind") or {}).get("create_host_path") is False:
            yield f"services.{service}.volumes[{number}]", str(volume.get("source", ""))


def _resources(one: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return ((one.get("deploy") or {}).get("resources") or {}).get(kind) or {}


def _reserved(one: Mapping[str, Any]) -> object:
    return one.get("mem_reservation") or _resources(one, "reservations").get("memory")


def _memory(service: str, one: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    said = {
        "mem_limit": one.get("mem_limit"),
        "mem_reservation": one.get("mem_reservation"),
        "deploy.resources.limits.memory": _resources(one, "limits").get("memory"),
        "deploy.resources.reservations.memory": _resources(one, "reservations").get("memory"),
    }
    yield from ((f"services.{service}.{key}", size) for key, value in said.items() if (size := _number(value)))


def _cpus(service: str, one: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    said = {
        "cpus": one.get("cpus"),
        "deploy.resources.limits.cpus": _resources(one, "limits").get("cpus"),
        "deploy.resources.reservations.cpus": _resources(one, "reservations").get("cpus"),
    }
    yield from ((f"services.{service}.{key}", count) for key, value in said.items() if (count := _number(value)))


def _number(value: object) -> float:
    """Return a number that Compose wrote out; what is none is not for us to judge."""
    try:
        return float(str(value)) if value else 0.0
    except ValueError:
        return 0.0


def _wants_gpu(one: Mapping[str, Any]) -> bool:
    devices = _resources(one, "reservations").get("devices") or ()
    return bool(one.get("gpus")) or any("gpu" in (device.get("capabilities") or ()) for device in devices)


def _suits(wanted: str, platform: Platform) -> bool:
    system, _, rest = wanted.partition("/")
    architecture, _, variant = rest.partition("/")
    return (
        platform.rank({"os": system, "architecture": Platform.of(architecture).architecture, "variant": variant})
        is not None
    )
