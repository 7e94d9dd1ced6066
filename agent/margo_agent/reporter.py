"""What the loop does with each result: notice what is news, write it down, and have it reported beside.

Nothing here holds up applying: a report goes out from a process of its own, and what fails is told and tried again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig
from margo_agent.notice import Facts, news, news_under_way
from margo_agent.outbox import Gist, Outbox, Waiting
from margo_agent.record import Record, RecordFile
from margo_agent.standing import stale
from margo_agent.status_files import StatusFiles
from margo_agent.summary import Found, summarise
from margo_agent.textfile import Counts, exposition
from margo_oci.device_status import DeviceStatus
from margo_oci.errors import MargoError
from margo_oci.events import Event
from margo_oci.freshness import format_moment, parse_moment
from margo_oci.store import write_whole

BACKOFF_S = 15.0
BACKOFF_LIMIT_S = 900.0
DOUBLINGS = 6
TEXTFILE_EVERY_S = 60.0
LOOK_EVERY_S = 5.0

Result = Mapping[str, Any]


@dataclass(kw_only=True)
class Reporter:
    """Kept by the loop. `push` runs `margo-agent report`; `look` says what room there is; `tell` is for a person."""

    outbox: Outbox
    record_file: RecordFile
    clock: Clock
    agent: str
    push: Callable[[], Awaitable[Result]]
    look: Callable[[AgentConfig], Found]
    capabilities: Callable[[AgentConfig], bytes]
    tell: Callable[[Result], None]
    monotonic_s: Callable[[], float]
    chance: Callable[[], float]
    look_every_s: float = LOOK_EVERY_S
    counts: Counts = field(default_factory=Counts)
    failures: int = 0
    not_before_s: float = 0.0
    told: str = ""
    pushing: "asyncio.Task[None] | None" = None
    files: StatusFiles | None = None
    config: AgentConfig | None = None
    described: bytes = b""
    textfile_s: float = float("-inf")
    _seen: tuple[int, int] = (0, 0)
    _gist: Gist | None = None

    def after(self, config: AgentConfig, result: Result) -> None:
        """Take the result of a look or a pass."""
        self._count(result)
        due = self._keep_up(config, lambda facts, record: news(facts, record, result))
        to = config.report.reference or config.source
        if result["outcome"] == "unreachable" and to.host == config.source.host:
            return  # it will be asked when it answers again, and not a pause later
        if due:
            self.pushing = asyncio.ensure_future(self._push())

    async def meanwhile(self, config: AgentConfig, working: Awaitable[Result]) -> Result:
        """Wait for a pass. One may take hours, and nobody is to think that the device is gone."""
        passing = asyncio.ensure_future(working)
        while not (await asyncio.wait({passing}, timeout=self.look_every_s))[0]:
            self.under_way(config)
        return passing.result()

    def under_way(self, config: AgentConfig) -> None:
        """Notice what a pass did up to now, and have it reported if that is due."""
        if self._keep_up(config, news_under_way):
            self.pushing = asyncio.ensure_future(self._push())

    def _keep_up(self, config: AgentConfig, notice: Callable[[Facts, Record], Sequence[Event]]) -> bool:
        """Keep what is noticed and write down what is; tell whether a report is due.

        A disk that is full keeps nothing, but what is so can still be reported.
        """
        try:
            record = self.record_file.load()
            now = self.clock.now(record.time)
        except (MargoError, OSError) as error:
            self._say(f"the status is not known: {error}")
            return False
        try:
            self._write(config, record, self._noticed(notice(self._loaded().facts, record), now), now)
        except (MargoError, OSError) as error:
            self._say(f"the status could not be written: {error}")
        return self._is_due(config, self._loaded(), now)

    def _count(self, result: Result) -> None:
        self.counts.looks += 1
        self.counts.requests += int(result.get("requests") or 0)
        self.counts.bytes_in += int(result.get("bytesIn") or 0)
        self.counts.images += int(result.get("imagesPulled") or 0)

    def _noticed(self, events: Sequence[Event], now: datetime) -> Gist:
        if events:
            self._keep(self.outbox.add(events, time=format_moment(now)))
        return self._loaded()

    def _loaded(self) -> Gist:
        """Return what is in the outbox; it is read again only when its files are other ones."""
        if self._gist is None or self._signature() != self._seen:
            return self._keep(self.outbox.load())
        return self._gist

    def _keep(self, waiting: Waiting) -> Gist:
        self._gist, self._seen = waiting.gist, self._signature()
        return self._gist

    def _signature(self) -> tuple[int, int]:
        files = (self.outbox.file, self.outbox.mark_file)
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)  # type: ignore[return-value]

    def _write(self, config: AgentConfig, record: Record, waiting: Gist, now: datetime) -> None:
        if config is not self.config:
            self.config, self.described = config, self.capabilities(config)
            self.files = StatusFiles(config.report.files or Path())
        status = summarise(
            config, record, waiting.facts, now=format_moment(now), agent=self.agent, found=self.look(config),
            stale=stale(record, now), last_event=waiting.last, dropped_events=waiting.dropped,
        )  # fmt: skip
        assert self.files is not None  # noqa: S101  (made with the configuration)
        changed = self.files.write(status, self.described)
        if config.report.textfile:
            self._write_textfile(config.report.textfile, status, waiting, changed=changed)

    def _write_textfile(self, file: Path, status: DeviceStatus, waiting: Gist, *, changed: bool) -> None:
        """Write metrics when something changed, and else once a minute: flash wears."""
        now_s = self.monotonic_s()
        if changed or now_s - self.textfile_s >= TEXTFILE_EVERY_S:
            self.textfile_s = now_s
            text = exposition(status, self.counts, pending=waiting.pending)
            write_whole(file, text.encode(), mode=0o644)

    def _is_due(self, config: AgentConfig, waiting: Gist, now: datetime) -> bool:
        """A report is due when there is news, or when the last one is a heartbeat old."""
        busy = self.pushing is not None and not self.pushing.done()
        if not config.report.registry or busy or self.monotonic_s() < self.not_before_s:
            return False
        return bool(waiting.pending) or (config.report.form == "tag" and self._beat(config, now))

    def _beat(self, config: AgentConfig, now: datetime) -> bool:
        last = self.outbox.mark().time
        # A clock that was set back must not silence a device.
        age_s = (now - parse_moment(last, at="reported")).total_seconds() if last else float("inf")
        return not 0 <= age_s < config.report.heartbeat_s

    async def _push(self) -> None:
        result = await self.push()
        if result["outcome"] == "reported":
            self.counts.reports += 1
            self.failures, self.not_before_s, self.told = 0, 0.0, ""
            return
        self.counts.reports_failed += 1
        pause_s = min(BACKOFF_S * 2 ** min(self.failures, DOUBLINGS), BACKOFF_LIMIT_S) * (0.9 + 0.2 * self.chance())
        self.failures += 1
        self.not_before_s = self.monotonic_s() + max(pause_s, float(result.get("retryAfterSeconds") or 0.0))
        self._say(f"the report did not get through: {result.get('message', '')}")

    def _say(self, words: str) -> None:
        """Tell a person, once."""
        if words != self.told:
            self.told = words
            self.tell({"outcome": "failed", "message": words})
