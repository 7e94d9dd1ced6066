"""What nothing needs goes from the disk and the engine; what runs, and the way back, never does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from margo_agent.given import GivenNames
from tests.integration.site import Site, page, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

PUMP = 18142
STATES = 8


@pytest.fixture(scope="session")
def image(engine: Engine, tls_registry: LocalRegistry) -> str:
    """An image that serves GREETING."""
    Images(engine.docker_host, tls_registry.host).push("images/cleaning", "1.0", images.web())
    return f"{tls_registry.host}/images/cleaning:1.0"


@pytest.fixture
def site(tmp_path: Path, tls_registry: LocalRegistry, engine: Engine, image: str) -> Iterator[Site]:
    """A site with one deployment, which runs."""
    site = Site(tmp_path, tls_registry, engine)
    site.component("pump", "1.0.0", web(image, PUMP))
    site.deployment("pump", GREETING="state 0")
    site.push()
    site.agent("once")
    yield site
    site.take_down()


def size_bytes(site: Site) -> int:
    """How much room the device's blobs, components and generations take."""
    folders = [site.folder / "state" / name for name in ("blobs", "ingest", "components", "deployments")]
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


def gc(site: Site, *more: str) -> Any:
    """Clean up; return what was told."""
    done = site.run("margo_agent", "gc", "--config", "agent.yaml", "-o", "json", *more)
    assert done.code == 0, done
    return json.loads(done.out)


def apply(site: Site, number: int) -> None:
    """Publish and apply another component and another parameter."""
    site.component("pump", f"1.{number}.0", web(f"{site.registry.host}/images/cleaning:1.0", PUMP, f"# {number}\n"))
    site.deployment("pump", f"1.{number}.0", GREETING=f"state {number}")
    site.push()
    assert site.agent("once")["outcome"] == "applied"


def test_after_many_states_the_device_keeps_as_much_as_after_two(site: Site) -> None:
    site.configure(clean="{after: 0s}")
    sizes = []
    for number in range(1, STATES):
        apply(site, number)
        sizes.append(size_bytes(site))
    assert max(sizes[1:]) - min(sizes[1:]) < 2000
    assert page(PUMP) == f"state {STATES - 1}"
    assert site.agent("restore")["outcome"] == "unchanged"


def test_a_dry_run_says_what_would_go_and_why_and_a_real_run_does_it(site: Site) -> None:
    for number in (1, 2):
        apply(site, number)
    assert [one["removed"] for one in gc(site)["garbage"]] == [False] * len(gc(site)["garbage"])
    before = size_bytes(site)
    site.configure(clean="{after: 0s}")
    told = gc(site, "--dry-run")
    assert (told["dryRun"], size_bytes(site)) == (True, before)
    assert {one["kind"] for one in told["garbage"]} == {"blob", "component"}
    told_again = gc(site)
    assert told_again["outcome"] == "cleaned"
    assert [one["name"] for one in told_again["garbage"]] == [one["name"] for one in told["garbage"]]
    assert size_bytes(site) < before
    assert gc(site)["outcome"] == "unchanged"
    assert site.agent("correct")["outcome"] == "unchanged"
    assert page(PUMP) == "state 2"


def test_a_full_disk_frees_what_is_old_at_once(site: Site) -> None:
    for number in (1, 2):
        apply(site, number)
    site.configure(clean="{keepFree: 1000000GiB}")
    assert gc(site)["outcome"] == "cleaned"
    assert page(PUMP) == "state 2"
    assert site.agent("once")["outcome"] in ("applied", "unchanged")


def test_of_images_only_the_names_that_the_agent_gave_are_taken_away(site: Site) -> None:
    given = GivenNames(site.folder / "state" / "images.json")
    repository = f"{site.registry.host}/images/cleaning"
    names = [f"{repository}:sha256-{'1' * 64}", f"{repository}:theirs"]
    with site.looking() as client:
        used = next(one for one in client.images.list() if f"{repository}:sha256-" in " ".join(one.tags))
        for name in names:
            used.tag(*name.rsplit(":", 1))
        given.gave(names[0], str(used.id))
        site.configure(clean="{after: 0s}")
        assert gc(site)["outcome"] in ("unchanged", "cleaned")
        assert client.images.get(names[0])  # a container uses that image
        site.take_down()
        assert "image" in {one["kind"] for one in gc(site)["garbage"]}
        assert {tag for one in client.images.list() for tag in one.tags} & set(names) == {names[1]}
        assert names[0] not in given.load()
        client.images.remove(names[1])


def test_a_text_run_is_for_people(site: Site) -> None:
    apply(site, 1)
    done = site.run("margo_agent", "gc", "--config", "agent.yaml", "--dry-run")
    assert done.code == 0
    assert "would go: 0 of" in done.out
