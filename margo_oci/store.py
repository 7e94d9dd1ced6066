"""Content on the disk by digest, and the few ways in which this project writes files.

A blob is checked each time it is read, so a write that a power cut lost costs a fetch, never a wrong byte.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from margo_oci.archive import Entry
from margo_oci.content import Descriptor, Verifier, check, digest_of
from margo_oci.errors import TrustError

PIECE_BYTES = 256 * 1024


class Store:
    """Blobs under `root/blobs/sha256`, unfinished ones under `root/ingest`."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs" / "sha256"
        self.ingest = root / "ingest"

    def path(self, descriptor: Descriptor) -> Path:
        """Where the blob is, or will be."""
        return self.blobs / descriptor.digest.removeprefix("sha256:")

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is here, by its size; what it holds is checked when it is read."""
        try:
            return self.path(descriptor).stat().st_size == descriptor.size
        except FileNotFoundError:
            return False

    def missing_bytes(self, descriptor: Descriptor) -> int:
        """Return how much of the blob still has to come."""
        if self.has(descriptor):
            return 0
        part = self._part(descriptor)
        here = part.stat().st_size if part.exists() else 0
        return descriptor.size - here if here < descriptor.size else descriptor.size

    def pieces(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the blob piece by piece. Raises TrustError, at its end, if it went bad on the disk, and drops it."""
        verifier = Verifier(descriptor)
        try:
            with self.path(descriptor).open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield verifier.feed(piece)
            verifier.finish()
        except TrustError:
            self.drop(descriptor)
            raise

    def sync(self, descriptor: Descriptor) -> None:
        """Make a blob durable: the store itself does not mind what a power cut takes."""
        _sync(self.path(descriptor))

    def holds(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is here, by all of its bytes; one that went bad on the disk is dropped."""
        try:
            for _ in self.pieces(descriptor):
                pass
        except (FileNotFoundError, TrustError):
            return False
        return True

    def drop(self, descriptor: Descriptor) -> None:
        """Remove a blob, and what came of it."""
        self.path(descriptor).unlink(missing_ok=True)
        self._part(descriptor).unlink(missing_ok=True)

    def has_part(self, descriptor: Descriptor) -> bool:
        """Tell whether an earlier attempt left something to go on from."""
        return self._part(descriptor).exists()

    def read(self, descriptor: Descriptor) -> bytes | None:
        """Return the blob; None if it is not here. One that went bad on the disk is dropped."""
        try:
            return check(self.path(descriptor).read_bytes(), descriptor)
        except FileNotFoundError:
            return None
        except TrustError:
            self.path(descriptor).unlink()
            return None

    def small(self, digest: str, *, limit_bytes: int) -> bytes | None:
        """Return a blob of which only the digest is known; None if it is not here, too long, or went bad."""
        try:
            with (self.blobs / digest.removeprefix("sha256:")).open("rb") as stream:
                data = stream.read(limit_bytes + 1)
        except FileNotFoundError:
            return None
        return data if len(data) <= limit_bytes and digest_of(data) == digest else None

    def add(self, descriptor: Descriptor, data: bytes) -> None:
        """Keep a small blob. Raises TrustError `digest-mismatch`."""
        with self.receive(descriptor) as part:
            part.restart()
            part.write(data)

    @contextmanager
    def receive(self, descriptor: Descriptor) -> Iterator["Part"]:
        """Write a blob piece by piece; it appears in the store whole and checked, or not at all.

        What an interruption leaves is continued next time; what turns out wrong is dropped. Of two who receive
        one blob at once, the second writes a part of its own.
        """
        for folder in (self.blobs, self.ingest):
            folder.mkdir(parents=True, exist_ok=True)
        with _claimed(self._part(descriptor)) as (path, file):
            try:
                part = Part.of(file, descriptor)
                yield part
                part.verifier.finish()
            except TrustError:
                path.unlink(missing_ok=True)
                raise
            path.replace(self.path(descriptor))

    def _part(self, descriptor: Descriptor) -> Path:
        return self.ingest / f"{descriptor.digest.removeprefix('sha256:')}.part"


@contextmanager
def _claimed(path: Path) -> Iterator[tuple[Path, int]]:
    """Open `path` as its only writer; yield it, or a passing one beside it while somebody else writes there."""
    lasting = path
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            path = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            continue
        if _is(path, file):
            break
        os.close(file)  # its writer was done between our open and our lock: this file is a blob now
    try:
        yield path, file
    finally:
        os.close(file)
        if path != lasting:
            path.unlink(missing_ok=True)


def _is(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except FileNotFoundError:
        return False


class Part:
    """A blob on its way in; `have_bytes` of it are already here."""

    def __init__(self, descriptor: Descriptor, file: int) -> None:
        self.descriptor = descriptor
        self.file = file
        self.verifier = Verifier(descriptor)

    @classmethod
    def of(cls, file: int, descriptor: Descriptor) -> "Part":
        """Take what an earlier attempt left in `file`. Raises TrustError if it cannot be the beginning."""
        part = cls(descriptor, file)
        if os.fstat(file).st_size >= descriptor.size:
            part.restart()  # nothing left to ask for, so nothing that could prove it right
        while chunk := os.read(file, 1024 * 1024):
            part.verifier.feed(chunk)
        return part

    @property
    def have_bytes(self) -> int:
        """How much is here."""
        return self.verifier.seen_bytes

    def restart(self) -> None:
        """Begin at the first byte again."""
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        self.verifier = Verifier(self.descriptor)

    def write(self, chunk: bytes) -> None:
        """Take the next piece. Raises TrustError when it is more than was declared."""
        self.verifier.feed(chunk)
        while chunk:
            chunk = chunk[os.write(self.file, chunk) :]


@contextmanager
def replaced(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Yield the file that takes the place of `path` once it is whole; without a `mode`, the umask says it.

    After a power cut `path` holds either the old or the new content. No link is followed.
    """
    beside = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(beside, flags, 0o666 if mode is None else mode)
    try:
        with os.fdopen(file, "wb") as stream:
            if mode is not None:
                os.fchmod(stream.fileno(), mode)  # one that a power cut left may have had another
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except (Exception, KeyboardInterrupt):
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` so that after a power cut it holds either the old or the new content, whole."""
    with replaced(path, mode=mode) as stream:
        stream.write(data)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; some shares have no way to do that (fsync(2), EINVAL)."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that what a power cut leaves of it is not taken for whole: it loses its name first."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone)


def extract(entries: Sequence[Entry], folder: Path) -> None:
    """Write checked archive entries below `folder`, which must be new; modes are ours, links there are none."""
    folder.mkdir(parents=True)
    for entry in entries:
        path = folder / entry.path
        if entry.folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o755 if entry.executable else 0o644
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(file, "wb") as stream:
            os.fchmod(stream.fileno(), mode)  # whatever the umask: a container's user must be able to read it
            stream.write(entry.data)
            stream.flush()
            os.fsync(stream.fileno())
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755)
        sync_folder(path)
