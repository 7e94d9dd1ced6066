"""What is news: the record and a pass's result, held against what was known before, make events. No I/O, no clock."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from margo_agent.codes import fault_of
from margo_agent.record import Record
from margo_agent.standing import name_of
from margo_oci.events import Event
from margo_oci.jsonfields import line, words
from margo_oci.status import State

Facts = Mapping[tuple[str, str], Event]  # by `Event.fact`: the newest event of each kind, and of each deployment
_BEGINNING = {
    "stale": Event(kind="stale", state="fresh"),
    "waiting": Event(kind="waiting", state="resumed"),
}  # what is so without an event


def news(facts: Facts, record: Record, result: Mapping[str, Any]) -> Sequence[Event]:
    """Return what changed since `facts`, without numbers and times, in the order in which it is to be told."""
    found = [*_of_state(record, result), *_of_pass(result), *_of_deployments(facts, record, result)]
    return [one for one in found if not one.says_as(facts.get(one.fact) or _BEGINNING.get(one.kind))]


def news_under_way(facts: Facts, record: Record) -> Sequence[Event]:
    """Return what changed while a pass is under way: only what is certain before it says how it ended."""
    new = [one for one in record.unsure
           if record.is_leaving(one) or not (one in record.installed or one in record.failed)]  # fmt: skip
    found = [*_accepted(record), *(_deployment(one, facts, record) for one in sorted(new))]
    return [one for one in found if not one.says_as(facts.get(one.fact))]


def _accepted(record: Record) -> Iterator[Event]:
    if record.digest:
        yield Event(kind="accepted", digest=record.digest, counter=record.accepted[record.current].counter)


def _of_state(record: Record, result: Mapping[str, Any]) -> Iterator[Event]:
    yield from _accepted(record)
    if record.digest and record.settled and result["outcome"] in ("applied", "unchanged"):
        yield replace(next(_accepted(record)), kind="applied")


def _of_pass(result: Mapping[str, Any]) -> Iterator[Event]:
    outcome, message = str(result["outcome"]), words(result.get("message"))
    waiting = outcome == "waiting"
    # That nothing is new any more is no news: "applied" says both.
    state = "applied" if outcome == "unchanged" else outcome
    yield Event(kind="outcome", state=state, reason=line(result.get("reason") or ""), message=message)
    yield Event(kind="waiting", state="held" if waiting else "resumed", message=message if waiting else "")
    stale = words(result.get("stale"))
    yield Event(kind="stale", state="stale" if stale else "fresh", message=stale)


def _of_deployments(facts: Facts, record: Record, result: Mapping[str, Any]) -> Iterator[Event]:
    told = {str(one.get("id")): one for one in result.get("deployments", ()) if one.get("action") != "keep"}
    known = {*record.installed, *record.failed, *record.unsure}
    for deployment in sorted(known):
        one = told.get(deployment, {})
        if one.get("state") == "failed" and deployment not in record.failed:
            yield _told(deployment, one, facts)  # not remembered, as the next pass tries it again
        elif not undone(deployment, facts, record):
            yield _deployment(deployment, facts, record)
    for deployment, one in sorted(told.items()):
        if deployment not in known and one.get("state") in ("pending", "failed"):
            yield _told(deployment, one, facts)
    there = known | {deployment for deployment, one in told.items() if one.get("state") != "removed"}
    for deployment, before in sorted(_gone(facts, there, result)):
        adopted = _adopted(facts, record, deployment, begun=True)
        yield Event(kind="deployment", deployment=deployment, name=before.name, state="removed", counter=adopted)


def undone(deployment: str, facts: Facts, record: Record) -> bool:
    """Tell whether a step failed in a way that is not remembered, and was not tried again since."""
    before = facts.get(("deployment", deployment))
    failed = before is not None and before.state == "failed"
    return failed and not record.settled and deployment not in record.failed


def _gone(facts: Facts, known: Collection[str], result: Mapping[str, Any]) -> Iterator[tuple[str, Event]]:
    # A result that says nothing of deployments leaves open what becomes of one that is not there yet.
    silent = result["outcome"] not in ("applied", "unchanged", "failed")
    for (kind, deployment), before in facts.items():
        waits = before.state in ("pending", "failed") and silent
        if kind == "deployment" and deployment not in known and before.state != "removed" and not waits:
            yield deployment, before


def _deployment(deployment: str, facts: Facts, record: Record) -> Event:
    failed = None if record.is_leaving(deployment) else record.failed.get(deployment)
    begun = record.settled or deployment in (*record.unsure, *record.failed)
    event = Event(
        kind="deployment",
        deployment=deployment,
        name=line(name_of(deployment, record)),
        state="failed" if failed else _running(deployment, record),
        counter=_adopted(facts, record, deployment, begun=begun),
    )
    if not failed:
        return event
    fault = fault_of(failed.code, failed.words, failed.name)
    return replace(event, code=fault.code, message=fault.message)


def _running(deployment: str, record: Record) -> State:
    if deployment not in record.unsure:
        return "installed"
    return "removing" if record.is_leaving(deployment) else "installing"


def _told(deployment: str, one: Mapping[str, Any], facts: Facts) -> Event:
    """A deployment that the record does not have yet: it waits, or could not even be begun."""
    name, state = str(one.get("name") or ""), str(one["state"])
    before = facts.get(("deployment", deployment))
    event = Event(
        kind="deployment", deployment=deployment, name=line(name), state=state, counter=before.counter if before else 0
    )
    if not one.get("error"):
        return event
    fault = fault_of(str(one.get("code") or ""), str(one["error"]), name)
    return replace(event, code=fault.code, message=fault.message)


def _adopted(facts: Facts, record: Record, deployment: str, *, begun: bool) -> int:
    """Return the counter of the newest state that was begun to apply for a deployment."""
    before = facts.get(("deployment", deployment))
    counter = record.accepted[record.current].counter if record.current in record.accepted else 0
    return counter if begun or before is None or not before.counter else before.counter
