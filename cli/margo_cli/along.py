"""Which files come along with a compose file into a component, and which stay where they are, and why."""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from margo_cli.component_check import Source, check_component
from margo_cli.plainfile import link_in, read_plain
from margo_cli.session import read_file
from margo_oci.archive import ENTRY_LIMIT, UNPACKED_LIMIT_BYTES, Entry
from margo_oci.composefile import COMPOSE_FILE, of_services
from margo_oci.composereads import Walk, walk
from margo_oci.errors import FormatError
from margo_oci.faults import Located
from margo_oci.package import COMPOSE, holds_private_key
from margo_oci.yamltree import Node

_TOP = "top"
_DOTENV = re.compile(r"\.env(\..*)?", re.IGNORECASE | re.DOTALL)
_KEY_STORE = re.compile(r".*\.(p12|pfx|jks|ppk)", re.IGNORECASE | re.DOTALL)
_TO_DEVICES = "goes to devices encrypted, as a file beside a deployment (NAME.files/, `margo-oci encrypt`)"
_ENVIRONMENT = f"make parameters of its values (`environment: {{NAME: ${{NAME}}}}`); what is secret {_TO_DEVICES}"
_MOUNTED = (
    "a service mounts it: name it in `configs`, or copy it into the component, where it is read-only; data belongs "
    "into a named volume"
)
_KEY = f"a private key {_TO_DEVICES}: name it ${{MARGO_FILES}}/NAME"
_HOPELESS = ("7.6", "8.6")


@dataclass(frozen=True)
class Taken:
    """The files of a component by path, `compose.yaml` first, and those that stay, with the reason."""

    files: Mapping[str, bytes]
    left: Mapping[str, str]

    def walk(self) -> Walk:
        """Return the Compose files among them that lead to each other."""
        return walk(self.entries())

    def entries(self) -> Sequence[Entry]:
        """Return the files as they lie in an archive."""
        return [Entry(f"{_TOP}/{path}", data) for path, data in self.files.items()]


def read_compose(file: Path) -> Taken:
    """Return a compose file as `compose.yaml`, with the files that it names and that are there.

    What holds secrets by its name or content stays, and so do links. Raises FormatError for a file that cannot be read.
    """
    files = {COMPOSE_FILE: _bounded(file, read_file(file, limit_bytes=UNPACKED_LIMIT_BYTES))}
    left: dict[str, str] = {}
    while len(files) < ENTRY_LIMIT:
        named = _named(Taken(files, left).walk(), file.parent)
        if not (new := sorted(named - files.keys() - left.keys())):
            break
        for path in new:
            if why := _why_not(file.parent, path):
                left[path] = why
            else:
                named_file = file.parent / path
                files[path] = _bounded(named_file, read_plain(named_file, limit_bytes=UNPACKED_LIMIT_BYTES))
                if holds_private_key(files[path]):
                    del files[path]
                    left[path] = _KEY
    mounted = {path for path in _mounted(Taken(files, left).walk()) if os.path.lexists(file.parent / path)}
    return Taken(files, dict.fromkeys(sorted(mounted - files.keys()), _MOUNTED) | left)


def _named(walked: Walk, folder: Path) -> set[str]:
    """Return what is named and there, and each `.env` that Compose would have read unnamed."""
    unnamed = {posixpath.join(visit.base, ".env") for visit in walked.seen}
    paths = {path.removeprefix(f"{_TOP}/") for path in walked.named | unnamed if path.startswith(f"{_TOP}/")}
    return {path for path in paths if os.path.lexists(folder / path)}


def _why_not(folder: Path, path: str) -> str:
    """Return why a file stays, as far as its name and kind tell; "" if it may come along."""
    if any(_DOTENV.fullmatch(part) for part in path.split("/")):
        return _ENVIRONMENT
    if _KEY_STORE.fullmatch(path):
        return _KEY
    if link := link_in(folder, path):
        return f"{link} is a link: copy what it leads to, if that is meant"
    return "" if (folder / path).is_file() else "it is no plain file"


def check(taken: Taken, file: Path) -> Sequence[Located]:
    """Return what is to mend or to look at in the component, by every rule and by Compose.

    Raises FormatError with the faults as they stand in and beside `file`, where no component can come of it: it cannot
    be read, Compose refuses it, or it has no service.
    """
    found = check_component(Source(taken.entries()), kind=COMPOSE.name)
    errors = [_at(one, file) for one in found.errors]
    if not _has_service(taken.walk()):
        raise FormatError(*(errors or [f"{file}: at least one service is expected"]))
    if any(one.fault.rule in _HOPELESS and one.file for one in found.errors):
        raise FormatError(*errors)
    return found.faults


def _has_service(walked: Walk) -> bool:
    tops = (pair for tree in walked.trees.values() for pair in tree.members())
    return any(True for top, services in tops if top == "services" for _ in services.members())


def _at(one: Located, file: Path) -> str:
    path = one.file.partition("/")[2]
    return one.fault.at(str(file if path in ("", COMPOSE_FILE) else file.parent / path))


def _mounted(walked: Walk) -> Iterator[str]:
    """Yield what services mount of the folder, by its path there."""
    for visit in [one for one in walked.seen if one.path in walked.trees]:
        for _, key, value in of_services(walked.trees[visit.path]):
            for source in map(_bound, value.items if key == "volumes" else ()):
                path = posixpath.relpath(posixpath.join(visit.base, source), _TOP) if source else ".."
                if path.split("/")[0] != "..":
                    yield path


def _bound(volume: Node) -> str:
    """Return the relative path that is mounted, as Compose tells it from the name of a volume; "" for all else."""
    words = {word: one.text for word, one in volume.members()}
    source = words.get("source", "") if words.get("type") == "bind" else ""
    if ":" in volume.text and volume.text.startswith("."):
        source = volume.text.partition(":")[0]
    return "" if source.startswith(("/", "~", "$")) else source


def in_words(taken: Taken, folder: Path, component: Path) -> Iterator[str]:
    """Yield what to tell of each file beside the compose file."""
    for path in sorted(taken.files.keys() - {COMPOSE_FILE}):
        yield f"{folder / path} comes along, as {component / path}: see that nothing secret stands in it"
    for path, why in sorted(taken.left.items()):
        yield f"{folder / path} does not come along: {why}"


def _bounded(file: Path, data: bytes) -> bytes:
    """Return what was read of a file. Raises FormatError for more than an archive may hold."""
    if len(data) > UNPACKED_LIMIT_BYTES:
        raise FormatError(f"{file}: more than {UNPACKED_LIMIT_BYTES} bytes")
    return data
