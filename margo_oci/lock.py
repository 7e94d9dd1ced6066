"""Resolves what deployments lead to, once, on the operator's side: components and images to digests (format 4)."""

import asyncio
import functools
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from margo_oci.compose import Compose, images_of, images_of_template
from margo_oci.deployment import Component, Deployment
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError, RegistryError
from margo_oci.manifest import Manifest
from margo_oci.package import Archive, archive_layer, open_archive
from margo_oci.reference import Reference, parse_image, parse_reference
from margo_oci.registry import Registry
from margo_oci.store import Store, extract
from margo_oci.transfer import pull_blob

LOOKUPS_AT_ONCE = 16
T = TypeVar("T")


class Locker:
    """Locks deployments; what several of them share is looked up once. Use as `async with`."""

    def __init__(self, registry: Registry, store: Store, compose: Callable[[], Compose]) -> None:
        self.registry = registry
        self.store = store
        self.compose = compose
        self.folder = tempfile.TemporaryDirectory(prefix="margo-oci-")
        self.gate = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self.running: dict[str, asyncio.Task[Any]] = {}

    async def __aenter__(self) -> "Locker":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.running.values():
            task.cancel()
        await asyncio.gather(*self.running.values(), return_exceptions=True)
        self.folder.cleanup()

    async def lock_all(self, deployments: Sequence[Deployment]) -> Sequence[Lock]:
        """Return a lock for each deployment. Raises FormatError or RegistryError that names the deployment."""
        return await asyncio.gather(*(self.lock(deployment) for deployment in deployments))

    async def lock(self, deployment: Deployment) -> Lock:
        """Return the digests of all that `deployment` leads to, as they are now."""
        components: dict[str, str] = {}
        images: set[str] = set()
        for component in deployment.components:
            if not component.repository:
                raise FormatError(
                    f"deployment {deployment.id}: component {component.name} names a package by URL: "
                    "publish it with `margo-oci component push` and name its repository and revision"
                )
            try:
                digest = await self._once(
                    component.source, functools.partial(self._component, component, deployment.profile)
                )
                images |= set(await self._images(deployment, component, digest))
            except (FormatError, RegistryError) as error:
                raise type(error)(f"deployment {deployment.id}: component {component.name}: {error}") from error
            components[component.source] = digest
        digests = await asyncio.gather(
            *(self._once(f"image {image}", functools.partial(self._image, image)) for image in images)
        )
        return Lock(components, dict(zip(images, digests, strict=True)))

    async def _once(self, name: str, start: Callable[[], Awaitable[T]]) -> T:
        """Share one lookup between all who ask for it."""
        if name not in self.running:
            self.running[name] = asyncio.ensure_future(self._gated(start))
        found: T = await self.running[name]
        return found

    async def _gated(self, start: Callable[[], Awaitable[T]]) -> T:
        async with self.gate:
            return await start()

    async def _component(self, component: Component, profile: str) -> str:
        reference = component_reference(component)
        if profile != "compose":
            return await self.registry.digest(reference)
        received = await self.registry.manifest(reference)
        assert received is not None  # noqa: S101
        archive = await fetch_archive(self.registry, reference.at(received.digest), self.store)
        await asyncio.to_thread(extract, archive.entries, self._folder(received.digest))
        return received.digest

    async def _images(self, deployment: Deployment, component: Component, digest: str) -> Sequence[str]:
        if deployment.profile != "compose":
            return ()
        variables = deployment.environment(component.name)
        template = await self._once(f"template {digest}", lambda: self._template(digest))
        if not _depends_on_variables(template, variables):
            return images_of_template(template)
        model = await asyncio.to_thread(self.compose().model, self._folder(digest), project="lock", variables=variables)
        return images_of(model)

    async def _template(self, digest: str) -> Mapping[str, Any]:
        return await asyncio.to_thread(self.compose().template, self._folder(digest))

    async def _image(self, image: str) -> str:
        reference = parse_image(image)
        return reference.digest or await self.registry.digest(reference)

    def _folder(self, digest: str) -> Path:
        return Path(self.folder.name) / digest.removeprefix("sha256:")


def component_reference(component: Component) -> Reference:
    """Return where a component is, by tag."""
    return parse_reference(f"{component.repository}:{component.revision}")


async def fetch_archive(registry: Registry, reference: Reference, store: Store) -> Archive:
    """Return the checked archive of a component at a pinned `reference` (with digest).

    Raises FormatError if it breaks a rule, TrustError `digest-mismatch`, RegistryError.
    """
    received = await registry.manifest(reference)
    assert received is not None  # noqa: S101
    what = f"component {reference.name}"
    layer = archive_layer(Manifest.from_bytes(received.data, what=what), what=what)
    if not store.has(layer):
        await pull_blob(registry, reference, layer, store)
    if (data := store.read(layer)) is None:
        await pull_blob(registry, reference, layer, store)
        data = store.read(layer) or b""
    return open_archive(data, what=what)


def _depends_on_variables(template: Mapping[str, Any], variables: Mapping[str, str]) -> bool:
    """Tell whether which images are used may change with the deployment's parameters."""
    return any("$" in image for image in images_of_template(template)) or any(
        name.startswith("COMPOSE_") for name in variables
    )
