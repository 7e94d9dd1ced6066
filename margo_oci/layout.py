"""OCI image layouts, as a folder or a tar: read with limits, and written (image-spec v1.1, image-layout.md).

Nothing that a layout says is trusted: whoever reads content holds it against its digest. A layout may lack blobs.
"""

import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from margo_oci.content import MANIFEST_LIMIT_BYTES, Descriptor, canonical_json, check, is_digest, parse_json
from margo_oci.errors import FormatError, said
from margo_oci.manifest import IMAGE_INDEX
from margo_oci.store import replaced
from margo_oci.tarheaders import BLOCK_BYTES, EXTENSION_LIMIT_BYTES, check_records

NAME = "org.opencontainers.image.ref.name"
VERSION = "1.0.0"
MARKER_LIMIT_BYTES = 4096
INDEX_LIMIT_BYTES = 8 * 1024 * 1024
ENTRY_LIMIT = 20_000  # what index.json lists
FILE_LIMIT = 200_000  # what a tar holds
PIECE_BYTES = 256 * 1024
_MARKER, _INDEX = "oci-layout", "index.json"
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_RECORD = re.compile(rb"[0-9]+ (path|size)=([^\n]*)\n")


class Files(Protocol):
    """Where the files of a layout are."""

    def size_bytes(self, path: str) -> int | None:
        """Return the size of a file; None if there is no such plain file."""

    def pieces(self, path: str, start: int, count: int) -> Iterator[bytes]:
        """Yield at most `count` bytes of a file from `start` on."""


@dataclass(frozen=True)
class Layout:
    """A layout that was opened: `entries` are what its index lists."""

    where: str
    files: Files
    entries: Sequence[Descriptor]

    def size_bytes(self, digest: str) -> int | None:
        """Return the size of a blob; None if it is not here."""
        return self.files.size_bytes(_path(digest)) if is_digest(digest) else None

    def pieces(self, digest: str, start: int = 0, count: int | None = None) -> Iterator[bytes]:
        """Yield a blob, or a part of it, as it is here, unchecked; nothing if it is not here."""
        size = self.size_bytes(digest)
        if size is None:
            return iter(())
        return self.files.pieces(_path(digest), start, size - start if count is None else count)

    def small(self, digest: str, *, limit_bytes: int = MANIFEST_LIMIT_BYTES) -> bytes | None:
        """Return a small blob; None if it is not here, or too long. Raises TrustError `digest-mismatch`."""
        size = self.size_bytes(digest)
        if size is None or size > limit_bytes:
            return None
        data = b"".join(self.pieces(digest))
        return check(data, Descriptor(media_type="application/octet-stream", digest=digest, size=size))


def open_layout(path: Path) -> Layout:
    """Open a layout, folder or tar; a tar is no link (format 13.3). Raises FormatError (format 13.1 to 13.3)."""
    where = str(path)
    files: Files = FolderFiles(path) if path.is_dir() else TarFiles.open(path)
    marker = parse_json(_whole(files, _MARKER, MARKER_LIMIT_BYTES, where), what=f"{where}: {_MARKER}")
    if marker.get("imageLayoutVersion") != VERSION:
        raise FormatError(f"{where}: {_MARKER}: version {VERSION} is expected, got {said(marker)}")
    data = _whole(files, _INDEX, INDEX_LIMIT_BYTES, where)
    return Layout(where, files, _entries(data, what=f"{where}: {_INDEX}"))


def _whole(files: Files, path: str, limit_bytes: int, where: str) -> bytes:
    size = files.size_bytes(path)
    if size is None:
        raise FormatError(f"{where}: {path} is missing: an OCI image layout is expected, a folder or a tar of one")
    if size > limit_bytes:
        raise FormatError(f"{where}: {path}: {size} bytes, at most {limit_bytes} are read")
    return b"".join(files.pieces(path, 0, size))


def _entries(data: bytes, *, what: str) -> Sequence[Descriptor]:
    raw = parse_json(data, what=what, limit_bytes=INDEX_LIMIT_BYTES)
    listed = raw.get("manifests")
    if not isinstance(listed, list) or raw.get("mediaType", IMAGE_INDEX) != IMAGE_INDEX:
        raise FormatError(f"{what}: an image index is expected")
    if len(listed) > ENTRY_LIMIT:
        raise FormatError(f"{what}: {len(listed)} entries, at most {ENTRY_LIMIT} are read")
    return [Descriptor.from_dict(one, at=f"{what}: manifests[{number}]") for number, one in enumerate(listed)]


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder; no link in it is followed (format 13.2)."""

    root: Path

    def size_bytes(self, path: str) -> int | None:
        """Return the size of a plain file."""
        try:
            with self._open(path) as file:
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return None

    def pieces(self, path: str, start: int, count: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        with self._open(path) as file:
            yield from _part(file, start, count)

    def _open(self, path: str) -> BinaryIO:
        *folders, name = path.split("/")
        at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                above, at = at, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(above)
            return _plain_file(name, what=f"{self.root}: {path}", dir_fd=at)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise FormatError(f"{self.root}: {path}: {error.strerror}: plain files and folders are expected") from None
        finally:
            os.close(at)


def _plain_file(path: str | Path, *, what: str, dir_fd: int | None = None) -> BinaryIO:
    """Open a plain file: no link is followed, and nothing waits for who writes into a pipe."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)  # before `fdopen`, which refuses a folder and leaves it open
        raise FormatError(f"{what}: a plain file is expected")
    return os.fdopen(file, "rb", buffering=0)


@dataclass(frozen=True)
class TarFiles:
    """The files of a tar, found by one walk over its headers; `parts` says where each begins, and its size."""

    file: Path
    parts: Mapping[str, tuple[int, int]]

    @classmethod
    def open(cls, file: Path) -> "TarFiles":
        """Find the files of a layout in a tar. Raises FormatError (format 13.3)."""
        try:
            with _plain_file(file, what=str(file)) as stream:
                return cls(file, dict(_walk(stream, str(file))))
        except OSError as error:
            raise FormatError(f"{file}: {error.strerror}") from None

    def size_bytes(self, path: str) -> int | None:
        """Return the size of a file."""
        return self.parts[path][1] if path in self.parts else None

    def pieces(self, path: str, start: int, count: int) -> Iterator[bytes]:
        """Yield a part of a file."""
        begin, size = self.parts[path]
        with _plain_file(self.file, what=str(self.file)) as stream:
            yield from _part(stream, begin + start, min(count, size - start))


def _part(stream: BinaryIO, start: int, count: int) -> Iterator[bytes]:
    stream.seek(start)
    while count > 0 and (piece := stream.read(min(PIECE_BYTES, count))):
        count -= len(piece)
        yield piece


def _walk(stream: BinaryIO, what: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the files of a layout: this is the only reader of these headers, so no other can see another tar."""
    end = stream.seek(0, os.SEEK_END)
    position, headers, seen, said_before = 0, 0, set[str](), dict[str, str]()
    while position < end:
        stream.seek(position)
        block = stream.read(BLOCK_BYTES)
        if block == bytes(BLOCK_BYTES):
            return
        headers += 1
        if headers > FILE_LIMIT:
            raise FormatError(f"{what}: more than {FILE_LIMIT} tar headers")
        header = _header(block, what)
        size, begin = int(said_before.get("size", header.size)), position + BLOCK_BYTES
        if not 0 <= size <= end - begin:
            raise FormatError(f"{what}: this tar is cut off: a file of {size} bytes, {end - begin} are left")
        position = begin + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if header.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
            said_before = _extension(header, _whole_header(stream, size, what), what)
            continue
        name = said_before.get("path", header.name).removeprefix("./").rstrip("/")
        said_before = {}
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            raise FormatError(f"{what}: {said(name)}: only plain files and folders are accepted")
        if header.type == tarfile.DIRTYPE or not (name in (_MARKER, _INDEX) or _BLOB.fullmatch(name)):
            continue  # what else is in there, such as the docker-archive part of `docker save`, is not looked at
        if name in seen:
            raise FormatError(f"{what}: {name} stands twice")
        seen.add(name)
        yield name, (begin, size)


def _header(block: bytes, what: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        compressed = block[:2] == b"\x1f\x8b" or block[:4] == b"\x28\xb5\x2f\xfd"
        hint = "it is compressed: unpack it first" if compressed else f"not a usable tar: {said(error)}"
        raise FormatError(f"{what}: {hint}") from None


def _whole_header(stream: BinaryIO, size: int, what: str) -> bytes:
    if size > EXTENSION_LIMIT_BYTES:
        raise FormatError(f"{what}: a tar header of more than {EXTENSION_LIMIT_BYTES} bytes")
    return stream.read(size)


def _extension(header: tarfile.TarInfo, data: bytes, what: str) -> dict[str, str]:
    """Return the name and size that an extension header gives to the file after it."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode(errors="replace")}
    check_records(data, what)
    found = {key.decode(): value.decode(errors="replace") for key, value in _RECORD.findall(data)}
    if header.type == tarfile.XGLTYPE:
        found = {}
    if "size" in found and not (found["size"].isascii() and found["size"].isdigit() and len(found["size"]) < 20):
        raise FormatError(f"{what}: a tar header with an unusable size")
    return found


def index_of(entries: Iterable[Descriptor]) -> bytes:
    """Return `index.json`: the same entries give the same bytes. Raises FormatError for more than is read (13.1)."""
    listed = sorted(entries, key=lambda one: (one.annotations.get(NAME, ""), one.digest))
    data = canonical_json(
        {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [one.to_dict() for one in listed]}
    )
    if len(listed) > ENTRY_LIMIT or len(data) > INDEX_LIMIT_BYTES:
        raise FormatError(
            f"{_INDEX}: {len(listed)} entries in {len(data)} bytes, at most {ENTRY_LIMIT} in {INDEX_LIMIT_BYTES} are "
            "read: take fewer references at once"
        )
    return data


MARKER_DATA = canonical_json({"imageLayoutVersion": VERSION})


def frame(root: Path, entries: Iterable[Descriptor]) -> None:
    """Make the folder `root`, in which the blobs are, a layout, durably: the index comes last. Raises FormatError."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in ((_MARKER, MARKER_DATA), (_INDEX, index_of(entries))):
        with replaced(root / name) as file:
            file.write(data)


def tar_of(entries: Iterable[Descriptor], blobs: Iterable[tuple[Descriptor, Iterator[bytes]]]) -> Iterator[bytes]:
    """Yield a layout as a tar, piece by piece; the same content gives the same bytes (format 13.4)."""
    for path, data in ((_MARKER, MARKER_DATA), (_INDEX, index_of(entries))):
        yield _tar_header(path, len(data)) + data + bytes(-len(data) % BLOCK_BYTES)
    for descriptor, pieces in blobs:
        yield _tar_header(_path(descriptor.digest), descriptor.size)
        yield from pieces
        yield bytes(-descriptor.size % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def _tar_header(path: str, size: int) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)  # a layer may have more than 8 GiB
