"""Section 5 of docs/format.md, as far as it needs no engine and no registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from margo_agent.answered import Container
from margo_agent.engine import Engine
from margo_agent.generation import Generation, Part, project_name
from margo_agent.given import GivenNames
from margo_agent.images import Images
from margo_agent.model import pinned, self_contained
from margo_agent.plan import plan
from margo_agent.room import Room
from margo_agent.runtime import LOOK_EVERY_S, Runtime
from margo_oci.compose import Compose, failed
from margo_oci.errors import ApplyError, FormatError
from margo_oci.registry import Access, Registry
from margo_oci.store import Store
from tests.unit.scenes import DIGEST, ID, OTHER_ID, component, deployment, lock, parameter


class Watched(Engine):
    """An engine whose containers are what a test says they are at each look."""

    def __init__(self, looks: Callable[[float], Sequence[Container]], clock: list[float]) -> None:
        self.looks, self.clock = looks, clock

    def ping(self) -> None:
        pass

    def containers(self, deployment: str | None = None) -> Sequence[Container]:
        return [one for one in self.looks(self.clock[0]) if deployment in (None, one.deployment)]

    def projects(self, deployment: str) -> set[str]:
        return {one.project for one in self.containers(deployment)}

    def last_words(self, container: Container) -> str:
        return f"{container.name} says goodbye"


class Noted(Compose):
    """Compose that does nothing but note what it was told."""

    def run(self, arguments: Sequence[str], *, file: Path | None, project: str,
            variables: Mapping[str, str] | None = None, timeout_s: float,
            go_on: Callable[[], None] = lambda: None) -> str:  # fmt: skip
        NOTES.append((arguments[0], project))
        return ""


IMAGE = f"registry.example/web:sha256-{DIGEST[7:]}"
NOTES: list[tuple[str, str]] = []
NO_IMAGES = Images(
    engine=Watched(lambda _: (), [0.0]), registry=lambda: Registry(lambda _: Access()), store=Store(Path("none")),
    room=Room(state_dir=Path("none")), given=GivenNames(Path("none")),
)  # fmt: skip


def part(name: str = "web", *, wait: bool = True, timeout_s: float = 30.0) -> Part:
    return Part(name=name, project=project_name(ID, name), file=Path(f"{name}.json"), images={}, wait=wait,
                timeout_s=timeout_s, variables={})  # fmt: skip


def container(service: str = "web", *, status: str = "running", health: str = "", exit_code: int = 0) -> Container:
    return Container(
        id=service, name=f"{service}-1", deployment=ID, component="web", service=service,
        project=project_name(ID, "web"), status=status, health=health, exit_code=exit_code,
    )  # fmt: skip


def apply(looks: Callable[[float], Sequence[Container]], *parts: Part) -> float:
    """Apply a generation; return how long it took until it was up."""
    NOTES.clear()
    clock = [0.0]

    def sleep(pause_s: float) -> None:
        clock[0] += pause_s

    runtime = Runtime(
        Noted((), {}), Watched(looks, clock), NO_IMAGES, lambda *_: (), lambda: clock[0], sleep, settle_s=0
    )
    runtime.apply(Generation(deployment=ID, revision=DIGEST, name="hello", parts=parts or [part()]))
    return clock[0]


def test_5_1_deployments_are_compared_by_id_and_revision() -> None:
    steps = plan({"same": "1", "old": "1", "gone": "1"}, {"same": "1", "old": "2", "new": "1"}, {})
    assert {step.deployment: step.action for step in steps} == {
        "same": "keep",
        "old": "update",
        "gone": "remove",
        "new": "install",
    }
    assert steps[0].action == "remove"


def test_5_2_each_component_is_a_project_of_its_own() -> None:
    assert project_name(ID, "web") == "web-a3e2f5dc912e494f839552cf3769bc06"
    assert len({project_name(ID, "web"), project_name(ID, "db"), project_name(OTHER_ID, "web")}) == 3


def test_5_2_containers_carry_the_labels_by_which_they_are_found() -> None:
    model = {"services": {name: {"image": "registry.example/web:1"} for name in ("a", "b")}}
    found = pinned(model, lock(), device="edge-17", deployment=ID, component="web")
    assert [one["labels"] for one in found["services"].values()] == [
        {"org.margo.device": "edge-17", "org.margo.deployment": ID, "org.margo.component": "web"}
    ] * 2


def test_5_3_a_parameter_is_a_variable_of_the_components_it_lists() -> None:
    one = deployment(
        deploymentProfile={"type": "compose", "components": [component("web"), component("db")]},
        parameters={
            "a": parameter(True, "ENV.A", "web"),
            "b": parameter(2.50, "B", "web", "db"),
            "c": parameter([1, "x"], "C", "db"),
            "d": parameter(100000.0, "D", "db"),
        },
    )
    assert one.environment("web") == {"A": "true", "B": "2.5"}
    assert one.environment("db") == {"B": "2.5", "C": '[1,"x"]', "D": "100000"}


def test_5_3_nothing_of_the_agents_own_environment_is_seen_and_none_of_it_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    script = tmp_path / "compose"
    script.write_text("#!/bin/sh\nenv\n")
    script.chmod(0o755)
    compose = Compose([str(script)], {"PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///ours"})
    variables = {"SITE": "3", "DOCKER_HOST": "tcp://elsewhere", "PATH": "/elsewhere"}
    lines = compose.run(["up"], file=None, project="p", variables=variables, timeout_s=10).splitlines()
    assert {"SITE=3", "DOCKER_HOST=unix:///ours", "PATH=/usr/bin:/bin"} <= set(lines)
    assert not [line for line in lines if "SECRET_OF_THE_AGENT" in line]


def test_5_5_a_healthy_component_is_up_at_once() -> None:
    assert apply(lambda now_s: [container(health="healthy")]) == 0


def test_5_5_it_is_waited_for_until_every_container_is_healthy() -> None:
    def looks(now_s: float) -> Sequence[Container]:
        return [container("a", health="healthy"), container("b", health="healthy" if now_s > 5 else "starting")]

    assert apply(looks) == pytest.approx(5.1, abs=LOOK_EVERY_S)


def test_5_5_without_a_health_check_it_must_stay_up_for_two_seconds() -> None:
    assert apply(lambda now_s: [container()]) == pytest.approx(2, abs=LOOK_EVERY_S * 1.1)


def test_5_5_who_falls_over_meanwhile_begins_the_two_seconds_anew() -> None:
    def looks(now_s: float) -> Sequence[Container]:
        return [container(status="created" if 1 < now_s < 1.5 else "running")]

    assert apply(looks) == pytest.approx(3.6, abs=LOOK_EVERY_S * 1.1)


def test_5_5_a_container_that_has_done_its_work_is_ready() -> None:
    assert apply(lambda now_s: [container("setup", status="exited"), container(health="healthy")]) == pytest.approx(
        2, abs=LOOK_EVERY_S * 1.1
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (container(status="exited", exit_code=3), "service web exited with 3: web-1 says goodbye"),
        (container(status="dead", exit_code=137), "service web exited with 137: web-1 says goodbye"),
        (container(health="unhealthy"), "service web is unhealthy: web-1 says goodbye"),
        (
            replace(container(health="unhealthy"), check="its health check ended with 1"),
            "service web is unhealthy: its health check ended with 1; web-1 says goodbye",
        ),
        (
            container(status="restarting", exit_code=1),
            "service web exited with 1 and restarts again and again: web-1 says goodbye",
        ),
    ],
)
def test_5_5_a_container_that_broke_is_told_at_once(broken: Container, message: str) -> None:
    with pytest.raises(ApplyError) as refused:
        apply(lambda now_s: [container("other", health="healthy"), broken])
    assert str(refused.value) == f"component web: {message}"


def test_5_5_the_timeout_bounds_the_waiting() -> None:
    with pytest.raises(ApplyError, match=r"^component web: not up after 30 s: web is starting$"):
        apply(lambda now_s: [container(health="starting")])
    with pytest.raises(ApplyError, match=r"^component web: not up after 30 s: web is starting \(its check said so\)$"):
        apply(lambda now_s: [replace(container(health="starting"), check="its check said so")])
    with pytest.raises(ApplyError, match=r"^component web: not up after 5 s: no container came up$"):
        apply(lambda now_s: [], part(timeout_s=5))


def test_5_5_where_compose_waits_for_a_service_what_its_health_check_said_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: Any, **__: Any) -> str:
        raise failed("up", "dependency failed to start: container web-1 is unhealthy")

    monkeypatch.setattr(Noted, "run", refuses)
    db = replace(container("db", health="unhealthy"), check="its health check ended with 7")
    with pytest.raises(ApplyError, match=r"web-1 is unhealthy; service db: its health check ended with 7$") as refused:
        apply(lambda now_s: [db, container()])
    assert refused.value.code == "unhealthy"


def test_5_5_without_wait_nobody_waits() -> None:
    assert apply(lambda now_s: [container(health="starting")], part(wait=False)) == 0


def test_5_5_five_minutes_are_the_timeout_if_none_is_given() -> None:
    (one,) = deployment().components
    assert (one.timeout_s, one.wait) == (300.0, True)


def test_5_5_what_is_left_of_other_components_goes_and_then_components_come_up_in_their_order() -> None:
    stale = replace(container(health="healthy"), project=project_name(ID, "gone"))
    apply(lambda now_s: [container(health="healthy"), stale], part("web"), part("db", wait=False))
    assert [
        ("down", project_name(ID, "gone")),
        ("up", project_name(ID, "web")),
        ("up", project_name(ID, "db")),
    ] == NOTES


def model(**top: Any) -> dict[str, Any]:
    web = {"image": IMAGE, "labels": {}, "configs": [{"source": "app"}], "secrets": [{"source": "key"}]}
    return {
        "services": {"web": web, "db": {"image": IMAGE, "labels": {}}},
        "configs": {"app": {"file": "/c/app.conf"}},
        "secrets": {"key": {"environment": "KEY"}},
        **top,
    }


def labels(value: Mapping[str, Any], variables: Mapping[str, str] | None = None, data: bytes = b"x") -> dict[str, str]:
    found = self_contained(value, variables or {"KEY": "1"}, read=lambda path: data).model
    return {name: service["labels"].get("org.margo.content", "") for name, service in found["services"].items()}


def test_5_7_a_service_changes_with_the_content_of_what_it_uses() -> None:
    before = labels(model())
    assert before["web"].startswith("sha256:")
    for changed in (
        labels(model(), data=b"y"),
        labels(model(), {"KEY": "2"}),
        labels(model(configs={"app": {"content": "inline"}})),
    ):
        assert changed["web"] != before["web"]
    assert labels(model()) == before


def test_5_7_who_uses_nothing_of_it_stays_as_it_is() -> None:
    assert labels(model())["db"] == labels(model(), data=b"y")["db"] == ""


def test_5_7_a_config_that_is_not_there_is_told() -> None:
    def read(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(FormatError, match=r"^/c/app.conf: No such file or directory$"):
        self_contained(model(), {"KEY": "1"}, read=read)
