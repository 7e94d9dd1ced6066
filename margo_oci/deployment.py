"""ApplicationDeployment documents, in both shapes of the standard, parsed once into frozen values.

Margo rc.3 (no apiVersion/kind, `id` at the top, `spec.applicationId`) and 1.0.0 (with them, ids in
`metadata.annotations`). What is written out again keeps its bytes: `Deployment.data`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from margo_oci.errors import FormatError
from margo_oci.yamldoc import Document, Path, parse_yaml

UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
APPLICATION_ID = re.compile(r"[a-z0-9-]{1,200}")
COMPONENT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DEVICE_ID = re.compile(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*(/\*)?")
REPOSITORY = re.compile(r"oci://.+")
_IDENTIFIER = r"(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
REVISION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?(?:_([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)
TIMEOUT = re.compile(r"(\d{1,6})m(\d{1,6})s", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Compose itself, or the Go it is written in, listens to these; COMPOSE_PROFILES alone is about the workload. Proxies
# may be set: Compose sees parameters only while it fills them in, and asks no network then.
STEERING = re.compile(
    r"DOCKER_.*|COMPOSE_(?!PROFILES$).*|BUILDKIT_.*|BUILDX_.*|OTEL_.*|PATH|HOME|LD_.*|XDG_.*|SSH_.*"
    r"|SSL_CERT_.*|TMPDIR|GODEBUG|GOTRACEBACK|GOMAXPROCS|GOMEMLIMIT|GOGC|GOCOVERDIR|NO_COLOR|MARGO_SECRET_.*|MARGO_FILES"
)
PROFILE_TYPES = {
    "compose": "compose", "compose.v1": "compose",
    "helm": "helm", "helm.v3": "helm",
    "quadlet": "quadlet", "quadlet.v1": "quadlet",
    "custom": "custom",
}  # fmt: skip
DEFAULT_TIMEOUT_S = 300.0
DEPENDS_ON = "org.margo.oci.dependsOn"


@dataclass(frozen=True, kw_only=True)
class Component:
    """One component of the profile. Older documents may name a package by URL and have no repository."""

    name: str
    repository: str = ""
    revision: str = ""
    wait: bool = True
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def source(self) -> str:
        """`repository:revision`, as the lock names it."""
        return f"{self.repository}:{self.revision}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a parameter goes: an environment variable (Compose) or a values path (Helm)."""

    pointer: str
    components: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A named value and its targets."""

    value: Any
    targets: Sequence[Target]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One workload instance on one device, with the very bytes it was read from.

    `depends_on` are ids or names of those that come up before it (format 5.8).
    """

    data: bytes
    id: str
    name: str
    namespace: str
    application_id: str
    device_id: str
    profile: str
    components: Sequence[Component]
    parameters: Mapping[str, Parameter]
    depends_on: Sequence[str] = ()

    def environment(self, component: str) -> dict[str, str]:
        """Return the variables set for `component` (Margo: a target applies only to those it lists)."""
        return {
            variable_of(target.pointer): text_of(parameter.value)
            for parameter in self.parameters.values()
            for target in parameter.targets
            if component in target.components
        }


def variable_of(pointer: str) -> str:
    """Return the environment variable a Compose pointer names; some examples write `ENV.NAME`."""
    return pointer.removeprefix("ENV.")


def text_of(value: Any) -> str:
    """Return a parameter's value as a variable's text: true/false, shortest decimal, lists as JSON (format 5.3)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        decimal = Decimal(repr(value))
        return format(decimal.to_integral() if decimal == decimal.to_integral() else decimal, "f")
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return "" if value is None else str(value)


def parse_deployment(data: bytes, *, what: str) -> Deployment:
    """Parse an ApplicationDeployment; all faults are found at once.

    Raises FormatError whose faults read `what:line: field: what is expected`.
    """
    return _Reader(parse_yaml(data, what=what), what).deployment(data)


class _Reader:
    """Walks the document, collects faults, and hands out typed values (or harmless stand-ins)."""

    def __init__(self, document: Document, what: str) -> None:
        self.document = document
        self.what = what
        self.faults: list[tuple[int, str]] = []

    def fault(self, path: Path, message: str) -> None:
        field = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        line = self.document.line(path)
        self.faults.append((line, f"{self.what}:{line}: {field or 'document'}: {message}"))

    def text(
        self,
        path: Path,
        *,
        required: bool = True,
        pattern: re.Pattern[str] | None = None,
        hint: str = "",
    ) -> str:
        value = self.document.find(path)
        if value is None or value == "":
            if required:
                self.fault(path, "is missing")
            return ""
        if not isinstance(value, str):
            self.fault(
                path,
                f"text is expected, got {value!r:.80}: put it in quotes",
            )
            return ""
        if pattern and not pattern.fullmatch(value):
            self.fault(path, f"{value!r:.100} does not fit: {hint or pattern.pattern}")
        return value

    def either(self, paths: Sequence[Path], pattern: re.Pattern[str], hint: str) -> str:
        """Return the value that stands at one of `paths`; where both have one they must agree."""
        given = [path for path in paths if self.document.find(path) is not None]
        values = [self.text(path, pattern=pattern, hint=hint) for path in given] or [self.text(paths[0])]
        if len(set(values)) > 1:
            self.fault(
                given[1],
                f"{values[1]!r} contradicts {values[0]!r} at {'.'.join(map(str, given[0]))}",
            )
        return values[0]

    def items(self, path: Path, kind: type, *, required: bool) -> Any:
        value = self.document.find(path)
        if isinstance(value, kind) and (value or not required):
            return value
        if value is not None or required:
            self.fault(path, f"a {'map' if kind is dict else 'list with at least one entry'} is expected")
        return kind()

    def deployment(self, data: bytes) -> Deployment:
        if not isinstance(self.document.value, dict):
            raise FormatError(
                f"{self.what}:1: an ApplicationDeployment is expected, got {_type_name(self.document.value)}"
            )
        self.header()
        profile = self.profile()
        components = self.components()
        deployment = Deployment(
            data=data,
            id=self.either([("id",), ("metadata", "annotations", "id")], UUID, "a UUID").lower(),
            name=self.text(("metadata", "name")),
            namespace=self.text(("metadata", "namespace")),
            application_id=self.either(
                [("spec", "applicationId"), ("metadata", "annotations", "applicationId")],
                APPLICATION_ID,
                "1 to 200 of a-z, 0-9 and -",
            ),
            device_id=self.device_id(),
            profile=profile,
            components=components,
            parameters=self.parameters(profile, {component.name for component in components}),
            depends_on=self.depends_on(),
        )
        if self.faults:
            raise FormatError(*(message for _, message in sorted(self.faults)))
        return deployment

    def header(self) -> None:
        kind, version = self.document.find(("kind",)), self.document.find(("apiVersion",))
        if kind not in (None, "ApplicationDeployment"):
            self.fault(("kind",), f"ApplicationDeployment is expected, got {kind!r:.80}")
        if version is not None and (not isinstance(version, str) or "margo.org/" not in version):
            self.fault(("apiVersion",), f"application.margo.org/v1alpha1 is expected, got {version!r:.80}")

    def device_id(self) -> str:
        path = ("metadata", "deviceId")
        device_id = self.text(path, required=False, pattern=DEVICE_ID)
        if {".", ".."} & set(device_id.split("/")):
            self.fault(path, f"{device_id!r} has a . or .. segment")
        return device_id

    def depends_on(self) -> Sequence[str]:
        text = self.text(("metadata", "annotations", DEPENDS_ON), required=False)
        names = [name.strip() for name in text.split(",")] if text else []
        if not all(names):
            self.fault(("metadata", "annotations", DEPENDS_ON), f"{text!r:.80}: names or ids with commas are expected")
        return tuple(dict.fromkeys(name.lower() if UUID.fullmatch(name) else name for name in names))

    def profile(self) -> str:
        path: Path = ("spec", "deploymentProfile", "type")
        written = self.text(path)
        if written and written not in PROFILE_TYPES:
            self.fault(path, f"{written!r:.80} is no profile: one of {', '.join(PROFILE_TYPES)}")
        return PROFILE_TYPES.get(written, "")

    def components(self) -> Sequence[Component]:
        path: Path = ("spec", "deploymentProfile", "components")
        components = [self.component((*path, i)) for i, _ in enumerate(self.items(path, list, required=True))]
        seen: set[str] = set()
        for i, component in enumerate(components):
            if component.name and component.name in seen:
                self.fault((*path, i, "name"), f"{component.name!r} stands twice")
            seen.add(component.name)
        return tuple(components)

    def component(self, path: Path) -> Component:
        at = (*path, "properties")
        older = self.document.find((*at, "packageLocation")) is not None
        wait = self.document.find((*at, "wait"))
        if not isinstance(wait, bool | None):
            self.fault((*at, "wait"), f"true or false is expected, got {wait!r:.80}")
        return Component(
            name=self.text(
                (*path, "name"),
                pattern=COMPONENT_NAME,
                hint="lower-case letters, digits and dashes",
            ),
            repository=self.text(
                (*at, "repository"),
                required=not older,
                pattern=REPOSITORY,
                hint="it starts with oci://",
            ),
            revision=self.text(
                (*at, "revision"),
                required=not older,
                pattern=REVISION,
                hint="SemVer 2.0 without v, with _ for +, as in 1.4.0 or 2.0.0-rc1",
            ),
            wait=wait is not False,
            timeout_s=self.timeout_s((*at, "timeout")),
        )

    def timeout_s(self, path: Path) -> float:
        found = TIMEOUT.fullmatch(self.text(path, required=False, pattern=TIMEOUT, hint="as in 8m30s"))
        return float(int(found[1]) * 60 + int(found[2])) if found else DEFAULT_TIMEOUT_S

    def parameters(self, profile: str, components: set[str]) -> Mapping[str, Parameter]:
        path: Path = ("spec", "parameters")
        names = self.items(path, dict, required=False)
        parameters = {name: self.parameter((*path, name), profile, components) for name in names}
        self.one_value_each(path, parameters)
        return parameters

    def one_value_each(self, path: Path, parameters: Mapping[str, Parameter]) -> None:
        """Two parameters that set one variable of one component: which of them holds would be chance."""
        seen: dict[tuple[str, str], str] = {}
        for name, parameter in parameters.items():
            for target in parameter.targets:
                for component in target.components:
                    first = seen.setdefault((component, variable_of(target.pointer)), name)
                    if first != name:
                        self.fault((*path, name, "targets"), f"{target.pointer} of {component} is set by {first}, too")

    def parameter(self, path: Path, profile: str, components: set[str]) -> Parameter:
        raw = self.items(path, dict, required=True)
        value = raw.get("value")
        if "value" not in raw:
            self.fault((*path, "value"), "is missing")
        elif isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
        ):
            self.fault((*path, "value"), "text, a number, true, false or a list of these is expected")
        elif "\0" in text_of(value):
            self.fault((*path, "value"), "a NUL character fits into no environment variable")
        at = (*path, "targets")
        targets = [
            self.target((*at, i), profile, components) for i, _ in enumerate(self.items(at, list, required=True))
        ]
        return Parameter(value=value, targets=tuple(targets))

    def target(self, path: Path, profile: str, components: set[str]) -> Target:
        pointer = self.text((*path, "pointer"))
        if profile == "compose" and pointer and not VARIABLE.fullmatch(variable_of(pointer)):
            self.fault((*path, "pointer"), f"{pointer!r:.80} is no name of an environment variable")
        if profile == "compose" and STEERING.fullmatch(variable_of(pointer)):
            self.fault((*path, "pointer"), f"{pointer!r:.80} steers the container tools, not a workload")
        at = (*path, "components")
        named = self.items(at, list, required=True)
        for i, name in enumerate(named):
            if not isinstance(name, str) or name not in components:
                self.fault((*at, i), f"{name!r:.80} is no component of the profile ({_some(components)})")
        return Target(pointer=pointer, components=tuple(name for name in named if isinstance(name, str)))


def _some(names: set[str]) -> str:
    """Return names for a message: a document with very many of them gets no message as long as itself."""
    return ", ".join(sorted(filter(None, islice(names, 20)))) + (", …" if len(names) > 20 else "") or "none"


def _type_name(value: object) -> str:
    return {"NoneType": "an empty file", "list": "a list", "str": "text"}.get(
        type(value).__name__, type(value).__name__
    )
