"""Takes away what nothing needs any more: looks at the state directory and the engine, and removes by the rules."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_agent.cleaned import Cleaned
from margo_agent.confidential import Secrets
from margo_agent.engine import Engine
from margo_agent.extras import Extras
from margo_agent.garbage import Kind, Needs, Thing, garbage
from margo_agent.given import GivenNames
from margo_agent.record import Record, RecordFile
from margo_oci.content import is_digest, parse_json
from margo_oci.desired_state import parse_state
from margo_oci.errors import ApplyError, FormatError
from margo_oci.manifest import Manifest
from margo_oci.store import remove_folder, write_whole

SEEN_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Cleaner:
    """Cleans one state directory, and the engine's images that the agent named. Its caller holds the pass lock.

    Without an engine images stay.
    """

    state_dir: Path
    engine: Callable[[], Engine]
    now_s: Callable[[], float]
    after_s: float
    keep_free_bytes: int
    secrets: Secrets | None = None
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    def clean(self, *, dry_run: bool = False) -> Cleaned:
        """Remove what is due, by age or because room is short. Raises FormatError for a damaged record."""
        return self._clean(dry_run=dry_run, wanted_bytes=self.keep_free_bytes)

    def free_up(self, needed_bytes: int) -> int:
        """Make room for `needed_bytes` besides what is to stay free, oldest first; return how many bytes that freed.

        While a state is under way, what came for it stays. Never goes what runs, nor the way back. Raises FormatError
        for a damaged record.
        """
        return self._clean(dry_run=False, wanted_bytes=self.keep_free_bytes + needed_bytes).freed_bytes

    def _clean(self, *, dry_run: bool, wanted_bytes: int) -> Cleaned:
        record = RecordFile(self.state_dir / "record.json").load()
        cleaned = Cleaned(dry_run=dry_run)
        if not record.current:
            return cleaned  # nothing was accepted yet: all that is here may be for the first state
        engine, given = self._engine(cleaned), self._given(cleaned)
        there = [*self._folders(), *self._strays(record), *self._images(engine, given)]
        needs = self._needs(record, given, engine.images_in_use() if engine else frozenset())
        short_bytes = self._short(wanted_bytes, {one.disk for one in there})
        seen, now_s = self._seen(), self.now_s()
        cleaned.found = garbage(there, needs, seen, now_s, after_s=self.after_s, short_bytes=short_bytes)
        cleaned.removed = [one for one in cleaned.found if one.goes] if dry_run else []
        if dry_run:
            return cleaned
        for one in cleaned.found:
            if one.goes:
                try:
                    self._remove(one.thing, engine)
                    cleaned.removed.append(one)
                except (ApplyError, OSError, FormatError) as error:
                    cleaned.faults.append(f"{one.thing.key}: {error}")
        gone = {one.thing.key for one in cleaned.removed}
        self._remember(seen, {one.thing.key: one.since_s for one in cleaned.found if one.thing.key not in gone})
        return cleaned

    def _engine(self, cleaned: Cleaned) -> Engine | None:
        try:
            engine = self.engine()
            engine.ping()
        except ApplyError as error:
            cleaned.notes.append(f"images stay: {error}")
            return None
        return engine

    def _given(self, cleaned: Cleaned) -> Mapping[str, str]:
        try:
            return self._names.load()
        except FormatError as error:
            cleaned.notes.append(f"images stay: {error}")
            return {}

    @property
    def _names(self) -> GivenNames:
        return GivenNames(self.state_dir / "images.json")

    def _folders(self) -> Iterator[Thing]:
        """Yield what is in the state directory."""
        disk = _disk(self.state_dir)
        places: Sequence[tuple[Kind, str]] = (
            ("blob", "blobs/sha256/*"),
            ("part", "ingest/*"),
            ("component", "components/*"),
            ("generation", "deployments/*/*"),
        )
        for kind, pattern in places:
            for path in sorted(self.state_dir.glob(pattern)):
                with suppress(FileNotFoundError):
                    what: Kind = "leftover" if path.name.startswith(".") else kind
                    name = str(path.relative_to(self.state_dir))
                    yield Thing(
                        kind=what, name=name, size_bytes=_size_bytes(path), changed_s=path.stat().st_mtime, disk=disk
                    )

    def _strays(self, record: Record) -> Iterator[Thing]:
        """Yield files that were placed for a deployment that is not in the record: the power went before they did."""
        for path in Extras(self.state_dir, self.secrets).strays(record.deployments):
            yield Thing(kind="leftover", name=str(path), size_bytes=_size_bytes(path))

    def _images(self, engine: Engine | None, given: Mapping[str, str]) -> Iterator[Thing]:
        """Yield the images that the agent named; those that others named are none of its business."""
        if not engine or not given:
            return
        disk = _disk(Path(engine.folder() or "/nonexistent"))
        for name in given:
            yield Thing(kind="image", name=name, size_bytes=engine.image_bytes(name), disk=disk)

    def _needs(self, record: Record, given: Mapping[str, str], in_use: Set[str]) -> Needs:
        """Return what is needed; of a kind of which that cannot be told, everything is."""
        names: dict[Kind, Set[str]] = {}
        manifests = [self._manifest(one.digest) for one in record.accepted.values()]
        current = self._manifest(record.digest)
        # While a state is under way only who fetches for it knows what it needs: over a slow link that takes days.
        if current is not None and record.settled:
            digests = {one.digest for one in record.accepted.values()}
            digests |= {layer.digest for one in manifests if one for layer in one.layers}
            hexes = {digest.removeprefix("sha256:") for digest in digests}
            names["blob"] = {f"blobs/sha256/{one}" for one in hexes}
            names["part"] = {f"ingest/{path.name}" for path in self._parts() if path.name.partition(".")[0] in hexes}
        revisions = self._revisions(record, current)
        if revisions is None:
            return Needs(names=names)
        names["generation"] = revisions
        used = self._used(revisions)
        if used is not None:
            if record.settled:  # else they may be unpacked for generations that are still to be made
                names["component"] = used[0]
            names["image"] = used[1] | {name for name, image in given.items() if {name, image} & in_use}
        return Needs(names=names)

    def _parts(self) -> Sequence[Path]:
        return list((self.state_dir / "ingest").glob("*"))

    def _manifest(self, digest: str) -> Manifest | None:
        """Return an accepted manifest, which the pass that accepted it kept; None if it is not here."""
        if not is_digest(digest):
            return None
        path = self.state_dir / "blobs" / "sha256" / digest.removeprefix("sha256:")
        try:
            manifest = Manifest.from_bytes(path.read_bytes(), what=digest)
        except (OSError, FormatError):
            return None
        return manifest if manifest.digest == digest else None

    def _revisions(self, record: Record, current: Manifest | None) -> Set[str] | None:
        """Return the generations that are needed: what runs, the way back, and what is prepared but not applied yet."""
        known = {**record.installed, **record.previous, **(record.before or {})}
        revisions = {name: record.kept_revisions(name) for name in known}
        if not record.settled:
            try:
                state = parse_state(current, what="accepted") if current else None
            except FormatError:
                return None
            if state is None or not all(state.revision_of(layer) for layer in state.layers):
                return None
            # Those that failed before, too: what waits for another deployment is tried again, and so is a whole state.
            coming = {state.revision_of(layer) for layer in state.layers}
            for folder in (self.state_dir / "deployments").glob("*/"):
                revisions.setdefault(folder.name, set()).update(coming)
        return {f"deployments/{name}/{one.removeprefix('sha256:')}" for name, some in revisions.items() for one in some}

    def _used(self, revisions: Set[str]) -> tuple[Set[str], Set[str]] | None:
        """Return the components and images that generations use; None if one of them does not say."""
        components: set[str] = set()
        images: set[str] = set()
        for revision in revisions:
            folder = self.state_dir / revision
            if not folder.is_dir():
                continue
            try:
                lock = _read(folder / "lock.json")
                components |= {f"components/{one.removeprefix('sha256:')}" for one in lock["components"].values()}
                for file in (folder / "parts").glob("*.json"):
                    images |= {str(one.get("image", "")) for one in _read(file)["services"].values()}
            except (OSError, FormatError, KeyError, AttributeError):
                return None
        return components, images

    def _short(self, wanted_bytes: int, disks: Set[str]) -> Mapping[str, int]:
        """Return how many bytes each disk lacks."""
        here = _disk(self.state_dir)
        return {disk: max(0, wanted_bytes - self.free_bytes(Path(disk))) for disk in {here, *disks} if disk}

    def _remove(self, thing: Thing, engine: Engine | None) -> None:
        if thing.kind == "image":
            assert engine  # noqa: S101  (else no image was found)
            if self._names.load().get(thing.name, "") in ("", engine.image_id(thing.name)):
                engine.take_name(thing.name)
            self._names.took(thing.name)
            return
        path = self.state_dir / thing.name
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)
        if thing.kind == "generation":
            with suppress(OSError):
                path.parent.rmdir()  # the deployment's folder, if that was the last

    def _seen(self) -> dict[str, float]:
        try:
            raw = parse_json(self._seen_file.read_bytes(), what="garbage", limit_bytes=SEEN_LIMIT_BYTES)
        except (OSError, FormatError):
            return {}
        return {key: float(one) for key, one in raw.items() if isinstance(one, int | float)}

    def _remember(self, before: Mapping[str, float], seen: Mapping[str, float]) -> None:
        if before != seen:
            write_whole(self._seen_file, json.dumps(seen, sort_keys=True).encode())

    @property
    def _seen_file(self) -> Path:
        return self.state_dir / "garbage.json"


def _read(path: Path) -> dict[str, Any]:
    return parse_json(path.read_bytes(), what=str(path), limit_bytes=SEEN_LIMIT_BYTES)


def _size_bytes(path: Path) -> int:
    """Return the room that a file or folder takes, as its blocks."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(one.lstat().st_blocks * 512 for one in files)


def _disk(path: Path) -> str:
    """Return the mount point of a path, which stands for its file system; "" if the path is not here."""
    if not path.exists():
        return ""
    path = path.resolve()
    device = path.stat().st_dev
    while path != path.parent and path.parent.stat().st_dev == device:
        path = path.parent
    return str(path)
