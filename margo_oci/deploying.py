"""From a description to an ApplicationDeployment, and from one version of it to the next (format 12.15 to 12.18)."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from margo_oci.application import Default, Description, Profile
from margo_oci.constraints import Device
from margo_oci.deployment import Deployment, parse_deployment, text_of, variable_of
from margo_oci.editing import comments_of, edited
from margo_oci.errors import FormatError
from margo_oci.faults import EXTENSION
from margo_oci.reference import Reference, parse_reference
from margo_oci.settings import Schema
from margo_oci.yamldoc import parse_yaml
from margo_oci.yamltext import write_yaml

APPLICATION = "org.margo.oci.application"
PROFILE = "org.margo.oci.profile"
SET = "org.margo.oci.set"
SCOPE = "org.margo.oci.scope"
_SCALARS = {bool: "boolean", int: "integer", float: "double"}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an operator wants. `values` are those given by hand; "" and None leave a choice to the package."""

    name: str
    scope: str
    source: Reference
    values: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    device_id: str = ""
    profile: str = ""
    device: Device | None = None


@dataclass(frozen=True)
class Before:
    """A deployment as it stands in the folder."""

    raw: Mapping[str, Any]
    deployment: Deployment

    def note(self, name: str) -> str:
        """Return an annotation of ours; "" if there is none."""
        value = self.annotations.get(name, "")
        return value if isinstance(value, str) else ""

    @property
    def annotations(self) -> Mapping[str, Any]:
        """All annotations."""
        found = self.raw["metadata"].get("annotations")
        return found if isinstance(found, dict) else {}

    @property
    def source(self) -> Reference | None:
        """The package it was made of, if it was made of one."""
        return parse_reference(self.note(APPLICATION), default_tag="") if self.note(APPLICATION) else None

    @property
    def by_hand(self) -> set[str]:
        """The parameters whose values a person chose; all of them where nothing is noted."""
        try:
            names = json.loads(self.note(SET) or "null")
        except (ValueError, RecursionError):
            names = None
        return set(map(str, names)) if isinstance(names, list) else set(self.deployment.parameters)


def read_before(data: bytes, *, what: str) -> Before:
    """Read a deployment that is there. Raises FormatError."""
    return Before(parse_yaml(data, what=what).value, parse_deployment(data, what=what))


def typed(description: Description, name: str, text: str) -> Any:
    """Return what a text from a command line means as the value of a parameter."""
    schemas = description.settings.schemas_of(name)
    if schemas:
        return schemas[0].value_of(text)
    default = description.parameters[name].value if name in description.parameters else None
    return Schema(name="", data_type=_SCALARS.get(type(default), "string")).value_of(text)


def make_deployment(description: Description, wish: Wish, before: Before | None = None) -> bytes:
    """Return the ApplicationDeployment of `wish`; what is there keeps its id, its bytes if nothing changes.

    Raises FormatError with everything that does not fit.
    """
    if before and before.note(SCOPE) not in ("", wish.scope):
        raise FormatError(
            f"{wish.name} was made for the scope {before.note(SCOPE)!r:.200}, and --scope says {wish.scope!r:.200}: "
            "name the one it has; or undeploy it, then deploy it anew for the other"
        )
    profile = choose_profile(description, wish, before)
    values, by_hand = _values(description, profile, wish, before)
    document = _document(description, profile, wish, before, values, by_hand)
    if before and document == before.raw:
        return before.deployment.data
    data = _written(document, before)
    parse_deployment(data, what=wish.name)
    return data


def _written(document: dict[str, Any], before: Before | None) -> bytes:
    """Return a document as we write it; what somebody commented is edited in its place, if that can be done."""
    there = before.deployment.data if before else b""
    changed = edited(there, document, what=str(document["id"])) if there and comments_of(there) else None
    return changed or write_yaml(document)


def choose_profile(description: Description, wish: Wish, before: Before | None = None) -> Profile:
    """Return the profile that is asked for, that is there already, or the first that the device can run."""
    wanted = wish.profile or (before.note(PROFILE) if before and not wish.device else "")
    profiles = [one for one in description.profiles if wanted in ("", one.id)]
    if not profiles:
        raise FormatError(
            f"profile {wanted!r:.80}: {description.id} has {_ids(description.profiles)}: choose --profile"
        )
    if wish.device:
        lacking = {one.id: _lacking(one, wish.device) for one in profiles}
        if not (profiles := [one for one in profiles if not lacking[one.id]]):
            raise FormatError(
                *(f"profile {name}: {wish.device.id} lacks {', '.join(words)}" for name, words in lacking.items())
            )
    elif len(profiles) > 1:
        composed = [one for one in profiles if one.kind == "compose"]
        if len(composed) != 1:
            raise FormatError(f"{description.id} has {_ids(profiles)}: choose with --profile or --capabilities")
        profiles = composed
    if unplaced := [part.name for part in profiles[0].components if not part.repository]:
        raise FormatError(
            *(
                f"profile {profiles[0].id}: component {name} has no repository, only a packageLocation"
                for name in unplaced
            )
        )
    return profiles[0]


def _lacking(profile: Profile, device: Device) -> list[str]:
    runs = [] if device.runs(profile.kind) else [f"the deployment type {profile.kind}"]
    return [*runs, *profile.constraints.lacking(device)]


def _ids(profiles: Sequence[Profile]) -> str:
    return ", ".join(f"{one.id} ({one.type})" for one in profiles)


def _values(
    description: Description, profile: Profile, wish: Wish, before: Before | None
) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Return the value of each parameter that the profile uses and has one for, and which of them a person chose."""
    used = {name: one for name, one in description.parameters.items() if _targets(one, profile)}
    faults = [f"{name}: {_unknown(name, description, profile)}" for name in wish.values if name not in used]
    values: dict[str, Any] = {}
    by_hand: list[str] = []
    for name, parameter in used.items():
        value, chosen = _value(name, parameter, description, wish, before)
        faults += _faults(name, value, description, before)
        if value is not None:
            values[name] = value
            by_hand += [name] if chosen else []
    if faults:
        raise FormatError(*faults)
    return values, sorted(by_hand)


def _unknown(name: str, description: Description, profile: Profile) -> str:
    if name in description.parameters:
        return f"profile {profile.id} does not use this parameter"
    return f"no such parameter: {', '.join(description.parameters) or 'none'} can be set"


def _value(
    name: str, parameter: Default, description: Description, wish: Wish, before: Before | None
) -> tuple[Any, bool]:
    """Return a value and whether a person chose it: now, or before; what nobody chose follows the package."""
    if name in wish.values:
        return wish.values[name], True
    there = before.deployment.parameters.get(name) if before else None
    if before and there and (name in before.by_hand or description.settings.is_immutable(name)):
        return there.value, name in before.by_hand
    return parameter.value, False


def _faults(name: str, value: Any, description: Description, before: Before | None) -> list[str]:
    there = before.deployment.parameters.get(name) if before else None
    if there and description.settings.is_immutable(name) and text_of(there.value) != text_of(value):
        return [f"{name}: is immutable and was installed with {there.value!r:.80}: undeploy it, then deploy anew"]
    if value is None:
        needed = any(not schema.allow_empty for schema in description.settings.schemas_of(name))
        return [f"{name}: needs a value: --set {name}=…"] if needed else []
    return [f"{name}: {fault}" for fault in description.settings.faults_of(name, value)]


def _targets(parameter: Default, profile: Profile) -> list[dict[str, Any]]:
    """Return where a parameter goes within a profile."""
    there = {part.name for part in profile.components}
    targets = []
    for one in parameter.targets:
        components = [name for name in one.components if name in there]
        pointer = variable_of(one.pointer) if profile.kind == "compose" else one.pointer
        targets += [{"pointer": pointer, "components": components}] if components else []
    return targets


def _document(
    description: Description,
    profile: Profile,
    wish: Wish,
    before: Before | None,
    values: Mapping[str, Any],
    by_hand: Sequence[str],
) -> dict[str, Any]:
    old = before.raw["metadata"] if before else {}
    there = before.annotations if before else {}
    notes = {key: text for key, text in there.items() if key not in ("id", "applicationId")}
    notes |= {APPLICATION: str(wish.source), PROFILE: profile.id, SET: json.dumps(by_hand)}
    if not (before and before.source):  # one that is made, or taken over; older ones keep their bytes
        notes[SCOPE] = wish.scope
    metadata = {
        "name": wish.name,
        "namespace": wish.namespace or old.get("namespace") or "default",
        "deviceId": wish.device_id or (wish.device.id if wish.device else "") or old.get("deviceId"),
        "labels": old.get("labels"),
        "annotations": notes,
    }
    kept = {key: value for key, value in (before.raw["spec"] if before else {}).items() if EXTENSION.fullmatch(key)}
    parameters = {
        name: {"value": value, "targets": _targets(description.parameters[name], profile)}
        for name, value in values.items()
    }
    return {
        "id": before.deployment.id if before else deployment_id(wish.scope, wish.name),
        "metadata": {key: value for key, value in metadata.items() if value is not None},
        "spec": {
            "applicationId": description.id,
            "deploymentProfile": _profile(profile),
            "parameters": parameters,
            **kept,
        },
    }


def _profile(profile: Profile) -> dict[str, Any]:
    """Return the profile as a device gets it: constraints and extensions as they are, the rest is for operators."""
    copied = {key: profile.raw[key] for key in profile.raw if key == "deviceConstraints" or EXTENSION.fullmatch(key)}
    return {"type": profile.kind, "components": [dict(part.raw) for part in profile.components], **copied}


def deployment_id(scope: str, name: str) -> str:
    """Return the id of a deployment: the same for the same name in the same scope, on every machine."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:margo-oci:{scope}/{name}"))
