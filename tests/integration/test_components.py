"""Components of several files, and of another kind, from a folder to a device; on real parts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.site import Site, page
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

PORT = 18641
SHOP = {
    "compose.yaml": """\
include:
  - side/side.yaml
  - {path: [more/more.yaml, more/over.yaml], project_directory: side, env_file: more/names.env}
services:
  web:
    extends: {file: base/web.yaml, service: base}
    environment: {GREETING: "${GREETING:-hello}"}
    env_file: short.env
    label_file: labels
    configs: [page]
    ports: ["127.0.0.1:PORT:80"]
  debug: {image: IMAGE, profiles: [debug], env_file: [short.env]}
configs: {page: {file: ./files/page.html}}
""",
    "short.env": "SHORT=1\n", "labels": "made.by=us\n", "files/page.html": "a page\n",
    "base/web.yaml": """\
services:
  base:
    image: IMAGE
    env_file:
      - path: long.env
      - {path: gone.env, required: false}
      - {path: raw.env, format: raw}
""",
    "base/long.env": "LONG=${SHORT:-unset}\n", "base/raw.env": "RAW=${SHORT}\n",
    "side/side.yaml": "services: {side: {image: IMAGE, environment: {A: '${SIDE}', B: '${GREETING:-none}'}}}\n",
    "side/.env": "SIDE=from-the-side\n", "side/more.env": "MORE=1\n",
    "more/more.yaml": "services: {more: {image: IMAGE, env_file: more.env, environment: {N: '${NAME}'}}}\n",
    "more/over.yaml": "services: {more: {labels: {over: 'yes'}}}\n", "more/names.env": "NAME=of-more\n",
}  # fmt: skip
UNIT = "[Container]\nImage={image}\nEnvironmentFile=config/a.env\n"


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine) -> Iterator[Site]:
    """A site of its own, of which nothing runs in the end."""
    found = Site(tmp_path, plain_registry, engine)
    yield found
    found.take_down()


def folder(site: Site, name: str, files: Mapping[str, str], image: str) -> str:
    for path, text in files.items():
        file = site.folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("IMAGE", image).replace("PORT", str(PORT)))
    return name


def environments(site: Site) -> Mapping[str, Mapping[str, str]]:
    """Return the variables of each service that runs here."""
    with site.looking() as client:
        return {
            name.partition("/")[2]: dict(one.split("=", 1) for one in client.containers.get(at).attrs["Config"]["Env"])
            for name, at in site.services().items()
        }


def test_a_component_of_many_files_runs_and_follows_its_parameters(site: Site, images_: str) -> None:
    """`include`, `extends`, `env_file` in all its forms, `label_file`, `configs` and `profiles`; Quadlet beside it."""
    shop = folder(site, "shop", SHOP, images_)
    assert "a Compose component of 13 files" in site.oci("component", "validate", shop).out
    site.oci("component", "push", shop, site.ref("components/hello:1.0.0"), "--key", "fleet.key", *site.flags)
    site.deployment("hello", GREETING="one")
    locked = site.push()
    assert locked["counter"] == 1
    assert site.agent("once")["outcome"] == "applied"
    found = environments(site)
    assert set(found) == {"web", "side", "more"}
    assert found["web"].items() >= {"GREETING": "one", "SHORT": "1", "LONG": "unset", "RAW": "${SHORT}"}.items()
    assert found["side"].items() >= {"A": "from-the-side", "B": "one"}.items()
    assert found["more"].items() >= {"MORE": "1", "N": "of-more"}.items()
    with site.looking() as client:
        web = client.containers.get(site.services()["hello/web"])
        assert web.labels["made.by"] == "us"
        assert b"a page\n" in b"".join(web.get_archive("/page")[0])  # exec looks elsewhere in a chroot
        assert client.containers.get(site.services()["hello/more"]).labels["over"] == "yes"
    assert page(PORT) == "one"
    before = site.services()

    site.deployment("hello", GREETING="two", COMPOSE_PROFILES="debug", SIDE="by-hand")
    site.push()
    assert site.agent("once")["outcome"] == "applied"
    found = environments(site)
    assert set(found) == {"web", "side", "more", "debug"}
    assert (found["web"]["GREETING"], found["side"]["A"], found["side"]["B"]) == ("two", "by-hand", "two")
    assert page(PORT) == "two"
    assert site.services()["hello/more"] == before["hello/more"]

    pump = folder(site, "pump", {"web.container": UNIT.format(image="IMAGE"), "config/a.env": "A=1\n"}, images_)
    site.oci("component", "push", pump, site.ref("components/pump:1.0.0"), *site.flags)
    site.deployment("pump")
    file = site.folder / "states" / "pump.yaml"
    file.write_text(file.read_text().replace("type: compose", "type: quadlet.v1"))
    site.deployment("hello", GREETING="three")
    site.push()
    (one,) = [one for one in site.oci("inspect", site.state, "-o", "json", *site.flags).json["deployments"]
              if one["name"] == "pump"]  # fmt: skip
    assert list(one["lock"]["images"]) == [images_]
    report = site.agent("once", expect=5)
    assert {one["name"]: one["state"] for one in report["deployments"]} == {"hello": "installed", "pump": "failed"}
    assert "profile quadlet is not supported: this device runs Compose deployments" in report["message"]
    assert page(PORT) == "three"

    trusted = ("component", "pull", site.ref("components/hello:1.0.0"), "-o", "copy", "--key", "fleet.pub", *site.flags)
    site.oci(*trusted)
    assert (site.folder / "copy" / "side" / ".env").read_text() == SHOP["side/.env"]
    again = site.oci("component", "push", "copy", site.ref("components/hello:1.0.0"), *site.flags)
    assert again.out.startswith("present ")
    unsigned = ("component", "pull", site.ref("components/pump:1.0.0"), "-o", "other", "--key", "fleet.pub")
    assert "sign" in site.oci(*unsigned, *site.flags, expect=4).err
    assert not (site.folder / "other").exists()


@pytest.fixture(scope="session")
def images_(engine: Engine, plain_registry: LocalRegistry) -> str:
    """An image that serves GREETING."""
    Images(engine.docker_host, plain_registry.host).push("images/parts", "1.0", images.web())
    return f"{plain_registry.host}/images/parts:1.0"
