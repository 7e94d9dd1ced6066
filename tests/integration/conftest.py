"""Real parts, started once for all tests that ask for them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.parts.engine import Engine, chosen_engine, engine_names
from tests.parts.images import Images
from tests.parts.pid_namespace import CGROUP_VARIABLE
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark."""
    config.addinivalue_line("markers", "each_engine: runs on Docker and on Podman, not on Docker alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for an engine on the first, on each if it is marked so, and all on each that MARGO_ENGINES has."""
    if "engine" in metafunc.fixturenames:
        marked = "MARGO_ENGINES" in os.environ or metafunc.definition.get_closest_marker("each_engine")
        names = engine_names(os.environ)
        metafunc.parametrize("engine", names if marked else names[:1], indirect=True, scope="session")


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory for what the parts keep."""
    with temporary_place() as path:
        yield path


@pytest.fixture(scope="session")
def engines(place: Path) -> Iterator[Callable[[str], Engine]]:
    """Engines by name, each started when it is asked for and there until the end."""
    with ExitStack() as started:

        @cache
        def engine(name: str) -> Engine:
            return started.enter_context(chosen_engine(place / name, name))

        yield engine


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    """An engine, as `pytest_generate_tests` says."""
    if request.param == "podman" and CGROUP_VARIABLE not in os.environ:
        pytest.skip("a private Podman changes the firewall: run this within tests/parts/isolated")
    return engines(request.param)


@pytest.fixture(scope="session")
def plain_registry(place: Path) -> Iterator[LocalRegistry]:
    """A registry without TLS or login."""
    with LocalRegistry(place / "plain", "plain") as registry:
        yield registry


@pytest.fixture(scope="session")
def tls_registry(place: Path) -> Iterator[LocalRegistry]:
    """A registry with TLS."""
    with LocalRegistry(place / "tls", "tls") as registry:
        yield registry


@pytest.fixture(scope="session")
def auth_registry(place: Path) -> Iterator[LocalRegistry]:
    """A registry with TLS and a login."""
    with LocalRegistry(place / "auth", "auth") as registry:
        yield registry


@pytest.fixture(scope="session")
def images(engine: Engine, plain_registry: LocalRegistry) -> Images:
    """Builds images and pushes them to the plain registry."""
    return Images(engine.docker_host, plain_registry.host)
