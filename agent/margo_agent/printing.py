"""How reports are printed: for people, or as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import click

from margo_agent.report import Report
from margo_oci.errors import plain, plain_lines

Level = Literal["debug", "info", "warning"]
LEVELS: Sequence[Level] = ("debug", "info", "warning")
_WARNINGS = ("refused", "failed", "unreachable")


def log(result: Mapping[str, Any], output: str, least: Level = "info", *, news: bool = True) -> None:
    """Print a decision of the loop: one line, and one for each deployment that it changed.

    What is no news is of the level `debug`; what `least` leaves out is not printed.
    """
    level: Level = ("warning" if result["outcome"] in _WARNINGS else "info") if news else "debug"
    if LEVELS.index(level) < LEVELS.index(least) or (news is False and least != "debug"):
        return
    head = {"time": _now(), "level": level}
    if output == "json":
        click.echo(json.dumps({**head, **result}))
        return
    click.echo(logfmt({**head, **_facts(result)}))
    for one in result.get("deployments", ()) if news else ():
        if one["action"] != "keep":
            keys = ("action", "state", "error")
            told = {key: one[key] for key in keys if one.get(key)} | {"drift": "; ".join(one.get("drift", ()))}
            click.echo(logfmt({**head, "deployment": one.get("id", ""), "name": one.get("name", ""), **told}))


def logfmt(values: Mapping[str, object]) -> str:
    """Return `key=value` pairs in one line; what has blanks or quotes in it is quoted."""
    return " ".join(f"{key}={_quoted(plain(str(value)))}" for key, value in values.items() if value not in (None, ""))


def _quoted(text: str) -> str:
    if text and not any(char in text for char in ' "=\\'):
        return text
    escaped = text.strip().replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _facts(result: Mapping[str, Any]) -> Mapping[str, object]:
    """Return what a line has of a result, always in this order."""
    keys = ("outcome", "reason", "counter", "digest", "requests")
    stale = result.get("stale")
    return {
        **{key: result.get(key) for key in keys},
        **result.get("layers", {}),
        "message": result.get("message"),
        "stale": stale if stale != result.get("message") else None,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def show(report: Report, output: str) -> None:
    """Print what one pass did; a message goes to standard error."""
    if output == "json":
        click.echo(json.dumps(report.to_dict(), indent=2))
        return
    for line in _lines(report):
        click.echo(plain(line))
    if report.message:
        reason = f" ({report.reason})" if report.reason else ""
        click.echo(plain_lines(f"{report.outcome}{reason}: {report.message}"), err=True)


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
    if report.stale and report.stale != report.message:
        yield f"  stale: {report.stale}"
    total_s = sum(report.seconds.values())
    yield (
        f"  {report.requests} requests, {report.bytes_in} bytes, "
        f"{report.fetched} layers fetched, {report.reused} reused, {total_s:.2f} s"
    )
