"""What an engine says of a container, as far as it says it."""

from typing import Any

import pytest

from margo_agent.engine import Container, EngineUnavailable
from margo_agent.model import COMPONENT_LABEL, DEPLOYMENT_LABEL

ANSWER: dict[str, Any] = {
    "Id": "4f5e",
    "Name": "/hello-web-1",
    "State": {"Status": "running", "ExitCode": 0, "Health": {"Status": "starting"}},
    "Config": {"Labels": {DEPLOYMENT_LABEL: "a", COMPONENT_LABEL: "web", "com.docker.compose.service": "web"}},
}


def test_a_container_is_what_its_engine_says() -> None:
    one = Container.of(ANSWER)
    assert (one.name, one.deployment, one.component, one.service) == ("hello-web-1", "a", "web", "web")
    assert (one.status, one.health, one.ready) == ("running", "starting", False)
    assert Container.of({**ANSWER, "Config": {"Labels": None}}).deployment == ""


@pytest.mark.parametrize("name", ["State", "Config"])
@pytest.mark.parametrize("value", [None, "running", []])
def test_an_answer_that_says_nothing_of_a_container_is_the_engines_fault(name: str, value: Any) -> None:
    with pytest.raises(EngineUnavailable, match=f"its answer about container 4f5e has no {name}"):
        Container.of({**ANSWER, name: value})
