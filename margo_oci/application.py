"""ApplicationDescriptions of the Margo standard, in both shapes, parsed once into frozen values (format 12.1 to 12.11).

1.0.0-rc.3 (no apiVersion/kind, `id` at the top) and older (with them; `id` at the top or in `metadata`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.constraints import Constraints, read_constraints
from margo_oci.deployment import (
    APPLICATION_ID,
    COMPONENT_NAME,
    PROFILE_TYPES,
    REPOSITORY,
    REVISION,
    STEERING,
    TIMEOUT,
    VARIABLE,
    Target,
    text_of,
    variable_of,
)
from margo_oci.errors import FormatError
from margo_oci.faults import Fault, Place, raise_faults, read_document, twice, type_name
from margo_oci.reference import TAG
from margo_oci.settings import Settings, read_settings

API_VERSION = "margo.org/v1-alpha1"
KIND = "ApplicationDescription"
EMAIL = re.compile(r".*@[a-z0-9.-]*")
RESOURCES = {
    "icon": (), "descriptionFile": (".md",), "licenseFile": (".txt", ".md", ".pdf"), "releaseNotes": (".md", ".pdf"),
}  # fmt: skip
_HEADER = ("apiVersion", "kind")
_PROPERTIES = ("repository", "revision", "wait", "timeout", "packageLocation", "keyLocation")


@dataclass(frozen=True)
class Part:
    """A component as the description has it; `raw` is all of it, for the deployment."""

    name: str
    repository: str
    revision: str
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Profile:
    """One way to run the application. `type` is written as the document has it, `kind` as we call it."""

    id: str
    type: str
    components: Sequence[Part]
    constraints: Constraints
    raw: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`compose`, `helm`, `quadlet` or `custom`."""
        return PROFILE_TYPES.get(self.type, "")


@dataclass(frozen=True)
class Default:
    """A parameter: its default (None if there is none) and where it goes."""

    value: Any
    targets: Sequence[Target]


@dataclass(frozen=True)
class Resource:
    """A file that the catalog names: `icon`, `descriptionFile`, `licenseFile` or `releaseNotes`."""

    kind: str
    path: str

    @property
    def field(self) -> str:
        """Where the description names it."""
        return f"metadata.catalog.application.{self.kind}"


@dataclass(frozen=True, kw_only=True)
class Description:
    """An application, with the very bytes it was read from."""

    data: bytes
    id: str
    name: str
    version: str
    summary: str
    vendor: str
    site: str
    newer: bool
    resources: Sequence[Resource]
    profiles: Sequence[Profile]
    parameters: Mapping[str, Default]
    settings: Settings


@dataclass(frozen=True)
class Checked:
    """What came of checking a document: the description if nothing is wrong with it, and all faults in their order."""

    description: Description | None
    faults: Sequence[Fault]


def check_description(data: bytes, *, what: str, fault_of: Callable[[str], str] = lambda _: "") -> Checked:
    """Check an ApplicationDescription by every rule; all faults are found at once.

    `fault_of` tells what is wrong with the file of a resource, by its path in the package: "" if nothing is.
    """
    place, faults = read_document(data, what=what, rule="12.1")
    if place is None:
        return Checked(None, faults)
    if not isinstance(place.value, dict):
        place.fault("12.1", f"an ApplicationDescription is expected, got {type_name(place.value)}")
        return Checked(None, place.faults)
    description = _description(place, data)
    for one in description.resources:
        if words := fault_of(one.path):
            place.at(*one.field.split(".")).fault("12.5", f"{one.path!r:.100} {words}")
    found = sorted(place.faults)
    return Checked(None if any(fault.level == "error" for fault in found) else description, found)


def parse_description(data: bytes, *, what: str) -> Description:
    """Parse an ApplicationDescription. Raises FormatError with every fault: `what:line:column: field: message`."""
    checked = check_description(data, what=what)
    raise_faults(checked.faults, what=what)
    if checked.description is None:
        raise FormatError(f"{what}: no ApplicationDescription")
    return checked.description


def _description(top: Place, data: bytes) -> Description:
    top.known("12.11", *_HEADER, "id", "metadata", "deploymentProfiles", "parameters", "configuration")
    newer = _header(top)
    metadata, catalog = top.at("metadata"), top.at("metadata", "catalog")
    if metadata.is_map("12.3"):
        metadata.known("12.11", "id", "name", "description", "version", "catalog")
    profiles = _profiles(top)
    parameters = _parameters(top, profiles)
    settings = read_settings(top.at("configuration"), parameters)
    _check_defaults(top, parameters, settings)
    vendor, site = _organization(catalog)
    return Description(
        data=data,
        id=_id(top),
        name=metadata.text("name", "12.3", required=True, hint="what people call the application"),
        version=metadata.text(
            "version",
            "12.3",
            required=True,
            pattern=TAG,
            hint="what may be a tag (letters, digits, . _ -), as in 1.4.0,",
        ),
        summary=metadata.text("description", "12.3"),
        vendor=vendor,
        site=site,
        newer=newer,
        resources=_catalog(catalog),
        profiles=profiles,
        parameters=parameters,
        settings=settings,
    )


def _header(top: Place) -> bool:
    """Tell whether this is the newer shape; of the older one both lines are expected."""
    version, kind = (top.at(key).value for key in _HEADER)
    if version is None and kind is None:
        return True
    if kind != KIND:
        top.at("kind").fault("12.1", f"{KIND} is expected, got {kind!r:.80}")
    if not isinstance(version, str) or not version.removeprefix("application.").startswith("margo.org/"):
        top.at("apiVersion").fault("12.1", f"{API_VERSION} is expected, got {version!r:.80}")
    return False


def _id(top: Place) -> str:
    hint = "1 to 200 of a-z, 0-9 and -"
    given = [one for one in (top, top.at("metadata")) if one.at("id").value is not None] or [top]
    ids = [one.text("id", "12.2", required=True, pattern=APPLICATION_ID, hint=hint) for one in given]
    if len(set(ids)) > 1:
        given[1].at("id").fault("12.2", f"{ids[1]!r:.80} contradicts {ids[0]!r:.80} at id: keep one of them")
    return ids[0]


def _organization(catalog: Place) -> tuple[str, str]:
    if not catalog.is_map("12.4"):
        return "", ""
    catalog.known("12.11", "application", "author", "organization")
    for one in catalog.each("author", "12.4"):
        if one.is_map("12.4"):
            one.known("12.11", "name", "email")
            one.text("name", "12.4")
            one.text("email", "12.4", pattern=EMAIL, hint="an address as in name@example.com")
    found = []
    for one in catalog.each("organization", "12.4", required=True):
        if one.is_map("12.4"):
            one.known("12.11", "name", "site")
            found.append((one.text("name", "12.4", required=True, hint="who makes it"), one.text("site", "12.4")))
    return found[0] if found else ("", "")


def _catalog(catalog: Place) -> Sequence[Resource]:
    place = catalog.at("application")
    if place.value is None or not place.is_map("12.4"):
        return ()
    place.known("12.11", *RESOURCES, "site", "tagline", "tags")
    place.text("site", "12.4")
    place.text("tagline", "12.4")
    for tag in place.each("tags", "12.4"):
        if not isinstance(tag.value, str):
            tag.fault("12.4", f"text is expected, got {tag.value!r:.80}: put it in quotes")
    found = [Resource(kind, _path(place, kind, endings)) for kind, endings in RESOURCES.items()]
    return tuple(one for one in found if one.path)


def _path(place: Place, kind: str, endings: Sequence[str]) -> str:
    """Return the path of a resource within the package, without `./`; "" if it is none."""
    written = place.text(kind, "12.5")
    path = written.removeprefix("./")
    if not written:
        return ""
    parts = path.split("/")
    if "://" in path or "\\" in path or not path.isprintable() or len(path) > 255 or {"", ".", ".."} & set(parts):
        place.at(kind).fault("12.5", f"{written!r:.100}: a relative path to a file of the package is expected")
        return ""
    if endings and not path.lower().endswith(tuple(endings)):
        place.at(kind).fault("12.5", f"{written!r:.100} should end in {' or '.join(endings)}", level="warning")
    return path


def _profiles(top: Place) -> Sequence[Profile]:
    places = [one for one in top.each("deploymentProfiles", "12.6", required=True) if one.is_map("12.6")]
    profiles = [_profile(one) for one in places]
    names = [(profile.id, one.at("id")) for profile, one in zip(profiles, places, strict=True)]
    list(twice(names, "12.6"))
    return tuple(profiles)


def _profile(place: Place) -> Profile:
    place.known("12.11", "type", "id", "description", "components", "deviceConstraints", "requiredResources")
    place.text("description", "12.6")
    written = place.text("type", "12.6", required=True, hint="compose or helm")
    if written and written not in PROFILE_TYPES:
        place.at("type").fault("12.6", f"{written!r:.80} is no profile: one of {', '.join(PROFILE_TYPES)}")
    elif PROFILE_TYPES.get(written) == "quadlet":
        place.at("type").fault("12.6", "is a proposal and not in the standard: few devices run it", level="warning")
    components = [one for one in place.each("components", "12.6", required=True) if one.is_map("12.6")]
    parts = [_part(one) for one in components]
    list(twice([(part.name, one.at("name")) for part, one in zip(parts, components, strict=True)], "12.6"))
    constraints = read_constraints(place)
    if written == "custom" and not any(rule.labels for rule in constraints.rules):
        place.at("type").fault("12.10", "a custom profile needs deviceConstraints with a labelSelector")
    return Profile(
        id=place.text("id", "12.6", required=True, hint="a name for this profile"),
        type=written,
        components=tuple(parts),
        constraints=constraints,
        raw=place.value,
    )


def _part(place: Place) -> Part:
    place.known("12.11", "name", "properties")
    at = place.at("properties")
    older = False
    if at.is_map("12.6"):
        at.known("12.11", *_PROPERTIES)
        older = at.at("packageLocation").value is not None and at.at("repository").value is None
    for key in ("packageLocation", "keyLocation"):
        at.text(key, "12.6")
    if older:
        at.at("packageLocation").fault(
            "12.6", "is of an older standard and cannot be deployed: name repository and revision", level="warning"
        )
    at.flag("wait", "12.6", default=True)
    at.text("timeout", "12.6", pattern=TIMEOUT, hint="minutes and seconds, as in 8m30s,")
    needed = isinstance(at.value, dict) and not older
    return Part(
        name=place.text(
            "name", "12.6", required=True, pattern=COMPONENT_NAME, hint="1 to 63 lower-case letters, digits and dashes"
        ),
        repository=at.text("repository", "12.6", required=needed, pattern=REPOSITORY, hint="oci://host/repository"),
        revision=at.text(
            "revision", "12.6", required=needed, pattern=REVISION,
            hint="SemVer 2.0 without v, with _ for +, as in 1.4.0 or 2.0.0-rc1,",
        ),
        raw=place.value,
    )  # fmt: skip


def _parameters(top: Place, profiles: Sequence[Profile]) -> Mapping[str, Default]:
    kinds: dict[str, set[str]] = {}
    for profile in profiles:
        for part in profile.components:
            kinds.setdefault(part.name, set()).add(profile.kind)
    parameters = {name: _parameter(one, kinds) for name, one in top.entries("parameters", "12.7").items()}
    seen: dict[tuple[str, str], str] = {}
    for name, parameter in parameters.items():
        for i, target in enumerate(parameter.targets):
            for component in target.components:
                first = seen.setdefault((component, variable_of(target.pointer)), name)
                if first != name:
                    place = top.at("parameters", name, "targets", i)
                    place.fault("12.7", f"{target.pointer} of {component} is set by {first}, too: keep one of them")
    return parameters


def _parameter(place: Place, kinds: Mapping[str, set[str]]) -> Default:
    if not place.is_map("12.7"):
        return Default(None, ())
    place.known("12.11", "value", "targets")
    value = place.at("value").value
    items = value if isinstance(value, list) else [value]
    if any(isinstance(one, dict | list) for one in items):
        place.at("value").fault("12.7", "text, a number, true, false or a list of these is expected")
        value = None
    elif "\0" in text_of(value):
        place.at("value").fault("12.7", "a NUL character fits into no environment variable")
    targets = [_target(one, kinds) for one in place.each("targets", "12.7", required=True) if one.is_map("12.7")]
    return Default(None if value == "" else value, tuple(targets))


def _target(place: Place, kinds: Mapping[str, set[str]]) -> Target:
    place.known("12.11", "pointer", "components")
    pointer = place.text("pointer", "12.7", required=True, hint="an environment variable (Compose) or a path (Helm)")
    named = []
    for one in place.each("components", "12.7", required=True):
        if not isinstance(one.value, str) or one.value not in kinds:
            there = ", ".join(sorted(filter(None, kinds))[:20]) or "none"
            one.fault("12.7", f"{one.value!r:.80} is no component of any profile ({there})")
        else:
            named.append(one.value)
    if pointer and any("compose" in kinds[name] for name in named):
        _check_variable(place.at("pointer"), variable_of(pointer))
    return Target(pointer=pointer, components=tuple(named))


def _check_variable(place: Place, name: str) -> None:
    if not VARIABLE.fullmatch(name):
        place.fault("12.7", f"{name!r:.80} is no name of an environment variable, as a Compose component needs it")
    elif STEERING.fullmatch(name):
        place.fault("12.7", f"{name!r:.80} steers the container tools, not a workload: take another name")


def _check_defaults(top: Place, parameters: Mapping[str, Default], settings: Settings) -> None:
    for name, parameter in parameters.items():
        if parameter.value is not None:
            for fault in settings.faults_of(name, parameter.value):
                top.at("parameters", name, "value").fault("12.9", f"the default does not fit its schema: {fault}")
