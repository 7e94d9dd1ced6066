"""What workloads may ask for: secrets, configs, profiles and files of their archive, on a real engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.site import Site, ours
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

pytestmark = pytest.mark.each_engine


@pytest.fixture(scope="session")
def shell_image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image with a shell in it."""
    Images(engine.docker_host, tls_registry.host).push("images/shell", "1.0", images.web())
    return f"{tls_registry.host}/images/shell:1.0"


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, shell_image: str) -> Iterator[Site]:
    """A site with nothing published."""
    yield (site := Site(tmp_path, tls_registry, engine))
    site.take_down()


def saying(image: str, script: str, more: str = "", top: str = "") -> str:
    """Return a compose file with one service that runs a script, and stays."""
    return f"""\
services:
  web:
    image: {image}
    entrypoint: ["/bin/busybox", "sh", "-c", "{script}; exec /bin/busybox sleep 1000"]
    stop_grace_period: 0s
{more}
{top}"""


def said(site: Site) -> list[str]:
    """Return what the one container wrote. It is not asked with `exec`: in a chroot that sees the outer root."""
    with site.looking() as client:
        (container,) = ours(client)
        output = container.logs()
    assert isinstance(output, bytes)
    return output.decode().splitlines()


SECRET = """\
    secrets: [key]
    configs: [{source: note, target: /note}]
"""
READ = "for file in /run/secrets/key /note; do /bin/busybox cat $$file; echo; done"
SECRET_TOP = "secrets: {key: {environment: KEY}}\nconfigs: {note: {environment: NOTE}}\n"


def test_secrets_and_configs_come_from_parameters_and_change_with_them(site: Site, shell_image: str) -> None:
    site.component("hello", "1.0.0", saying(shell_image, READ, SECRET, SECRET_TOP))
    site.deployment("hello", KEY="pa$$ word", NOTE="co$t")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    assert said(site) == ["pa$$ word", "co$t"]
    before = site.containers()
    site.deployment("hello", KEY="another", NOTE="co$t")
    site.push()
    assert site.agent("plan")["deployments"][0]["restarts"] == ["hello/web"]
    assert site.agent("once")["outcome"] == "applied"
    assert said(site) == ["another", "co$t"]
    assert site.containers() != before


def test_a_profile_that_a_parameter_turns_on_comes_up(site: Site, shell_image: str) -> None:
    compose = saying(shell_image, "true", "    profiles: [debug]\n").replace("web:\n", "extra:\n", 1)
    both = compose + saying(shell_image, "true").removeprefix("services:\n")
    site.component("hello", "1.0.0", both)
    site.deployment("hello", COMPOSE_PROFILES="debug")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    assert set(site.services()) == {"hello/extra", "hello/web"}


def test_8_9_a_container_cannot_change_the_archive_it_came_with(site: Site, shell_image: str) -> None:
    script = "/bin/busybox touch /page.txt || echo read-only; /bin/busybox cat /page.txt; echo"
    compose = saying(shell_image, script, "    volumes: ['./page.txt:/page.txt']\n")
    site.component("hello", "1.0.0", compose, page__txt="good")
    site.deployment("hello")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    assert {"read-only", "good"} <= set(said(site))
