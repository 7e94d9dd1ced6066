"""Resolves what deployments lead to, once, on the operator's side: components and images to digests (format 4)."""

import asyncio
import functools
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from margo_oci.archive import Entry
from margo_oci.component import component_reference, fetch_archive
from margo_oci.compose import Compose, Filled, contents_of_variables, images_of, images_of_template, without_default
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.deployment import Component, Deployment
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError, MargoError, RegistryError
from margo_oci.files import VARIABLE, ExtraFile
from margo_oci.mounting import SHOWN, by_path, in_words, mentions, mounted
from margo_oci.package import COMPOSE, QUADLET, Archive, Form, check_top
from margo_oci.quadlet import images_of_units
from margo_oci.reference import Reference, parse_image
from margo_oci.registry import Received, Registry
from margo_oci.store import Store, extract

LOOKUPS_AT_ONCE = 16
_UNSET = f"no parameter sets it, and it has no default in {COMPOSE_FILE}: it will be empty"
_NO_CONTENT = "has no value: no parameter sets it, and a device does not apply the deployment without"
T = TypeVar("T")


@dataclass(frozen=True)
class _Template:
    """What a component's Compose file says by itself, whatever parameters a deployment has.

    `varies`: which images it uses changes with them; `needed`: the variables that have no default, or
    are the content of a config or secret.
    """

    images: Sequence[str]
    uses_files: bool
    varies: bool
    needed: frozenset[str]


class Locker:
    """Locks deployments; what several of them share is looked up once. Use as `async with`."""

    def __init__(self, registry: Registry, store: Store, compose: Callable[[], Compose]) -> None:
        self.registry = registry
        self.store = store
        self.compose = compose
        self.folder = tempfile.TemporaryDirectory(prefix="margo-oci-")
        self.gate = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self.running: dict[str, asyncio.Task[Any]] = {}
        self.manifests: dict[str, Received] = {}  # of components, by digest
        self.warnings: list[str] = []  # about what was locked

    async def __aenter__(self) -> "Locker":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.running.values():
            task.cancel()
        await asyncio.gather(*self.running.values(), return_exceptions=True)
        self.folder.cleanup()

    async def lock_all(
        self, deployments: Mapping[str, Deployment], files: Mapping[str, Sequence[ExtraFile]] | None = None
    ) -> Sequence[Lock]:
        """Return a lock for each deployment; the keys are what messages call them, also those of their `files`.

        Raises FormatError with every fault of all of them, or RegistryError.
        """
        locked = await asyncio.gather(
            *(self.lock(one, what=what, files=(files or {}).get(what, ())) for what, one in deployments.items()),
            return_exceptions=True,
        )
        errors = [one for one in locked if isinstance(one, BaseException)]
        if others := [error for error in errors if not isinstance(error, FormatError | RegistryError)]:
            raise others[0]
        for kind in (FormatError, RegistryError):
            if found := [error for error in errors if isinstance(error, kind)]:
                raise _again(found[0], "\n".join(map(str, found)))
        return [one for one in locked if isinstance(one, Lock)]

    async def lock(self, deployment: Deployment, *, what: str, files: Sequence[ExtraFile] = ()) -> Lock:
        """Return the digests of all that `deployment` leads to, as they are now. Raises what names `what`.

        Its Compose files use none but its `files`.
        """
        components: dict[str, str] = {}
        images: set[str] = set()
        for component in deployment.components:
            at = f"{what}: component {component.name}"
            if not component.repository:
                raise FormatError(
                    f"{at} names a package by URL: "
                    "publish it with `margo-oci component push` and name its repository and revision"
                )
            try:
                digest = await self._once(component.source, functools.partial(self._component, component))
                images |= set(await self._images(deployment, component, digest, files, what))
            except (FormatError, RegistryError) as error:
                raise _again(error, f"{at}: {error}") from error
            components[component.source] = digest
        if files and not await self._uses_files(deployment, components):
            self.warnings.append(f"{what}: none of its Compose files uses its files: they are in {SHOWN}")
        names = sorted(images)
        try:
            digests = await asyncio.gather(
                *(self._once(f"image {image}", functools.partial(self._image, image)) for image in names)
            )
        except (FormatError, RegistryError) as error:
            raise _again(error, f"{what}: {error}") from error
        return Lock(components, dict(zip(names, digests, strict=True)))

    async def _once(self, name: str, start: Callable[[], Awaitable[T]]) -> T:
        """Share one lookup between all who ask for it."""
        if name not in self.running:
            self.running[name] = asyncio.ensure_future(self._gated(start))
        found: T = await self.running[name]
        return found

    async def _gated(self, start: Callable[[], Awaitable[T]]) -> T:
        async with self.gate:
            return await start()

    async def _component(self, component: Component) -> str:
        received = await self.registry.manifest(component_reference(component))
        assert received is not None  # noqa: S101  (nothing was known before)
        self.manifests[received.digest] = received  # its archive is asked for next: one request does for both
        return received.digest

    async def _unpacked(self, reference: Reference) -> None:
        """Unpack the archive at `reference`: once for each digest, however many repositories hold it."""
        archive = await self._archive(reference)
        await asyncio.to_thread(extract, archive.entries, self._folder(reference.digest))

    async def _archive(self, reference: Reference, form: Form = COMPOSE) -> Archive:
        received = self.manifests.get(reference.digest)
        return await fetch_archive(self.registry, reference, self.store, form=form, received=received)

    async def _template_of(self, component: Component, digest: str) -> _Template:
        archive = component_reference(component).at(digest)
        await self._once(f"archive {digest}", functools.partial(self._unpacked, archive))
        return await self._once(f"template {digest}", lambda: self._template(digest))

    async def _uses_files(self, deployment: Deployment, components: Mapping[str, str]) -> bool:
        if deployment.profile != "compose":
            return False
        templates = [await self._template_of(one, components[one.source]) for one in deployment.components]
        return any(one.uses_files for one in templates)

    async def _images(
        self, deployment: Deployment, component: Component, digest: str, files: Sequence[ExtraFile], what: str
    ) -> Sequence[str]:
        if deployment.profile == "quadlet":
            return await self._images_of_units(component, digest)
        if deployment.profile != "compose":
            return ()
        template = await self._template_of(component, digest)
        at = f"{what}: {deployment.name}: component {component.name}"
        if template.uses_files:
            return await self._images_with(deployment, component, digest, files, at)
        variables = deployment.environment(component.name)
        varies = template.varies or any(name.startswith("COMPOSE_") for name in variables)
        if not varies and template.needed <= variables.keys():
            return template.images
        try:
            filled = await self._filled(digest, variables)
        except FormatError as error:
            if varies:
                raise
            self.warnings.append(f"{at}: {error}")
            return template.images
        self._tell_unset(at, filled, variables)
        return images_of(filled.model)

    def _tell_unset(self, at: str, filled: Filled, variables: Mapping[str, str]) -> None:
        self.warnings += [f"{at}: variable {name}: {_UNSET}" for name in sorted(filled.unset)]
        contents = contents_of_variables(filled.model)
        self.warnings += [
            f"{at}: {place}: {contents[place]} {_NO_CONTENT}"
            for place in sorted(contents)
            if contents[place] not in variables
        ]

    async def _images_with(
        self, deployment: Deployment, component: Component, digest: str, files: Sequence[ExtraFile], at: str
    ) -> Sequence[str]:
        """Return the images of a component that uses the deployment's files, all of which are there (format 14.7)."""
        below = Path(self.folder.name) / f"files-{deployment.id}-{component.name}"
        extract([Entry(one.path, one.data, one.executable) for one in files if not one.secret], below)
        variables = {**deployment.environment(component.name), VARIABLE: str(below)}
        try:
            filled = await self._filled(digest, variables)
        except FormatError as error:
            raise FormatError(in_words(str(error), str(below), by_path(files))) from None
        self._tell_unset(at, filled, variables)
        mounted(filled.model, str(below), by_path(files), lambda use: f"/{use.path}")
        return images_of(filled.model)

    async def _images_of_units(self, component: Component, digest: str) -> Sequence[str]:
        units = component_reference(component).at(digest)
        what = f"component {units.name}"
        content = await self._once(f"units {digest}", functools.partial(self._archive, units, QUADLET))
        check_top(content, component.name, what=what)
        return images_of_units(content.entries, what=what)

    async def _filled(self, digest: str, variables: Mapping[str, str]) -> Filled:
        return await asyncio.to_thread(self.compose().filled, self._folder(digest), project="lock", variables=variables)

    async def _template(self, digest: str) -> _Template:
        folder = self._folder(digest)
        template = await asyncio.to_thread(self.compose().template, folder)
        images = images_of_template(template)
        varies = any("$" in image for image in images) or (folder / ".env").exists()
        needed = without_default(template) | set(contents_of_variables(template).values())
        return _Template(images, mentions(template), varies, frozenset(needed))

    async def _image(self, image: str) -> str:
        reference = parse_image(image)
        return reference.digest or await self.registry.digest(reference)

    def _folder(self, digest: str) -> Path:
        return Path(self.folder.name) / digest.removeprefix("sha256:")


def _again(error: FormatError | RegistryError, message: str) -> MargoError:
    """Return an error of the same kind with another message."""
    return FormatError(*message.splitlines()) if isinstance(error, FormatError) else type(error)(message)
