"""Real parts, started once for all tests that ask for them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.engine import Engine, chosen_engine
from tests.parts.images import Images
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C: orderly, with everything stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory for what the parts keep."""
    with temporary_place() as path:
        yield path


@pytest.fixture(scope="session")
def engine(place: Path) -> Iterator[Engine]:
    """The engine that MARGO_ENGINE names, by default a private one."""
    with chosen_engine(place / "engine") as engine:
        yield engine


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
