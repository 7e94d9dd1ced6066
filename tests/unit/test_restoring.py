"""What runs is left alone when it is restored, also by an engine on which Compose would replace it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.answered import Container, _says_names
from margo_agent.generation import Generation
from margo_agent.runtime import Runtime
from tests.unit.scenes import DIGEST, ID
from tests.unit.test_format_rules_device import NO_IMAGES, Noted, Watched, container, part


class Hashing(Noted):
    """Compose that says what the services of a file would be made from."""

    def hashes(self, file: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, str]:
        return {"web": "a", "db": "b"}

    def run(
        self,
        arguments: Sequence[str],
        *,
        file: Path | None,
        project: str,
        variables: Mapping[str, str] | None = None,
        timeout_s: float,
        go_on: Callable[[], None] = lambda: None,
    ) -> str:
        """Note the arguments."""
        TOLD[:] = [arguments]
        return ""


TOLD: list[Sequence[str]] = []


def standing(service: str, model_hash: str, **more: object) -> Container:
    """A container on an engine that says a network's name where its id is expected."""
    return replace(container(service), **{"model_hash": model_hash, "always_replaced": True, **more})  # type: ignore[arg-type]


def told(*there: Container) -> Sequence[str]:
    """Apply a generation; return what Compose is told besides the usual."""
    looks: Callable[[float], Sequence[Container]] = lambda _: there  # noqa: E731
    compose = Hashing((), {})
    runtime = Runtime(compose, Watched(looks, [0.0]), NO_IMAGES, lambda *_: (), lambda: 0.0, lambda pause_s: None)
    runtime.apply(Generation(deployment=ID, revision=DIGEST, name="x", parts=[part(wait=False)]))
    (arguments,) = TOLD
    return arguments[arguments.index("--remove-orphans") + 1 :]


def test_what_runs_as_it_should_is_left_alone_by_an_engine_on_which_compose_would_replace_it() -> None:
    assert told(standing("web", "a"), standing("db", "b")) == ["--no-recreate"]


@pytest.mark.parametrize(
    "web",
    [
        standing("web", "another"),
        standing("web", "a", status="created"),
        standing("web", "a", status="exited", exit_code=1),
    ],
)
def test_there_only_what_changed_or_fell_over_is_brought_up(web: Container) -> None:
    assert told(web, standing("db", "b")) == ["--no-deps", "web"]


@pytest.mark.parametrize("there", [[], [standing("web", "another", always_replaced=False)]])
def test_elsewhere_compose_decides_itself(there: Sequence[Container]) -> None:
    assert told(*there) == []


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"Networks": {"hello_default": {"NetworkID": "hello_default"}}}, True),
        ({"Networks": {"hello_default": {"NetworkID": "52f0949e65ed"}}}, False),
        ({"Networks": {}}, False),
        ({"Networks": None}, False),
        (None, False),
    ],
)
def test_an_engine_that_says_names_of_networks_for_their_ids_is_known_by_it(settings: object, names: bool) -> None:
    assert _says_names(settings) is names


def test_a_stop_does_not_wait_for_compose_neither_when_applying_nor_when_mending() -> None:
    asked: list[str] = []

    class Waiting(Noted):
        """Compose that asks whether to go on, once for each command."""

        def run(
            self,
            arguments: Sequence[str],
            *,
            file: Path | None,
            project: str,
            variables: Mapping[str, str] | None = None,
            timeout_s: float,
            go_on: Callable[[], None] = lambda: None,
        ) -> str:
            go_on()
            return ""

    engine = Watched(lambda _: (), [0.0])
    runtime = Runtime(Waiting((), {}), engine, NO_IMAGES, lambda *_: (), lambda: 0.0, go_on=lambda: asked.append("?"))
    generation = Generation(deployment=ID, revision=DIGEST, name="x", parts=[part(wait=False)])
    runtime.apply(generation)
    assert len(asked) == 2  # before Compose, and by it
    runtime.mend(generation, generation.parts[0], recreate=["web"], start=["db"])
    assert len(asked) == 5
