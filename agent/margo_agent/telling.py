"""How this device is: the commands that show and report it, and what the loop and a pass need for that."""

import json
import os
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from margo_agent.capabilities import find_capabilities
from margo_agent.clock import system_clock
from margo_agent.config import AgentConfig, load_config
from margo_agent.options import config_option, output_option
from margo_agent.outbox import Outbox
from margo_agent.passes import Passes
from margo_agent.record import RecordFile
from margo_agent.report import Report
from margo_agent.room import usage_of
from margo_agent.summary import Found
from margo_oci.errors import MargoError, explain, plain, plain_lines
from margo_oci.freshness import format_moment
from margo_oci.registry import Registry

if TYPE_CHECKING:
    from margo_agent.reporter import Reporter
    from margo_agent.reporting import Reporting
    from margo_oci.upload import Uploader


def trace(config: AgentConfig, report: Report, began_s: float, began_monotonic_s: float) -> None:
    """Send traces and metrics of a pass that is over. Whatever comes of it, the pass is what it was."""
    try:
        from margo_agent.telemetry import Pass, send
    except ImportError as error:
        click.echo(f"report.otlp: {error.name} is not installed: pip install 'margo-oci[agent,otel]'", err=True)
        return
    done = Pass(report, began_s, began_monotonic_s, time.monotonic(), _containers(config))
    if fault := send(config.report.otlp, done, agent=_version()):
        click.echo(plain(f"report.otlp: {config.report.otlp}: {fault}"), err=True)


def _containers(config: AgentConfig) -> Mapping[str, int]:
    """Count our containers by status; none if the engine does not answer."""
    from margo_agent.address import find_engine
    from margo_agent.engine import Engine
    from margo_oci.errors import ApplyError

    try:
        engine = Engine(find_engine(config.engine, os.environ))
        found = Counter(one.status for one in engine.containers())
        engine.close()
    except ApplyError:
        return {}
    return found


def notice_news(config: AgentConfig, result: Mapping[str, Any]) -> None:
    """Keep what is news as events. The loop does so as well: what was kept is no news then.

    What comes of a pass does not depend on it: if the disk is full, the loop says so.
    """
    from margo_agent.notice import news

    with suppress(MargoError, OSError):
        record, outbox = RecordFile(config.state_dir / "record.json").load(), Outbox(config.state_dir)
        now = format_moment(system_clock().now(record.time))
        outbox.add(news(outbox.load().facts, record, result), time=now)


@click.command()
@config_option
@output_option
def status(config_file: Path, output: str) -> int:
    """Show what this device accepted, what runs, and what failed; asks no registry.

    \b
    Example:
      margo-agent status -o json
    """
    from margo_agent.status import device_status, status_lines

    try:
        config = load_config(config_file)
        record = RecordFile(config.state_dir / "record.json").load()
    except (MargoError, OSError) as error:
        if output != "json":
            raise
        code, message = explain(error)
        click.echo(json.dumps({"outcome": "failed", "message": message}, indent=2))
        return code
    found = device_status(
        config, record, Outbox(config.state_dir), os.environ, system_clock().now(record.time), agent=_version()
    )
    text = "\n".join(plain(line) for line in status_lines(found))
    click.echo(json.dumps(found, indent=2) if output == "json" else text)
    return 0


@click.command()
@config_option
@output_option
def capabilities(config_file: Path, output: str) -> None:
    """Show what this device is and has, as Margo's DeviceCapabilitiesManifest has it.

    \b
    Example:
      margo-agent capabilities -o json
    """
    found = json.loads(_capabilities(load_config(config_file)))
    lines = [f"{key}  {json.dumps(value, ensure_ascii=False)}" for key, value in found["properties"].items()]
    lines += [f"label {key}  {json.dumps(value, ensure_ascii=False)}" for key, value in found.get("labels", {}).items()]
    click.echo(json.dumps(found, indent=2) if output == "json" else "\n".join(map(plain, lines)))


@click.command()
@config_option
@output_option
def report(config_file: Path, output: str) -> int:
    """Push a signed report of this device to the registry, now. `run` does it by itself where `report` says so.

    \b
    Example:
      margo-agent report --config edge-17.yaml
    """
    try:
        result = _reporting(load_config(config_file)).send()
    except (MargoError, OSError) as error:
        if output != "json":
            raise
        result = {"outcome": "failed", "message": explain(error)[1]}
    if output == "json":
        click.echo(json.dumps(result, indent=2))
    elif result["outcome"] == "reported":
        click.echo(plain(f"reported  {result['reference']}  {result['digest']}  {result['events']} new events"))
    else:
        click.echo(plain_lines(f"{result['outcome']}: {result['message']}"), err=True)
    return {"reported": 0, "unreachable": 3}.get(str(result["outcome"]), 2)


def reporter(config: AgentConfig, reports: Passes, tell: Callable[[Mapping[str, Any]], None]) -> "Reporter":
    from margo_agent.reporter import Reporter

    return Reporter(
        outbox=Outbox(config.state_dir),
        record_file=RecordFile(config.state_dir / "record.json"),
        clock=system_clock(),
        agent=_version(),
        push=reports.report,
        look=_room,
        capabilities=_capabilities,
        tell=tell,
        monotonic_s=time.monotonic,
        chance=random.SystemRandom().random,
    )


def _reporting(config: AgentConfig) -> "Reporting":
    from margo_agent.device_key import load_key
    from margo_agent.reporting import Reporting

    def uploader(host: str) -> "Uploader":
        from margo_oci.upload import Uploader

        return Uploader(host, config.access(host), config.access)

    return Reporting(
        config=config,
        record_file=RecordFile(config.state_dir / "record.json"),
        outbox=Outbox(config.state_dir),
        clock=system_clock(),
        agent=_version(),
        look=lambda: _with_engine(config),
        capabilities=lambda: _capabilities(config),
        signer=lambda: load_key(config),
        registry=lambda: Registry(config.access),
        uploader=uploader,
    )


def _version() -> str:
    return version("margo-oci")


def _room(config: AgentConfig) -> Found:
    """Look how much room there is on the disk of `stateDir`, which may not be there yet."""
    total_bytes, free_bytes = usage_of(config.state_dir)
    return Found(free_bytes=free_bytes, total_bytes=total_bytes)


def _with_engine(config: AgentConfig) -> Found:
    """Look at the room and at the engine, which may be away."""
    from margo_agent.address import find_engine
    from margo_agent.engine import Engine
    from margo_oci.errors import ApplyError

    found = _room(config)
    try:
        engine = Engine(find_engine(config.engine, os.environ))
        kind, number = engine.version()
        engine.close()
    except ApplyError:
        return found
    return replace(found, engine=kind, engine_version=number)


def _capabilities(config: AgentConfig) -> bytes:
    total = _room(config).total_bytes
    return find_capabilities(config, machine=platform.machine(), storage_bytes=total).to_bytes()


COMMANDS = (status, capabilities, report)
