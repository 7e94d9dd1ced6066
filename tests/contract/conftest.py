"""Two worlds that must look the same from outside: the simulated registry and Debian's docker-registry."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from margo_oci.auth import Credentials
from margo_oci.reference import Reference
from margo_oci.registry import Access, Registry, TransportFor
from margo_oci.upload import Uploader
from tests.parts.place import temporary_place
from tests.parts.registry import LocalRegistry
from tests.simulators.registry import Login, SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader

WORLDS = ("simulator", "distribution")


@dataclass(frozen=True, kw_only=True)
class World:
    """One registry, a repository of its own for each test, and what was asked of it (`GET … 200`)."""

    reference: Reference
    access: Access
    uploader: Uploader
    asked: Callable[[], Sequence[str]]
    forget: Callable[[], None]
    transport_for: TransportFor | None = field(default=None)

    def registry(self, access: Access | None = None) -> Registry:
        """Reach the registry, as whoever `access` says."""
        return Registry(lambda _: access or self.access, transport_for=self.transport_for)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where the real registries keep things."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is missing: tests/parts/install")
    with temporary_place() as path:
        yield path


@pytest.fixture(scope="session")
def plain(folder: Path) -> Iterator[LocalRegistry]:
    """A real registry, open to everyone."""
    with LocalRegistry(folder / "plain", "plain") as registry:
        yield registry


@pytest.fixture(scope="session")
def guarded(folder: Path) -> Iterator[LocalRegistry]:
    """A real registry that asks for a password."""
    with LocalRegistry(folder / "auth", "auth") as registry:
        yield registry


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A registry that is open to everyone."""
    repository = repository_for(request)
    if request.param == "simulator":
        yield simulated(SimulatedRegistry(), repository)
    else:
        with real(request.getfixturevalue("plain"), repository) as found:
            yield found


@pytest.fixture(params=WORLDS)
def guarded_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A registry that asks for a password."""
    repository = repository_for(request)
    if request.param == "simulator":
        credentials = Credentials("margo", "margo-test")
        yield simulated(SimulatedRegistry(login=Login(credentials=credentials)), repository)
    else:
        with real(request.getfixturevalue("guarded"), repository) as found:
            yield found


def repository_for(request: pytest.FixtureRequest) -> str:
    """Return a repository that no other test uses."""
    return "contract/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


def simulated(sim: SimulatedRegistry, repository: str) -> World:
    """Return the simulator as a world."""
    return World(
        reference=Reference(sim.host, repository, "latest"),
        access=Access(credentials=sim.login.credentials if sim.login else None),
        uploader=SimulatedUploader(sim),
        asked=lambda: [str(one) for one in sim.requests],
        forget=sim.forget,
        transport_for=lambda _: sim.transport,
    )


@contextmanager
def real(registry: LocalRegistry, repository: str) -> Iterator[World]:
    """Yield a real registry as a world."""
    credentials = Credentials(registry.username, registry.password) if registry.username else None
    access = Access(plain_http=registry.kind == "plain", ca_file=registry.ca_file, credentials=credentials)
    uploader = Uploader(registry.host, access)
    with closing(uploader.oras.session):
        yield World(
            reference=Reference(registry.host, repository, "latest"),
            access=access,
            uploader=uploader,
            asked=lambda: [f"{one.method} {one.path} {one.status}" for one in registry.requests()],
            forget=registry.forget,
        )
