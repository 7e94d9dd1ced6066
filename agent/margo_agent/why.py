"""Why a state or a deployment is not applied: the rule that holds it back, and what to do. Pure rules."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from margo_agent.last import Last
from margo_agent.notnow import NotNow
from margo_agent.reasons import REASONS
from margo_agent.record import Failure, Record
from margo_agent.standing import name_of, stale
from margo_oci.errors import FormatError

STATE = "state"
_TODO = {
    "unsupported-profile": "publish it for a device that runs this profile, and take it out of this device's state"
}
_SETTLED = ("installed", "removed", "failed")  # of a deployment in a report: what is said of it elsewhere
_BACKOFF = "the agent looks again by itself, later after each failure; margo-agent doctor says what is wrong"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that holds something back. `element` is `state` or a deployment's id; `rule` stands in format.md."""

    element: str
    name: str = ""
    category: str
    cause: str
    rule: str = ""
    todo: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {key: value or None for key, value in asdict(self).items()}

    @property
    def lines(self) -> Sequence[str]:
        """For people."""
        rule = f" (format {self.rule})" if self.rule else ""
        return (f"{self.name or self.element}: {self.category}{rule}: {self.cause}", f"  next: {self.todo}")


def why(
    record: Record, last: Last | None, waiting: Sequence[NotNow], now: datetime, *, running: bool, busy: bool = False
) -> Sequence[Finding]:
    """Return everything that holds back; nothing if all that is known is applied and the agent runs.

    With `busy` it is in the middle of a look or a pass.
    """
    found = [] if running else [_NOT_RUNNING]
    found += _of_last(last) if last else [_NEVER] if not record.current else []
    found += [_now_not(one) for one in waiting]
    if words := stale(record, now):
        found.append(_refused("freeze", words))
    found += _of_deployments(record, last, busy=busy)
    if record.current and not record.settled and not found:
        found.append(_UNSETTLED)
    return _once(found)


_NOT_RUNNING = Finding(
    element=STATE, category="not running", cause="no agent runs here, so nobody looks",
    todo="start it (systemctl start margo-agent), or do one pass with margo-agent once",
)  # fmt: skip
_NEVER = Finding(
    element=STATE, category="no state yet", cause="nothing was accepted since this device was provisioned",
    todo="margo-agent look --wait says what comes of a look",
)  # fmt: skip
_UNSETTLED = Finding(
    element=STATE, category="under way", cause="not everything of the accepted state is applied yet",
    todo="wait for the pass under way, or margo-agent look --wait",
)  # fmt: skip


def _of_last(last: Last) -> Iterator[Finding]:
    result, since = last.result, f"since {last.since}: "
    message = str(result.get("message", ""))
    match result.get("outcome"):
        case "refused":
            yield _refused(str(result.get("reason", "")), since + message)
        case "unreachable":
            yield Finding(element=STATE, category="unreachable", cause=since + message, todo=_BACKOFF)
        case "waiting":
            todo = "it is applied as soon as nothing below says otherwise; margo-agent look --wait tries now"
            yield Finding(element=STATE, category="waiting", cause=since + message, todo=todo)
        case "failed" if not _failed_in(result):
            todo = "mend that; the next pass tries again; margo-agent doctor looks at engine and disk"
            yield Finding(element=STATE, category="failed", cause=since + message, todo=todo)


def _failed_in(result: Mapping[str, Any]) -> bool:
    return any(one.get("state") == "failed" for one in result.get("deployments", ()))


def _refused(reason: str, cause: str) -> Finding:
    known = REASONS.get(reason)
    todo = known.todo if known else "see the message"
    return Finding(
        element=STATE, category=f"refused, {reason}", cause=cause, rule=known.rule if known else "", todo=todo
    )


def _now_not(one: NotNow) -> Finding:
    return Finding(element=STATE, category=f"waiting, {one.what}", cause=one.words, todo=one.todo)


def _of_deployments(record: Record, last: Last | None, *, busy: bool) -> Iterator[Finding]:
    for name, failed in sorted(record.failed.items()):
        if failed.waits_for:
            yield _waits(name, failed, record)
            continue
        kept = "the last good revision runs" if name in record.installed else "nothing of it runs"
        cause = f"revision {failed.revision[:19]} failed and is not tried again; {kept}: {failed.words}"
        todo = _TODO.get(failed.code, "mend the deployment and publish it again; another revision is tried at once")
        yield Finding(element=name, name=failed.name, category="failed", cause=cause, rule="5.6", todo=todo)
    for name in sorted(set(record.unsure) - set(record.failed)):
        cause = "a step was begun and nobody knows how it ended: the power went, or the engine"
        todo = "the next pass does it again; margo-agent doctor looks at the engine"
        if busy:
            cause, todo = "it is applied just now, or waits for its health", "wait for the pass under way"
            yield Finding(element=name, name=name_of(name, record), category="under way", cause=cause, todo=todo)
            continue
        yield Finding(element=name, name=name_of(name, record), category="unsure", cause=cause, rule="5.6", todo=todo)
    for one in last.result.get("deployments", ()) if last else ():
        if one.get("state") not in _SETTLED:
            cause = str(one.get("error") or f"it is {one.get('state')}")
            yield Finding(
                element=str(one.get("id")), name=str(one.get("name", "")), category=str(one.get("state")),
                cause=cause, todo="it is looked at again in the next pass",
            )  # fmt: skip


def _waits(name: str, failed: Failure, record: Record) -> Finding:
    """It is not to blame itself, and is tried as soon as what it waits for is up."""
    other = name_of(failed.waits_for, record)
    todo = f"margo-agent why {other} says what holds that back" if other else "mend dependsOn, and publish it again"
    return Finding(element=name, name=failed.name, category="pending", cause=failed.words, rule="5.8", todo=todo)


def _once(found: Sequence[Finding]) -> Sequence[Finding]:
    """Return each category of an element once: a refusal as stale is told by the last report, too."""
    seen: dict[tuple[str, str], Finding] = {}
    for one in found:
        seen.setdefault((one.element, one.category), one)
    return tuple(seen.values())


def about(found: Sequence[Finding], deployment: str, record: Record, last: Last | None) -> Sequence[Finding]:
    """Return what holds one deployment back, by its id or name; what holds the state back holds it back too.

    Raises FormatError for one that nobody knows.
    """
    known = {name: name_of(name, record) for name in (*record.installed, *record.failed, *record.unsure)}
    for one in last.result.get("deployments", ()) if last else ():
        known.setdefault(str(one.get("id")), str(one.get("name", "")))
    ids = {name for name, called in known.items() if deployment in (name, called)}
    if not ids:
        names = ", ".join(sorted(called or name for name, called in known.items())) or "none"
        raise FormatError(f"deployment {deployment!r:.80} is not known here (known: {names}): is it in the state?")
    return [one for one in found if one.element == STATE or one.element in ids]
