"""What stands, as the record has it: reported when nothing is new, by a pass and by the loop alike."""

from collections.abc import Sequence

from margo_agent.plan import Step
from margo_agent.record import Record
from margo_agent.report import DeploymentReport, Report


def kept(step: Step, record: Record) -> DeploymentReport:
    """Report a deployment that is left as it is: installed, or failed in just this revision before."""
    installed, failed = record.installed.get(step.deployment), record.failed.get(step.deployment)
    if failed and (step.held or not installed):
        return reported(step, failed.name, failed.components, "failed", failed.words)
    assert installed is not None  # noqa: S101  (only what is recorded is kept)
    return reported(step, installed.name, installed.components, "installed")


def reported(step: Step, name: str, components: Sequence[str], state: str, error: str = "") -> DeploymentReport:
    """Report one deployment, each of its components in the same state."""
    parts = [{"name": component, "state": state} for component in components]
    return DeploymentReport(step.deployment, name, step.action, state, parts, error)


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
    fail_if_any_failed(report, "not tried again until something changes: ")


def fail_if_any_failed(report: Report, note: str = "") -> None:
    """Let the report say `failed` if any of its deployments did."""
    failed = [one for one in report.deployments if one.state == "failed"]
    if failed:
        report.outcome = "failed"
        report.message = note + "; ".join(f"{one.name or one.id}: {one.error}" for one in failed)
