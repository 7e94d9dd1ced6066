"""How reports are printed: for people, or as JSON."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from margo_agent.report import Report


def log(result: Mapping[str, Any], output: str) -> None:
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


def show(report: Report, output: str) -> None:
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
