"""The command `margo-agent`: reads the configuration, builds what a pass needs, and says what happened."""

import asyncio
import functools
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from margo_agent.clock import system_clock
from margo_agent.config import AgentConfig, load_config
from margo_agent.gate import Gate
from margo_agent.passes import Passes
from margo_agent.printing import log, plain, plain_lines, show
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_agent.state_folder import locked
from margo_oci.content import MANIFEST_LIMIT_BYTES
from margo_oci.errors import FormatError, MargoError, explain
from margo_oci.registry import Registry

if TYPE_CHECKING:
    from margo_agent.reconcile import Reconciler

DEFAULT_CONFIG = "/etc/margo-agent/config.yaml"


def main() -> None:
    """Run the command line; every failure ends in one message and a documented exit code."""
    try:
        sys.exit(cli.main(prog_name="margo-agent", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        code, message = explain(error)
        click.echo(plain_lines(f"error: {message}"), err=True)
        sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="margo-oci", prog_name="margo-agent")
def cli() -> None:
    """Bring a signed desired state from an OCI registry onto this device.

    \b
    Exit codes: 0 done, 1 unexpected, 2 bad input or usage, 3 registry or network,
                4 refused by trust, 5 applying failed.
    """


config_option = click.option(
    "--config", "-c", "config_file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True,
    help="The agent's configuration.",
)  # fmt: skip
output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print.",
)


@cli.command()
@config_option
@output_option
def run(config_file: Path, output: str) -> None:
    """Look for a new state again and again, and apply it.

    SIGHUP reads the configuration again and looks at once; SIGTERM stops, and the next start goes on from there.

    \b
    Example:
      margo-agent run --config /etc/margo-agent/config.yaml
    """
    from margo_agent.loop import Loop

    config = load_config(config_file)
    passes = Passes(config_file=config.file)
    with locked(config.state_dir / "agent.lock"):
        loop = Loop(
            config=config,
            reload=lambda: reloaded(config),
            connect=lambda config: Registry(config.access),
            record_file=RecordFile(config.state_dir / "record.json"),
            pass_=passes.once,
            restore=passes.restore,
            clock=system_clock(),
            closed=lambda config, record: gate_of(config, record).closed(),
            interrupt=passes.interrupt,
            tell=lambda result: log(result, output),
            chance=random.SystemRandom().random,
        )
        asyncio.run(loop.run())


@cli.command()
@config_option
@output_option
@click.option(
    "--offered",
    type=click.File("rb"),
    hidden=True,
    help="A manifest just received from the source.",
)
def once(config_file: Path, output: str, offered: Any) -> int:
    """Do one pass: resolve, verify, fetch, apply.

    \b
    Example:
      margo-agent once --config edge-17.yaml -o json
    """
    data = offered.read(MANIFEST_LIMIT_BYTES + 1) if offered else b""
    return _pass(config_file, output, lambda reconciler, report: reconciler.once(report, offered=data))


@cli.command()
@config_option
@output_option
def restore(config_file: Path, output: str) -> int:
    """Bring up what is installed, from this disk alone; what runs keeps running. `run` begins with it.

    \b
    Example:
      margo-agent restore --config edge-17.yaml
    """
    return _pass(config_file, output, lambda reconciler, report: reconciler.restore(report))


@cli.command()
@config_option
@output_option
def plan(config_file: Path, output: str) -> int:
    """Say what a pass would change, restarts and bytes included; nothing that runs is touched.

    \b
    Example:
      margo-agent plan --config edge-17.yaml
    """
    return _pass(config_file, output, lambda reconciler, report: reconciler.plan(report))


def reloaded(config: AgentConfig) -> AgentConfig:
    """Read a configuration again. Raises FormatError for another `stateDir`: this one is held."""
    again = load_config(config.file)
    if again.state_dir != config.state_dir:
        raise FormatError(f"{config.file}: stateDir: {again.state_dir} is not {config.state_dir}: restart margo-agent")
    return again


def _pass(config_file: Path, output: str, work: "Callable[[Reconciler, Report], Report]") -> int:
    """Do one pass alone on the state directory, print its report, and return the exit code."""
    report = Report("", "")
    try:
        config = load_config(config_file)
        report = Report(str(config.source), config.device)
        with locked(config.state_dir / "pass.lock"):
            work(reconciler(config), report)
    except (MargoError, OSError) as error:
        if output != "json":
            raise
        code, report.message = explain(error)
        report.outcome = "failed"
        show(report, output)
        return code
    show(report, output)
    return report.exit_code


@cli.command()
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
    found = device_status(config, record, os.environ, system_clock().now(record.time))
    text = "\n".join(plain(line) for line in status_lines(found))
    click.echo(json.dumps(found, indent=2) if output == "json" else text)
    return 0


def reconciler(config: AgentConfig) -> "Reconciler":
    """Build a pass out of its parts. Raises FormatError for a key that cannot be used."""
    from margo_agent.applying import Applier
    from margo_agent.crew import Crew
    from margo_agent.engine import Engine, EngineUnavailable, find_engine
    from margo_agent.gather import Gatherer
    from margo_agent.generation import Generations
    from margo_agent.images import Images
    from margo_agent.lookout import Lookout
    from margo_agent.preview import Preview
    from margo_agent.reconcile import Reconciler
    from margo_agent.room import Room
    from margo_agent.runtime import Runtime
    from margo_agent.stepping import Stepper
    from margo_agent.surroundings import Surroundings
    from margo_agent.survey import Survey
    from margo_agent.trusted import load_trusted
    from margo_oci.compose import Compose, find_compose
    from margo_oci.pace import Pace
    from margo_oci.store import Store

    store = Store(config.state_dir)
    record_file = RecordFile(config.state_dir / "record.json")

    def compose() -> Compose:
        try:
            command = find_compose()
        except FormatError as error:  # a matter of this device, not of what it was sent
            raise EngineUnavailable(str(error)) from None
        return Compose(command, _engine_environment(find_engine(config.engine, os.environ)))

    @functools.cache
    def engine() -> Engine:
        return Engine(find_engine(config.engine, os.environ))

    pace = Pace(config.transfer.most_bytes_s, config.transfer.least_bytes_s)
    interruptions: list[Callable[[], None]] = []  # what may end a pass that applies something

    def go_on() -> None:
        for interruption in interruptions:
            interruption()

    @functools.cache
    def images() -> Images:
        room = Room(state_dir=config.state_dir, keep_free_bytes=config.clean.keep_free_bytes)
        return Images(engine=engine(), registry=registry, store=store, room=room, go_on=go_on)

    def runtime() -> Runtime:
        misfits = Surroundings(engine(), config.device).misfits
        return Runtime(compose(), engine(), images(), misfits, go_on=go_on, settle_s=config.apply.settle_s)

    def generations() -> Generations:
        return Generations(config.state_dir, compose(), config.device)

    def registry() -> Registry:
        return Registry(config.access, pace=pace)

    gatherer = Gatherer(
        config=config,
        trusted=load_trusted(config, system_clock()),
        registry=registry,
        store=store,
        record_file=record_file,
        generations=generations,
        survey=Survey(store=store, generations=generations, images=images),
    )

    def applier() -> Applier:
        lookout = Lookout(gatherer.newest, every_s=config.interval_s)
        interruptions[:] = [stop_signal(), lookout.check]
        return Applier(
            record_file=record_file,
            generations=generations(),
            crew=Crew(stepper=Stepper(generations=generations(), runtime=runtime(), now=lambda: datetime.now(UTC))),
            gate=gate_of(config, record_file.load()),
            lookout=lookout,
            atomic=config.apply.atomic,
        )

    return Reconciler(
        gatherer=gatherer,
        record_file=record_file,
        applier=applier,
        preview=lambda: Preview(generations=generations(), runtime=runtime()),
    )


def _engine_environment(engine: str) -> Mapping[str, str]:
    """Return what Compose is allowed to see of our environment: enough to find programs and the engine."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR") if name in os.environ
    }
    return {**kept, "DOCKER_HOST": engine}


def gate_of(config: AgentConfig, record: Record) -> Gate:
    """Return what stands before applying; its time is what the device knows of it."""
    return Gate(settings=config.apply, now=lambda: system_clock().now(record.time))


def stop_signal() -> Callable[[], None]:
    """Return what raises Stopped once SIGTERM came. From now on it ends no step; before, it ended the pass at once."""
    from margo_agent.interrupted import Stopped

    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))

    def check() -> None:
        if came:
            raise Stopped("stopped on request: the next pass goes on from here")

    return check
