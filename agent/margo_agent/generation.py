"""Generations: an immutable folder for each revision of a deployment, with all that running it needs.

    <root>/components/<digest>/            the checked archive of a component, shared by who uses it
    <root>/deployments/<id>/<revision>/    deployment.yaml, lock.json, generation.json and for each component
                                           parts/<component>.json, the Compose model as it is applied; layers/, the
                                           files that it mounts as they came, secrets still encrypted
    <root>/files/<id>/                     those files, placed to be mounted; secrets are placed elsewhere, in memory

Going back means applying another folder, so the way back is exact.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from margo_agent.confidential import Secrets
from margo_agent.extras import Extras
from margo_agent.model import by_digest, local_name, pinned, sealed, self_contained
from margo_agent.placements import Placement, Placing
from margo_oci.compose import Compose, faults_of_template, images_of
from margo_oci.content import canonical_json
from margo_oci.deployment import Component, Deployment
from margo_oci.desired_state import Lock, Placed
from margo_oci.errors import ApplyError, FormatError
from margo_oci.files import VARIABLE
from margo_oci.mounting import in_words, mounted
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
    placements: Sequence[Placement] = ()

    @property
    def images(self) -> Mapping[str, str]:
        """All its images: what the models call them, to where each comes from (`name@digest`)."""
        return dict(sorted((name, reference) for part in self.parts for name, reference in part.images.items()))


@dataclass(frozen=True)
class Generations:
    """All generations of `device`, below `root`. Without `secrets` it can have none."""

    root: Path
    compose: Compose
    device: str
    secrets: Secrets | None = None

    @property
    def extras(self) -> Extras:
        """The extra files of deployments."""
        return Extras(self.root, self.secrets)

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
            placements = [Placement.from_dict(one) for one in raw.get("placements", ())]
            return Generation(
                deployment=deployment, revision=revision, name=raw["name"], parts=parts, placements=placements
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ApplyError(
                f"deployment {deployment}: its generation {revision[:19]} is not usable: {error}"
            ) from None

    def place(self, generation: Generation) -> None:
        """Have all that a generation mounts where it mounts it, secrets too. Raises ApplyError."""
        self.extras.place(self._folder(generation.deployment, generation.revision), generation.placements)

    def drop_others(self, deployment: str, keep: Sequence[str]) -> None:
        """Remove the generations of a deployment that nothing goes back to."""
        folder = self.root / "deployments" / deployment
        names = {_name(revision) for revision in keep}
        for child in folder.iterdir() if folder.is_dir() else ():
            if child.name not in names:
                remove_folder(child)
        if not names:
            shutil.rmtree(folder, ignore_errors=True)

    def keep_placed(self, deployment: str, runs: str) -> None:
        """Remove what is placed of a deployment, but what the revision that `runs` mounts; all of it for ""."""
        try:
            placements = self.open(deployment, runs).placements if runs else ()
        except ApplyError:
            return  # nobody can tell what it mounts
        self.extras.keep_only(deployment, {one.path for one in placements})

    def keep_placed_of(self, deployments: Collection[str]) -> None:
        """Remove what is placed, but for these deployments: a process that was killed leaves such things."""
        for stray in self.extras.strays(deployments):
            self.extras.keep_only(stray.name, ())

    def images(self, placed: Placed, component: Component, digest: str) -> Sequence[str]:
        """Return the images that an unpacked component leads to with the parameters of a deployment.

        Raises FormatError, and Unready for a file that went bad.
        """
        extra = self.extras.read(placed)
        with self.extras.laid_out(placed, extra) as below:
            variables = {**placed.deployment.environment(component.name), VARIABLE: below}
            return images_of(self.model(digest, project="lock", variables=variables))

    def _write(self, placed: Placed, locked: Lock, folder: Path) -> None:
        deployment = placed.deployment
        (folder / PARTS).mkdir()
        try:
            placing = self.extras.placing(placed)
            with self.extras.laid_out(placed, placing.files) as below:
                parts = [self._part(deployment, one, locked, folder, placing, below) for one in deployment.components]
            self.extras.keep(placed, placing, folder)
        except FormatError as error:
            raise ApplyError(str(error), code="unfit") from None
        raw = {
            "name": deployment.name,
            "parts": [{**asdict(part), "file": part.file.name} for part in parts],
            **({"placements": [one.to_dict() for one in placing.placements]} if placing.placements else {}),
        }
        write_whole(folder / "deployment.yaml", deployment.data)
        write_whole(folder / "lock.json", locked.to_json().encode())
        write_whole(folder / "generation.json", canonical_json(raw))

    def _part(
        self, deployment: Deployment, component: Component, locked: Lock, folder: Path, placing: Placing, below: str
    ) -> Part:
        project = project_name(deployment.id, component.name)
        try:
            digest, variables = (
                locked.components[component.source],
                deployment.environment(component.name),
            )
            model = self._model(digest, project, {**variables, VARIABLE: below}, placing, below)
            used = [service.get("image", "") for service in model["services"].values()]
            model = pinned(model, locked, device=self.device, deployment=deployment.id, component=component.name)
            model = self._sealed(mounted(model, below, placing.files, placing.place), digest, placing)
            images = {local_name(one): one for one in (by_digest(image, locked) for image in used)}
            places = {one.path for one in placing.placements}
            # What was placed is named by its content, and a secret is not there yet: its name stands for it.
            ready = self_contained(
                model, variables, read=lambda path: path.encode() if path in places else Path(path).read_bytes()
            )
        except FormatError as error:
            raise ApplyError(f"component {component.name}: {error}", code="unfit") from None
        except RecursionError:
            raise ApplyError(f"component {component.name}: nested too deeply to be read", code="unfit") from None
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

    def _model(
        self, digest: str, project: str, variables: Mapping[str, str], placing: Placing, below: str
    ) -> dict[str, Any]:
        try:
            return self.model(digest, project=project, variables=variables)
        except FormatError as error:
            raise FormatError(in_words(str(error), below, placing.files)) from None

    def _sealed(self, model: dict[str, Any], digest: str, placing: Placing) -> dict[str, Any]:
        """Keep a model out of the agent's own folders, but for its archive and what was placed for it."""
        archive, places = str(self._component(digest)), {one.path for one in placing.placements}
        privates = [str(self.root), *([str(self.secrets.folder)] if self.secrets else [])]
        for private in privates:
            model = sealed(model, archive=archive, private=private, placed=places)
        return model

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
