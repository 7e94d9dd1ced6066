"""Folders of documents: ApplicationDeployments to publish, components to package."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from margo_cli.plainfile import read_plain
from margo_oci.archive import ENTRY_LIMIT, UNPACKED_LIMIT_BYTES, Entry
from margo_oci.dependencies import needs_of
from margo_oci.deployment import Deployment, parse_deployment
from margo_oci.errors import FormatError
from margo_oci.files import FILE_COUNT_LIMIT, SUFFIX, SUM_LIMIT_BYTES, ExtraFile, check_path, meeting
from margo_oci.package import NO_KEYS, holds_private_key
from margo_oci.store import replaced
from margo_oci.yamldoc import DOCUMENT_LIMIT_BYTES

FILES = ".files"  # hello.files/ beside hello.yaml
_LEFT_OUT = {".git", ".DS_Store"}


@dataclass(frozen=True)
class Document:
    """A deployment, the file it stands in, and the files that go with it."""

    file: Path
    deployment: Deployment
    files: Sequence[ExtraFile] = field(default_factory=tuple)


def read_deployments(folder: Path, *, allow_empty: bool = False, complete: bool = True) -> Sequence[Document]:
    """Read every `*.yaml` of a folder; in a `complete` one everything is there that something depends on.

    Raises FormatError with all faults of all files.
    """
    if not folder.is_dir():
        raise FormatError(f"{folder}: a folder with ApplicationDeployments (*.yaml) is expected")
    documents: list[Document] = []
    faults: list[str] = []
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    for file in files:
        if file.is_dir():
            faults.append(f"{file}: is a folder: documents lie side by side; call it otherwise, or it seems to be one")
            continue
        if file.suffix == ".yml":
            faults.append(f"{file}: ends in .yml: rename it to {file.stem}.yaml, or it is not published")
            continue
        try:
            deployment = parse_deployment(read_plain(file, limit_bytes=DOCUMENT_LIMIT_BYTES), what=str(file))
            documents.append(Document(file, deployment, read_files(file.with_suffix(FILES))))
        except FormatError as error:
            faults += error.faults
    faults += _twice(documents)
    faults += _ownerless(folder) if complete else []
    faults += _unmet(documents) if complete else []
    if not files and not allow_empty:
        faults.append(
            f"{folder}: no *.yaml here: an empty state makes devices remove everything; if that is meant, --allow-empty"
        )
    if faults:
        raise FormatError(*faults)
    return documents


def read_files(folder: Path) -> Sequence[ExtraFile]:
    """Read the files of a deployment, if it has any (format 14.1 to 14.4). Raises FormatError with every fault."""
    if not os.path.lexists(folder):
        return ()
    if folder.is_symlink() or not folder.is_dir():
        raise FormatError(f"{folder}: a folder with the files of a deployment is expected, no link and no file")
    found: list[ExtraFile] = []
    faults: list[str] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if _LEFT_OUT & set(relative.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        if not stat.S_ISREG(path.lstat().st_mode):
            faults.append(f"{path}: only plain files go with a deployment, no links, sockets or devices")
            continue
        if len(found) >= FILE_COUNT_LIMIT or sum(len(one.data) for one in found) > SUM_LIMIT_BYTES:
            raise FormatError(f"{folder}: at most {FILE_COUNT_LIMIT} files of {SUM_LIMIT_BYTES} bytes together")
        try:
            found.append(_extra_file(path, relative.as_posix()))
        except FormatError as error:
            faults += error.faults
    faults += [f"{folder}: {fault}" for fault in meeting([one.path for one in found])]
    if faults:
        raise FormatError(*faults)
    return found


def _extra_file(path: Path, name: str) -> ExtraFile:
    check_path(name.removesuffix(SUFFIX), str(path))
    data = read_plain(path, limit_bytes=SUM_LIMIT_BYTES)
    if not name.endswith(SUFFIX):
        if holds_private_key(data):
            raise FormatError(f"{path}: {NO_KEYS}")
        return ExtraFile(name, data, executable=bool(path.stat().st_mode & 0o100))
    # Imported when one is met: what has no secrets holds no cryptography.
    from margo_oci.jwe import parse_envelope

    parse_envelope(data, what=str(path))
    return ExtraFile(name.removesuffix(SUFFIX), data, secret=True)


def _ownerless(folder: Path) -> list[str]:
    """Return the folders of files that belong to no deployment: one was renamed, or removed."""
    strays = [path for path in sorted(folder.glob(f"*{FILES}")) if not path.with_suffix(".yaml").exists()]
    return [
        f"{path}: no {path.with_suffix('.yaml').name} beside it: rename the folder, or remove it" for path in strays
    ]


def _twice(documents: Sequence[Document]) -> list[str]:
    seen: dict[str, Path] = {}
    faults = []
    for document in documents:
        first = seen.setdefault(document.deployment.id, document.file)
        if first != document.file:
            faults.append(f"{document.file}:1: id: {document.deployment.id} stands in {first}, too")
    return faults


def _unmet(documents: Sequence[Document]) -> list[str]:
    """Return the faults of what deployments say they depend on (format 5.8)."""
    names = {one.deployment.id: one.deployment.name for one in documents}
    needs = needs_of(names, {one.deployment.id: one.deployment.depends_on for one in documents})
    return [f"{one.file}: {needs.faults[one.deployment.id]}" for one in documents if one.deployment.id in needs.faults]


def replace_file(file: Path, data: bytes) -> None:
    """Replace a file as a whole: nobody ever reads half of it. It keeps its mode."""
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = file.stat().st_mode & 0o777 if file.exists() else None
    with replaced(file, mode=mode) as stream:
        stream.write(data)


def read_component(folder: Path) -> tuple[Mapping[str, Entry], Sequence[tuple[str, str]]]:
    """Return all files of a component, and what cannot be in an archive: its path and why. Raises FormatError."""
    if not folder.is_dir():
        raise FormatError(f"{folder}: a folder with compose.yaml or with units of Quadlet is expected")
    entries: dict[str, Entry] = {}
    faults: list[tuple[str, str]] = []
    size = 0
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if _LEFT_OUT & set(relative.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            faults.append((relative.as_posix(), "only plain files are packaged, no links, sockets or devices"))
            continue
        size += path.lstat().st_size
        if size > UNPACKED_LIMIT_BYTES or len(entries) >= ENTRY_LIMIT:
            raise FormatError(f"{folder}: more than {UNPACKED_LIMIT_BYTES} bytes or {ENTRY_LIMIT} files")
        entries[relative.as_posix()] = Entry(
            relative.as_posix(), read_plain(path, limit_bytes=UNPACKED_LIMIT_BYTES), bool(mode & 0o100)
        )
    return entries, faults
