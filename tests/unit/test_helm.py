"""Helm charts are referenced, locked, signed and judged; a device that runs Compose says that it does not take them."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from margo_oci.access import Access
from margo_oci.compose import Compose
from margo_oci.content import EMPTY_JSON
from margo_oci.deployment import Deployment, parse_deployment
from margo_oci.desired_state import Lock, build_layer
from margo_oci.errors import TrustError
from margo_oci.lock import Locker
from margo_oci.manifest import Manifest
from margo_oci.pinned import check_signed, pinned
from margo_oci.registry import Registry
from margo_oci.store import Store
from margo_oci.transfer import Judge
from margo_oci.trust import Policy
from tests.simulators.plant import HOST, Plant
from tests.simulators.registry import SimulatedRegistry
from tests.unit.scenes import OTHER_ID, as_yaml, component, document, key

CHART = Manifest.build("application/vnd.cncf.helm.config.v1+json", [], {"org.opencontainers.image.title": "chart"})


def deployment() -> Deployment:
    """A deployment of one chart."""
    chart = component("chart", repository=f"oci://{HOST}/charts/pump", revision="2.1.0")
    raw = document(OTHER_ID, deploymentProfile={"type": "helm", "components": [chart]})
    raw["metadata"]["name"] = "chart"
    return parse_deployment(as_yaml(raw), what="chart.yaml")


def registry_with_chart(sim: SimulatedRegistry) -> SimulatedRegistry:
    sim.put_blob("charts/pump", EMPTY_JSON)
    sim.put_manifest("charts/pump", "2.1.0", CHART.data)
    return sim


def locked(sim: SimulatedRegistry, folder: Path) -> Lock:
    """Lock the deployment; Compose is not there, and not needed."""

    async def work() -> Lock:
        async with (
            Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry,
            Locker(registry, Store(folder), lambda: Compose(("/nonexistent",), {})) as locker,
        ):
            return (await locker.lock_all({"chart.yaml": deployment()}))[0]

    return asyncio.run(work())


def test_4_1_a_chart_is_locked_by_its_manifest_and_what_is_inside_is_not_known(tmp_path: Path) -> None:
    lock = locked(registry_with_chart(SimulatedRegistry(host=HOST)), tmp_path)
    assert lock == Lock({f"oci://{HOST}/charts/pump:2.1.0": CHART.digest}, {})


def test_4_6_a_chart_that_nobody_signed_is_refused_as_any_component(tmp_path: Path) -> None:
    sim = registry_with_chart(SimulatedRegistry(host=HOST))
    found = pinned({"chart.yaml": (deployment(), locked(sim, tmp_path))})

    async def work() -> None:
        async with Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry:
            judge = Judge(Policy([key().public]), lambda: datetime(2026, 8, 1, tzinfo=UTC))
            await check_signed(registry, found, lambda _: judge)

    with pytest.raises(TrustError, match=r"chart\.yaml: component chart: component registry\.example"):
        asyncio.run(work())


def test_a_device_reports_a_chart_as_unsupported_and_runs_the_rest(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    registry_with_chart(plant.sim)
    lock = Lock({f"oci://{HOST}/charts/pump:2.1.0": CHART.digest}, {})
    plant.publish(build_layer(deployment(), lock), plant.workload("valve", "a"), counter=1)
    report = plant.device.once()
    assert "profile helm is not supported: this device runs Compose deployments" in str(report)
    assert "unsupported-profile" in str(report)
    assert OTHER_ID not in plant.device.record.installed
    assert len(plant.device.record.installed) == 1
