"""The command `margo-agent`: reads the configuration, builds what a pass needs, and says what happened."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from margo_agent.clock import system_clock
from margo_agent.config import AgentConfig, load_config
from margo_agent.gate import Gate
from margo_agent.identifying import COMMANDS as IDENTIFYING
from margo_agent.last import keep_last
from margo_agent.local import COMMANDS as LOCAL
from margo_agent.local import time_of
from margo_agent.notnow import not_now
from margo_agent.options import config_option, log_option, output_option
from margo_agent.printing import show
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_agent.state_folder import AtWork, locked
from margo_agent.telling import COMMANDS as TELLING
from margo_agent.telling import notice_news, trace
from margo_oci.content import MANIFEST_LIMIT_BYTES
from margo_oci.errors import MargoError, explain, plain, plain_lines, write_utf8

if TYPE_CHECKING:
    from margo_agent.building import Parts
    from margo_agent.reconcile import Reconciler
    from margo_oci.registry import Registry


def main() -> None:
    """Run the command line; every failure ends in one message and a documented exit code."""
    write_utf8(sys.stdout, sys.stderr)
    stdout = sys.stdout
    try:
        sys.exit(cli.main(prog_name="margo-agent", standalone_mode=False) or 0)
    except SystemExit:
        if sys.stdout is not stdout:  # click put another in its place: whoever read what is printed has gone
            sys.exit(0)
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
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


@cli.command()
@config_option
@log_option
def run(config_file: Path, output: str | None) -> None:
    """Look for a new state again and again, and apply it.

    SIGHUP reads the configuration again and looks at once; SIGTERM stops, and the next start goes on from there.
    `look`, `hold`, `resume` and `reload` speak to it.

    \b
    Example:
      margo-agent run --config /etc/margo-agent/config.yaml
    """
    from margo_agent.running import loop_of

    config = load_config(config_file)
    with locked(config.state_dir / "agent.lock"):
        loop = loop_of(config, output, os.environ, lambda config, record: gate_of(config, record).closed)
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
    return _alone(config_file, output, lambda config, report: _cleaned_up(parts(config), report, data), notice=True)


@cli.command("import")
@config_option
@output_option
@click.option("--newer", is_flag=True, help="Leave a bundle alone that is no newer than what was accepted.")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path), metavar="SITE.tar|DIR")
def import_command(config_file: Path, output: str, newer: bool, bundle: Path) -> int:
    """Do one pass with a bundle in place of all registries: the same checks, the same way back.

    With `import: {watch: DIR}` in the configuration, `run` does so for each bundle that appears there.

    \b
    Example:
      margo-agent import /media/stick/site.tar
    """
    from margo_agent.importing import import_bundle

    bundle = bundle if newer else bundle.resolve()  # a link is followed for a person, not where sticks are watched

    def work(config: AgentConfig, report: Report) -> Report:
        known = RecordFile(config.state_dir / "record.json").load() if newer else None
        return import_bundle(config, bundle, report, parts, _cleaned_up, known)

    return _alone(config_file, output, work, notice=True)


def _cleaned_up(built: "Parts", report: Report, offered: bytes = b"") -> Report:
    """Do a pass, and remove what nothing needs since it was applied. What cannot be removed now is, another day."""
    built.reconciler().once(report, offered=offered)
    if report.outcome == "applied":
        with suppress(MargoError, OSError):
            built.cleaner().clean()
    return report


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


@cli.command(hidden=True)
@config_option
@output_option
@click.option("--stopped", multiple=True, help="A container that somebody stopped.")
@click.argument("deployments", nargs=-1)
def correct(config_file: Path, output: str, stopped: tuple[str, ...], deployments: tuple[str, ...]) -> int:
    """Look at what runs, and put right what is not as the record says; `run` does so by the engine's events."""

    def work(config: AgentConfig, report: Report) -> Report:
        record = RecordFile(config.state_dir / "record.json").load()
        if record.current or record.installed:
            parts(config).corrector().correct(record, report, only=set(deployments), stopped=set(stopped))
        return report

    try:
        return _alone(config_file, output, work, wait=True)
    except AtWork:  # what it does is looked at when it is done
        show(Report("", "", held=True), output)
        return 0


@cli.command()
@config_option
@output_option
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would go, and why.")
def gc(config_file: Path, output: str, dry_run: bool) -> int:
    """Remove what neither the installed revisions nor the way back need: by age, and when room is short.

    `run` does so daily, and after each new state.

    \b
    Example:
      margo-agent gc --dry-run
    """
    try:
        config = load_config(config_file)
        with locked(config.state_dir / "pass.lock"):
            cleaned = parts(config).cleaner().clean(dry_run=dry_run)
    except AtWork as error:
        if output != "json":
            raise
        click.echo(json.dumps({"outcome": "unchanged", "message": str(error)}, indent=2))
        return error.exit_code
    except (MargoError, OSError) as error:
        if output != "json":
            raise
        code, message = explain(error)
        click.echo(json.dumps({"outcome": "failed", "message": message}, indent=2))
        return code
    text = "\n".join(plain(line) for line in cleaned.lines())
    click.echo(json.dumps(cleaned.to_dict(), indent=2) if output == "json" else text)
    return cleaned.exit_code


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


def _pass(config_file: Path, output: str, work: "Callable[[Reconciler, Report], Report]") -> int:
    """Do one pass, print its report, and return the exit code."""
    return _alone(config_file, output, lambda config, report: work(parts(config).reconciler(), report))


def _alone(
    config_file: Path,
    output: str,
    work: Callable[[AgentConfig, Report], Report],
    *,
    wait: bool = False,
    notice: bool = False,
) -> int:
    """Do something alone on the state directory, print its report, and return the exit code.

    With `notice` its news become events, in the words and at the time of the pass itself. Who can `wait` gets AtWork
    raised if another agent is at work.
    """
    report, began = Report("", ""), (time.time(), time.monotonic())
    try:
        config = load_config(config_file)
        report = Report(str(config.source), config.device)
        with locked(config.state_dir / "pass.lock"):
            work(config, report)
            if notice:
                keep_last(config.state_dir, report.to_dict(), time_of(config.state_dir))
                notice_news(config, report.to_dict())
    except (MargoError, OSError) as error:
        if output != "json" or (wait and isinstance(error, AtWork)):
            raise
        code, report.message = explain(error)
        report.outcome = "failed"
        show(report, output)
        return code
    show(report, output)
    if config.report.otlp:
        trace(config, report, *began)
    return report.exit_code


for command in (*TELLING, *IDENTIFYING, *LOCAL):
    cli.add_command(command)


def parts(config: AgentConfig, source: "Callable[[], Registry] | None" = None) -> "Parts":
    """Return the parts of this process, not yet built; `source` stands in for all registries.

    Raises FormatError for a damaged record.
    """
    from margo_agent.building import Parts

    record = RecordFile(config.state_dir / "record.json").load()
    return Parts(config, os.environ, gate_of(config, record), stop_signal, source)


def gate_of(config: AgentConfig, record: Record) -> Gate:
    """Return what stands before applying; its time is what the device knows of it."""
    return Gate(lambda: not_now(config, system_clock().now(record.time)), config.apply.lock_file)


def stop_signal() -> Callable[[], None]:
    """Return what raises Stopped once SIGTERM came. From now on it ends no step; before, it ended the pass at once."""
    from margo_agent.interrupted import Stopped

    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))

    def check() -> None:
        if came:
            raise Stopped("stopped on request: the next pass goes on from here")

    return check
