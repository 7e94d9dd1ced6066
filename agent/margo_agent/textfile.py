"""Metrics in the text format of Prometheus, for the textfile collector of node_exporter. No I/O.

Source: Prometheus, "Exposition formats", version 0.0.4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from margo_oci.device_status import DeviceStatus
from margo_oci.freshness import parse_moment
from margo_oci.status import SEVERITY

OUTCOMES = ("applied", "refused", "failed", "unreachable", "waiting")


@dataclass
class Counts:
    """What was counted since the agent started."""

    looks: int = 0
    requests: int = 0
    bytes_in: int = 0
    images: int = 0
    reports: int = 0
    reports_failed: int = 0


@dataclass(frozen=True)
class _Metric:
    name: str
    kind: str
    help: str

    def lines(self, samples: Mapping[str, float]) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for labels, value in samples.items():
            yield f"{self.name}{labels} {value:.15g}"


def exposition(status: DeviceStatus, counts: Counts, *, pending: int) -> str:
    """Return all metrics; `pending` events are not reported yet."""
    lines: list[str] = []
    for metric, samples in _metrics(status, counts, pending):
        lines += metric.lines(samples)
    return "\n".join(lines) + "\n"


def _metrics(status: DeviceStatus, counts: Counts, pending: int) -> Iterator[tuple[_Metric, Mapping[str, float]]]:
    def gauge(name: str, text: str, value: float) -> tuple[_Metric, Mapping[str, float]]:
        return _Metric(f"margo_agent_{name}", "gauge", text), {"": value}

    def counter(name: str, text: str, value: float) -> tuple[_Metric, Mapping[str, float]]:
        return _Metric(f"margo_agent_{name}_total", "counter", text), {"": value}

    info = labels(device=status.device, version=status.agent, scope=status.scope, digest=status.digest)
    yield _Metric("margo_agent_info", "gauge", "The device and the state that it accepted last."), {info: 1}
    yield gauge("counter", "Counter of the state that was accepted last.", status.counter)
    yield gauge("settled", "Whether nothing of that state is left to do.", status.settled)
    yield gauge("stale", "Whether the head expired: newer states may be held back.", bool(status.stale))
    yield gauge("waiting", "Whether a state is prepared and waits to be applied.", bool(status.waiting))
    if status.head_expires:
        yield gauge("head_expires_timestamp_seconds", "When the head expires.", _seconds(status.head_expires))
    if status.applied:
        yield gauge("applied_timestamp_seconds", "When a state was last applied whole.", _seconds(status.applied))
    yield gauge("written_timestamp_seconds", "When this file was written.", _seconds(status.written))
    yield gauge("disk_free_bytes", "Room on the disk of stateDir.", status.free_bytes)
    outcomes = {labels(outcome=one): float(status.outcome == one) for one in OUTCOMES}
    yield _Metric("margo_agent_outcome", "gauge", "How the last look or pass ended."), outcomes
    states = {
        labels(state=state): float(sum(one.state == state for one in status.deployments)) for state in sorted(SEVERITY)
    }
    yield _Metric("margo_agent_deployments", "gauge", "Deployments in each state."), states
    yield gauge("events_pending", "Events that no registry has yet.", pending)
    yield counter("events_dropped", "Events that were dropped unreported.", status.dropped_events)
    yield counter("looks", "Looks at the registry, with those that led to a pass.", counts.looks)
    yield counter("requests", "Requests to registries.", counts.requests)
    yield counter(
        "received_bytes", "Bytes of bodies from registries, without images that the engine pulled.", counts.bytes_in
    )
    yield counter("images", "Images that were fetched.", counts.images)
    yield counter("reports", "Reports that a registry accepted.", counts.reports)
    yield counter("reports_failed", "Reports that could not be pushed.", counts.reports_failed)


def labels(**values: str) -> str:
    """Return labels as they stand behind a name."""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds(moment: str) -> float:
    return parse_moment(moment, at="moment").timestamp()
