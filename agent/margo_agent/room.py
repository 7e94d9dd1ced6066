"""Whether what has to come fits on the disks, asked before the first byte of it."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from margo_agent.unready import NoRoom

UNPACKED = 3  # how often the compressed size of an image is counted where the engine unpacks it: nobody says it before


class FreeUp(Protocol):
    """Removes what is safely old."""

    def __call__(self, needed_bytes: int) -> int:
        """Make room for so much, if there is so much that is old; return how many bytes that freed."""


def nothing_is_old(needed_bytes: int) -> int:  # noqa: ARG001  (a FreeUp)
    """Remove nothing."""
    return 0


@dataclass(frozen=True)
class Disk:
    """A file system: which one, and what is free on it."""

    id: int
    free_bytes: int


class Disks(Protocol):
    """Looks at file systems."""

    def __call__(self, folder: Path) -> Disk | None:
        """Return the one that `folder` is on, or will be; None where that cannot be said."""


@dataclass(frozen=True)
class Shortfall:
    """Too little room in `folder`, and in all that is on the same disk."""

    folder: Path
    needed_bytes: int
    free_bytes: int
    kept_bytes: int

    @property
    def missing_bytes(self) -> int:
        """How much more there would have to be."""
        return self.needed_bytes + self.kept_bytes - self.free_bytes

    def __str__(self) -> str:
        kept = f" (clean.keepFree keeps {self.kept_bytes} of them)" if self.kept_bytes else ""
        return (
            f"{self.needed_bytes} bytes are needed in {self.folder}, {self.free_bytes} are free{kept}, "
            f"{self.missing_bytes} are missing"
        )


def shortfalls(needed: Mapping[Path, int], disks: Mapping[Path, Disk], keep_free_bytes: int) -> Sequence[Shortfall]:
    """Return what does not fit; what comes to the same disk is one sum."""
    found: list[Shortfall] = []
    for disk in {disks[folder].id: disks[folder] for folder in needed if folder in disks}.values():
        folders = [folder for folder in needed if folder in disks and disks[folder].id == disk.id]
        one = Shortfall(folders[0], sum(needed[folder] for folder in folders), disk.free_bytes, keep_free_bytes)
        if one.needed_bytes and one.missing_bytes > 0:
            found.append(one)
    return found


def disk_of(folder: Path) -> Disk | None:
    """Return the disk of `folder`, or of the nearest folder above it that is there."""
    for place in (folder, *folder.parents):
        try:
            found = os.statvfs(place)
            return Disk(place.stat().st_dev, found.f_bavail * found.f_frsize)
        except OSError:
            continue
    return None


def usage_of(folder: Path) -> tuple[int, int]:
    """Return size and free bytes of the disk of `folder`, or of the nearest folder above it that is there."""
    found = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists()))
    return found.total, found.free


@dataclass(frozen=True, kw_only=True)
class Room:
    """The room of this device; `keep_free_bytes` of each disk stay free."""

    state_dir: Path
    keep_free_bytes: int = 0
    free_up: FreeUp = nothing_is_old
    disk_of: Disks = disk_of

    def check(self, content_bytes: int, image_bytes: int = 0, engine_root: Path | None = None) -> None:
        """Raise NoRoom unless `content_bytes` fit here, and unpacked layers of `image_bytes` at the engine's.

        What is safely old is removed first, if that is needed.
        """
        needed = {self.state_dir: content_bytes}
        if engine_root:
            needed[engine_root] = needed.get(engine_root, 0) + UNPACKED * image_bytes
        if short := self._short(needed):
            self.free_up(max(one.needed_bytes for one in short))
            if short := self._short(needed):
                raise NoRoom("; ".join(str(one) for one in short))

    def is_scarce(self, given_back_bytes: int) -> bool:
        """Tell whether too little is free here now, and would not be if so much were given back."""
        disk = self.disk_of(self.state_dir)
        return disk is not None and disk.free_bytes < self.keep_free_bytes <= disk.free_bytes + given_back_bytes

    def _short(self, needed: Mapping[Path, int]) -> Sequence[Shortfall]:
        disks = {folder: disk for folder in needed if (disk := self.disk_of(folder))}
        return shortfalls(needed, disks, self.keep_free_bytes)
