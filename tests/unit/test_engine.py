"""What an engine says of a container, as far as it says it."""

from typing import Any

import docker
import pytest
import requests
from requests.adapters import BaseAdapter

from margo_agent.address import EngineUnavailable
from margo_agent.answered import Container
from margo_agent.engine import Engine
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


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (None, ""), ("rubbish", ""), ([], ""), ([None], ""), ([{"ExitCode": 0, "Output": "fine"}], ""),
        ([{"ExitCode": 1, "Output": "old"}, {"ExitCode": 0}], ""), ([{"ExitCode": "1"}], ""),
        ([{"ExitCode": 3}], "its health check ended with 3"),
        ([{"ExitCode": 1, "Output": "off\x1b[31m\nnow\n"}], "its health check ended with 1 and said 'off [31m now'"),
        ([{"ExitCode": 1, "Output": "x" * 5000 + "end"}], f"its health check ended with 1 and said '{'x' * 197}end'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Health", "Healthcheck"])
def test_how_a_health_check_failed_is_told_in_one_short_line(name: str, log: Any, told: str) -> None:
    state = {"Status": "running", name: {"Status": "unhealthy", "Log": log}}
    assert Container.of({**ANSWER, "State": state}).check == told


@pytest.mark.parametrize("name", ["State", "Config"])
@pytest.mark.parametrize("value", [None, "running", []])
def test_an_answer_that_says_nothing_of_a_container_is_the_engines_fault(name: str, value: Any) -> None:
    with pytest.raises(EngineUnavailable, match=f"its answer about container 4f5e has no {name}"):
        Container.of({**ANSWER, name: value})


class Answering(BaseAdapter):
    """An engine that gives one answer to everything."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__()
        self.status, self.body = status, body

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """Answer without a network."""
        answer = requests.Response()
        answer.status_code, answer._content, answer.url = self.status, self.body, str(request.url)
        answer.headers["Content-Type"] = "application/json"
        return answer

    def close(self) -> None:
        """Nothing to let go of."""


def engine_that_answers(status: int, body: bytes) -> Engine:
    engine = Engine.__new__(Engine)
    engine.address = "http://engine"
    engine.client = docker.DockerClient(base_url="tcp://engine:2375", version="1.41")
    engine.client.api.mount("http://", Answering(status, body))
    return engine


def test_a_logging_driver_that_keeps_nothing_does_not_hide_that_a_container_failed() -> None:
    refusing = engine_that_answers(501, b'{"message": "configured logging driver does not support reading"}')
    assert refusing.last_words(Container.of(ANSWER)) == ""
