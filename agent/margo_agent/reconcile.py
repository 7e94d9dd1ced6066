"""One pass of the agent, and what becomes of every failure.

Whatever goes wrong while gathering leaves what runs untouched; whatever goes wrong while applying puts the
last good version of that workload back. A 404 is never a reason to remove anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

from margo_agent.applying import Applier
from margo_agent.gather import Desired, Gatherer
from margo_agent.interrupted import Superseded
from margo_agent.preview import Preview
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_agent.standing import fail_if_any_failed, repeat
from margo_oci.errors import ApplyError, FormatError, RegistryError, TrustError, disk_words


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """What a pass needs, built in main.py. The engine is only asked for when something is new."""

    gatherer: Gatherer
    record_file: RecordFile
    applier: Callable[[], Applier]
    preview: Callable[[], Preview]

    def once(self, report: Report, *, offered: bytes = b"") -> Report:
        """Resolve, verify, fetch and apply; `offered` is a manifest that was just received from the source."""
        record = self.record_file.load()
        return self._ending(report, lambda: self._once(record, report, offered))

    def plan(self, report: Report) -> Report:
        """Resolve, verify, fetch, and say what applying would do."""
        report.planned = True
        record = self.record_file.load()
        return self._ending(report, lambda: self._plan(record, report))

    def restore(self, report: Report) -> Report:
        """Bring up what the record says is installed; no registry is asked."""
        record = self.record_file.load()
        return self._ending(report, lambda: self._restore(record, report))

    def _restore(self, record: Record, report: Report) -> None:
        if record.installed or record.before is not None:
            self.applier().restore(report)
            fail_if_any_failed(report)

    def _once(self, record: Record, report: Report, offered: bytes) -> None:
        before = record
        while True:
            desired = self._gather(record, report, offered)
            if desired is None:
                repeat(self.record_file.load(), report)
                return
            try:
                self.applier().apply(desired, report)
                break
            except Superseded:  # what was begun for the older state is done anew for this one
                report.deployments.clear()
                record, offered = self.record_file.load(), b""
        if report.outcome != "waiting":
            kept = all(one.action == "keep" for one in report.deployments)
            report.outcome = "unchanged" if kept and before.is_done(report.digest, report.counter) else "applied"
        fail_if_any_failed(report)

    def _gather(self, record: Record, report: Report, offered: bytes) -> Desired | None:
        """Gather from the registry; what was prepared before and waits is there without one."""
        try:
            return self.gatherer.gather(record, report, accept=True, offered=offered)
        except RegistryError as error:
            kept = self.gatherer.kept(record, report)
            if kept is None:
                raise
            report.message = str(error)
            return kept

    def _plan(self, record: Record, report: Report) -> None:
        desired: Desired | None = self.gatherer.gather(record, report, accept=False)
        if desired is None:
            repeat(record, report)
            return
        self.preview().show(desired, record, report)
        changes = any(one.action != "keep" for one in report.deployments)
        report.outcome = "applied" if changes else "unchanged"

    def _ending(self, report: Report, work: Callable[[], None]) -> Report:
        try:
            work()
        except TrustError as error:
            report.outcome, report.reason, report.message = "refused", error.reason, str(error)
        except FormatError as error:
            report.outcome, report.reason, report.message = "refused", "malformed", str(error)
        except RegistryError as error:
            report.outcome, report.message, report.retry_after_s = (
                "unreachable",
                str(error),
                error.retry_after_s,
            )
        except ApplyError as error:
            report.outcome, report.message = "failed", str(error)
        except OSError as error:  # a full disk, a read-only one: nothing is lost, and the next pass tries again
            report.outcome, report.message = "failed", disk_words(error, "stateDir")
        return report
