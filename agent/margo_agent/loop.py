"""The loop: a light look at the registry; only when something is new does a process of its own do the pass.

What a pass imports and allocates ends with its process, so the idle agent stays small for years.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from margo_agent.config import AgentConfig
from margo_agent.record import RecordFile
from margo_oci.errors import MargoError, RegistryError, TrustError
from margo_oci.registry import Received, Registry

BACKOFF_LIMIT_S = 600.0
DOUBLINGS = 6
LOOK_LIMIT_S = 120.0

Result = Mapping[str, Any]  # a report's JSON form


def pause_s(interval_s: float, failures: int, retry_after_s: float | None, chance: float) -> float:
    """Return how long to wait: the interval, doubled by each failure in a row, a tenth more or less by `chance` (0..1).

    Many devices that lost one registry must not all come back in one moment. What the registry asked for is kept.
    """
    grown_s = min(interval_s * 2 ** min(failures, DOUBLINGS), max(BACKOFF_LIMIT_S, interval_s))
    return float(max(grown_s * (0.9 + 0.2 * chance), retry_after_s or 0.0))


@dataclass(kw_only=True)
class Loop:
    """Looks, starts passes, waits. `pass_` runs one with the manifest that was just received, or none.

    `interrupt` asks a pass under way to end after its step.
    """

    config: AgentConfig
    registry: Registry
    record_file: RecordFile
    pass_: Callable[[bytes | None], Awaitable[Result]]
    restore: Callable[[], Awaitable[Result]]
    interrupt: Callable[[], None]
    tell: Callable[[Result], None]
    chance: Callable[[], float]
    failures: int = 0
    looked: bool = False
    told: tuple[Any, ...] = ()
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    waking: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; SIGHUP looks at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.waking.set)
        async with self.registry:
            await self._restore()
            while not self.stopping.is_set():
                self.waking.clear()
                await self._wait(await self.look())

    def stop(self) -> None:
        """End after the step under way."""
        self.stopping.set()
        self.waking.set()
        self.interrupt()

    async def _restore(self) -> None:
        """Bring up what was installed, before any network is asked: after a power cut there may be none."""
        if self.record_file.load().installed:
            result = await self.restore()
            if result["outcome"] != "unchanged":
                self.tell(result)

    async def look(self) -> float:
        """Look once, and return how long to wait then, in seconds."""
        result = await self._result()
        failed = result["outcome"] in ("unreachable", "refused")
        self.failures = self.failures + 1 if failed else 0
        # The same news again is no news: a refusal is told once, not at every look.
        news = (
            result["outcome"],
            result.get("digest"),
            result.get("reason"),
            result.get("message"),
        )
        if news != self.told:
            self.told = news
            self.tell(result)
        return pause_s(self.config.interval_s, self.failures, result.get("retryAfterSeconds"), self.chance())

    async def _result(self) -> Result:
        start_s = time.monotonic()
        try:
            # The first look of a new process is a whole pass: the configuration may have changed.
            known = self.record_file.load().known if self.looked else ""
            self.looked = True
            received = await asyncio.wait_for(self._look(known), LOOK_LIMIT_S)
        except TimeoutError:
            error = RegistryError(f"{self.config.source}: no whole answer after {LOOK_LIMIT_S:.0f} s")
            return self._failed("unreachable", error)
        except RegistryError as error:
            return self._failed("unreachable", error, retryAfterSeconds=error.retry_after_s)
        except TrustError as error:
            return self._failed("refused", error, reason=error.reason)
        except MargoError as error:
            return self._failed("failed", error)
        if known and (received is None or received.digest == known):
            return {
                "outcome": "unchanged",
                "digest": known,
                "seconds": {"resolve": round(time.monotonic() - start_s, 3)},
            }
        return await self.pass_(received.data if received else None)

    async def _look(self, known: str) -> Received | None:
        return await self.registry.manifest(self.config.source, known=known) if known else None

    def _failed(self, outcome: str, error: MargoError, **more: Any) -> Result:
        return {"outcome": outcome, "message": str(error), "digest": "", **more}

    async def _wait(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self.waking.wait(), timeout_s)
        except TimeoutError:
            return
