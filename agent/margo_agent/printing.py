"""How reports are printed: for people, or as JSON."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from margo_agent.report import Report


def plain(text: str) -> str:
    """Return `text` as one line that no terminal obeys: engines, registries and workloads may have worded it."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain_lines(text: str) -> str:
    """Return the same of several lines; those after the first are set in, so that none passes for another message."""
    return "\n  ".join(plain(line) for line in text.split("\n"))


def log(result: Mapping[str, Any], output: str) -> None:
    """Print what the loop has to tell, a line with its time."""
    if output == "json":
        click.echo(json.dumps({"time": _now(), **result}))
        return
    parts = [result["outcome"]]
    parts += [f"counter={result['counter']}"] if result.get("counter") else []
    parts += [f"digest={result['digest']}"] if result.get("digest") else []
    parts += [f"reason={result['reason']}"] if result.get("reason") else []
    parts += [f"requests={result['requests']}"] if "requests" in result else []
    parts += [f"{key}={number}" for key, number in result.get("layers", {}).items()]
    parts += [result["message"]] if result.get("message") else []
    parts += [f"stale: {result['stale']}"] if result.get("stale") not in (None, result.get("message")) else []
    click.echo(f"{_now()} {plain(' '.join(parts))}")
    for one in result.get("deployments", ()):
        if one["action"] != "keep":
            line = f"{one['action']} {one.get('name', one['id'])}: {one['state']} {one.get('error', '')}"
            click.echo(f"{_now()}   {plain(line).rstrip()}")


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
