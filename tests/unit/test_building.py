"""The parts of one process, built when they are asked for."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from margo_agent.address import EngineUnavailable
from margo_agent.building import Parts
from margo_agent.gate import Gate
from tests.simulators.plant import Plant


def test_a_stop_that_is_asked_for_counts_for_everything_that_is_built(tmp_path: Path) -> None:
    asked = []

    def on_stop() -> Callable[[], None]:
        asked.append("once")
        return lambda: None

    config = replace(Plant(tmp_path).device._config(), engine="tcp://an-address-without-a-port")
    parts = Parts(config, {}, Gate(), on_stop)
    for _ in range(2):  # as when a newer state takes over
        with suppress(EngineUnavailable):
            parts.corrector()
    assert asked == ["once"]
