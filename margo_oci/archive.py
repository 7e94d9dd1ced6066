"""tar+gzip that is the same on every machine, and reading it without trusting it (format sections 3 and 7)."""

import io
import posixpath
import struct
import tarfile
import unicodedata
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePosixPath

from margo_oci.errors import FormatError
from margo_oci.tarheaders import Headers

UNPACKED_LIMIT_BYTES = 64 * 1024 * 1024
RATIO_LIMIT = 1000  # deflate cannot do better than 1032 to 1; text in practice stays under 100
ENTRY_LIMIT = 10_000
NAME_LIMIT_BYTES = 1024
GLOBAL_RECORDS_LIMIT = 64
FAULT_LIMIT = 100
_STORED_BLOCK_BYTES = 0xFFFF


@dataclass(frozen=True)
class Entry:
    """One file or folder of an archive, at a relative POSIX path."""

    path: str
    data: bytes = b""
    executable: bool = False
    folder: bool = False
    link: str = ""  # while reading: the path in the archive whose content this one has


def pack(entries: Mapping[str, Entry]) -> bytes:
    """Return a tar+gzip of `entries`, the same bytes on every machine and Python (format 3.2)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(entries):
            tar.addfile(_header(entries[path]), io.BytesIO(entries[path].data))
        size = tar.offset
    # Two closing blocks are enough; tarfile fills up to 10,240 bytes.
    return _gzip_stored(buffer.getvalue()[: size + 1024])


def _header(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.type = tarfile.DIRTYPE if entry.folder else tarfile.REGTYPE
    info.size = len(entry.data)
    info.mode = 0o755 if entry.executable or entry.folder else 0o644
    return info


def _gzip_stored(data: bytes) -> bytes:
    """Wrap `data` in gzip with stored blocks: deflate output differs between zlib and zlib-ng (RFC 1951 3.2.4)."""
    out = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"]
    for start in range(0, len(data), _STORED_BLOCK_BYTES):
        block = data[start : start + _STORED_BLOCK_BYTES]
        last = start + _STORED_BLOCK_BYTES >= len(data)
        out.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    out.append(struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF))
    return b"".join(out)


def unpack(data: bytes, *, what: str, limit_bytes: int = UNPACKED_LIMIT_BYTES) -> list[Entry]:
    """Return the files and folders of a tar+gzip, every one checked by `safe_path` (format 7.4, 7.5).

    Raises FormatError starting with `what`.
    """
    try:
        raw = _gunzip(data, limit_bytes, what)
        with tarfile.open(fileobj=Headers(raw, entry_limit=ENTRY_LIMIT, what=what), mode="r:") as tar:
            members = list(_members(tar, what))
        entries = _followed(_entries(raw, members, what), what)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, LookupError) as error:
        raise FormatError(f"{what}: not a usable tar: {error}") from None
    if sum(len(entry.data) for entry in entries) > limit_bytes:  # links are read as copies
        raise FormatError(f"{what}: unpacks to more than {limit_bytes} bytes: a decompression bomb?")
    _no_collisions(entries, what)
    return entries


def _gunzip(data: bytes, limit_bytes: int, what: str) -> bytes:
    limit_bytes = min(limit_bytes, max(len(data), 4096) * RATIO_LIMIT)
    out, inflater = b"", zlib.decompressobj(wbits=31)
    try:
        out = inflater.decompress(data, limit_bytes + 1)
    except zlib.error as error:
        raise FormatError(f"{what}: not usable gzip: {error}") from None
    if len(out) > limit_bytes:
        raise FormatError(f"{what}: unpacks to more than {limit_bytes} bytes: a decompression bomb?")
    if not inflater.eof:
        raise FormatError(f"{what}: gzip ends too early")
    if inflater.unused_data.strip(b"\0"):
        raise FormatError(f"{what}: {len(inflater.unused_data)} bytes after the gzip's end")
    return out


def _members(tar: tarfile.TarFile, what: str) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        if count >= ENTRY_LIMIT:
            raise FormatError(f"{what}: more than {ENTRY_LIMIT} entries")
        if len(tar.pax_headers) > GLOBAL_RECORDS_LIMIT:  # tarfile copies them for each entry
            raise FormatError(f"{what}: more than {GLOBAL_RECORDS_LIMIT} pax records for all entries")
        if not (member.isdir() and not PurePosixPath(member.name).parts):  # ./, as `tar czf x.tgz .` writes it
            yield member


def _entries(raw: bytes, members: list[tarfile.TarInfo], what: str) -> list[Entry]:
    """Return all entries. Raises FormatError with what is wrong with each of them."""
    entries: list[Entry] = []
    faults: list[str] = []
    for member in members:
        try:
            entries.append(_entry(raw, member, what))
        except FormatError as error:
            faults += error.faults
        if len(faults) == FAULT_LIMIT:
            break
    if faults:
        raise FormatError(*faults)
    return entries


def _entry(raw: bytes, member: tarfile.TarInfo, what: str) -> Entry:
    path = safe_path(member.name, what)
    if member.mode & 0o7000:
        raise FormatError(f"{what}: {path}: setuid, setgid and sticky bits are not accepted")
    if member.isdir():
        return Entry(path, folder=True)
    if member.issym() or member.islnk():
        base = posixpath.dirname(path) if member.issym() else ""
        return Entry(path, link=posixpath.normpath(posixpath.join(base, member.linkname)))
    if not member.isreg() or member.sparse is not None:
        raise FormatError(f"{what}: {path}: only plain files and folders are accepted")
    content = raw[member.offset_data : member.offset_data + max(member.size, 0)]
    if len(content) != member.size:
        raise FormatError(f"{what}: {path}: cut off")
    return Entry(path, content, executable=bool(member.mode & 0o111))


def _followed(entries: list[Entry], what: str) -> list[Entry]:
    """Give links the content of the file they name: nothing that is written out is a link (format 7.5)."""
    files = {entry.path: entry for entry in entries if not entry.folder and not entry.link}
    for entry in entries:
        if entry.link and (entry.link not in files or entry.link.split("/")[0] != entry.path.split("/")[0]):
            raise FormatError(
                f"{what}: {entry.path}: links to {entry.link!r:.200}, which is no file beside it in the archive"
            )
    return [replace(files[entry.link], path=entry.path) if entry.link else entry for entry in entries]


def lies_below(ordered: Sequence[str], folder: str) -> bool:
    """Tell whether one of the `ordered` paths lies below `folder`: in their order such paths stand together."""
    at = bisect_left(ordered, f"{folder}/")
    return at < len(ordered) and ordered[at].startswith(f"{folder}/")


def safe_path(name: str, what: str) -> str:
    """Return the normal form of a relative path that stays inside. Raises FormatError (format 7.5)."""
    bad = (
        "absolute" if name.startswith("/") else
        "with .." if ".." in name.split("/") else
        "with a backslash" if "\\" in name else
        "with a control character" if any(ord(char) < 32 or ord(char) == 127 for char in name) else
        "too long" if len(name.encode(errors="surrogateescape")) > NAME_LIMIT_BYTES else
        "empty" if not PurePosixPath(name).parts else
        ""
    )  # fmt: skip
    if bad:
        raise FormatError(f"{what}: path {name!r:.200} is {bad}: not accepted")
    return str(PurePosixPath(name))


def _no_collisions(entries: list[Entry], what: str) -> None:
    """No path twice, not even on a file system that folds case or Unicode forms; no file used as a folder."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        folded = unicodedata.normalize("NFC", entry.path).casefold()
        if folded in seen and not (entry.folder and seen[folded].folder and entry.path == seen[folded].path):
            raise FormatError(f"{what}: {entry.path}: this path stands twice")
        seen[folded] = entry
    # What lies below a file stands right after it if "/" sorts before all else; all parents of all paths would take
    # gigabytes.
    ordered = sorted(seen, key=lambda folded: folded.replace("/", "\0"))
    for above, folded in pairwise(ordered):
        if not seen[above].folder and folded.startswith(f"{above}/"):
            raise FormatError(f"{what}: {seen[folded].path}: lies below a file")
