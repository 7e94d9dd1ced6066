"""What this device accepted and what runs, from its record, its outbox and its engine; no registry is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from margo_agent.address import find_engine
from margo_agent.answered import Container
from margo_agent.config import AgentConfig
from margo_agent.engine import Engine
from margo_agent.noticed import NoticedFile
from margo_agent.outbox import Outbox
from margo_agent.record import Record
from margo_agent.room import usage_of
from margo_agent.standing import stale
from margo_agent.summary import Found, summarise
from margo_oci.device_status import DeviceStatus
from margo_oci.errors import ApplyError
from margo_oci.freshness import format_moment
from margo_oci.status import DeploymentStatus


def device_status(
    config: AgentConfig,
    record: Record,
    outbox: Outbox,
    environment: Mapping[str, str],
    now: datetime,
    *,
    agent: str = "",
) -> dict[str, Any]:
    """Return the status as JSON would print it; `engine` says so if the engine cannot be asked.

    `now` is what a pass would take for the time (`Clock.now`).
    """
    containers: Sequence[Container] = ()
    total_bytes, free_bytes = usage_of(config.state_dir)
    found = Found(free_bytes=free_bytes, total_bytes=total_bytes)
    try:
        engine = Engine(find_engine(config.engine, environment))
        containers, answer, (kind, version) = engine.containers(), "ok", engine.version()
        engine.close()
        found = replace(found, engine=kind, engine_version=version)
    except ApplyError as error:
        answer = str(error)
    waiting, mark = outbox.load(), outbox.mark()
    status = summarise(
        config, record, waiting.facts, now=format_moment(now), agent=agent, found=found, stale=stale(record, now),
        last_event=waiting.last, dropped_events=waiting.dropped,
    )  # fmt: skip
    raw = {
        **_of_device(status),
        "engine": answer,
        "engineKind": found.engine or None,
        "engineVersion": found.engine_version or None,
        "disk": {"freeBytes": found.free_bytes, "totalBytes": found.total_bytes},
        "events": {"last": waiting.last, "pending": waiting.pending, "dropped": waiting.dropped},
        "reported": mark.time or None,
    }
    drift = NoticedFile(config.state_dir / "drift.json").load().found
    deployments = [_deployment(one, containers) | {"drift": list(drift.get(one.id, ()))} for one in status.deployments]
    return {**raw, "deployments": deployments}


def _of_device(status: DeviceStatus) -> dict[str, Any]:
    head = {"version": status.head_version, "expires": status.head_expires}
    return {
        "device": status.device,
        "agent": status.agent or None,
        "source": status.source,
        "digest": status.digest or None,
        "counter": status.counter if status.digest else None,
        "scope": status.scope or None,
        "head": head if status.head_version else None,
        "stale": status.stale or None,
        "settled": status.settled,
        "outcome": status.outcome or None,
        "reason": status.reason or None,
        "message": status.message or None,
        "waiting": status.waiting or None,
        "applied": status.applied or None,
    }


def _deployment(one: DeploymentStatus, containers: Sequence[Container]) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "state": one.state,
        "since": one.since or None,
        "adoptedManifestVersion": one.adopted or None,
        "error": one.error.message if one.error else None,
        "code": one.error.code if one.error else None,
        "components": [part.to_dict() for part in one.components],
        "containers": [
            {
                "name": container.name,
                "component": container.component,
                "service": container.service,
                "status": container.status,
                "health": container.health or None,
            }
            for container in containers
            if container.deployment == one.id
        ],
    }


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield the status for people."""
    state = f"counter {status['counter']}  {status['digest']}" if status["digest"] else "no state accepted yet"
    yield f"{status['device']}  {status['source']}  {state}"
    if status["head"]:
        yield f"  head {status['head']['version']}, until {status['head']['expires']}"
    if status["stale"]:
        yield f"  stale: {status['stale']}"
    if status["waiting"]:
        yield f"  waiting: {status['waiting']}"
    elif status["outcome"] not in (None, "applied"):
        reason = f" ({status['reason']})" if status["reason"] else ""
        yield f"  {status['outcome']}{reason}: {status['message']}"
    if status["digest"] and not status["settled"]:
        yield "  not everything of it is applied yet"
    if status["engine"] != "ok":
        yield f"  engine: {status['engine']}"
    for one in status["deployments"]:
        yield f"  {one['state']:<10} {one['name']}  {one['id']}  {one['since'] or ''}".rstrip()
        if one["error"]:
            yield f"    {one['code']}: {one['error']}"
        for words in one["drift"]:
            yield f"    drift: {words}"
        for container in one["containers"]:
            health = f" ({container['health']})" if container["health"] else ""
            where = f"{container['component']}/{container['service']}"
            yield f"    {where}  {container['status']}{health}  {container['name']}"
