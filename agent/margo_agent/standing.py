"""What stands, as the record has it: reported when nothing is new, by a pass and by the loop alike."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from margo_agent.plan import Step
from margo_agent.record import Record
from margo_agent.report import DeploymentReport, Report
from margo_oci.errors import ApplyError, TrustError
from margo_oci.freshness import Freshness, SeenHead, format_moment, parse_moment

ROOT_LOOK_EVERY = timedelta(days=1)


def kept(step: Step, record: Record) -> DeploymentReport:
    """Report a deployment that is left as it is: installed, or failed in just this revision before."""
    installed, failed = record.installed.get(step.deployment), record.failed.get(step.deployment)
    if failed and (step.held or not installed):
        state = "pending" if failed.waits_for else "failed"
        return reported(step, failed.name, failed.components, state, failed.words, failed.code)
    assert installed is not None  # noqa: S101  (only what is recorded is kept)
    return reported(step, installed.name, installed.components, "installed")


def reported(
    step: Step, name: str, components: Sequence[str], state: str, error: ApplyError | str | None = None, code: str = ""
) -> DeploymentReport:
    """Report one deployment, each of its components in the same state; of an error in words, say its `code`."""
    parts = [{"name": component, "state": state} for component in components]
    code = error.code if isinstance(error, ApplyError) else code
    return DeploymentReport(step.deployment, name, step.action, state, parts, str(error or ""), code)


def name_of(deployment: str, record: Record) -> str:
    """Return what the record calls a deployment."""
    known = record.installed.get(deployment) or record.failed.get(deployment)
    return known.name if known else ""


def repeat(record: Record, report: Report) -> None:
    """Nothing is new: report what is, a failure that stands included."""
    accepted = record.accepted[record.current]
    report.digest, report.counter, report.scope = accepted.digest, accepted.counter, accepted.scope
    names = sorted({**record.installed, **record.failed})
    report.deployments = [kept(Step("keep", name, held=name in record.failed), record) for name in names]
    if record.waiting:
        report.outcome, report.message = "waiting", record.waiting
    fail_if_any_failed(report, "not tried again until something changes: ")


def check_head(record: Record, report: Report, now: datetime, freshness: Freshness) -> None:
    """Hold the head that was accepted last against the time: whatever a look brought, what runs may be stale (10.11).

    With `enforce` the pass counts as refused, by the name of what may be behind it; what runs goes on either way.
    """
    head = last_head(record)
    if head is None:
        return
    report.head_version, report.head_expires = head.version, format_moment(head.expires)
    try:
        head.check_fresh(now)
    except TrustError as error:
        report.stale = str(error)
        if freshness == "enforce":
            report.outcome, report.reason, report.message = "refused", error.reason, str(error)


def last_head(record: Record) -> SeenHead | None:
    """Return the head that was accepted last for what runs."""
    head = record.accepted[record.current].head if record.current in record.accepted else None
    return head.seen if head else None


def stale(record: Record, now: datetime) -> str:
    """Return why what runs is stale, in the words of a pass; "" if it is not, or no heads are asked for."""
    report = Report("", "")
    check_head(record, report, now, "warn")
    return report.stale


def look_for_roots_is_due(record: Record, now: datetime, *, every: timedelta = ROOT_LOOK_EVERY) -> bool:
    """Tell whether newer roots are to be looked for: a key that was taken away must not count for long, even if its
    head is still there and nothing else is new.
    """
    if record.root is None or not record.root.looked:
        return True
    looked = parse_moment(record.root.looked, at="record: root.looked")
    return not timedelta(0) <= now - looked < every


def fail_if_any_failed(report: Report, note: str = "") -> None:
    """Let the report say `failed` if any of its deployments did."""
    failed = [one for one in report.deployments if one.state == "failed"]
    if failed:
        report.outcome = "failed"
        report.message = note + "; ".join(f"{one.name or one.id}: {one.error}" for one in failed)
