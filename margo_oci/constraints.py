"""What a deployment profile asks of a device, and whether a device has it (Margo 1.0.0-rc.3, `deviceConstraints`).

The older `requiredResources` is read as well. Capacity first, then eligibility rules: any one of them must hold.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.capabilities import DEPLOYMENT_TYPES, INTERFACES, PERIPHERALS, parse_capabilities
from margo_oci.content import parse_json
from margo_oci.faults import Place

ARCHITECTURES = ("amd64", "arm64", "arm", "riscv64", "other")
OLDER_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MEMORY = re.compile(r"[0-9]+(Mi|Gi|Ki)")
STORAGE = re.compile(r"[0-9]+(Mi|Gi|Ki|Ti|Pi|Ei)")
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "ContainsAll", "ContainsAny")
NESTED_LIMIT = 8
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(Ki|Mi|Gi|Ti|Pi|Ei)?B?\s*")
_UNITS = {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}


@dataclass(frozen=True)
class Device:
    """A device as its DeviceCapabilitiesManifest says."""

    properties: Mapping[str, Any]
    labels: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its DeviceId."""
        return str(self.properties["id"])

    def runs(self, profile: str) -> bool:
        """Tell whether it takes a profile of this type; what the standard has no name for is `custom` there."""
        return (profile if profile in DEPLOYMENT_TYPES else "custom") in self.properties.get(
            "supportedDeploymentTypes", ()
        )


def parse_device(data: bytes, *, what: str) -> Device:
    """Read a DeviceCapabilitiesManifest. Raises FormatError."""
    parse_capabilities(data, what=what)
    raw = parse_json(data, what=what)
    return Device(raw["properties"], raw.get("labels") or {})


@dataclass(frozen=True, kw_only=True)
class Expression:
    """One expression of a selector."""

    key: str
    operator: str
    values: Any = None
    item: Sequence["Expression"] = ()

    def holds(self, found: Any, there: bool) -> bool:
        """Tell whether it holds for what stands at its key."""
        if self.operator in ("Exists", "DoesNotExist"):
            return there is (self.operator == "Exists")
        if not there or isinstance(found, dict):
            return False
        if self.operator in ("ContainsAll", "ContainsAny"):
            return self._contains(found)
        if isinstance(found, list) and any(isinstance(one, dict | list) for one in found):
            return False
        if self.operator in ("Gt", "Lt"):
            return _is_number(found) and (found > self.values if self.operator == "Gt" else found < self.values)
        values = self.values if isinstance(self.values, list) else [self.values]
        wanted = [(type(one) is bool, one) for one in values]
        has = [(type(one) is bool, one) for one in (found if isinstance(found, list) else [found])]
        return any(one in wanted for one in has) is (self.operator == "In")

    def _contains(self, found: Any) -> bool:
        if not isinstance(found, list):
            return False
        every = all if self.operator == "ContainsAll" else any
        return any(every(one.holds(*_below(item, one.key)) for one in self.item) for item in found)


@dataclass(frozen=True)
class Rule:
    """One eligibility rule: every expression of both selectors holds."""

    properties: Sequence[Expression] = ()
    labels: Sequence[Expression] = ()

    def holds(self, device: Device) -> bool:
        """Tell whether a device is eligible by this rule."""
        return all(one.holds(*_below(device.properties, one.key)) for one in self.properties) and all(
            one.holds(device.labels.get(one.key), one.key in device.labels) for one in self.labels
        )


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What one profile asks for. Sizes in bytes, 0 if nothing is said."""

    cores: float = 0
    architectures: Sequence[str] = ()
    memory_bytes: float = 0
    storage_bytes: float = 0
    rules: Sequence[Rule] = ()
    peripherals: Sequence[Mapping[str, str]] = ()
    interfaces: Sequence[Mapping[str, str]] = ()

    def lacking(self, device: Device) -> list[str]:
        """Return what the device lacks, in words."""
        words = []
        cpus = _maps(device.properties.get("cpus"))
        if (self.cores or self.architectures) and not any(map(self._cpu_fits, cpus)):
            words.append(f"a processor with {self.cores:g} cores{_of(self.architectures)}")
        for name, wanted in (("memory", self.memory_bytes), ("storage", self.storage_bytes)):
            if wanted > bytes_of(device.properties.get(name)):
                words.append(f"{name} of {wanted / 1024**2:g} MiB (it has {device.properties.get(name) or 'none'!s})")
        for kind, asked in (("peripherals", self.peripherals), ("interfaces", self.interfaces)):
            there = _maps(device.properties.get(kind))
            words += [
                " ".join(one.values()) for one in asked if not any(one.items() <= dict(has).items() for has in there)
            ]
        if self.rules and not any(rule.holds(device) for rule in self.rules):
            words.append(f"what any of its {len(self.rules)} eligibility rules asks for")
        return words

    def _cpu_fits(self, cpu: Mapping[str, Any]) -> bool:
        cores = cpu.get("cores")
        architecture = cpu.get("architecture") or "other"
        enough = isinstance(cores, int | float) and cores >= self.cores
        return enough and (not self.architectures or architecture in self.architectures)


def read_constraints(profile: Place) -> Constraints:
    """Read `deviceConstraints` of a profile, or the older `requiredResources`."""
    newer, older = profile.at("deviceConstraints"), profile.at("requiredResources")
    if newer.value is not None and older.value is not None:
        older.fault("12.10", "stands beside deviceConstraints, which replaces it: take one of them out")
    if newer.value is not None and newer.is_map("12.10"):
        newer.known("12.11", "capacityRequirements", "eligibilityRules")
        rules = tuple(_rule(one) for one in newer.each("eligibilityRules", "12.10"))
        return _capacity(newer.at("capacityRequirements"), rules=rules)
    if older.value is not None and older.is_map("12.10"):
        return _capacity(
            older,
            "peripherals",
            "interfaces",
            peripherals=_parts(older, "peripherals", PERIPHERALS),
            interfaces=_parts(older, "interfaces", INTERFACES),
        )
    return Constraints()


def _capacity(place: Place, *more: str, **others: Any) -> Constraints:
    if place.value is None or not place.is_map("12.10"):
        return Constraints(**others)
    place.known("12.11", "cpu", "memory", "storage", *more)
    cores, architectures = _cpu(place.at("cpu"))
    memory = place.text("memory", "12.10", pattern=MEMORY, hint="a number and Ki, Mi or Gi, as in 512Mi,")
    storage = place.text("storage", "12.10", pattern=STORAGE, hint="a number and Ki to Ei, as in 10Gi,")
    return Constraints(
        cores=cores,
        architectures=architectures,
        memory_bytes=bytes_of(memory),
        storage_bytes=bytes_of(storage),
        **others,
    )


def _cpu(place: Place) -> tuple[float, Sequence[str]]:
    if place.value is None or not place.is_map("12.10"):
        return 0, ()
    place.known("12.11", "cores", "architectures")
    if place.at("cores").value is None:
        place.at("cores").fault("12.10", "is missing: how many cores, as in 1.5")
    architectures = []
    for one in place.each("architectures", "12.10"):
        name = OLDER_ARCHITECTURES.get(one.value, one.value) if isinstance(one.value, str) else one.value
        if name not in ARCHITECTURES:
            one.fault("12.10", f"{one.value!r:.80} is no architecture: one of {', '.join(ARCHITECTURES)}")
        architectures.append(str(name))
    return place.number("cores", "12.10", least=0) or 0, tuple(architectures)


def _parts(place: Place, kind: str, types: Sequence[str]) -> Sequence[Mapping[str, str]]:
    parts = []
    for one in place.each(kind, "12.10"):
        if one.is_map("12.10"):
            keys = ("type", "manufacturer", "model") if kind == "peripherals" else ("type",)
            one.known("12.11", *keys)
            part = {key: one.text(key, "12.10", required=key == "type") for key in keys}
            if part["type"] and part["type"] not in types:
                one.at("type").fault("12.10", f"{part['type']!r:.80} is not one of {', '.join(types)}")
            parts.append({key: value for key, value in part.items() if value})
    return tuple(parts)


def _rule(place: Place) -> Rule:
    place.is_map("12.10")
    place.known("12.11", "propertySelector", "labelSelector")
    found = Rule(*(_selector(place.at(f"{one}Selector"), NESTED_LIMIT) for one in ("property", "label")))
    if isinstance(place.value, dict) and not (found.properties or found.labels):
        place.fault("12.10", "a propertySelector or a labelSelector with expressions is expected")
    return found


def _selector(place: Place, levels: int) -> Sequence[Expression]:
    if place.value is None or not place.is_map("12.10"):
        return ()
    if not levels:
        place.fault("12.10", f"more than {NESTED_LIMIT} selectors in each other")
        return ()
    place.known("12.11", "matchExpressions")
    return tuple(_expression(one, levels) for one in place.each("matchExpressions", "12.10", required=True))


def _expression(place: Place, levels: int) -> Expression:
    place.is_map("12.10")
    place.known("12.11", "key", "operator", "values", "itemSelector")
    operator = place.text("operator", "12.10", required=True, hint=f"one of {', '.join(OPERATORS)}")
    if operator and operator not in OPERATORS:
        place.at("operator").fault("12.10", f"{operator!r:.80} is no operator: one of {', '.join(OPERATORS)}")
    contains = operator.startswith("Contains")
    values, item = place.at("values"), place.at("itemSelector")
    if operator in ("In", "NotIn"):
        _check_values(values)
    elif operator in ("Gt", "Lt"):
        one = values.value[0] if isinstance(values.value, list) and len(values.value) == 1 else values.value
        if not _is_number(one):
            values.fault("12.10", f"one number is expected with {operator}")
        return Expression(key=_key(place), operator=operator if _is_number(one) else "", values=one)
    elif values.value is not None:
        values.fault("12.10", f"no values are expected with {operator or 'this operator'}")
    if contains is (item.value is None):
        item.fault("12.10", "is missing: ContainsAll and ContainsAny need one" if contains else "is for Contains…")
    return Expression(key=_key(place), operator=operator, values=values.value, item=_selector(item, levels - 1))


def _key(place: Place) -> str:
    return place.text("key", "12.10", required=True, hint="a JSON pointer below `properties`, or a label")


def _check_values(place: Place) -> None:
    values = place.value if isinstance(place.value, list) else [place.value]
    alike = (
        all(isinstance(one, str) for one in values)
        or all(map(_is_number, values))
        or (len(values) == 1 and isinstance(values[0], bool))
    )
    if not values or not alike:
        place.fault("12.10", "texts, numbers, or one of true and false are expected")


def _below(value: Any, pointer: str) -> tuple[Any, bool]:
    """Follow a JSON pointer (RFC 6901) and tell whether something stands there; a leading slash may be left out."""
    for part in pointer.removeprefix("/").split("/") if pointer not in ("", "/") else ():
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(value):
            value = value[int(key)]
        else:
            return None, False
    return value, True


def bytes_of(size: object) -> float:
    """Return a size as `512Mi` or `59 Gi` in bytes; 0 for what is none."""
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    return float(found[1]) * (_UNITS[found[2]] if found[2] else 1) if found else 0


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of(names: Sequence[str]) -> str:
    return f" of {' or '.join(names)}" if names else ""
