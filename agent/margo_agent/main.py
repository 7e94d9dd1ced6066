"""The command `margo-agent`: reads the configuration, builds what a pass needs, and says what happened."""

import asyncio
import fcntl
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from margo_agent.config import AgentConfig, load_config
from margo_agent.record import RecordFile
from margo_agent.report import Report
from margo_oci.content import MANIFEST_LIMIT_BYTES
from margo_oci.errors import FormatError, explain
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
        click.echo(f"error: {message}", err=True)
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

    SIGHUP looks at once; SIGTERM stops after the step under way.

    \b
    Example:
      margo-agent run --config /etc/margo-agent/config.yaml
    """
    from margo_agent.loop import Loop

    config = load_config(config_file)
    passes = Passes(config)
    with locked(config.state_dir / "agent.lock"):
        loop = Loop(
            config=config,
            registry=Registry(config.access),
            record_file=RecordFile(config.state_dir / "record.json"),
            pass_=passes.once,
            restore=passes.restore,
            interrupt=passes.interrupt,
            tell=lambda result: _log(result, output),
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
    config = load_config(config_file)
    data = offered.read(MANIFEST_LIMIT_BYTES + 1) if offered else b""
    with locked(config.state_dir / "pass.lock"):
        report = reconciler(config).once(Report(str(config.source), config.device), offered=data)
    _show(report, output)
    return report.exit_code


@cli.command()
@config_option
@output_option
def restore(config_file: Path, output: str) -> int:
    """Bring up what is installed, from this disk alone; what runs keeps running. `run` begins with it.

    \b
    Example:
      margo-agent restore --config edge-17.yaml
    """
    config = load_config(config_file)
    with locked(config.state_dir / "pass.lock"):
        report = reconciler(config).restore(Report(str(config.source), config.device))
    _show(report, output)
    return report.exit_code


@cli.command()
@config_option
@output_option
def plan(config_file: Path, output: str) -> int:
    """Say what a pass would change, restarts and bytes included; nothing that runs is touched.

    \b
    Example:
      margo-agent plan --config edge-17.yaml
    """
    config = load_config(config_file)
    with locked(config.state_dir / "pass.lock"):
        report = reconciler(config).plan(Report(str(config.source), config.device))
    _show(report, output)
    return report.exit_code


@cli.command()
@config_option
@output_option
def status(config_file: Path, output: str) -> None:
    """Show what this device accepted, what runs, and what failed; asks no registry.

    \b
    Example:
      margo-agent status -o json
    """
    from margo_agent.status import device_status, status_lines

    config = load_config(config_file)
    record = RecordFile(config.state_dir / "record.json").load()
    found = device_status(config, record, os.environ)
    click.echo(json.dumps(found, indent=2) if output == "json" else "\n".join(status_lines(found)))


def reconciler(config: AgentConfig) -> "Reconciler":
    """Build a pass out of its parts. Raises FormatError for a key that cannot be used."""
    from margo_agent.applying import Applier
    from margo_agent.engine import Engine, EngineUnavailable, find_engine
    from margo_agent.gather import Gatherer
    from margo_agent.generation import Generations
    from margo_agent.preview import Preview
    from margo_agent.reconcile import Reconciler
    from margo_agent.runtime import Runtime
    from margo_oci.compose import Compose, find_compose
    from margo_oci.keys import PublicKey
    from margo_oci.store import Store
    from margo_oci.trust import Policy

    record_file = RecordFile(config.state_dir / "record.json")

    def compose() -> Compose:
        try:
            command = find_compose()
        except FormatError as error:  # a matter of this device, not of what it was sent
            raise EngineUnavailable(str(error)) from None
        return Compose(command, _engine_environment(find_engine(config.engine, os.environ)))

    def runtime() -> Runtime:
        return Runtime(compose(), Engine(find_engine(config.engine, os.environ)), config.access)

    def generations() -> Generations:
        return Generations(config.state_dir, compose())

    def registry() -> Registry:
        return Registry(config.access)

    return Reconciler(
        gatherer=Gatherer(
            config=config,
            policy=Policy(
                [PublicKey.from_pem(_read(file), name=file.name) for file in config.key_files],
                config.scopes,
            ),
            registry=registry,
            store=Store(config.state_dir),
            record_file=record_file,
            generations=generations,
        ),
        record_file=record_file,
        applier=lambda: Applier(
            record_file=record_file,
            generations=generations(),
            runtime=runtime(),
            now=lambda: datetime.now(UTC),
            stopping=stop_signal(),
        ),
        preview=lambda: Preview(generations=generations(), runtime=runtime(), registry=registry),
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FormatError(f"trust.keys: {file}: {error.strerror}") from None


def _engine_environment(engine: str) -> Mapping[str, str]:
    """Return what Compose is allowed to see of our environment: enough to find programs and the engine."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR") if name in os.environ
    }
    return {**kept, "DOCKER_HOST": engine}


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold `file` for as long as the block runs. Raises FormatError if another agent does."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        stream = file.open("w")
    except OSError as error:
        raise FormatError(f"stateDir {file.parent}: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FormatError(
                f"stateDir {file.parent}: another margo-agent is at work here ({file.name} is held)"
            ) from None
        yield


class Passes:
    """Runs passes in processes of their own, one at a time."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.process: asyncio.subprocess.Process | None = None

    async def once(self, manifest: bytes | None) -> Mapping[str, Any]:
        """Run `once`, with the manifest that was just received if there is one."""
        return await self._run(["once", *(["--offered", "-"] if manifest else [])], manifest)

    async def restore(self) -> Mapping[str, Any]:
        """Run `restore`."""
        return await self._run(["restore"], None)

    def interrupt(self) -> None:
        """Ask the pass under way to end after its step."""
        if self.process and self.process.returncode is None:
            self.process.terminate()

    async def _run(self, command: list[str], stdin: bytes | None) -> Mapping[str, Any]:
        self.process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "margo_agent", *command, "--config", str(self.config.file), "-o", "json"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the loop, which passes it on
        )
        out, err = await self.process.communicate(stdin)
        try:
            result: Mapping[str, Any] = json.loads(out)
        except ValueError:
            words = err.decode(errors="replace").strip()[-500:] or f"the pass ended with {self.process.returncode}"
            return {"outcome": "failed", "message": words.removeprefix("error: "), "digest": ""}
        return result


def stop_signal() -> Callable[[], bool]:
    """Return what tells whether SIGTERM came. From now on it ends no step; before, it ended the pass at once."""
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    return lambda: bool(came)


def _log(result: Mapping[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps({"time": _now(), **result}))
        return
    parts = [result["outcome"]]
    parts += [f"counter={result['counter']}"] if result.get("counter") else []
    parts += [f"digest={result['digest']}"] if result.get("digest") else []
    parts += [f"reason={result['reason']}"] if result.get("reason") else []
    parts += [result["message"]] if result.get("message") else []
    click.echo(f"{_now()} {' '.join(parts)}")
    for one in result.get("deployments", ()):
        if one["action"] != "keep":
            click.echo(f"{_now()}   {one['action']} {one['name']}: {one['state']} {one.get('error', '')}".rstrip())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _show(report: Report, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(report.to_dict(), indent=2))
        return
    for line in _lines(report):
        click.echo(line)
    if report.message:
        click.echo(
            f"{report.outcome}{f' ({report.reason})' if report.reason else ''}: {report.message}",
            err=True,
        )


def _lines(report: Report) -> Iterator[str]:
    word = {"applied": "would change", "unchanged": "nothing to do"}.get(report.outcome, report.outcome)
    head = word if report.planned else report.outcome
    state = f"  counter {report.counter}" if report.counter else ""
    state += f"  {report.digest}" if report.digest else ""
    yield f"{head}{state}"
    for one in report.deployments:
        detail = f"  restarts {', '.join(one.restarts) or 'nothing'}" if one.restarts is not None else ""
        detail += f"  {one.bytes} bytes of images to pull" if one.bytes else ""
        yield f"  {one.action:<8} {one.name or one.id}  {one.state}{detail}"
    total_s = sum(report.seconds.values())
    yield (
        f"  {report.requests} requests, {report.bytes_in} bytes, "
        f"{report.fetched} layers fetched, {report.reused} reused, {total_s:.2f} s"
    )
