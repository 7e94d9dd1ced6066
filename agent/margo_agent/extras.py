"""The extra files of deployments on this device: read from their layers, laid out for Compose, placed to be mounted."""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from margo_agent.confidential import Content, Secrets, keep_only
from margo_agent.placements import Placement, Placing
from margo_agent.unready import Sealed, Unready
from margo_oci.archive import Entry
from margo_oci.content import Descriptor, canonical_json, check, parse_json
from margo_oci.desired_state import Placed
from margo_oci.errors import ApplyError, FormatError, TrustError
from margo_oci.files import ExtraFile, read_file_layer
from margo_oci.manifest import TITLE
from margo_oci.store import Store, extract, write_whole

LAYERS = "layers"  # in the folder of a generation
_INDEX = "index.json"


@dataclass(frozen=True)
class Extras:
    """The files of all deployments below `root`, where their layers are, too."""

    root: Path
    secrets: Secrets | None

    def read(self, placed: Placed) -> Mapping[str, ExtraFile]:
        """Return the files of a deployment by path. Raises FormatError, Unready for one that went bad on this disk."""
        return {file.path: file for file in (_read(Store(self.root), layer) for layer in placed.files)}

    def placing(self, placed: Placed) -> Placing:
        """Return what finds places for a deployment's files; each secret was opened. Raises FormatError, Sealed."""
        files, deployment = self.read(placed), placed.deployment.id
        opened: dict[str, bytes] = {}
        if any(one.secret for one in files.values()):
            secrets = self._secrets
            secrets.check()
            opened = {path: secrets.opened(one) for path, one in files.items() if one.secret}
        return Placing(
            files=files,
            opened=opened,
            plain_folder=str(self._plain(deployment)),
            secret_folder=str(self.secrets.folder_of(deployment)) if self.secrets else "",
            secret_name=self.secrets.name if self.secrets else lambda _: "",
        )

    @contextmanager
    def laid_out(self, placed: Placed, files: Mapping[str, ExtraFile]) -> Iterator[str]:
        """Have a deployment's plain files in one folder, for Compose to read while it fills a model in; yield it."""
        folder = self.root / "deployments" / placed.deployment.id / ".files"
        shutil.rmtree(folder, ignore_errors=True)
        plain = [one for one in files.values() if not one.secret]
        extract([Entry(one.path, one.data, one.executable) for one in plain], folder)
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, placed: Placed, placing: Placing, folder: Path) -> None:
        """Keep the layers of what is mounted in the `folder` of a generation, and place what is no secret.

        The store may drop them: a revision that is gone back to needs its own. Raises Unfit, Sealed, ApplyError.
        """
        used = {path for one in placing.placements for path in one.files.values()}
        if not used:
            return
        if any(one.secret for one in placing.placements):
            self._secrets.check({one.owner for one in placing.placements})
        (folder / LAYERS).mkdir()
        store, kept = Store(self.root), {}
        for layer in placed.files:
            if layer.annotations[TITLE] in used:
                store.sync(layer)
                _kept(folder, layer).hardlink_to(store.path(layer))
                kept[layer.annotations[TITLE]] = layer.to_dict()
        write_whole(folder / LAYERS / _INDEX, canonical_json(kept))
        for placement in placing.placements:
            if not placement.secret:
                self._write(placement, {name: placing.files[path] for name, path in placement.files.items()})

    def place(self, folder: Path, placements: Sequence[Placement]) -> None:
        """Place what is not there, from the layers in the `folder` of a generation. Raises ApplyError."""
        missing = [one for one in placements if not Path(one.path).exists()]
        if not missing:
            return
        try:
            index = parse_json((folder / LAYERS / _INDEX).read_bytes(), what=LAYERS)
            layers = {path: Descriptor.from_dict(raw, at=path) for path, raw in index.items()}
            files = {path: self._again(folder, layer) for path, layer in layers.items()}
            for one in missing:
                self._write(one, {name: files[path] for name, path in one.files.items()})
        except (OSError, KeyError, FormatError) as error:
            raise ApplyError(f"its files are not usable: {error}") from None

    def _again(self, folder: Path, layer: Descriptor) -> ExtraFile:
        """Read a layer that a generation keeps; the store may have it, too. Raises FormatError, OSError, Unready."""
        try:
            data = check(_kept(folder, layer).read_bytes(), layer)
        except (TrustError, FileNotFoundError):
            return _read(Store(self.root), layer)
        return read_file_layer(layer, data, what=f"layer {layer.digest[:19]}")

    def keep_only(self, deployment: str, paths: Collection[str]) -> None:
        """Remove what is placed of a deployment, but what is at `paths`."""
        with suppress(OSError):  # what cannot be removed now is, the next time
            keep_only(self._plain(deployment), paths)
            if self.secrets:
                self.secrets.keep_only(deployment, paths)

    def strays(self, deployments: Collection[str]) -> Sequence[Path]:
        """Return the folders of what is placed for deployments that are not among these."""
        placed = [path for path in sorted((self.root / "files").glob("*")) if path.name not in deployments]
        return [*placed, *(self.secrets.strays(deployments) if self.secrets else ())]

    def _write(self, placement: Placement, files: Mapping[str, ExtraFile]) -> None:
        if placement.secret:
            secrets = self._secrets
            contents = {
                name: Content(secrets.opened(one) if one.secret else one.data, one.executable)
                for name, one in files.items()
            }
            secrets.write(Path(placement.path), contents, placement.owner)
            return
        path = Path(placement.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return
        if alone := files.get(""):
            write_whole(path, alone.data, mode=0o755 if alone.executable else 0o644)
            return
        beside = path.with_name(f".{path.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        extract([Entry(name, one.data, one.executable) for name, one in files.items()], beside)
        beside.rename(path)

    def _plain(self, deployment: str) -> Path:
        return self.root / "files" / deployment

    @property
    def _secrets(self) -> Secrets:
        if self.secrets is None:
            raise Sealed("this agent was built without a place for secrets")
        return self.secrets


def _read(store: Store, layer: Descriptor) -> ExtraFile:
    data = store.read(layer)
    if data is None:
        raise Unready(
            f"{layer.annotations[TITLE]}: went bad on this disk and was dropped: it is fetched again next time"
        )
    return read_file_layer(layer, data, what=f"layer {layer.digest[:19]}")


def _kept(folder: Path, layer: Descriptor) -> Path:
    return folder / LAYERS / layer.digest.removeprefix("sha256:")
