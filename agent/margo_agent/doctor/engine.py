"""Checks of the container engine and of Compose."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from margo_agent.address import find_engine
from margo_agent.config import AgentConfig
from margo_agent.doctor.check import Check
from margo_agent.engine import Engine
from margo_oci.compose import Compose, find_compose
from margo_oci.errors import ApplyError, FormatError, said

LEAST_API = (1, 40)
COMPOSE_TIMEOUT_S = 20.0
_START = "start the engine (systemctl start docker, or podman.socket); name its socket with `engine`"
_RIGHTS = "run margo-agent as a user who may use the engine's socket, or name another with `engine`"


def engine(config: AgentConfig, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the engine answers, what it is, and whether it takes images from us."""
    try:
        address = find_engine(config.engine, environment)
        socket = address.removeprefix("unix://")
        if socket != address and os.path.exists(socket) and not os.access(socket, os.R_OK | os.W_OK):  # noqa: PTH110  (as os.access)
            yield Check("engine", "fail", f"{socket}: this user may not use it", _RIGHTS)
            return
        opened = Engine(address)
    except ApplyError as error:
        yield Check("engine", "fail", str(error), _START)
        return
    try:
        about = opened.about()
        yield _version(address, about)
        yield _storage(about)
        yield _load(opened.load_refusal())
    finally:
        opened.close()


def _version(address: str, about: Mapping[str, Any]) -> Check:
    api = str(about.get("ApiVersion", ""))
    rootless = ", rootless" if "name=rootless" in about.get("SecurityOptions", ()) else ""
    names = [str(one.get("Name")) for one in about.get("Components") or () if isinstance(one, dict)]
    product = "Podman" if any("podman" in name.lower() for name in names) else "Docker"
    where = f"{about.get('Os', 'linux')}/{about.get('Arch', '?')}"
    seen = said(f"{product} {about.get('Version', '?')} at {address}, API {api}, {where}{rootless}")
    if _number(api) < LEAST_API:
        return Check("engine", "fail", seen, "API 1.40 or newer is needed: Docker 19.03, Podman 4.0")
    return Check("engine", "ok", seen)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])


def _storage(about: Mapping[str, Any]) -> Check:
    driver, cgroup = str(about.get("Driver", "?")), str(about.get("CgroupVersion") or "?")
    seen = said(f"storage {driver}, cgroup {cgroup} ({about.get('CgroupDriver', '?')}), {about.get('DockerRootDir')}")
    if driver == "vfs":
        return Check("storage", "warn", seen, "vfs copies every layer whole: use overlay2 (overlay, fuse-overlayfs)")
    return Check("storage", "ok", seen)


def _load(refusal: str) -> Check:
    if refusal:
        return Check("images", "fail", f"the engine takes no images from us: {said(refusal)}", _RIGHTS)
    return Check("images", "ok", "the engine takes images from us")


def compose(environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether there is Docker Compose v2."""
    try:
        command = find_compose()
        version = Compose(command, dict(environment)).run(
            ["version", "--short"], file=None, project="doctor", timeout_s=COMPOSE_TIMEOUT_S
        )
    except (FormatError, ApplyError) as error:
        yield Check("compose", "fail", str(error), "install Docker Compose v2: docker-compose-plugin")
        return
    text = said(version.strip().removeprefix("v"))
    if _number(text) < (2, 0):
        yield Check("compose", "fail", f"{text} ({command[0]})", "install Docker Compose v2: docker-compose-plugin")
    else:
        yield Check("compose", "ok", f"{text} ({' '.join(command)})")
