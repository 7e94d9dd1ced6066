"""A disk that loses power: what was never synced is not on it afterwards, as the kernel itself has it.

It is a file with ext4 in it, mounted by loop. A power cut copies the file as it is, and mounts the copy.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

SIZE_BYTES = 64 * 2**20


class Disk:
    """A mounted disk at `folder`; needs root and loop devices, best within `isolated`."""

    def __init__(self, folder: Path, *, size_bytes: int = SIZE_BYTES) -> None:
        self.folder = folder
        self.image = folder.with_name(f"{folder.name}.ext4")
        self.size_bytes = size_bytes

    @classmethod
    @contextmanager
    def of(cls, folder: Path, *, size_bytes: int = SIZE_BYTES) -> Iterator[Self]:
        """Put what is in `folder` onto a disk in its place."""
        kept = folder.rename(folder.with_name(f"{folder.name}.kept"))
        with cls(folder, size_bytes=size_bytes) as disk:
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            folder.chmod(0o700)
            _run("sync", "--file-system", str(folder))
            yield disk

    def __enter__(self) -> Self:
        self.folder.mkdir()
        with self.image.open("wb") as stream:
            stream.truncate(self.size_bytes)
        _run("mkfs.ext4", "-q", "-m", "0", str(self.image))
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "--lazy", str(self.folder))

    def cut(self) -> None:
        """Lose power, and get it back."""
        held = self.image.with_suffix(".held")
        shutil.copyfile(self.image, held)
        _run("umount", "--lazy", str(self.folder))
        held.replace(self.image)
        self._mount()

    def become_read_only(self) -> None:
        """Take nothing more, as a disk does that found errors."""
        _run("mount", "-o", "remount,ro", str(self.folder))

    def _mount(self) -> None:
        # A long commit interval: what is not synced stays out for as long as the kernel may take.
        _run("mount", "-o", "loop,commit=60", str(self.image), str(self.folder))


def can_mount() -> bool:
    """Tell whether this machine lets us mount a file."""
    return shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin") is not None and Path("/dev/loop-control").exists()


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
