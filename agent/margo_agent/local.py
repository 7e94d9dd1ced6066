"""The commands for a person, or a program, at the device: look, hold, resume, reload, why, doctor."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from margo_agent.clock import system_clock
from margo_agent.config import load_config
from margo_agent.control import ask, tell
from margo_agent.fields import parse_duration_s
from margo_agent.hold import drop_hold, write_hold
from margo_agent.options import config_option, output_option
from margo_agent.printing import log
from margo_agent.record import RecordFile
from margo_agent.report import EXIT_CODES
from margo_agent.state_folder import claim
from margo_oci.errors import FormatError, MargoError, plain

ANSWER_TIMEOUT_S = 15.0
LOOK_TIMEOUT_S = 24 * 3600.0  # a pass may fetch for hours; Ctrl-C ends the waiting, not the pass


def time_of(state_dir: Path) -> datetime:
    """Return what time it is at least, by all this device knows."""
    mark = None
    with suppress(MargoError, OSError):
        mark = RecordFile(state_dir / "record.json").load().time
    return system_clock().now(mark)


@click.command()
@config_option
@output_option
@click.option("--wait", is_flag=True, help="Wait for what comes of it, and end with its exit code.")
def look(config_file: Path, output: str, wait: bool) -> int:
    """Have the running agent look for a new state now.

    \b
    Example:
      margo-agent look --wait
    """
    config = load_config(config_file)
    timeout_s = LOOK_TIMEOUT_S if wait else ANSWER_TIMEOUT_S
    answer = ask(config.state_dir, {"do": "look", "wait": wait}, timeout_s=timeout_s)
    if answer is None:
        raise FormatError(f"no agent runs on {config.state_dir}: start it, or do one pass with margo-agent once")
    result = answer.get("result")
    if not isinstance(result, dict):
        _say(output, {"asked": True}, "the agent looks now")
        return 0
    log(result, output)
    return EXIT_CODES.get(result.get("outcome", "failed"), 5)


@click.command()
@config_option
@output_option
@click.option("--for", "duration", metavar="DURATION", help="How long, as 30m, 4h or 7d; without, until resume.")
@click.option("--reason", default="", help="Why: it stands in every report while it holds.")
def hold(config_file: Path, output: str, duration: str | None, reason: str) -> int:
    """Apply nothing for a while. New states are still fetched and verified; what runs goes on.

    It outlives restarts, and works while no agent runs.

    \b
    Example:
      margo-agent hold --for 4h --reason "shift change"
    """
    config = load_config(config_file)
    for_s = None if duration is None else parse_duration_s(duration)
    claim(config.state_dir)
    made = write_hold(config.state_dir, time_of(config.state_dir), for_s=for_s, reason=reason)
    heard = tell(config.state_dir, {"do": "look"}, timeout_s=ANSWER_TIMEOUT_S)
    _say(output, {"hold": made.words, "heard": heard}, made.words)
    return 0


@click.command()
@config_option
@output_option
def resume(config_file: Path, output: str) -> int:
    """End a hold; what waits is applied now, if nothing else holds it back.

    \b
    Example:
      margo-agent resume
    """
    config = load_config(config_file)
    dropped = drop_hold(config.state_dir)
    heard = tell(config.state_dir, {"do": "look"}, timeout_s=ANSWER_TIMEOUT_S)
    _say(output, {"held": dropped, "heard": heard}, "resumed" if dropped else "nothing was held")
    return 0


@click.command()
@config_option
@output_option
def reload(config_file: Path, output: str) -> int:
    """Have the running agent read its configuration again, after checking it. SIGHUP does the same.

    \b
    Example:
      margo-agent reload
    """
    config = load_config(config_file)
    if ask(config.state_dir, {"do": "reload"}, timeout_s=ANSWER_TIMEOUT_S) is None:
        raise FormatError(f"no agent runs on {config.state_dir}: the configuration is read when it starts")
    _say(output, {"reloaded": True}, "the configuration is good, and read again as soon as the agent is idle")
    return 0


@click.command()
@config_option
@output_option
@click.argument("deployment", required=False)
def why(config_file: Path, output: str, deployment: str | None) -> int:
    """Say which rule holds a state, or DEPLOYMENT (its id or name), back, and what to do next.

    It asks the disk and the running agent, no registry. Exit code 0, whatever it finds.

    \b
    Example:
      margo-agent why
      margo-agent why pump -o json
    """
    from margo_agent.last import read_last
    from margo_agent.notnow import not_now
    from margo_agent.why import about
    from margo_agent.why import why as reasons_why

    config = load_config(config_file)
    record, last = RecordFile(config.state_dir / "record.json").load(), read_last(config.state_dir)
    now = system_clock().now(record.time)
    running, busy = _runs(config.state_dir)
    found = reasons_why(record, last, not_now(config, now), now, running=running, busy=busy)
    if deployment:
        found = about(found, deployment, record, last)
    accepted = record.accepted.get(record.current)
    lines = [line for one in found for line in one.lines]
    done = f"nothing is held back: counter {accepted.counter} is applied" if accepted else "nothing is held back"
    raw = {
        "digest": accepted.digest if accepted else None,
        "counter": accepted.counter if accepted else None,
        "held": [one.to_dict() for one in found],
    }
    click.echo(json.dumps(raw, indent=2) if output == "json" else "\n".join(plain(line) for line in lines or [done]))
    return 0


@click.command()
@config_option
@output_option
@click.option("--offline", is_flag=True, help="Ask no registry.")
def doctor(config_file: Path, output: str, offline: bool) -> int:
    """Look at everything this device needs: engine, registry, trust, clock, disk; and say what to do.

    \b
    Exit codes: 0 all is well, 1 something deserves a look, 5 something does not work.

    \b
    Example:
      margo-agent doctor
      margo-agent doctor --offline -o json
    """
    from margo_agent.doctor.check import EXIT_CODES as DOCTORS
    from margo_agent.doctor.check import worst
    from margo_agent.doctor.everything import examine

    found = []
    for check in examine(config_file, os.environ, system_clock(), offline=offline):
        found.append(check)
        if output != "json":
            click.echo("\n".join(plain(line) for line in check.lines))
    if output == "json":
        checks = [one.to_dict() for one in found]
        click.echo(json.dumps({"status": worst(found), "checks": checks}, indent=2))
    return DOCTORS[worst(found)]


def _runs(state_dir: Path) -> tuple[bool, bool]:
    """Tell whether an agent answers, and is in the middle of something; one that does not want to answer is there."""
    try:
        answer = ask(state_dir, {"do": "status"}, timeout_s=ANSWER_TIMEOUT_S)
    except FormatError:
        return True, False
    return answer is not None, answer is not None and answer.get("busy") is True


def _say(output: str, raw: Mapping[str, Any], text: str) -> None:
    click.echo(json.dumps(raw, indent=2) if output == "json" else plain(text))


COMMANDS = (look, hold, resume, reload, why, doctor)
