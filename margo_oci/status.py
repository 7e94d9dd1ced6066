"""How deployments and their components are, in the words of the standard. No I/O.

Source: Margo 1.0.0-rc.3, DeploymentStatusManifest; the shape of 1.0.0 (with `apiVersion` and `kind`) on request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from margo_oci.content import canonical_json, parse_json
from margo_oci.errors import FormatError
from margo_oci.jsonfields import JsonFields, line, words

State = Literal["pending", "installing", "installed", "failed", "removing", "removed"]
# The most severe first: a deployment is what the worst of its components is. The standard's own list says "removing"
# twice and forgets "removed"; here it stands between what is to come and what is there.
SEVERITY: Sequence[State] = ("failed", "removing", "installing", "pending", "removed", "installed")
STATUS_LIMIT_BYTES = 256 * 1024
COMPONENT_COUNT_LIMIT = 256
API_VERSION = "v1"
KIND = "DeploymentStatusManifest"

CODES: Mapping[str, str] = {
    "pull-failed": "an image could not be had: the registry, the network, or no such image",
    "unhealthy": "a service's health check says that it is not well",
    "exited": "a service ended with something else than 0, or ends again and again",
    "not-up": "not up within its `timeout`",
    "unfit": "the document or the Compose file breaks a rule, or cannot run on this device",
    "unsupported-profile": "not a Compose deployment",
    "no-room": "the disk is full",
    "port-taken": "a port that it needs is in use",
    "dependency": "what it depends on is not there, or failed",
    "rolled-back": "the state was taken back, or not begun, as a whole: another of its deployments cannot come up",
    "not-removed": "it could not be taken down",
    "engine": "the container engine does not answer",
    "secret": "a secret of it cannot be opened on this device, or there is no memory to keep it in",
    "other": "something else: see the message",
}


@dataclass(frozen=True)
class Fault:
    """Why something failed. `source` is the deployment's name, or that of the component to blame."""

    code: str
    source: str
    message: str

    @classmethod
    def of(cls, code: str, source: str, message: str) -> "Fault":
        """Make one of any words: as one printable line."""
        return cls(line(code), line(source), words(message))

    @classmethod
    def from_fields(cls, fields: JsonFields) -> "Fault | None":
        """Read one; None if there is nothing in it. Raises FormatError."""
        if not fields.raw:
            return None
        return cls(fields.text("code"), fields.text("source"), fields.words("message"))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"code": self.code, "source": self.source, "message": self.message}


@dataclass(frozen=True)
class ComponentStatus:
    """How one component is."""

    name: str
    state: State
    error: Fault | None = None

    @classmethod
    def from_fields(cls, fields: JsonFields) -> "ComponentStatus":
        """Read one. Raises FormatError."""
        return cls(fields.text("name", required=True), _state(fields), Fault.from_fields(fields.inner("error")))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the standard."""
        raw: dict[str, Any] = {"name": self.name, "state": self.state}
        return {**raw, "error": self.error.to_dict()} if self.error else raw


@dataclass(frozen=True, kw_only=True)
class DeploymentStatus:
    """How one deployment is, since when, and the counter of the newest state that its device began to apply for it."""

    id: str
    name: str = ""
    state: State
    since: str = ""
    adopted: int = 0
    components: Sequence[ComponentStatus] = ()
    error: Fault | None = None

    @classmethod
    def from_fields(cls, fields: JsonFields) -> "DeploymentStatus":
        """Read what `to_dict` made. Raises FormatError."""
        return cls(
            id=fields.text("id", required=True),
            name=fields.text("name"),
            state=_state(fields),
            since=fields.moment("since"),
            adopted=fields.number("adoptedManifestVersion"),
            components=tuple(map(ComponentStatus.from_fields, fields.each("components", most=COMPONENT_COUNT_LIMIT))),
            error=Fault.from_fields(fields.inner("error")),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form in which it stands in the status of a device; what is empty is left out."""
        raw = {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "since": self.since,
            "adoptedManifestVersion": self.adopted,
            "components": [one.to_dict() for one in self.components],
            "error": self.error.to_dict() if self.error else None,
        }
        return {key: value for key, value in raw.items() if value}

    def manifest(self, device: str = "") -> dict[str, Any]:
        """Return the DeploymentStatusManifest of 1.0.0-rc.3; `device` is named where one reports for another."""
        return {
            "deploymentId": self.id,
            **({"deviceId": device} if device else {}),
            "adoptedManifestVersion": max(self.adopted, 1),
            "status": self._overall(),
            "components": [one.to_dict() for one in self.components],
        }

    def older_manifest(self, device: str = "") -> dict[str, Any]:
        """Return the DeploymentStatusManifest as 1.0.0 had it."""
        raw = self.manifest(device)
        del raw["adoptedManifestVersion"]
        return {"apiVersion": API_VERSION, "kind": KIND, **raw}

    def _overall(self) -> dict[str, Any]:
        return {"state": self.state, **({"error": self.error.to_dict()} if self.error else {})}


def parse_status_manifest(data: bytes) -> DeploymentStatus:
    """Read a DeploymentStatusManifest of either shape; other fields are left alone. Raises FormatError."""
    fields = JsonFields(parse_json(data, what=KIND, limit_bytes=STATUS_LIMIT_BYTES), KIND)
    older = "kind" in fields.raw or "apiVersion" in fields.raw
    if older and fields.raw.get("kind") != KIND:
        raise FormatError(f"{KIND}.kind: {KIND} is expected, got {fields.raw.get('kind')!r:.80}")
    if "components" not in fields.raw:
        raise FormatError(f"{KIND}.components: is missing")
    status = fields.inner("status")
    return DeploymentStatus(
        id=fields.text("deploymentId", required=True),
        state=_state(status),
        adopted=0 if older else fields.number("adoptedManifestVersion", least=1),
        components=tuple(map(ComponentStatus.from_fields, fields.each("components", most=COMPONENT_COUNT_LIMIT))),
        error=Fault.from_fields(status.inner("error")),
    )


def manifest_bytes(status: DeploymentStatus) -> bytes:
    """Return the DeploymentStatusManifest of 1.0.0-rc.3 as bytes that are the same each time."""
    return canonical_json(status.manifest())


def _state(fields: JsonFields) -> State:
    return cast("State", fields.choice("state", SEVERITY))
