"""Builds the loop: what it asks, whom it tells, and what runs beside it. Nothing heavy is imported here."""

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

from margo_agent.address import find_engine
from margo_agent.clock import system_clock
from margo_agent.config import AgentConfig, load_config
from margo_agent.control import Control, listening
from margo_agent.inbox import emptied
from margo_agent.last import keep_last
from margo_agent.local import time_of
from margo_agent.loop import Loop
from margo_agent.noticed import NoticedFile
from margo_agent.notify import Notifier, handed_sockets
from margo_agent.passes import REPORT_LIMIT_S, Passes
from margo_agent.printing import log
from margo_agent.record import Record, RecordFile
from margo_agent.telling import reporter
from margo_agent.watching import Watch
from margo_oci.errors import FormatError
from margo_oci.registry import Registry

Result = Mapping[str, Any]


def loop_of(
    config: AgentConfig,
    output: str | None,
    environment: Mapping[str, str],
    closed: Callable[[AgentConfig, Record], str],
) -> Loop:
    """Return the loop; it prints by `output`, else as the configuration says. `closed` says why applying waits."""
    passes = Passes(config_file=config.file)
    reports = Passes(config_file=config.file, limit_s=REPORT_LIMIT_S, grace_s=10.0)
    notifier, handed = Notifier.of(environment, os.getpid()), handed_sockets(environment, os.getpid())
    peers = frozenset({0, os.geteuid()})

    def say(result: Result, *, news: bool = True) -> None:
        log(result, output or loop.config.log.format, loop.config.log.level, news=news)

    def warn(message: str) -> None:
        say({"outcome": "failed", "message": message})

    reporting = reporter(config, reports, say)

    def after(config: AgentConfig, result: Result) -> None:
        say(result, news=False)
        keep_last(config.state_dir, result, time_of(config.state_dir))
        reporting.after(config, result)

    def interrupt() -> None:
        passes.interrupt()
        reports.interrupt()

    def control(loop: Loop) -> Control:
        return Control(loop, config.state_dir, lambda: time_of(config.state_dir), peers, warn)

    loop = Loop(
        config=config,
        reload=lambda: reloaded(config),
        connect=lambda config: Registry(config.access),
        record_file=RecordFile(config.state_dir / "record.json"),
        pass_=lambda manifest: reporting.meanwhile(loop.config, passes.once(manifest)),
        restore=passes.restore,
        take=passes.take,
        interrupt=interrupt,
        tell=say,
        after=after,
        chance=random.SystemRandom().random,
        clock=system_clock(),
        closed=closed,
        watch=Watch(
            address=lambda: find_engine(loop.config.engine, environment),
            device=config.device,
            names=lambda: NoticedFile(config.state_dir / "drift.json").load().names,
            say=warn,
        ),
        correct=passes.correct,
        clean=passes.clean,
        notifier=notifier,
        beside=(
            lambda _: notifier.beating(),
            lambda loop: listening(control(loop), handed),
            lambda loop: emptied(lambda: loop.config.inbox, loop.offer),
        ),
    )
    return loop


def reloaded(config: AgentConfig) -> AgentConfig:
    """Read a configuration again. Raises FormatError for another `stateDir`: this one is held."""
    again = load_config(config.file)
    if again.state_dir != config.state_dir:
        raise FormatError(f"{config.file}: stateDir: {again.state_dir} is not {config.state_dir}: restart margo-agent")
    return again
