"""What an engine's answers say (Docker API): containers, its machine, ports. Pure; odd answers are read with care."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_agent.address import EngineUnavailable
from margo_agent.drift import Seen
from margo_agent.model import COMPONENT_LABEL, DEPLOYMENT_LABEL, DEVICE_LABEL
from margo_oci.errors import said
from margo_oci.platforms import Platform

DOCKER_WITH_ZSTD = 23
CHECK_LIMIT_CHARS = 200
_SERVICE_LABEL = "com.docker.compose.service"
PROJECT_LABEL = "com.docker.compose.project"
_HASH_LABEL = "com.docker.compose.config-hash"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
_LIMITS = ("Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuQuota", "CpuPeriod", "CpuShares", "CpusetCpus")


@dataclass(frozen=True, kw_only=True)
class Container:
    """What the engine says about one of our containers."""

    id: str
    name: str
    deployment: str
    component: str
    service: str
    project: str
    status: str
    health: str
    exit_code: int
    check: str = ""  # how its last health check failed, in words; "" if it did not
    restarts: int = 0
    model_hash: str = ""  # of the model that Compose made it from
    always_replaced: bool = False  # by Compose, whatever it was made from
    device: str = ""  # whose it is; agents before this label named none

    @classmethod
    def of(cls, attributes: Mapping[str, object]) -> "Container":
        """Read what an engine answers about a container (Docker API, ContainerInspect). Raises EngineUnavailable."""
        state, config = _object(attributes, "State"), _object(attributes, "Config")
        labels = config.get("Labels") or {}
        return cls(
            id=str(attributes.get("Id", "")),
            name=str(attributes.get("Name", "")).lstrip("/"),
            deployment=labels.get(DEPLOYMENT_LABEL, ""),
            component=labels.get(COMPONENT_LABEL, ""),
            service=labels.get(_SERVICE_LABEL, ""),
            project=labels.get(PROJECT_LABEL, ""),
            status=state.get("Status", ""),
            health=_health(state),
            exit_code=state.get("ExitCode", 0),
            check=_check(state),
            restarts=restarts if isinstance(restarts := attributes.get("RestartCount"), int) else 0,
            model_hash=labels.get(_HASH_LABEL, ""),
            always_replaced=_says_names(attributes.get("NetworkSettings")),
            device=labels.get(DEVICE_LABEL, ""),
        )

    @property
    def ready(self) -> bool:
        """Up and not unhealthy, or done with its work."""
        up = self.status == "running" and self.health in ("", "healthy")
        return up or (self.status == "exited" and self.exit_code == 0)

    @property
    def broken(self) -> str:
        """Why it will not get ready, in words; empty while it may."""
        if self.status in ("exited", "dead") and self.exit_code != 0:
            return f"exited with {self.exit_code}"
        if self.status == "restarting":
            return f"exited with {self.exit_code} and restarts again and again"
        return "is unhealthy" if self.health == "unhealthy" else ""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What the engine says about its machine; `root` is where it keeps images, if that is a folder here."""

    platform: Platform
    memory_bytes: int = 0
    cpus: int = 0
    root: Path | None = None
    runtimes: Sequence[str] = ()
    knows_zstd: bool = True


@dataclass(frozen=True, kw_only=True)
class Published:
    """A port of the machine that a container holds, and whose container it is."""

    container: str
    device: str
    deployment: str
    port: int
    protocol: str
    address: str


def _object(attributes: Mapping[str, object], name: str) -> Mapping[str, Any]:
    part = attributes.get(name)
    if not isinstance(part, dict):
        raise EngineUnavailable(f"engine: its answer about container {attributes.get('Id')!s:.20} has no {name}")
    return part


def _says_names(settings: object) -> bool:
    """Tell whether the engine gives a network's name for its id: then Compose takes each for another one (Podman 4)."""
    networks = settings.get("Networks") if isinstance(settings, dict) else None
    return any(isinstance(one, dict) and one.get("NetworkID") == name for name, one in (networks or {}).items())


def facts_of(info: Mapping[str, Any], version: Mapping[str, Any], *, local: bool) -> EngineFacts:
    root = Path(str(info.get("DockerRootDir") or ""))
    major = str(version.get("Version") or "").partition(".")[0]
    return EngineFacts(
        platform=Platform.of(str(info.get("Architecture") or "")),
        memory_bytes=int(info.get("MemTotal") or 0),
        cpus=int(info.get("NCPU") or 0),
        root=root if local and root.is_absolute() and root.is_dir() else None,
        runtimes=tuple(info.get("Runtimes") or ()),
        knows_zstd=is_podman(version) or not major.isdecimal() or int(major) >= DOCKER_WITH_ZSTD,
    )


def is_podman(version: Mapping[str, Any]) -> bool:
    return any("podman" in str(one.get("Name")).lower() for one in version.get("Components") or ())


def _healthcheck(state: Mapping[str, object]) -> Mapping[str, Any]:
    health = state.get("Health") or state.get("Healthcheck")  # Podman says Healthcheck
    return health if isinstance(health, dict) else {}


def _health(state: Mapping[str, object]) -> str:
    status = _healthcheck(state).get("Status", "")
    return "" if status == "none" else str(status)


def _check(state: Mapping[str, object]) -> str:
    """Return how the last health check failed, with the end of what it printed; "" if it did not, or was none."""
    log = _healthcheck(state).get("Log")
    last = log[-1] if isinstance(log, list) and log else None
    code = last.get("ExitCode") if isinstance(last, dict) else 0
    if last is None or not isinstance(code, int) or not code:
        return ""
    printed = said(str(last.get("Output") or "").strip()[-CHECK_LIMIT_CHARS:])
    return f"its health check ended with {code}{f' and said {printed!r}' if printed else ''}"


def image_id_of(text: str) -> str:
    """Return an image's id as Docker writes it; Podman leaves the algorithm out."""
    return text if not text or text.startswith("sha256:") else f"sha256:{text}"


def seen_of(raw: Mapping[str, Any]) -> Seen:
    labels = raw["Config"].get("Labels") or {}
    host = raw.get("HostConfig") or {}
    restart = str((host.get("RestartPolicy") or {}).get("Name") or "no")
    networks = frozenset((raw.get("NetworkSettings") or {}).get("Networks") or {})
    name = str(raw["Name"]).lstrip("/")
    limits = {key: str(host[key]) for key in _LIMITS if host.get(key)}
    return Seen(
        id=str(raw["Id"]),
        name=name,
        device=str(labels.get(DEVICE_LABEL, "")),
        deployment=str(labels.get(DEPLOYMENT_LABEL, "")),
        project=str(labels.get(PROJECT_LABEL, "")),
        service=str(labels.get(_SERVICE_LABEL, "")),
        status=str(raw["State"].get("Status", "")),
        exit_code=int(raw["State"].get("ExitCode", 0)),
        restart=restart,
        hash=str(labels.get(_HASH_LABEL, "")),
        networks=networks,
        settings={**limits, "name": name, "restart": restart, "networks": " ".join(sorted(networks))},
    )
