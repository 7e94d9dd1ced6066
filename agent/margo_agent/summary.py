"""The status of this device, out of its record and what was noticed: what is printed, written and reported. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from margo_agent.codes import fault_of
from margo_agent.config import AgentConfig
from margo_agent.notice import Facts, undone
from margo_agent.record import Record
from margo_agent.standing import last_head
from margo_oci.device_status import DeviceStatus
from margo_oci.events import Event
from margo_oci.freshness import format_moment
from margo_oci.jsonfields import line, words
from margo_oci.status import COMPONENT_COUNT_LIMIT, ComponentStatus, DeploymentStatus, Fault, State

_NOTHING = Event(kind="outcome")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a look at this machine adds: room on its disk in bytes, and its engine."""

    free_bytes: int = 0
    total_bytes: int = 0
    engine: str = ""
    engine_version: str = ""


def summarise(
    config: AgentConfig,
    record: Record,
    facts: Facts,
    *,
    now: str,
    agent: str,
    found: Found,
    stale: str = "",
    last_event: int = 0,
    dropped_events: int = 0,
) -> DeviceStatus:
    """Return the status at `now`; `stale` says why what runs is, if it is."""
    accepted, head = record.accepted.get(record.current), last_head(record)
    outcome = facts.get(("outcome", ""), _NOTHING)
    waiting, applied = facts.get(("waiting", "")), facts.get(("applied", ""))
    return DeviceStatus(
        device=line(config.device),
        written=now,
        agent=agent,
        source=str(config.source),
        digest=accepted.digest if accepted else "",
        counter=accepted.counter if accepted else 0,
        scope=accepted.scope if accepted else "",
        settled=record.settled,
        head_version=head.version if head else 0,
        head_expires=format_moment(head.expires) if head else "",
        stale=words(stale),
        outcome=outcome.state,
        reason=outcome.reason,
        message=outcome.message,
        waiting=(waiting.message or "held") if waiting and waiting.state == "held" else "",
        applied=applied.time if applied else _last_installed(record),
        heartbeat_s=_heartbeat_s(config),
        deployments=tuple(deployments(record, facts)),
        free_bytes=found.free_bytes,
        total_bytes=found.total_bytes,
        engine=found.engine,
        engine_version=line(found.engine_version),
        last_event=last_event,
        dropped_events=dropped_events,
    )


def deployments(record: Record, facts: Facts) -> Iterator[DeploymentStatus]:
    """Yield every deployment that is there, was begun, or waits, in the order of their ids."""
    waiting = {
        deployment
        for (kind, deployment), event in facts.items()
        if kind == "deployment" and event.state in ("pending", "failed")
    }
    for deployment in sorted({*record.installed, *record.failed, *record.unsure, *waiting}):
        yield _deployment(deployment, record, facts)


def _deployment(deployment: str, record: Record, facts: Facts) -> DeploymentStatus:
    installed, failed = record.installed.get(deployment), record.failed.get(deployment)
    fact, accepted = facts.get(("deployment", deployment)), record.accepted.get(record.current)
    known = installed or failed
    one = DeploymentStatus(
        id=deployment,
        name=line(known.name) if known else fact.name if fact else "",
        state="pending",
        since=fact.time if fact else "",
        adopted=fact.counter if fact else accepted.counter if accepted else 0,
    )
    if record.is_leaving(deployment) and not (fact and fact.state == "failed"):
        return _with(one, "removing", installed.components if installed else ())
    if failed:
        return _failed(one, fault_of(failed.code, failed.words, failed.name), failed.components)
    if fact and fact.state == "failed" and (undone(deployment, facts, record) or not installed):
        fault = Fault.of(fact.code or "other", one.name, fact.message)
        return _failed(one, fault, installed.components if installed else ())
    if deployment in record.unsure:
        return _with(one, "installing", installed.components if installed else ())
    if installed:
        since = _moment(installed.since) or one.since
        return _with(replace(one, since=since), "installed", installed.components)
    return one


def _with(one: DeploymentStatus, state: State, components: Sequence[str]) -> DeploymentStatus:
    """Return it with itself and all its components in one state."""
    return replace(
        one,
        state=state,
        components=tuple(ComponentStatus(line(name), state) for name in components[:COMPONENT_COUNT_LIMIT]),
    )


def _failed(one: DeploymentStatus, fault: Fault, components: Sequence[str]) -> DeploymentStatus:
    """Return it failed: the component to blame, or all of them where nobody says which."""
    components = [line(name) for name in components[:COMPONENT_COUNT_LIMIT]]
    blamed = fault.source if fault.source in components else ""
    parts = tuple(
        ComponentStatus(name, "failed", fault if blamed else None) if blamed in ("", name) else _not_begun(name)
        for name in components
    )
    return replace(one, state="failed", components=parts, error=replace(fault, source=one.name))


def _not_begun(component: str) -> ComponentStatus:
    return ComponentStatus(component, "pending")


def _heartbeat_s(config: AgentConfig) -> int:
    """Beside a state only news is reported: many registries keep for ever what refers to something."""
    beats = config.report.registry and config.report.form == "tag"
    return int(config.report.heartbeat_s) if beats else 0


def _last_installed(record: Record) -> str:
    return max((_moment(one.since) for one in record.installed.values()), default="")


def _moment(text: str) -> str:
    """Return a moment of the record as reports have it; "" if it is none."""
    try:
        return format_moment(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return ""
