"""The one door to the container engine (Docker or Podman, through the Docker API): it looks, and it takes images."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, StreamParseError
from docker.utils.json_stream import json_stream

from margo_agent.address import EngineUnavailable
from margo_agent.answered import (
    ONE_OFF_LABEL,
    PROJECT_LABEL,
    Container,
    EngineFacts,
    Published,
    facts_of,
    image_id_of,
    is_podman,
    seen_of,
)
from margo_agent.beside import Line, read_beside
from margo_agent.drift import Seen
from margo_agent.generation import project_name
from margo_agent.model import DEPLOYMENT_LABEL, DEVICE_LABEL
from margo_agent.unready import PullFailed
from margo_oci.errors import ApplyError, said, worded

TIMEOUT_S = 120
LOAD_SILENCE_S = 1800.0  # unpacking a large layer on a slow disk says nothing for minutes
LOG_LINES = 3


class Engine:
    """Looks at containers and images, and takes images."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._facts: list[EngineFacts] = []
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

    def about(self) -> Mapping[str, Any]:
        """Return what the engine says of itself: its version and its settings."""
        with self._talking("ask for its version"):
            return {**self.client.version(), **{key: one for key, one in self.client.info().items() if key != "Name"}}

    def load_refusal(self) -> str:
        """Return why images cannot be loaded; "" if they can. An empty archive is offered, of which nothing comes."""
        with self._talking("offer an empty archive"):
            base = f"{self.client.api.base_url}/v{self.client.api.api_version}"
            with self.client.api.post(f"{base}/images/load", data=bytes(1024), timeout=TIMEOUT_S) as answer:
                refused = answer.status_code in (401, 403, 404, 405)  # anything else is about the archive
                return f"{answer.status_code} {_refusal(answer)}" if refused else ""

    def containers(self, deployment: str | None = None) -> Sequence[Container]:
        """Return our containers, running or not, of one deployment or of all."""
        label = f"{DEPLOYMENT_LABEL}={deployment}" if deployment else DEPLOYMENT_LABEL
        with self._talking("list containers"):
            listed = self.client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
        return sorted((Container.of(one.attrs) for one in listed), key=lambda one: one.name)

    def projects(self, deployment: str) -> set[str]:
        """Return the Compose projects of a deployment of which anything is here: containers, or networks alone."""
        with self._talking("list networks"):
            listed = self.client.networks.list(filters={"label": PROJECT_LABEL})
        projects = {str((one.attrs.get("Labels") or {}).get(PROJECT_LABEL, "")) for one in listed}
        found = {name for name in projects if name.endswith(project_name(deployment, ""))}
        return found | {container.project for container in self.containers(deployment)}

    def version(self) -> tuple[str, str]:
        """Return what kind of engine this is (`docker`, `podman`) and its version, in its own words."""
        with self._talking("ask for its version"):
            raw = self.client.version()
        return "podman" if is_podman(raw) else "docker", str(raw.get("Version", ""))

    def facts(self) -> EngineFacts:
        """Return what the engine says about its machine; asked once."""
        if not self._facts:
            with self._talking("ask what it is"):
                self._facts.append(facts_of(self.client.info(), self.client.version(), local=self.is_local))
        return self._facts[0]

    @property
    def is_local(self) -> bool:
        """Whether the engine's machine is this one."""
        return self.address.startswith("unix:")

    def layers_of(self, image: str) -> Sequence[str]:
        """Return the layers of an image, lowest first, by the digest they have unpacked; none if it is not here."""
        with self._talking("look at an image"):
            try:
                found = self.client.api.inspect_image(image)  # type: ignore[no-untyped-call]  # the SDK has no types here
            except ImageNotFound:
                return ()
        return tuple((found.get("RootFS") or {}).get("Layers") or ())

    def layer_chains(self) -> Sequence[Sequence[str]]:
        """Return the layers of each image that is here: what begins with the same ones shares them."""
        with self._talking("list images"):
            listed = self.client.api.images()
        return [chain for one in listed if (chain := self.layers_of(str(one["Id"])))]

    def published(self) -> Sequence[Published]:
        """Return the ports of this machine that containers hold."""
        with self._talking("list containers"):
            listed = self.client.api.containers()
        return [
            Published(
                container=str((one.get("Names") or ["?"])[0]).lstrip("/"),
                device=str((one.get("Labels") or {}).get(DEVICE_LABEL, "")),
                deployment=str((one.get("Labels") or {}).get(DEPLOYMENT_LABEL, "")),
                port=int(port["PublicPort"]),
                protocol=str(port.get("Type", "tcp")),
                address=str(port.get("IP", "")),
            )
            for one in listed
            for port in one.get("Ports") or ()
            if port.get("PublicPort")
        ]

    def load(self, pieces: Callable[[], Iterator[bytes]], what: str) -> Iterator[Line]:
        """Hand an archive of an image over; close it to give up.

        Yields what the engine says, and an empty line when it says nothing for a moment. Raises PullFailed with the
        engine's words, and what `pieces` raises.
        """
        with self._talking(what):
            for line in read_beside(lambda: self._lines(pieces, what)):
                if "error" in line:
                    raise PullFailed(f"{what}: {said(line['error'])}")
                yield line

    def _lines(self, pieces: Callable[[], Iterator[bytes]], what: str) -> Generator[Line, None, None]:
        # Not api.load_image: it reads no generator, and keeps the answer to itself, so that nobody can close it.
        with self.client.api.post(
            f"{self.client.api.base_url}/v{self.client.api.api_version}/images/load",
            data=pieces(),
            params={"quiet": "0"},
            headers={"Content-Type": "application/x-tar"},
            stream=True,
            timeout=LOAD_SILENCE_S,
        ) as answer:
            if not answer.ok:
                raise PullFailed(f"{what}: {said(_refusal(answer))}")
            try:
                for line in json_stream(answer.iter_content(chunk_size=None)):
                    yield line if isinstance(line, dict) else {}
            except StreamParseError as error:
                raise PullFailed(f"{what}: {said(_words(error))}") from None

    def last_words(self, container: Container) -> str:
        """Return the last lines a container wrote; "" where nobody keeps them (`logging`), or the container is gone."""
        log = b""
        with self._talking("read a log"), suppress(APIError):
            log = self.client.api.logs(container.id, tail=LOG_LINES)
        return " / ".join(log.decode(errors="replace").strip().splitlines())[-300:]

    def seen(self, device: str, projects: Set[str]) -> Sequence[Seen]:
        """Return the containers with the label of `device`, and those of `projects` that name no device."""
        found = []
        with self._talking("list containers"):
            for one in self.client.api.containers(all=True):
                labels = one.get("Labels") or {}
                of_project = DEVICE_LABEL not in labels and labels.get(PROJECT_LABEL) in projects
                if labels.get(ONE_OFF_LABEL) != "True" and (labels.get(DEVICE_LABEL) == device or of_project):
                    with suppress(NotFound):  # gone since
                        found.append(seen_of(self.client.api.inspect_container(one["Id"])))
        return found

    def network_projects(self) -> Mapping[str, str]:
        """Return all networks, each with its Compose project or ""."""
        with self._talking("list networks"):
            listed = self.client.api.networks()
        return {str(one["Name"]): str((one.get("Labels") or {}).get(PROJECT_LABEL, "")) for one in listed}

    def image_id(self, name: str) -> str:
        """Return the id of the image that `name` leads to; "" if there is none."""
        with self._talking("look for an image"):
            try:
                return image_id_of(str(self.client.images.get(name).id))
            except ImageNotFound:
                return ""

    def image_bytes(self, name: str) -> int:
        """Return the size of an image, of which other images may share layers; 0 if it is not here."""
        with self._talking("look for an image"):
            try:
                return int(self.client.images.get(name).attrs["Size"])
            except ImageNotFound:
                return 0

    def images_in_use(self) -> Set[str]:
        """Return the ids and names of images that any container has, ours or not, running or not."""
        with self._talking("list containers"):
            listed = self.client.api.containers(all=True)
        return {image_id_of(str(one.get("ImageID", ""))) for one in listed} | {
            str(one.get("Image", "")) for one in listed
        }

    def name_image(self, image_id: str, name: str) -> None:
        """Let `name` lead to an image that is here."""
        repository, _, tag = name.rpartition(":")
        with self._talking(f"name an image {name}"):
            self.client.api.tag(image_id, repository, tag, force=True)

    def take_name(self, name: str) -> None:
        """Take a name from an image, which goes with its last one. What another container uses stays."""
        with self._talking(f"remove {name}"), suppress(NotFound):
            self.client.api.remove_image(name)

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""
        with self._acting(f"unpause {container[:12]}"):
            self.client.api.unpause(container)

    def remove_container(self, container: str) -> None:
        """Stop a container as its maker wanted it, and remove it; its volumes stay."""
        with self._acting(f"remove container {container[:12]}"):
            self.client.api.stop(container)
            self.client.api.remove_container(container, force=True)

    def remove_network(self, name: str) -> None:
        """Remove a network in which nothing is."""
        with self._acting(f"remove network {name}"):
            self.client.api.remove_network(name)

    def folder(self) -> str:
        """Return where the engine keeps images, as it says; "" if it does not."""
        with self._talking("ask for its folder"):
            return str(self.client.api.info().get("DockerRootDir") or "")

    @contextmanager
    def _acting(self, doing: str) -> Iterator[None]:
        """Do something to one thing: that it is gone is well, and what the engine refuses is no fault of the engine."""
        with self._talking(doing):
            try:
                yield
            except NotFound:
                return
            except APIError as error:
                raise ApplyError(f"engine at {self.address}: {doing}: {_words(error)}") from None

    @contextmanager
    def _talking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, requests.RequestException, OSError) as error:
            raise EngineUnavailable(unavailable(self.address, doing, _words(error))) from None


def unavailable(address: str, doing: str, cause: str) -> str:
    """Return that the engine does not do something, in words with what to do."""
    todo = "start it, or name its socket with `engine`; margo-agent doctor looks at it"
    return worded(f"asking to {doing}", "engine", "unavailable", cause, todo, element=address)


def _words(error: BaseException) -> str:
    """Return the cause in words: the engine's own, or the system's from below what libraries wrapped around it."""
    if explanation := getattr(error, "explanation", None):
        return said(explanation)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, requests.RequestException):
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return said(error)


def _refusal(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])[:400]
    except (ValueError, KeyError, TypeError):
        return answer.text[:400]
