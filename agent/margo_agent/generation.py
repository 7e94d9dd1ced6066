"""Generations: an immutable folder for each revision of a deployment, with all that running it needs.

    <root>/components/<digest>/            the checked archive of a component, shared by who uses it
    <root>/deployments/<id>/<revision>/    deployment.yaml, lock.json, generation.json and for each component
                                           parts/<component>.json, the Compose model as it is applied

Going back means applying another folder, so the way back is exact.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from margo_agent.model import by_digest, local_name, pinned, sealed, self_contained
from margo_oci.compose import Compose, faults_of_template
from margo_oci.content import canonical_json
from margo_oci.deployment import Component, Deployment
from margo_oci.desired_state import Lock, Placed
from margo_oci.errors import ApplyError, FormatError
from margo_oci.package import Archive
from margo_oci.store import extract, remove_folder, sync_folder, write_whole

PARTS = "parts"  # a folder of their own: a component may have any name


@dataclass(frozen=True, kw_only=True)
class Part:
    """One component of a generation, ready to be applied; `variables` hold its secrets.

    `images` leads from what the model calls an image to where it comes from by digest.
    """

    name: str
    project: str
    file: Path
    images: Mapping[str, str]
    wait: bool
    timeout_s: float
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One revision of one deployment, ready to be applied."""

    deployment: str
    revision: str
    name: str
    parts: Sequence[Part]

    @property
    def images(self) -> Mapping[str, str]:
        """All its images: what the models call them, to where each comes from (`name@digest`)."""
        return dict(sorted((name, reference) for part in self.parts for name, reference in part.images.items()))


@dataclass(frozen=True)
class Generations:
    """All generations of `device`, below `root`."""

    root: Path
    compose: Compose
    device: str

    def has_component(self, digest: str) -> bool:
        """Tell whether a component's archive is unpacked."""
        return self._component(digest).is_dir()

    def add_component(self, digest: str, archive: Archive) -> None:
        """Unpack a checked archive: beside first, then under its name. Raises FormatError by rule 8.5."""
        folder = self._component(digest)
        beside = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        extract(archive.entries, beside)
        faults, _ = faults_of_template(self.compose.template(beside), beside)
        if faults:
            raise FormatError(*(f"compose.yaml: {fault}" for fault in faults))
        beside.rename(folder)
        sync_folder(folder.parent)

    def model(self, digest: str, *, project: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return the Compose model of an unpacked component with `variables` filled in. Raises FormatError."""
        return self.compose.model(self._component(digest), project=project, variables=variables)

    def prepare(self, placed: Placed, locked: Lock) -> Generation:
        """Make the folder for a deployment, or find it. Raises ApplyError if Compose refuses the model."""
        folder = self._folder(placed.deployment.id, placed.revision)
        try:
            found = self.open(placed.deployment.id, placed.revision)
            if all(name != reference for name, reference in found.images.items()):
                return found
        except ApplyError:
            pass
        shutil.rmtree(folder, ignore_errors=True)  # not there yet, gone bad on the disk, or made by an older agent
        beside = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        self._write(placed, locked, beside)
        beside.rename(folder)
        for parent in (folder.parent, folder.parent.parent):
            sync_folder(parent)
        return self.open(placed.deployment.id, placed.revision)

    def open(self, deployment: str, revision: str) -> Generation:
        """Return a generation that was prepared before. Raises ApplyError if it is gone."""
        folder = self._folder(deployment, revision)
        try:
            raw = json.loads((folder / "generation.json").read_bytes())
            parts = [_read_part(part, folder / PARTS) for part in raw["parts"]]
            return Generation(deployment=deployment, revision=revision, name=raw["name"], parts=parts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ApplyError(
                f"deployment {deployment}: its generation {revision[:19]} is not usable: {error}"
            ) from None

    def drop_others(self, deployment: str, keep: Sequence[str]) -> None:
        """Remove the generations of a deployment that nothing goes back to."""
        folder = self.root / "deployments" / deployment
        names = {_name(revision) for revision in keep}
        for child in folder.iterdir() if folder.is_dir() else ():
            if child.name not in names:
                remove_folder(child)
        if not names:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, placed: Placed, locked: Lock, folder: Path) -> None:
        deployment = placed.deployment
        (folder / PARTS).mkdir()
        parts = [self._part(deployment, component, locked, folder) for component in deployment.components]
        raw = {
            "name": deployment.name,
            "parts": [{**asdict(part), "file": part.file.name} for part in parts],
        }
        write_whole(folder / "deployment.yaml", deployment.data)
        write_whole(folder / "lock.json", locked.to_json().encode())
        write_whole(folder / "generation.json", canonical_json(raw))

    def _part(self, deployment: Deployment, component: Component, locked: Lock, folder: Path) -> Part:
        project = project_name(deployment.id, component.name)
        try:
            digest, variables = (
                locked.components[component.source],
                deployment.environment(component.name),
            )
            model = self.model(digest, project=project, variables=variables)
            used = [service.get("image", "") for service in model["services"].values()]
            model = pinned(model, locked, device=self.device, deployment=deployment.id, component=component.name)
            model = sealed(model, archive=str(self._component(digest)), private=str(self.root))
            images = {local_name(one): one for one in (by_digest(image, locked) for image in used)}
            ready = self_contained(model, variables, read=lambda path: Path(path).read_bytes())
        except FormatError as error:
            raise ApplyError(f"component {component.name}: {error}", code="unfit") from None
        file = folder / PARTS / f"{component.name}.json"
        write_whole(file, canonical_json(ready.model))
        return Part(
            name=component.name,
            project=project,
            file=file,
            images=images,
            wait=component.wait,
            timeout_s=component.timeout_s,
            variables=ready.secrets,
        )

    def _component(self, digest: str) -> Path:
        return self.root / "components" / digest.removeprefix("sha256:")

    def _folder(self, deployment: str, revision: str) -> Path:
        return self.root / "deployments" / deployment / _name(revision)


def _read_part(raw: Mapping[str, Any], folder: Path) -> Part:
    """Read a part. An older agent's has a list of images, which its model calls by digest."""
    images = raw["images"]
    named = images if isinstance(images, dict) else {image: image for image in images}
    return Part(**{**raw, "file": folder / raw["file"], "images": named})


def _name(revision: str) -> str:
    return revision.removeprefix("sha256:")


def project_name(deployment: str, component: str) -> str:
    """Return the Compose project of a component: readable, and no other deployment's."""
    return f"{component}-{deployment.replace('-', '')}"
