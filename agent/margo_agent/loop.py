"""The loop: a light look at the registry; only when something is new does a process of its own do the pass.

What a pass imports and allocates ends with its process, so the idle agent stays small for years.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig
from margo_agent.events import Due
from margo_agent.notify import Notifier
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_agent.standing import check_head, look_for_roots_is_due, repeat
from margo_agent.watching import Watch
from margo_oci.content import MANIFEST_LIMIT_BYTES
from margo_oci.errors import MargoError, RegistryError, TrustError
from margo_oci.freshness import CARRIER_LIMIT_BYTES
from margo_oci.registry import Received, Registry

BACKOFF_LIMIT_S = 600.0
DOUBLINGS = 6
LOOK_LIMIT_S = 120.0
CLEAN_FIRST_S = 600.0  # after the start, which has enough to do
CLEAN_EVERY_S = 24 * 3600.0
EARLY_LIMIT = 100
GATE_EVERY_S = 10.0  # a window may be shorter than the pauses are while the registry is away

Result = Mapping[str, Any]  # a report's JSON form


def pause_s(interval_s: float, failures: int, retry_after_s: float | None, chance: float) -> float:
    """Return how long to wait: the interval, doubled by each failure in a row, a tenth more or less by `chance` (0..1).

    Many devices that lost one registry must not all come back in one moment. What the registry asked for is kept.
    """
    grown_s = min(interval_s * 2 ** min(failures, DOUBLINGS), max(BACKOFF_LIMIT_S, interval_s))
    return float(max(grown_s * (0.9 + 0.2 * chance), retry_after_s or 0.0))


@dataclass(kw_only=True)
class Loop:
    """Looks, starts passes, waits. `pass_` runs one with the manifest that was just received, or none; `take` one
    with a bundle.

    With a `watch`, what changes on the engine is looked at by `correct`; `clean` takes away what nothing needs, daily.
    `interrupt` asks a pass under way to end as soon as it can; `reload` reads the configuration again; `closed` says
    why what is prepared has to wait, "" if it may be applied. What is in `beside` is held open while the loop runs.
    `tell` gets what is news, `after` the result of every look.
    """

    config: AgentConfig
    reload: Callable[[], AgentConfig]
    connect: Callable[[AgentConfig], Registry]
    record_file: RecordFile
    pass_: Callable[[bytes | None], Awaitable[Result]]
    restore: Callable[[], Awaitable[Result]]
    take: Callable[[Path], Awaitable[Result]]
    interrupt: Callable[[], None]
    tell: Callable[[Result], None]
    chance: Callable[[], float]
    clock: Clock
    closed: Callable[[AgentConfig, Record], str]
    watch: Watch | None = None
    correct: Callable[[Due], Awaitable[Result]] | None = None
    clean: Callable[[], Awaitable[Result]] | None = None
    notifier: Notifier = field(default_factory=Notifier)
    beside: Sequence[Callable[["Loop"], AbstractAsyncContextManager[None]]] = ()
    after: Callable[[AgentConfig, Result], None] = lambda *_: None
    registry: Registry = field(init=False)
    failures: int = 0
    looked: bool = False
    hung_up: bool = False
    gate_every_s: float = GATE_EVERY_S
    told: tuple[Any, ...] = ()
    told_drift: str = ""
    cleaned_s: float = field(default_factory=lambda: time.monotonic() + CLEAN_FIRST_S - CLEAN_EVERY_S)
    busy: bool = False
    last: Result = field(default_factory=dict)  # what was told last
    asked: list["asyncio.Future[Result]"] = field(default_factory=list)  # who waits for the next look
    offered: list[Path] = field(default_factory=list)  # bundles
    early: list[Path] = field(default_factory=list)  # bundles that came to nothing: they may need another one first
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    waking: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; SIGHUP reads the configuration again, and looks at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.hang_up)
        async with AsyncExitStack() as opened:
            for one in self.beside:
                await opened.enter_async_context(one(self))
            self.notifier.ready("bringing up what is installed")
            await self._restore()
            await self._look_on()

    async def _look_on(self) -> None:
        while not self.stopping.is_set():
            async with self.connect(self.config) as self.registry, self._listening():
                while not self.stopping.is_set() and not self._reloaded():
                    self.waking.clear()
                    await self._take_offered()
                    await self._rest(await self.look())

    def stop(self) -> None:
        """End; a pass under way ends as soon as it can."""
        self.stopping.set()
        self.waking.set()
        self.notifier.stopping()
        self.interrupt()

    def hang_up(self) -> None:
        """Read the configuration again, and look at once."""
        self.hung_up = True
        self.notifier.reloading()
        self.waking.set()

    def check_reload(self) -> None:
        """Raise FormatError if the configuration, as its file is now, could not be taken."""
        self.reload()

    def wake(self) -> None:
        """Look as soon as what is under way has ended."""
        self.waking.set()

    def offer(self, bundles: Sequence[Path]) -> None:
        """Look at bundles as soon as what is under way has ended."""
        if bundles:
            self.offered += bundles
            self.wake()

    def wanted(self) -> "asyncio.Future[Result]":
        """Look as soon as what is under way has ended; the result of that look arrives in what is returned."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        self.wake()
        return future

    def _reloaded(self) -> bool:
        """Tell whether there is a new configuration; one with faults is told, and the old one stays."""
        if not self.hung_up:
            return False
        self.hung_up = False
        try:
            self.config = self.reload()
        except (MargoError, OSError) as error:
            self._tell({"outcome": "failed", "message": f"the configuration stays as it was: {error}"})
            return False
        finally:
            self.notifier.ready()
        self.looked, self.told, self.failures = False, (), 0
        return True

    async def _restore(self) -> None:
        """Bring up what was installed, before any network is asked: after a power cut there may be none."""
        try:
            record = self.record_file.load()
        except (MargoError, OSError):
            return  # the first look says it
        if record.installed or record.before is not None:
            result = await self.restore()
            if result["outcome"] != "unchanged":
                self._tell(result)

    def _tell(self, result: Result) -> None:
        self.last = result
        words = (result["outcome"], result.get("reason"), result.get("message"))
        self.notifier.status(": ".join(word for word in words if word))
        self.tell(result)

    async def _take_offered(self) -> None:
        while self.offered and not self.stopping.is_set():
            bundle = self.offered.pop(0)
            async with self._at_work():
                result = await self.take(bundle)
            self._tell(result)
            if result["outcome"] in ("unreachable", "failed"):
                self.early = [*(one for one in self.early if one != bundle), bundle][-EARLY_LIMIT:]
            elif result["outcome"] == "applied":
                again, self.early = self.early, []
                self.offered += [one for one in again if await asyncio.to_thread(one.exists)]

    async def look(self) -> float:
        """Look once, and return how long to wait then, in seconds."""
        asked, self.asked = self.asked, []
        self.busy = True
        result = await self._result()
        self.busy = False
        for future in asked:
            if not future.done():  # who asked may have gone
                future.set_result(result)
        await self.registry.leave(but=self.config.look_at)
        self.after(self.config, result)
        failed = result["outcome"] in ("unreachable", "refused")
        self.failures = self.failures + 1 if failed else 0
        # The same news again is no news: a refusal is told once, not at every look (its words may say what time it is).
        why = result.get("reason") or result.get("message")
        news = (result["outcome"], result.get("digest"), why, bool(result.get("stale")))
        if news != self.told:
            self.told = news
            self._tell(result)
        return pause_s(self.config.interval_s, self.failures, result.get("retryAfterSeconds"), self.chance())

    async def _result(self) -> Result:
        report = Report(str(self.config.source), self.config.device)
        before = replace(self.registry.traffic)
        try:
            record = self.record_file.load()
            check_head(record, report, self.clock.now(record.time), "warn")  # whatever comes of this look
            # Until a whole pass got through, each look is one: the configuration may be another than before.
            nothing_to_do = record.settled or (record.waiting and self.closed(self.config, record))
            known = record.seen if self.looked and nothing_to_do and not self._roots_are_due(record) else ""
            with report.timed("resolve"):
                received = await asyncio.wait_for(self._look(known), LOOK_LIMIT_S)
            if known and (received is None or received.digest == known):
                repeat(record, report)
                check_head(record, report, self.clock.now(record.time), self.config.trust.freshness)
            else:
                return await self._passed(received.data if received else None)
        except TimeoutError:
            report.outcome = "unreachable"
            report.message = f"{self.config.source}: no whole answer after {LOOK_LIMIT_S:.0f} s"
        except RegistryError as error:
            report.outcome, report.message, report.retry_after_s = "unreachable", str(error), error.retry_after_s
        except TrustError as error:
            report.outcome, report.message, report.reason = "refused", str(error), error.reason
        except (MargoError, OSError) as error:
            report.outcome, report.message = "failed", str(error)
        report.requests = self.registry.traffic.requests - before.requests
        report.bytes_in = self.registry.traffic.bytes_in - before.bytes_in
        return report.to_dict()

    def _roots_are_due(self, record: Record) -> bool:
        """Newer roots are looked for by a pass, as they need cryptography."""
        now = self.clock.now(record.time)
        return self.config.trust.mode == "head+release" and look_for_roots_is_due(record, now)

    async def _passed(self, manifest: bytes | None) -> Result:
        async with self._at_work():
            result = await self.pass_(manifest)
        through = result["outcome"] in ("applied", "unchanged", "waiting", "failed") and result.get("digest")
        self.looked = self.looked or bool(through)
        return result

    async def _look(self, known: str) -> Received | None:
        limit_bytes = CARRIER_LIMIT_BYTES if self.config.trust.mode == "head+release" else MANIFEST_LIMIT_BYTES
        at = self.config.look_at
        return await self.registry.manifest(at, known=known, limit_bytes=limit_bytes) if known else None

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Listen to the engine that the configuration names."""
        if self.watch is None:
            yield
            return
        self.watch.device = self.config.device
        listening = asyncio.create_task(self.watch.listen())
        try:
            yield
        finally:
            listening.cancel()

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """What the engine says while the block runs is our own doing."""
        async with self.watch.at_work() if self.watch else nullcontext():
            yield

    async def _rest(self, pause_s: float) -> None:
        """Wait, and meanwhile put right what changes on the engine, and clean up when it is time."""
        await self._clean()
        resting = asyncio.ensure_future(self._wait(pause_s))
        due = asyncio.ensure_future(self.watch.due()) if self.watch else None
        try:
            while not resting.done() and due:
                await asyncio.wait({resting, due}, return_when=asyncio.FIRST_COMPLETED)
                if due.done() and not self.stopping.is_set():
                    await self._correct(due.result())
                    due = asyncio.ensure_future(self.watch.due()) if self.watch else None
            await resting
        finally:
            resting.cancel()
            if due:
                due.cancel()

    async def _correct(self, due: Due) -> None:
        if not self.correct or not self.watch:
            return
        async with self.watch.at_work():
            result = await self.correct(due)
        self.watch.looked(due, result)
        words = f"{result['outcome']} {result.get('message', '')}"
        if result["outcome"] != "unchanged" or result.get("message"):
            if words != self.told_drift or result["outcome"] == "applied":
                self.tell(result)
            self.told_drift = words
        elif not due.deployments:
            self.told_drift = ""

    async def _clean(self) -> None:
        if self.clean and time.monotonic() - self.cleaned_s >= CLEAN_EVERY_S:
            self.cleaned_s = time.monotonic()
            result = await self.clean()
            if result["outcome"] != "unchanged":
                self.tell(result)

    async def _wait(self, timeout_s: float) -> None:
        """Wait for so long, until somebody wakes us, or until what is prepared may be applied (format 5.9)."""
        until_s = time.monotonic() + timeout_s
        waits = self._waits()
        while (left_s := until_s - time.monotonic()) > 0 and not self.waking.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.waking.wait(), min(left_s, self.gate_every_s) if waits else left_s)
            if waits and not self._waits():
                return

    def _waits(self) -> bool:
        """Tell whether something is prepared that is held back now."""
        try:
            record = self.record_file.load()
        except (MargoError, OSError):
            return False
        return bool(record.waiting and self.closed(self.config, record))
