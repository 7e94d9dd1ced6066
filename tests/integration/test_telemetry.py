"""Traces and metrics of passes, as a collector decodes them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from margo_agent.report import DeploymentReport, Report
from margo_agent.telemetry import Pass, send
from tests.integration.site import Site, web
from tests.parts import images
from tests.parts.collector import Collector, collecting
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry
from tests.simulators.plant import running_plant


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on this machine."""
    with collecting() as found:
        yield found


def passed(report: Report) -> Pass:
    """A pass that took ten seconds."""
    return Pass(report, 1_800_000_000.0, 100.0, 110.0, {"running": 2})


def test_a_pass_is_a_trace_with_a_span_for_each_step(tmp_path: Path, collector: Collector) -> None:
    plant = running_plant(tmp_path)
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert send(collector.address, passed(plant.device.once()), agent="0.1.0") == ""
    by_name = {span.name: span for span in collector.spans}
    assert set(by_name) == {"margo-agent", "resolve", "verify", "fetch", "prepare", "apply", "update pump"}
    whole = by_name["margo-agent"]
    assert whole.start_time_unix_nano == 1_800_000_000 * 10**9
    assert whole.end_time_unix_nano - whole.start_time_unix_nano == 10 * 10**9
    assert by_name["update pump"].parent_span_id == by_name["apply"].span_id
    assert {span.trace_id for span in collector.spans} == {whole.trace_id}
    attributes = {one.key: one.value.string_value or one.value.int_value for one in whole.attributes}
    assert (attributes["margo.outcome"], attributes["margo.counter"]) == ("applied", 2)
    (resource,) = collector.traces[0].resource_spans
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert (named["service.name"], named["service.instance.id"]) == ("margo-agent", "edge-17")


def test_a_failure_is_an_error_with_its_code(collector: Collector) -> None:
    report = Report("r", "edge-17", outcome="failed", message="pump: broken")
    times = iter([101.0, 102.0, 103.0, 104.0])
    report.monotonic_s = lambda: next(times)
    with report.timed("apply"), report.timed("health", deployment="1"):
        pass
    report.deployments.append(
        DeploymentReport("1", "pump", "update", "failed", error="service web is unhealthy", code="unhealthy")
    )
    assert send(collector.address, passed(report), agent="0.1.0") == ""
    by_name = {span.name: span for span in collector.spans}
    assert by_name["margo-agent"].status.code == by_name["update pump"].status.code == 2
    codes = {one.key: one.value.string_value for one in by_name["update pump"].attributes}
    assert codes["margo.error.code"] == "unhealthy"
    assert by_name["health"].parent_span_id == by_name["update pump"].span_id
    assert by_name["update pump"].start_time_unix_nano == by_name["health"].start_time_unix_nano
    assert report.seconds == {"apply": 3.0}


def test_what_a_pass_cost_is_measured(collector: Collector) -> None:
    report = Report("r", "edge-17", outcome="applied", bytes_in=2048, seconds={"fetch": 1.5})
    report.deployments.append(DeploymentReport("1", "pump", "update", "installed"))
    assert send(collector.address, passed(report), agent="0.1.0") == ""
    found = collector.measured
    (passes,) = found["margo.agent.passes"].sum.data_points
    assert (passes.as_int, passes.attributes[0].value.string_value) == (1, "applied")
    assert found["margo.agent.received"].sum.data_points[0].as_int == 2048
    assert found["margo.agent.step.duration"].histogram.data_points[0].sum == 1.5
    assert found["margo.agent.deployments"].gauge.data_points[0].as_int == 1
    assert found["margo.agent.containers"].gauge.data_points[0].as_int == 2


def test_a_collector_that_refuses_or_is_away_is_said_in_one_line(
    collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    report = Report("r", "edge-17")
    collector.status = 400
    assert "were not taken" in send(collector.address, passed(report), agent="0.1.0", timeout_s=1)
    assert "were not taken" in send("http://127.0.0.1:9", passed(report), agent="0.1.0", timeout_s=1)
    assert capfd.readouterr() == ("", "")


def test_the_agent_sends_what_a_pass_did_and_goes_on_without_a_collector(
    tmp_path: Path, plain_registry: LocalRegistry, engine: Engine, images: Images, collector: Collector
) -> None:
    site = Site(tmp_path, plain_registry, engine)
    images.push("images/web", "1.0", recipe())
    site.component("hello", "1.0.0", web(f"{plain_registry.host}/images/web:1.0", 18152))
    site.deployment("hello", GREETING="hello")
    site.push()
    try:
        site.configure(report=f"{{otlp: '{collector.address}'}}")
        assert site.agent("once")["outcome"] == "applied"
        assert "install hello" in {span.name for span in collector.spans}
        containers = collector.measured["margo.agent.containers"].gauge.data_points
        assert [one.as_int for one in containers] == [1]
        site.configure(report="{otlp: 'http://127.0.0.1:9'}")
        done = site.run("margo_agent", "once", "--config", "agent.yaml")
        assert (done.code, done.err.count("report.otlp:")) == (0, 1)
    finally:
        site.take_down()


def recipe() -> images.Recipe:
    """The same image in every test."""
    return images.web()
