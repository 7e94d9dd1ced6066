"""What deployments lead to: which images their Compose files name with their own parameters, and at which digest."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from margo_oci.archive import Entry
from margo_oci.component import component_reference
from margo_oci.compose import Compose, Filled, find_compose
from margo_oci.content import digest_of
from margo_oci.deployment import Deployment
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError, RegistryError
from margo_oci.files import ExtraFile
from margo_oci.lock import Locker
from margo_oci.package import build_component
from margo_oci.registry import Access, Registry
from margo_oci.store import Store
from tests.simulators.registry import SimulatedRegistry
from tests.unit.scenes import ID, OTHER_ID, as_yaml, component, deployment, parameter

HOST = "registry.example"
SERVICES = {"web": {"image": f"{HOST}/web:${{TAG:-1}}"}, "debug": {"image": f"{HOST}/debug:1", "profiles": ["debug"]}}
PLAIN = {"image": f"{HOST}/web:1"}


class PaperCompose(Compose):
    """Answers as Docker Compose does: a template has every service, a model those that are on."""

    def template(self, folder: Path) -> dict[str, Any]:
        return {"services": dict(SERVICES)}

    def filled(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> Filled:
        services: dict[str, Any] = {"web": {"image": f"{HOST}/web:{variables.get('TAG', '1')}"}}
        if variables.get("COMPOSE_PROFILES") == "debug" or (folder / ".env").exists():
            services |= {"debug": SERVICES["debug"]}
        return Filled({"services": services})


@pytest.fixture
def sim() -> SimulatedRegistry:
    """A registry that has one component in two repositories, and images."""
    sim = SimulatedRegistry(host=HOST)
    built = build_component({"compose.yaml": Entry("compose.yaml", b"services: {web: {image: x}}")}, name="hello",
                            version="1.0.0")  # fmt: skip
    for repository in ("components/hello", "copies/hello"):
        sim.put_blob(repository, built.layer)
        sim.put_manifest(repository, "1.0.0", built.manifest.data)
    for image, tag in (("web", "1"), ("web", "7"), ("debug", "1")):
        sim.put_manifest(image, tag, f"{image}:{tag}".encode())
    return sim


def lock(sim: SimulatedRegistry, folder: Path, *deployments: Deployment) -> Sequence[Lock]:
    async def asked() -> Sequence[Lock]:
        async with (
            Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry,
            Locker(registry, Store(folder), lambda: PaperCompose((), {})) as locker,
        ):
            return await locker.lock_all({f"{i}.yaml": one for i, one in enumerate(deployments, start=1)})

    return asyncio.run(asked())


def images(sim: SimulatedRegistry, folder: Path, one: Deployment) -> Sequence[str]:
    (locked,) = lock(sim, folder, one)
    return [image.removeprefix(f"{HOST}/") for image in locked.images]


def test_an_image_may_depend_on_a_parameter(sim: SimulatedRegistry, tmp_path: Path) -> None:
    assert images(sim, tmp_path, deployment()) == ["web:1"]
    assert images(sim, tmp_path, deployment(parameters={"tag": parameter(7, "TAG")})) == ["web:7"]


def test_a_profile_that_a_parameter_turns_on_is_locked_too(sim: SimulatedRegistry, tmp_path: Path) -> None:
    """Else the device has an image to run that the lock does not know, and refuses the deployment for ever."""
    one = deployment(parameters={"profiles": parameter("debug", "COMPOSE_PROFILES")})
    assert images(sim, tmp_path, one) == ["debug:1", "web:1"]


def test_what_the_archives_own_env_file_turns_on_is_locked_too(sim: SimulatedRegistry, tmp_path: Path) -> None:
    files = {"compose.yaml": b"services: {web: {image: x}}", ".env": b"COMPOSE_PROFILES=debug"}
    built = build_component({name: Entry(name, data) for name, data in files.items()}, name="hello", version="1.0.0")
    sim.put_blob("components/hello", built.layer)
    sim.put_manifest("components/hello", "1.0.0", built.manifest.data)
    assert images(sim, tmp_path, deployment()) == ["debug:1", "web:1"]


def warnings(folder: Path, web: Mapping[str, Any], one: Deployment, *extra: ExtraFile, **more: Any) -> Sequence[str]:
    """What is said of a component with one service, by the real Compose."""
    sim = SimulatedRegistry(host=HOST)
    files = {"compose.yaml": as_yaml({"services": {"web": {**PLAIN, **web}}, **more})}
    built = build_component({name: Entry(name, data) for name, data in files.items()}, name="hello", version="1.0.0")
    sim.put_blob("components/hello", built.layer)
    sim.put_manifest("components/hello", "1.0.0", built.manifest.data)
    sim.put_manifest("web", "1", b"web:1")

    async def asked() -> Sequence[str]:
        async with (
            Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry,
            Locker(registry, Store(folder), lambda: Compose(find_compose(), {"PATH": "/usr/bin:/bin"})) as locker,
        ):
            await locker.lock_all({"hello.yaml": one}, {"hello.yaml": extra})
        return locker.warnings

    return asyncio.run(asked())


def test_a_variable_that_nobody_sets_and_without_a_default_is_told(tmp_path: Path) -> None:
    greeted = deployment(parameters={"greeting": parameter("hi", "GREETING")})
    web = {"environment": {"A": "${GREETING}", "B": "$PORT", "C": "${X:-1}", "D": "$$Y"}}
    (warning,) = warnings(tmp_path, web, greeted)
    assert warning == (
        "hello.yaml: hello: component web: variable PORT: no parameter sets it, and it has no default in compose.yaml: "
        "it will be empty"
    )
    both = deployment(parameters={"g": parameter("hi", "GREETING"), "p": parameter(80, "PORT")})
    assert warnings(tmp_path, web, both) == []


def test_a_default_that_is_a_variable_itself_is_told_too(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, {"environment": {"A": "${GREETING:-$NAME}"}}, deployment())
    assert "variable NAME" in warning


def test_a_variable_that_is_a_config_or_a_secret_and_that_nobody_sets_is_told(tmp_path: Path) -> None:
    web = {"secrets": ["pw", "set"], "configs": ["page"], "image": f"{HOST}/web:1"}
    secrets = {"pw": {"environment": "DB_PW"}, "set": {"environment": "KEY"}, "unused": {"environment": "U"}}
    one = deployment(parameters={"key": parameter("k", "KEY")})
    assert warnings(tmp_path, web, one, secrets=secrets, configs={"page": {"environment": "PAGE"}}) == [
        f"hello.yaml: hello: component web: {place} has no value: no parameter sets it, and a device does not apply "
        "the deployment without"
        for place in ("configs.page.environment: PAGE", "secrets.pw.environment: DB_PW")
    ]
    files = {"volumes": ["${MARGO_FILES}:/f"], "secrets": ["pw"]}
    (warning,) = warnings(tmp_path, files, deployment(), ExtraFile("a", b"1"), secrets=secrets)
    assert "secrets.pw.environment: DB_PW has no value" in warning


def test_a_variable_that_must_be_set_is_told_in_the_words_of_compose(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, {"environment": {"A": "${PORT:?a port is needed}"}}, deployment())
    assert warning.startswith("hello.yaml: hello: component web: compose.yaml: ")
    assert warning.endswith("required variable PORT is missing a value: a port is needed")


def test_an_image_is_locked_to_the_digest_it_has_now(sim: SimulatedRegistry, tmp_path: Path) -> None:
    (locked,) = lock(sim, tmp_path, deployment())
    assert locked.images == {f"{HOST}/web:1": digest_of(b"web:1")}


def test_the_same_component_in_two_repositories_is_unpacked_once(sim: SimulatedRegistry, tmp_path: Path) -> None:
    there, copied = component("web"), component("copy", repository=f"oci://{HOST}/copies/hello")
    profile = {"type": "compose", "components": [there, copied]}
    (locked,) = lock(sim, tmp_path, deployment(deploymentProfile=profile))
    assert len(locked.components) == 2
    assert len(set(locked.components.values())) == 1


def test_the_faults_of_all_deployments_are_told_at_once_each_with_its_file(
    sim: SimulatedRegistry, tmp_path: Path
) -> None:
    by_url = {"type": "compose", "components": [component("web", packageLocation="https://x.example/a.tgz")]}
    for part in ("repository", "revision"):
        del by_url["components"][0]["properties"][part]  # type: ignore[index]
    with pytest.raises(FormatError) as caught:
        lock(sim, tmp_path, deployment(ID, deploymentProfile=by_url), deployment(OTHER_ID, deploymentProfile=by_url))
    assert [fault[:21] for fault in caught.value.faults] == ["1.yaml: component web", "2.yaml: component web"]


def test_every_component_that_is_not_there_is_told_at_once(sim: SimulatedRegistry, tmp_path: Path) -> None:
    def missing(revision: str) -> Deployment:
        profile = {"type": "compose", "components": [component("web", revision=revision)]}
        return deployment(deploymentProfile=profile)

    with pytest.raises(RegistryError) as caught:
        lock(sim, tmp_path, missing("2.0.0"), deployment(), missing("3.0.0"))
    first, second = str(caught.value).splitlines()
    assert first.startswith("1.yaml: component web: ")
    assert second.startswith("3.yaml: component web: ")


def test_a_component_is_found_by_its_tag() -> None:
    (one,) = deployment().components
    assert str(component_reference(one)) == "registry.example/components/hello:1.0.0"
