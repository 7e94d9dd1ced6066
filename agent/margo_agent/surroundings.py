"""What is around a deployment on this device: who holds its ports, which paths are there, what the machine has."""

import errno
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_agent.answered import Published
from margo_agent.engine import Engine
from margo_agent.fit import Facts, Needs, Port, faults_of, needs_of

_GPU = Path("/dev/nvidiactl")
LOOKS, LOOK_EVERY_S = 16, 0.3  # for all ports together
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True)
class Surroundings:
    """Looks at this device, and at the engine's containers; those of `device` are ours.

    What is `installed` is ours, too: the device may have had another name when its containers were made.
    """

    engine: Engine
    device: str
    installed: Callable[[], Collection[str]] = tuple

    def misfits(
        self, models: Sequence[Mapping[str, Any]], deployment: str, changing: Collection[str] | None = None
    ) -> Sequence[str]:
        """Return why these models of a deployment cannot run here; what `changing` deployments hold will be free."""
        needs = needs_of(models)
        faults = faults_of(needs, self.facts(needs, None if changing is None else {*changing, deployment}))
        return [*self._of_others(deployment), *faults]

    def _of_others(self, deployment: str) -> Sequence[str]:
        """Say if a deployment runs here for another device: the two would have one Compose project (format 5.2)."""
        if deployment in self.installed():
            return []
        others = {one.device for one in self.engine.containers(deployment)} - {"", self.device}
        return [
            f"it runs on this engine for the device {one}: two devices need deployments with ids of their own"
            for one in sorted(others)
        ]

    def facts(self, needs: Needs, changing: Collection[str] | None) -> Facts:
        """Look at what is needed."""
        engine, local = self.engine.facts(), self.engine.is_local
        return Facts(
            platform=engine.platform,
            memory_bytes=engine.memory_bytes,
            cpus=engine.cpus,
            gpu=not local or _GPU.exists() or any("nvidia" in runtime for runtime in engine.runtimes),
            taken=self._taken([port for one in needs.publishings for port in one.ports], changing),
            absent=frozenset(path for path in needs.paths.values() if local and _is_absent(path)),
        )

    def _taken(self, ports: Sequence[Port], changing: Collection[str] | None) -> Mapping[Port, str]:
        if not ports:
            return {}
        held = [(Port(one.port, one.protocol, _any(one.address)), one) for one in self.engine.published()]
        taken: dict[Port, str] = {}
        patience = iter(range(LOOKS))
        for port in ports:
            holders = [one for at, one in held if at.meets(port)]
            stay = [one for one in holders if not self._goes(one, changing)]
            if stay:
                taken[port] = f"the container {stay[0].container}"
            elif not holders and self.engine.is_local and (words := _stays_taken(port, patience)):
                taken[port] = words
        return taken

    def _goes(self, one: Published, changing: Collection[str] | None) -> bool:
        named = one.device in (self.device, "")  # agents before this label named no device
        ours = bool(one.deployment) and (named or one.deployment in self.installed())
        return ours and (changing is None or one.deployment in changing)


def _is_absent(path: str) -> bool:
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there: only the engine is allowed to look
        return False
    return False


def _any(address: str) -> str:
    return "" if address in ("", "0.0.0.0", "::") else address  # noqa: S104


def _stays_taken(port: Port, patience: Iterator[int]) -> str:
    """Return who has a port; an engine takes a moment to let go of one whose container just ended."""
    while words := _cannot_bind(port):
        if next(patience, None) is None:
            return words
        time.sleep(LOOK_EVERY_S)
    return ""


def _cannot_bind(port: Port) -> str:
    """Return who has a port, as far as the kernel tells; "" if it is free, or if we may not ask."""
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    kind = _KINDS.get(port.protocol)
    if kind is None:
        return ""
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:  # connections that just ended are no hindrance
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((port.address, port.number))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "a program of this device"
        return "nobody: this device does not have that address" if error.errno == errno.EADDRNOTAVAIL else ""
    return ""
