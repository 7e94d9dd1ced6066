"""Listens to the engine: an event stream that is read as it comes, and reconnected when the engine went away."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from margo_agent.events import ACTIONS, LINE_LIMIT_BYTES, TYPES, Due, Marks, parse_event
from margo_oci.errors import FormatError, MargoError

CONNECT_TIMEOUT_S = 10.0
AGAIN_S = 1.0  # after the engine went away; doubled up to the limit
AGAIN_LIMIT_S = 60.0
OUTAGE_COUNT = 5  # so many attempts in vain, and it is told
_QUERY = {"filters": json.dumps({"type": TYPES, "event": ACTIONS}, separators=(",", ":"))}

Chunks = AsyncIterator[bytes]


@dataclass(kw_only=True)
class Watch:
    """Knows which deployments want a look. `names` leads from names of our networks and images to deployments."""

    address: Callable[[], str]
    device: str
    names: Callable[[], Mapping[str, str]]
    marks: Marks = field(default_factory=Marks)
    monotonic_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    transport_for: Callable[[str], httpx2.AsyncBaseTransport] | None = None
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    known: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None
    faults: int = 0
    fault: str = ""

    async def listen(self) -> None:
        """Listen for ever. After each connect everything is looked at once: nobody heard what happened before.

        An engine that cannot be heard for long is told once.
        """
        pause_s = AGAIN_S
        while True:
            began_s = self.monotonic_s()
            try:
                async with self._stream() as chunks:
                    self.fault, self.faults = "", 0
                    self.known = self.names()
                    self.marks.everything(self.monotonic_s())
                    self.heard.set()
                    await self._hear(chunks)
                self.fault = "the engine ended its event stream"
            except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError, MargoError) as error:
                self.fault = str(error) or type(error).__name__
            self.faults += 1
            if self.faults == OUTAGE_COUNT:
                self.say(f"engine events: {self.fault}: what is changed by hand is not noticed until it can be heard")
            pause_s = AGAIN_S if self.monotonic_s() - began_s > AGAIN_LIMIT_S else min(2 * pause_s, AGAIN_LIMIT_S)
            await self.sleep(pause_s)

    async def due(self) -> Due:
        """Return what is to be looked at, as soon as something is."""
        while True:
            left_s = self.marks.due_in_s(self.monotonic_s())
            if left_s == 0:
                return self.marks.take(self.monotonic_s())
            self.heard.clear()
            try:
                await asyncio.wait_for(self.heard.wait(), left_s)
            except TimeoutError:
                continue

    def looked(self, due: Due, result: Mapping[str, Any]) -> None:
        """Note what a look found, as the report of it says; one that failed or was held is repeated, ever later."""
        self.known = self.names()
        found = [str(one.get("id")) for one in result.get("deployments", ()) if one.get("drift")]
        again = result.get("outcome") == "failed" or bool(result.get("held"))
        self.marks.looked(due, found, self.monotonic_s(), again=again)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """What happens while the block runs is our own doing."""
        self.marks.begin()
        try:
            yield
        finally:
            self.marks.end(self.monotonic_s())

    async def _hear(self, chunks: Chunks) -> None:
        async for line in lines(chunks):
            if event := parse_event(line, self.device, self.known):
                self.marks.hear(event, self.monotonic_s())
                self.heard.set()

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[Chunks]:
        url, transport = _way(self.address())
        if self.transport_for:
            transport = self.transport_for(url)
        timeout = httpx2.Timeout(CONNECT_TIMEOUT_S, read=None)
        async with (
            httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client,
            client.stream("GET", f"{url}/events", params=_QUERY) as response,
        ):
            if response.status_code != httpx2.codes.OK:
                raise FormatError(f"events: the engine answered {response.status_code}")
            yield response.aiter_raw()


def _way(address: str) -> tuple[str, httpx2.AsyncBaseTransport]:
    scheme, _, rest = address.partition("://")
    no_cas = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no TLS here: the system's CAs would take a megabyte for nothing
    if scheme == "unix":
        return "http://engine", httpx2.AsyncHTTPTransport(uds=rest, verify=no_cas)
    if scheme in ("tcp", "http"):
        return f"http://{rest.rstrip('/')}", httpx2.AsyncHTTPTransport(verify=no_cas)
    raise FormatError(f"engine at {address}: events can be heard by unix:// and tcp:// only")


async def lines(chunks: Chunks) -> AsyncIterator[bytes]:
    """Yield whole lines; one that is longer than LINE_LIMIT_BYTES is left out."""
    waiting, skipping = b"", False
    async for chunk in chunks:
        *whole, waiting = (waiting + chunk).split(b"\n")
        for line in whole:
            if line.strip() and not skipping and len(line) <= LINE_LIMIT_BYTES:
                yield line
            skipping = False
        if len(waiting) > LINE_LIMIT_BYTES:
            waiting, skipping = b"", True
