"""Quadlet Archives: units of systemd that Podman makes containers of (Margo's proposal; format 8.10 to 8.15).

What stands in a unit is not the standard's business. Looked at is whether the archive is whole: that its units can be
read, and that the files they name are there. And, for the lock, which images they lead to.
"""

import csv
import posixpath
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from margo_oci.archive import Entry, lies_below, safe_path
from margo_oci.errors import FormatError
from margo_oci.faults import Located, located
from margo_oci.units import Line, Unit, parse_unit

ALL_LINES_LIMIT = 50_000
_NOTHING = Unit((), ())
# What Podman makes of a unit stands in the section of its kind.
SECTIONS = {
    ".container": "Container", ".network": "Network", ".volume": "Volume", ".image": "Image", ".build": "Build",
    ".pod": "Pod", ".kube": "Kube",
}  # fmt: skip
# Files that Podman looks for from where the unit lies.
_FILES: Mapping[str, Sequence[str]] = {
    "Container": ("EnvironmentFile",), "Kube": ("Yaml", "ConfigMap"), "Build": ("File",),
}  # fmt: skip
_MOUNTS: Mapping[str, Sequence[str]] = {"Container": ("Volume",), "Pod": ("Volume",), "Build": ("Volume",)}
_NO_FILE = re.compile(r"[%$]|^[a-z]+://|^oci:", re.ASCII)  # a specifier, a variable or an address: nobody can tell here
_MOUNT_TYPES = ("bind", "volume", "tmpfs", "devpts", "image")
_UNCLEAR = "type=unclear"
_UNSEEN = ("PodmanArgs", "GlobalArgs", "ContainersConfModule")
_NO_IMAGES = {
    ".build": "no digest covers what a device builds: push the image and name it",
    ".kube": "its images cannot be locked: write .container units",
}


@dataclass(frozen=True)
class Read:
    """A unit of an archive; a drop-in is a part of one."""

    path: str
    kind: str
    unit: Unit
    whole: bool = True

    @property
    def section(self) -> str:
        """The section that Podman reads."""
        return SECTIONS[self.kind]


def is_unit(path: str) -> bool:
    """Tell whether a file is a unit that Podman makes something of."""
    return _ending(path) in SECTIONS


def _ending(path: str) -> str:
    """Return a name from its last dot on, also where nothing stands before it: to Podman `.container` is a unit."""
    name = posixpath.basename(path)
    return name[name.rindex(".") :] if "." in name else ""


def units_of(entries: Sequence[Entry]) -> Iterator[Read]:
    """Yield the units and drop-ins of an archive: as many as have no more than ALL_LINES_LIMIT lines together."""
    lines = 0
    for one, data in _files_of_units(entries):
        lines += data.count(b"\n") + 1
        if lines > ALL_LINES_LIMIT:
            return
        yield Read(one.path, one.kind, parse_unit(data), one.whole)


def _files_of_units(entries: Sequence[Entry]) -> Iterator[tuple[Read, bytes]]:
    """Yield what is a unit or a drop-in by its name, not parsed yet, and its content."""
    for entry in entries:
        folder = posixpath.basename(posixpath.dirname(entry.path))
        drop_in = f".{folder.removesuffix('.d').rpartition('.')[2]}" if folder.endswith(".d") else ""
        if entry.folder:
            continue
        if is_unit(entry.path):
            yield Read(entry.path, _ending(entry.path), _NOTHING), entry.data
        elif entry.path.endswith(".conf") and drop_in in SECTIONS:
            yield Read(entry.path, drop_in, _NOTHING, whole=False), entry.data


def at_least_one_unit(entries: Sequence[Entry]) -> list[Located]:
    """Rule 8.12: the archive has units."""
    if any(is_unit(entry.path) and not entry.folder for entry in entries):
        return []
    return [located("", "8.12", f"no unit: at least one file *{', *'.join(SECTIONS)} is expected")]


def units_can_be_read(entries: Sequence[Entry]) -> list[Located]:
    """Rule 8.12: each unit is a unit file, and has the section of its kind; what runs an image names it."""
    found: list[Located] = []
    if sum(data.count(b"\n") + 1 for _, data in _files_of_units(entries)) > ALL_LINES_LIMIT:
        found.append(located("", "8.12", f"more than {ALL_LINES_LIMIT} lines in all units together"))
    for one in units_of(entries):
        found += [located(one.path, "8.12", words, line=number) for number, words in one.unit.faults]
        if one.whole and not one.unit.faults and one.section not in one.unit.sections:
            found.append(located(one.path, "8.12", f"the section [{one.section}] is missing"))
        elif one.whole and not one.unit.faults:
            found += _incomplete(one)
    return found


def _incomplete(one: Read) -> list[Located]:
    needed = {".container": ("Image", "Rootfs"), ".image": ("Image",), ".kube": ("Yaml",)}.get(one.kind, ())
    if not needed or any(one.unit.values(one.section, key) for key in needed):
        return []
    return [located(one.path, "8.12", f"{needed[0]}= is missing in [{one.section}]: name it there")]


def names_only_the_archive(entries: Sequence[Entry]) -> list[Located]:
    """Rule 8.13: files that units name by a relative path are in the archive."""
    files = {entry.path for entry in entries if not entry.folder}
    ordered = sorted(f"{entry.path}/" if entry.folder else entry.path for entry in entries)
    return [
        located(one.path, "8.13", f"{path!r:.200} {words}", line=line.number, field=line.key)
        for one in units_of(entries)
        for line, path, folder_too in _relative(one)
        if (words := _missing(one.path, path, files, ordered if folder_too else ()))
    ]


def _relative(one: Read) -> Iterator[tuple[Line, str, bool]]:
    """Yield the relative paths that a unit names, and whether a folder will do as well."""
    for line, path in _named(one, _FILES):
        if not path.startswith("/") and not _NO_FILE.search(path):
            yield line, path, False
    for line, path in _named(one, _MOUNTS):
        source = path.partition(":")[0]
        if source.startswith(".") and not _NO_FILE.search(source):
            yield line, source, True


def _named(one: Read, keys: Mapping[str, Sequence[str]]) -> Iterator[tuple[Line, str]]:
    for key in keys.get(one.section, ()):
        yield from ((line, line.value) for line in one.unit.values(one.section, key))


def _missing(unit: str, path: str, files: Collection[str], folders: Sequence[str]) -> str:
    try:
        safe_path(path if posixpath.normpath(path) != "." else "x", "")
    except FormatError:
        return "leads out of the archive"
    named = posixpath.normpath(posixpath.join(posixpath.dirname(unit), path))
    return "" if named in files or lies_below(folders, named) else "is not in the archive"


def warnings_of(entries: Sequence[Entry]) -> list[Located]:
    """Return what is permitted and still worth a word: paths of the device, and what no digest covers."""
    return [
        located(one.path, rule, words, line=line.number, field=line.key, level="warning")
        for one in units_of(entries)
        for line, rule, words in _odd(one)
    ]


def _odd(one: Read) -> Iterator[tuple[Line, str, str]]:
    for keys in (_FILES, _MOUNTS):
        for line, path in _named(one, keys):
            if (source := path.partition(":")[0]).startswith(("/", "%")):
                yield line, "8.13", f"{source!r:.200} is a path of the device: not shipped"
    for key, words in (
        ("Rootfs", "a folder of the device, which no digest covers"),
        ("AutoUpdate", "what it brings is not what was locked"),
        *((key, "not looked at: it may get round the lock") for key in _UNSEEN),
    ):
        yield from ((line, "8.14", words) for line in one.unit.values(one.section, key))
    yield from ((line, "8.14", words) for line, words in _strange_mounts(one))
    for line in one.unit.lines:
        if line.section == "Service" and line.key.startswith("Exec"):
            yield line, "8.14", "what it runs on the device is not looked at: it may get round the lock"
    if one.kind in _NO_IMAGES:
        yield Line(0, "", "", ""), "8.14", _NO_IMAGES[one.kind]


def images_of_units(entries: Sequence[Entry], *, what: str) -> Sequence[str]:
    """Return the images that units lead to. Raises FormatError for what a lock cannot cover (format 8.14)."""
    units = list(units_of(entries))
    names = {posixpath.basename(one.path) for one in units}
    if faults := [fault for one in units for fault in _not_locked(one, names)]:
        raise FormatError(*(f"{what}: {fault}" for fault in faults))
    return named_images(entries)


def named_images(entries: Sequence[Entry]) -> Sequence[str]:
    """Return the images that units name."""
    named = {image for one in units_of(entries) for _, image in _images(one)}
    return sorted(image for image in named if not image.endswith((".image", ".build")))


def _not_locked(one: Read, names: set[str]) -> Iterator[Located]:
    if one.kind in _NO_IMAGES:
        yield located(one.path, "8.14", _NO_IMAGES[one.kind])
    for line in one.unit.values(one.section, "Rootfs"):
        words = "a folder of the device, which no digest covers: name an image"
        yield located(one.path, "8.14", words, line=line.number, field="Rootfs")
    for line, words in _strange_mounts(one):
        yield located(one.path, "8.14", words, line=line.number, field="Mount")
    for line, image in _images(one):
        if "%" in image or "$" in image:
            words = f"{image!r:.200} is not known before it runs: write it out"
        elif image.endswith((".image", ".build")) and image not in names:
            words = f"{image!r:.200} is no unit of the archive"
        else:
            continue
        yield located(one.path, "8.14", words, line=line.number, field=line.key)


def _images(one: Read) -> Iterator[tuple[Line, str]]:
    if one.kind in (".container", ".image", ".volume"):
        yield from ((line, line.value) for line in one.unit.values(one.section, "Image"))
    for line, options in _mounts(one):
        if "image" in _types(options):
            yield from ((line, value) for key, value in options if key in ("source", "src") and value)


def _mounts(one: Read) -> Iterator[tuple[Line, Sequence[tuple[str, str]]]]:
    """Yield the options of each mount as systemd and Podman take them apart; what is not clear is a type of its own."""
    for line in one.unit.values(one.section, "Mount"):
        try:
            words = [_UNCLEAR] if "\\" in line.value or line.joined else shlex.split(line.value)
            mounts = [next(csv.reader([word], strict=True), []) for word in words]
        except (ValueError, csv.Error):
            mounts = [[_UNCLEAR]]
        for mount in mounts:
            options = (option.partition("=")[::2] for option in mount)
            yield line, [(key.strip().lower(), value.strip()) for key, value in options]


def _types(options: Sequence[tuple[str, str]]) -> Sequence[str]:
    return [value.lower() for key, value in options if key == "type"]


def _strange_mounts(one: Read) -> Iterator[tuple[Line, str]]:
    for line, options in _mounts(one):
        for kind in _types(options):
            if kind not in _MOUNT_TYPES:
                yield line, f"{kind!r:.80} is not accepted: {', '.join(_MOUNT_TYPES)} are, written without backslashes"
