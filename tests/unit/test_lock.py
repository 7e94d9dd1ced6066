"""What a deployment leads to: which images its Compose files name with its own parameters."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from margo_oci.compose import Compose
from margo_oci.deployment import Deployment
from margo_oci.lock import Locker, component_reference
from margo_oci.registry import Access, Registry
from margo_oci.store import Store
from tests.unit.scenes import DIGEST, deployment, parameter

SERVICES = {"web": {"image": "web:${TAG:-1}"}, "debug": {"image": "debug:1", "profiles": ["debug"]}}


class PaperCompose(Compose):
    """Answers as Docker Compose does: a template has every service, a model those that are on."""

    def template(self, folder: Path) -> dict[str, Any]:
        return {"services": dict(SERVICES)}

    def model(self, folder: Path, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
        services = {"web": {"image": f"web:{variables.get('TAG', '1')}"}}
        if variables.get("COMPOSE_PROFILES") == "debug":
            services |= {"debug": SERVICES["debug"]}  # type: ignore[dict-item]
        return {"services": services}


def images(one: Deployment, folder: Path) -> Sequence[str]:
    async def asked() -> Sequence[str]:
        registry = Registry(lambda host: Access())
        async with Locker(registry, Store(folder), lambda: PaperCompose((), {})) as locker:
            return await locker._images(one, one.components[0], DIGEST)

    return asyncio.run(asked())


def test_an_image_may_depend_on_a_parameter(tmp_path: Path) -> None:
    assert images(deployment(), tmp_path) == ["web:1"]
    assert images(deployment(parameters={"tag": parameter(7, "TAG")}), tmp_path) == ["web:7"]


def test_a_profile_that_a_parameter_turns_on_is_locked_too(tmp_path: Path) -> None:
    """Else the device has an image to run that the lock does not know, and refuses the deployment for ever."""
    one = deployment(parameters={"profiles": parameter("debug", "COMPOSE_PROFILES")})
    assert images(one, tmp_path) == ["debug:1", "web:1"]


def test_a_component_is_found_by_its_tag() -> None:
    (one,) = deployment().components
    assert str(component_reference(one)) == "registry.example/components/hello:1.0.0"
