"""A folder where bundles are put for this device, such as the place where sticks are mounted."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LOOK_EVERY_S = 5.0
ENTRIES_LIMIT = 1000
DEPTH = 2  # of folders: where sticks are mounted, a stick, and what lies on it

Traits = tuple[int, int, int, int]  # device, inode, bytes, and the time of the last change in ns


@dataclass
class Inbox:
    """Finds bundles: each once, when two looks in a row found it the same, since it may still be copied."""

    seen: dict[Path, Traits] = field(default_factory=dict)
    handed: dict[Path, Traits] = field(default_factory=dict)

    def look(self, folder: Path) -> Sequence[Path]:
        """Return the bundles below `folder` that are new since the last look but one, the oldest first."""
        before, self.seen = self.seen, dict(_bundles(folder, DEPTH))
        self.handed = {path: traits for path, traits in self.handed.items() if self.seen.get(path) == traits}
        fresh = {
            path: traits for path, traits in self.seen.items() if before.get(path) == traits and path not in self.handed
        }
        self.handed |= fresh
        return sorted(fresh, key=lambda path: (fresh[path][3], path))


def _bundles(folder: Path, depth: int) -> Iterator[tuple[Path, Traits]]:
    """Yield image layouts: tars, and folders with an `index.json`. No link is followed, what cannot be read is left."""
    with suppress(OSError):
        found = sorted(_entries(folder), key=lambda entry: entry.name)
        if index := next((entry for entry in found if entry.name == "index.json"), None):
            yield folder, _traits(index)
            return
        for entry in found:
            if entry.name.lower().endswith(".tar") and entry.is_file(follow_symlinks=False):
                yield Path(entry.path), _traits(entry)
            elif depth and entry.is_dir(follow_symlinks=False):
                yield from _bundles(Path(entry.path), depth - 1)


def _entries(folder: Path) -> Sequence["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return [entry for _, entry in zip(range(ENTRIES_LIMIT), entries, strict=False) if entry.name[0] != "."]


def _traits(entry: "os.DirEntry[str]") -> Traits:
    found = entry.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@asynccontextmanager
async def emptied(
    folder: Callable[[], Path | None], hand: Callable[[Sequence[Path]], None], *, every_s: float = LOOK_EVERY_S
) -> AsyncIterator[None]:
    """Look while the block runs, and `hand` over what was found. Away from the loop: a broken stick answers late."""
    inbox = Inbox()

    async def work() -> None:
        while True:
            if place := folder():
                hand(await asyncio.to_thread(inbox.look, place))
            await asyncio.sleep(every_s)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
