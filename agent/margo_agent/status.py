"""What this device accepted and what runs, from its record and its engine; no registry is asked."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from margo_agent.config import AgentConfig
from margo_agent.engine import Container, Engine, find_engine
from margo_agent.noticed import NoticedFile
from margo_agent.record import Record
from margo_agent.standing import last_head, stale
from margo_oci.errors import ApplyError
from margo_oci.freshness import format_moment


def device_status(config: AgentConfig, record: Record, environment: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Return the status as JSON would print it; `engine` says so if the engine cannot be asked.

    `now` is what a pass would take for the time (`Clock.now`).
    """
    containers: Sequence[Container] = ()
    try:
        engine = Engine(find_engine(config.engine, environment))
        containers, answer = engine.containers(), "ok"
        engine.close()
    except ApplyError as error:
        answer = str(error)
    drift = NoticedFile(config.state_dir / "drift.json").load().found
    accepted, head = record.accepted.get(record.current), last_head(record)
    return {
        "device": config.device,
        "source": str(config.source),
        "digest": accepted.digest if accepted else None,
        "counter": accepted.counter if accepted else None,
        "scope": accepted.scope if accepted else None,
        "head": {"version": head.version, "expires": format_moment(head.expires)} if head else None,
        "stale": stale(record, now) or None,
        "settled": record.settled,
        "engine": answer,
        "deployments": [
            _deployment(name, record, containers) | {"drift": list(drift.get(name, ()))}
            for name in sorted({**record.installed, **record.failed})
        ],
    }


def _deployment(name: str, record: Record, containers: Sequence[Container]) -> dict[str, Any]:
    installed, failed = record.installed.get(name), record.failed.get(name)
    known = installed or failed
    found: dict[str, Any] = {
        "id": name,
        "name": known.name if known else "",
        "state": "failed" if failed else "installed",
        "since": installed.since if installed else None,
        "error": failed.words if failed else None,
        "containers": [
            {
                "name": one.name,
                "component": one.component,
                "service": one.service,
                "status": one.status,
                "health": one.health or None,
            }
            for one in containers
            if one.deployment == name
        ],
    }
    return found


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield the status for people."""
    state = f"counter {status['counter']}  {status['digest']}" if status["digest"] else "no state accepted yet"
    yield f"{status['device']}  {status['source']}  {state}"
    if status["head"]:
        yield f"  head {status['head']['version']}, until {status['head']['expires']}"
    if status["stale"]:
        yield f"  stale: {status['stale']}"
    if status["digest"] and not status["settled"]:
        yield "  not everything of it is applied yet"
    if status["engine"] != "ok":
        yield f"  engine: {status['engine']}"
    for one in status["deployments"]:
        yield f"  {one['state']:<10} {one['name']}  {one['id']}  {one['since'] or ''}".rstrip()
        if one["error"]:
            yield f"    {one['error']}"
        for words in one["drift"]:
            yield f"    drift: {words}"
        for container in one["containers"]:
            health = f" ({container['health']})" if container["health"] else ""
            where = f"{container['component']}/{container['service']}"
            yield f"    {where}  {container['status']}{health}  {container['name']}"
