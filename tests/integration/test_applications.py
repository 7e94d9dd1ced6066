"""From a compose file to a workload that runs: init, validate, push, deploy, push, and the device; then an upgrade."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from margo_oci.capabilities import Cpu, DeviceCapabilities
from tests.integration.site import Site, page, web
from tests.parts import images
from tests.parts.engine import Engine
from tests.parts.images import Images
from tests.parts.registry import LocalRegistry

PORT = 18131


@pytest.fixture
def site(tmp_path: Path, plain_registry: LocalRegistry, engine: Engine, images: Images) -> Site:
    """A vendor with a compose file, an operator, and a device."""
    images.push("images/web", "1.0", recipe())
    site = Site(tmp_path, plain_registry, engine)
    (tmp_path / "compose.yaml").write_text(web(f"{plain_registry.host}/images/web:1.0", PORT))
    return site


def recipe() -> images.Recipe:
    """The image of the workload."""
    return images.web()


def packaged(site: Site) -> str:
    """Make and push the package; return where it is."""
    base = site.ref(site.folder.name)
    site.oci("app", "init", "hello", "--name", "Hello", "--vendor", "Example Ltd", "--repository", base,
             "--compose", "compose.yaml")  # fmt: skip
    site.oci("app", "validate", "hello")
    site.oci("component", "push", "hello/hello", f"{base}/components/hello:1.0.0", *site.flags)
    app = f"{base}/apps/hello"
    pushed = site.oci("app", "push", "hello", app, "--key", "fleet.key", *site.flags, "-o", "json").json
    assert pushed["reference"] == f"{app}:1.0.0"
    return app


def release(site: Site, app: str, version: str, greeting: str) -> None:
    """Push another version of the package, with another default."""
    file = site.folder / "hello" / "margo.yaml"
    raw = yaml.safe_load(file.read_text())
    raw["metadata"]["version"] = version
    raw["parameters"]["greeting"]["value"] = greeting
    file.write_text(yaml.safe_dump(raw))
    site.oci("app", "push", "hello", app, *site.flags)


def deploy(site: Site, *more: str, expect: int = 0) -> str:
    """Deploy into the folder of the device."""
    options = ("--scope", "edge-17", "--out", "states", *site.flags)
    done = site.oci("deploy", "hello", *options, *more, expect=expect)
    return done.out + done.err


def running(site: Site) -> str:
    """Publish, apply, and ask what runs."""
    site.push()
    report = site.agent("once")
    assert report["outcome"] in ("applied", "unchanged"), report
    return page(PORT)


def test_from_a_compose_file_to_a_running_workload_and_to_its_next_version(site: Site) -> None:
    app = packaged(site)
    try:
        deploy(site, "--app", f"{app}:1.0.0", "--key", "fleet.pub")
        assert running(site) == "hello"
        deploy(site, "--set", "greeting=Moin")
        assert running(site) == "Moin"
        release(site, app, "1.1.0", "Welcome")
        assert "has 1.0.0, and 1.1.0 is asked for: --upgrade moves it" in deploy(
            site, "--app", f"{app}:1.1.0", expect=2
        )
        assert "hello 1.1.0" in deploy(site, "--upgrade")
        assert running(site) == "Moin"
        site.oci("undeploy", "hello", "--out", "states")
        site.push("--allow-empty")
        site.agent("once")
        assert site.services() == {}
    finally:
        site.take_down()


def test_the_same_call_writes_the_same_bytes_and_touches_no_other_file(site: Site) -> None:
    app = packaged(site)
    site.deployment("pump")
    other = site.folder / "states" / "pump.yaml"
    other.write_text(f"# by hand\n{other.read_text()}")
    before = other.read_text()
    deploy(site, "--app", app)
    first = (site.folder / "states" / "hello.yaml").read_bytes()
    assert "unchanged" in deploy(site, "--app", app)
    (site.folder / "states" / "hello.yaml").unlink()
    deploy(site, "--app", app)
    assert (site.folder / "states" / "hello.yaml").read_bytes() == first
    assert other.read_text() == before


def test_a_device_gets_what_it_can_run_with_values_of_a_file(site: Site) -> None:
    app = packaged(site)
    (site.folder / "values.yaml").write_text("greeting: Servus\n")
    edge = DeviceCapabilities(id="edge-17", cpus=(Cpu(2, "amd64"),), memory="1Gi", storage="8Gi")
    (site.folder / "edge.json").write_bytes(edge.to_bytes())
    (site.folder / "chart.json").write_bytes(replace(edge, deployment_types=("helm",)).to_bytes())
    refused = deploy(site, "--app", app, "--capabilities", "chart.json", expect=2)
    assert "profile hello-compose: edge-17 lacks the deployment type compose" in refused
    deploy(site, "--app", app, "--capabilities", "edge.json", "--values", "values.yaml")
    raw = yaml.safe_load((site.folder / "states" / "hello.yaml").read_text())
    assert raw["metadata"]["deviceId"] == "edge-17"
    assert raw["spec"]["parameters"]["greeting"]["value"] == "Servus"
    assert "colour: no such parameter: greeting can be set" in deploy(site, "--set", "colour=red", expect=2)


def test_a_package_is_pulled_as_it_was_pushed_and_inspected(site: Site) -> None:
    app = packaged(site)
    site.oci("app", "pull", f"{app}:1.0.0", "-o", "copy", "--key", "fleet.pub", *site.flags)
    for path in ("margo.yaml", "resources/description.md"):
        assert (site.folder / "copy" / path).read_bytes() == (site.folder / "hello" / path).read_bytes()
    seen = site.oci("app", "inspect", f"{app}:1.0.0", *site.flags, "-o", "json").json
    assert (seen["id"], seen["version"]) == ("hello", "1.0.0")
    assert [one["path"] for one in seen["files"]] == ["resources/description.md"]
    release(site, app, "1.1.0", "Welcome")
    assert site.oci("app", "versions", app, *site.flags).out.split() == ["1.1.0", "1.0.0"]


def test_an_unsigned_package_is_refused_where_a_signature_is_asked_for(site: Site) -> None:
    app = packaged(site)
    release(site, app, "1.1.0", "Welcome")
    refused = deploy(site, "--app", f"{app}:1.1.0", "--key", "fleet.pub", expect=4)
    assert "has no signature: pushed without a key" in refused
    assert not (site.folder / "states").exists()


def test_the_tag_is_the_version_and_another_one_is_refused(site: Site) -> None:
    app = packaged(site)
    refused = site.oci("app", "push", "hello", f"{app}:2.0.0", *site.flags, expect=2)
    assert "the tag is the version: 1.0.0 stands in metadata.version" in refused.err
