"""What a device can do, as the standard has it: DeviceCapabilitiesManifest of Margo 1.0.0-rc.3. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.jsonfields import JsonFields

CAPABILITIES_LIMIT_BYTES = 64 * 1024
LIST_LIMIT = 256
ARCHITECTURES = ("amd64", "arm64", "arm")
PERIPHERALS = ("gpu", "display", "camera", "microphone", "speaker")
INTERFACES = ("ethernet", "wifi", "cellular", "bluetooth", "usb", "canbus", "rs232")
DEPLOYMENT_TYPES = ("helm", "compose", "custom")
UNKNOWN = "unknown"  # the standard wants vendor, model and serial number of every device


@dataclass(frozen=True)
class Cpu:
    """Processors of one kind; `architecture` is "" if the standard has no name for it."""

    cores: int
    architecture: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"cores": self.cores, **({"architecture": self.architecture} if self.architecture else {})}


@dataclass(frozen=True)
class Peripheral:
    """Something attached, of a type that the standard knows."""

    type: str
    manufacturer: str = ""
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        raw = {"type": self.type, "manufacturer": self.manufacturer, "model": self.model}
        return {key: value for key, value in raw.items() if value}


@dataclass(frozen=True, kw_only=True)
class DeviceCapabilities:
    """What a hosting device says of itself; `memory` and `storage` are texts such as `3.7Gi`."""

    id: str
    vendor: str = UNKNOWN
    model_number: str = UNKNOWN
    serial_number: str = UNKNOWN
    cpus: Sequence[Cpu] = ()
    memory: str = ""
    storage: str = ""
    peripherals: Sequence[Peripheral] = ()
    interfaces: Sequence[str] = ()
    otel_collector: bool = False
    runtimes: Sequence[str] = ("oci",)
    deployment_types: Sequence[str] = ("compose",)
    labels: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the DeviceCapabilitiesManifest."""
        properties = {
            "id": self.id,
            "vendor": self.vendor,
            "modelNumber": self.model_number,
            "serialNumber": self.serial_number,
            "cpus": [one.to_dict() for one in self.cpus],
            "memory": self.memory,
            "storage": self.storage,
            "peripherals": [one.to_dict() for one in self.peripherals],
            "interfaces": [{"type": one} for one in self.interfaces],
            "otelCollector": self.otel_collector,
            "supportedRuntimes": list(self.runtimes),
            "supportedDeploymentTypes": list(self.deployment_types),
        }
        return {"properties": properties, **({"labels": dict(self.labels)} if self.labels else {})}

    def to_bytes(self) -> bytes:
        """Return the document, the same bytes for the same capabilities."""
        return canonical_json(self.to_dict())


def parse_capabilities(data: bytes, *, what: str = "capabilities") -> DeviceCapabilities:
    """Read a DeviceCapabilitiesManifest; types that are not known here stay as they are. Raises FormatError."""
    fields = JsonFields(parse_json(data, what=what, limit_bytes=CAPABILITIES_LIMIT_BYTES), what)
    of = fields.inner("properties")
    return DeviceCapabilities(
        id=of.text("id", required=True),
        vendor=of.text("vendor", required=True),
        model_number=of.text("modelNumber", required=True),
        serial_number=of.text("serialNumber", required=True),
        cpus=tuple(Cpu(one.number("cores"), one.text("architecture")) for one in of.each("cpus", most=LIST_LIMIT)),
        memory=of.text("memory"),
        storage=of.text("storage"),
        peripherals=tuple(
            Peripheral(one.text("type", required=True), one.text("manufacturer"), one.text("model"))
            for one in of.each("peripherals", most=LIST_LIMIT)
        ),
        interfaces=tuple(one.text("type", required=True) for one in of.each("interfaces", most=LIST_LIMIT)),
        otel_collector=of.flag("otelCollector"),
        runtimes=of.texts("supportedRuntimes", most=LIST_LIMIT),
        deployment_types=of.texts("supportedDeploymentTypes", most=LIST_LIMIT),
        labels=check_labels(fields.inner("labels").raw, at=f"{what}.labels"),
    )


def check_labels(labels: Mapping[str, Any], *, at: str) -> Mapping[str, Any]:
    """Return labels if each is a text, a number, a boolean, or a list of texts or of numbers. Raises FormatError."""
    if len(labels) > LIST_LIMIT:
        raise FormatError(f"{at}: at most {LIST_LIMIT} labels are expected, got {len(labels)}")
    for key, value in labels.items():
        items = value if isinstance(value, list) else [value]
        same = all(isinstance(one, str) for one in items) or all(_is_number(one) for one in items)
        fits = same and len(items) <= LIST_LIMIT and all(_is_short(one) for one in items)
        if not _is_short(key) or not (isinstance(value, bool) or fits):
            raise FormatError(
                f"{at}.{key!r:.80}: a text, a number, true, false or a list of texts or numbers is expected"
            )
    return labels


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_short(value: object) -> bool:
    return not isinstance(value, str) or (len(value) <= 255 and value.isprintable())
