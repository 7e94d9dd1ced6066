"""The one door to the container engine (Docker or Podman, through the Docker API): it looks and it pulls."""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import requests
from docker import auth
from docker.errors import DockerException, ImageNotFound, StreamParseError
from docker.utils.json_stream import json_stream

from margo_agent.generation import project_name
from margo_agent.interrupted import Interrupted
from margo_agent.model import COMPONENT_LABEL, DEPLOYMENT_LABEL
from margo_agent.pulling import PULL_STALL_S, Line, read_beside
from margo_oci.auth import Credentials
from margo_oci.errors import ApplyError

TIMEOUT_S = 120
SILENCE_S = PULL_STALL_S + 5  # after that the connection of a pull is closed, and the engine stops
LOG_LINES = 3
_SERVICE_LABEL = "com.docker.compose.service"
_PROJECT_LABEL = "com.docker.compose.project"
_HASH_LABEL = "com.docker.compose.config-hash"


class EngineUnavailable(Interrupted):
    """The engine does not answer: nothing can be done now, and the workload is not to blame."""


class PullFailed(ApplyError):  # noqa: N818  (this workload cannot be brought up now; another pass may)
    """The engine could not get an image."""


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
    restarts: int = 0
    model_hash: str = ""  # of the model that Compose made it from
    always_replaced: bool = False  # by Compose, whatever it was made from

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
            project=labels.get(_PROJECT_LABEL, ""),
            status=state.get("Status", ""),
            health=_health(state),
            exit_code=state.get("ExitCode", 0),
            restarts=restarts if isinstance(restarts := attributes.get("RestartCount"), int) else 0,
            model_hash=labels.get(_HASH_LABEL, ""),
            always_replaced=_says_names(attributes.get("NetworkSettings")),
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


def find_engine(configured: str, environment: Mapping[str, str]) -> str:
    """Return the engine's address: configured, DOCKER_HOST, or the first socket that is there."""
    if configured or environment.get("DOCKER_HOST"):
        return configured or environment["DOCKER_HOST"]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    sockets = [Path("/var/run/docker.sock"), Path("/run/podman/podman.sock")]
    sockets += [Path(runtime) / "docker.sock", Path(runtime) / "podman" / "podman.sock"] if runtime else []
    for socket in sockets:
        if os.access(socket, os.R_OK | os.W_OK):
            return f"unix://{socket}"
    raise EngineUnavailable(
        "no container engine: neither a Docker nor a Podman socket is there, nor is DOCKER_HOST set"
    )


class Engine:
    """Looks at containers and images, and pulls images by digest."""

    def __init__(self, address: str, *, silence_s: float = SILENCE_S) -> None:
        self.address = address
        self.silence_s = silence_s
        with self._talking("connect"):
            self.client = docker.DockerClient(base_url=address, timeout=TIMEOUT_S)
        self.ping()

    def close(self) -> None:
        """Let go of the connection."""
        self.client.close()

    def ping(self) -> None:
        """Raise EngineUnavailable unless the engine answers."""
        with self._talking("connect"):
            self.client.ping()

    def containers(self, deployment: str | None = None) -> Sequence[Container]:
        """Return our containers, running or not, of one deployment or of all."""
        label = f"{DEPLOYMENT_LABEL}={deployment}" if deployment else DEPLOYMENT_LABEL
        with self._talking("list containers"):
            listed = self.client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        return sorted((Container.of(one.attrs) for one in listed), key=lambda one: one.name)

    def projects(self, deployment: str) -> set[str]:
        """Return the Compose projects of a deployment of which anything is here: containers, or networks alone."""
        with self._talking("list networks"):
            listed = self.client.networks.list(filters={"label": _PROJECT_LABEL})
        projects = {str((one.attrs.get("Labels") or {}).get(_PROJECT_LABEL, "")) for one in listed}
        found = {name for name in projects if name.endswith(project_name(deployment, ""))}
        return found | {container.project for container in self.containers(deployment)}

    def has_image(self, image: str) -> bool:
        """Tell whether `image` (name@digest) is here."""
        with self._talking("look for an image"):
            try:
                self.client.images.get(image)
            except ImageNotFound:
                return False
            return True

    def pull(self, image: str, credentials: Credentials | None) -> Generator[Line, None, None]:
        """Pull `image` (name@digest), of which the engine checks the digest; close it to give up.

        Yields what the engine says, and an empty line when it says nothing for a moment. Raises PullFailed with
        the engine's words.
        """
        with self._talking(f"pull {image}"):
            for line in read_beside(lambda: self._lines(image, credentials)):
                if "error" in line:
                    raise PullFailed(f"pull {image}: {line['error']!s:.400}")
                yield line

    def _lines(self, image: str, credentials: Credentials | None) -> Generator[Line, None, None]:
        name, _, digest = image.partition("@")
        # Not api.pull: it keeps the answer to itself, and then nobody can close it.
        with self.client.api.post(
            f"{self.client.api.base_url}/v{self.client.api.api_version}/images/create",
            params={"fromImage": name, "tag": digest},
            headers=self._login(name, credentials),
            stream=True,
            timeout=self.silence_s,
        ) as answer:
            if not answer.ok:  # the engine answers; what it says is the registry's fault
                raise PullFailed(f"pull {image}: {_refusal(answer)}")
            try:
                for line in json_stream(answer.iter_content(chunk_size=None)):
                    yield line if isinstance(line, dict) else {}
            except StreamParseError as error:
                raise PullFailed(f"pull {image}: {_words(error)}") from None

    def _login(self, name: str, credentials: Credentials | None) -> Mapping[str, bytes]:
        login: bytes | None
        if credentials:
            login = auth.encode_header(
                {"identitytoken": credentials.identity_token}
                if credentials.identity_token
                else {"username": credentials.username, "password": credentials.password}
            )
        else:
            login = auth.get_config_header(self.client.api, auth.resolve_repository_name(name)[0])
        return {"X-Registry-Auth": login} if login else {}

    def last_words(self, container: Container) -> str:
        """Return the last lines a container wrote."""
        with self._talking("read a log"):
            log = self.client.api.logs(container.id, tail=LOG_LINES)
        return " / ".join(log.decode(errors="replace").strip().splitlines())[-300:]

    @contextmanager
    def _talking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, requests.RequestException, OSError) as error:
            raise EngineUnavailable(f"engine at {self.address}: {doing}: {_words(error)}") from None


def _words(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return str(explanation or error)[:400]


def _refusal(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])[:400]
    except (ValueError, KeyError, TypeError):
        return answer.text[:400]


def _object(attributes: Mapping[str, object], name: str) -> Mapping[str, Any]:
    part = attributes.get(name)
    if not isinstance(part, dict):
        raise EngineUnavailable(f"engine: its answer about container {attributes.get('Id')!s:.20} has no {name}")
    return part


def _says_names(settings: object) -> bool:
    """Tell whether the engine gives a network's name for its id: then Compose takes each for another one (Podman 4)."""
    networks = settings.get("Networks") if isinstance(settings, dict) else None
    return any(isinstance(one, dict) and one.get("NetworkID") == name for name, one in (networks or {}).items())


def _health(state: Mapping[str, object]) -> str:
    health = state.get("Health") or state.get("Healthcheck")  # Podman says Healthcheck
    status = health.get("Status", "") if isinstance(health, dict) else ""
    return "" if status == "none" else str(status)
