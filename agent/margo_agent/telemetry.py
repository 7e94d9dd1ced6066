"""Traces and metrics of a pass over OTLP/HTTP. Loaded when `report.otlp` is set, by processes of passes alone."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from margo_agent.report import DeploymentReport, Report, Timing

TIMEOUT_S = 5.0
NAME = "margo-agent"
_WELL = ("applied", "unchanged", "waiting")


@dataclass(frozen=True)
class Pass:
    """A pass that is over: its report, when it began by both clocks, when it ended, and our containers by status."""

    report: Report
    began_s: float
    began_monotonic_s: float
    ended_monotonic_s: float
    containers: Mapping[str, int]

    def at_ns(self, monotonic_s: float) -> int:
        """Return what time it was, in nanoseconds since 1970."""
        return int((self.began_s + monotonic_s - self.began_monotonic_s) * 1e9)


def send(address: str, done: Pass, *, agent: str, timeout_s: float = TIMEOUT_S) -> str:
    """Send what there is to say of a pass; return "" or why it did not get through."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it is said here, in one line
    resource = Resource.create(
        {"service.name": NAME, "service.version": agent, "service.instance.id": done.report.device}
    )
    exporter = OTLPSpanExporter(endpoint=f"{address}/v1/traces", timeout=timeout_s)
    if exporter.export(spans(done, resource)) is not SpanExportResult.SUCCESS:
        return f"the traces were not taken within {timeout_s:g} s"
    meter = OTLPMetricExporter(endpoint=f"{address}/v1/metrics", timeout=timeout_s)
    if meter.export(metrics(done, resource)) is not MetricExportResult.SUCCESS:
        return f"the metrics were not taken within {timeout_s:g} s"
    return ""


class _Kept(SpanProcessor):
    """Keeps spans that ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep one."""
        self.spans.append(span)


def spans(done: Pass, resource: Resource) -> Sequence[ReadableSpan]:
    """Return the trace of a pass: itself, its steps, and each deployment that was changed."""
    kept, provider = _Kept(), TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(kept)
    tracer = provider.get_tracer(NAME)
    report = done.report
    whole = tracer.start_span(NAME, start_time=done.at_ns(done.began_monotonic_s), attributes=_of_report(report))
    if report.outcome not in _WELL:
        whole.set_status(Status(StatusCode.ERROR, report.message[:1000]))
    steps = {one.step: _span(tracer, done, one, whole) for one in report.timings if not one.deployment}
    for one in report.deployments:
        if one.action != "keep":
            _deployment(tracer, done, one, steps.get("apply", whole))
    whole.end(done.at_ns(done.ended_monotonic_s))
    return kept.spans


def _span(tracer: Tracer, done: Pass, timing: Timing, parent: Span) -> Span:
    span = tracer.start_span(timing.step, context=set_span_in_context(parent), start_time=done.at_ns(timing.begun_s))
    span.end(done.at_ns(timing.ended_s))
    return span


def _deployment(tracer: Tracer, done: Pass, one: DeploymentReport, parent: Span) -> None:
    """Trace one deployment: its own steps where they were timed, else as long as applying took."""
    own = [timing for timing in done.report.timings if timing.deployment == one.id]
    around = own or [timing for timing in done.report.timings if timing.step == "apply"]
    begun_s = min((timing.begun_s for timing in around), default=done.began_monotonic_s)
    ended_s = max((timing.ended_s for timing in around), default=done.ended_monotonic_s)
    attributes = {
        "margo.deployment.id": one.id,
        "margo.deployment.name": one.name,
        "margo.action": one.action,
        "margo.state": one.state,
    }
    span = tracer.start_span(
        f"{one.action} {one.name or one.id}", context=set_span_in_context(parent), start_time=done.at_ns(begun_s),
        attributes=attributes,
    )  # fmt: skip
    if one.error:
        span.set_attribute("margo.error.code", one.code or "other")
        span.set_status(Status(StatusCode.ERROR, one.error[:1000]))
    for timing in own:
        _span(tracer, done, timing, span)
    span.end(done.at_ns(ended_s))


def _of_report(report: Report) -> Mapping[str, str | int]:
    raw: dict[str, str | int] = {
        "margo.outcome": report.outcome,
        "margo.reason": report.reason,
        "margo.reference": report.reference,
        "margo.digest": report.digest,
        "margo.counter": report.counter,
        "margo.requests": report.requests,
        "margo.bytes": report.bytes_in,
    }
    return {key: value for key, value in raw.items() if value}


def metrics(done: Pass, resource: Resource) -> MetricsData:
    """Return the metrics of a pass."""
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], resource=resource, shutdown_on_exit=False).get_meter(NAME)
    report = done.report
    meter.create_counter("margo.agent.passes").add(1, {"outcome": report.outcome})
    meter.create_counter("margo.agent.received", unit="By").add(report.bytes_in)
    meter.create_counter("margo.agent.images").add(report.images_pulled)
    durations = meter.create_histogram("margo.agent.step.duration", unit="s")
    for step, seconds in report.seconds.items():
        durations.record(seconds, {"step": step})
    deployments = meter.create_gauge("margo.agent.deployments")
    for state, count in _counted(report):
        deployments.set(count, {"state": state})
    containers = meter.create_gauge("margo.agent.containers")
    for status, count in done.containers.items():
        containers.set(count, {"status": status})
    found = reader.get_metrics_data()
    assert found is not None  # noqa: S101  (something was recorded)
    return found


def _counted(report: Report) -> Iterator[tuple[str, int]]:
    states = [one.state for one in report.deployments]
    for state in sorted(set(states)):
        yield state, states.count(state)
