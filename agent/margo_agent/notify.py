"""What systemd is told (sd_notify): ready, alive, reloading, stopping, and in a line what goes on.

Source: sd_notify(3), sd_watchdog_enabled(3). Without NOTIFY_SOCKET all of it is silent.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

STATUS_LIMIT_CHARS = 200


@dataclass(frozen=True)
class Notifier:
    """Says to `address` how we are; every `beat_s` that the event loop still turns, if somebody watches."""

    address: str = ""
    beat_s: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> "Notifier":
        """Return who listens, by the environment that systemd made."""
        watched = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        text = environment.get("WATCHDOG_USEC", "") if watched else ""
        beat_s = int(text) / 1e6 / 3 if text.isascii() and text.isdigit() and int(text) > 0 else None
        return cls(environment.get("NOTIFY_SOCKET", ""), beat_s)

    def ready(self, status: str = "") -> None:
        """The configuration is read and the loop turns."""
        self.say("READY=1", *_status(status))

    def reloading(self) -> None:
        """The configuration is read again; `ready` ends it."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """A pass under way is let end."""
        self.say("STOPPING=1", *_status("stopping"))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.say(*_status(text))

    def say(self, *lines: str) -> None:
        """Send lines; whoever does not listen is no reason to stop."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)  # systemd that does not read must not stop the loop
            channel.sendto("\n".join(lines).encode(errors="replace"), address)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Prove while the block runs that the event loop turns, during long passes too."""
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self) -> None:
        while self.beat_s:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self.beat_s)


def handed_sockets(environment: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Return the sockets that systemd opened for us (LISTEN_FDS), from descriptor 3 on."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(pid) or not count.isascii() or not count.isdigit():
        return []
    handed = []
    for number in range(3, 3 + min(int(count), 16)):
        with suppress(OSError):
            os.set_inheritable(number, False)
            handed.append(socket.socket(fileno=number))
    return [one for one in handed if one.family == socket.AF_UNIX and one.type == socket.SOCK_STREAM]


def _status(text: str) -> tuple[str, ...]:
    line = "".join(char if char.isprintable() else " " for char in text[:STATUS_LIMIT_CHARS])
    return (f"STATUS={line}",) if line else ()
