"""The agent as a user who is not root, with a Podman of that user."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.site import Site, page, web
from tests.parts import images
from tests.parts.images import Images
from tests.parts.pid_namespace import CGROUP_VARIABLE
from tests.parts.registry import LocalRegistry
from tests.parts.rootless import USER_ID, RootlessPodman, as_user, rootless_problem

PORT = 18131


class UsersSite(Site):
    """A site whose agent runs as the user."""

    def as_user(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run margo-agent with -o json."""
        agent = [sys.executable, "-m", "margo_agent", command, "--config", "agent.yaml", "-o", "json"]
        environment = {**self.environment, "USER": "margo", "TMPDIR": str(self.folder)}
        return subprocess.run(
            [*as_user(reads_all=True), *agent],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[RootlessPodman]:
    """A Podman of a user."""
    if CGROUP_VARIABLE not in os.environ:
        pytest.skip("a user is made for this: run it within tests/parts/isolated")
    if problem := rootless_problem():
        pytest.skip(problem)
    with RootlessPodman(tmp_path / "podman") as podman:
        yield podman


def test_a_state_runs_on_a_podman_without_root(
    tmp_path: Path, podman: RootlessPodman, plain_registry: LocalRegistry
) -> None:
    Images(podman.docker_host, plain_registry.host).push("images/rootless", "1.0", images.web())
    (tmp_path / "site").mkdir()
    site = UsersSite(tmp_path / "site", plain_registry, podman)
    site.component("hello", "9.0.0", web(f"{plain_registry.host}/images/rootless:1.0", PORT))
    site.deployment("hello", "9.0.0", GREETING="no root needed")
    site.push()
    for path in (site.folder, *site.folder.rglob("*")):
        os.chown(path, USER_ID, USER_ID)
    done = site.as_user("once")
    assert done.returncode == 0, done
    assert page(PORT) == "no root needed"
    assert (site.folder / "state" / "record.json").stat().st_uid == USER_ID
    before = site.containers()
    assert site.as_user("restore").returncode == 0
    assert site.containers() == before
