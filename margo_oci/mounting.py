"""What a filled-in Compose model takes of a deployment's files, and what stands in its place on a device (format 14.7).

`below` is the folder that `${MARGO_FILES}` was while the model was made; it is for nothing else.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.errors import FormatError
from margo_oci.files import VARIABLE, ExtraFile

SHOWN = f"${{{VARIABLE}}}"
_ID_LIMIT = 2**31 - 1  # the largest number means "leave it" to the kernel, and not all tools read more than this
_TARGETS = {"configs": "/", "secrets": "/run/secrets/"}


@dataclass(frozen=True, order=True)
class Use:
    """A file or folder that is mounted: its path below `${MARGO_FILES}`, "" for all of it.

    `owner` is whom the copy of a secret belongs to, `uid:gid`; "" for the agent's own user.
    """

    path: str
    owner: str = ""


def mentions(template: Mapping[str, Any]) -> bool:
    """Tell whether a Compose file uses the files of its deployment."""
    return any(SHOWN in text for _, text in _texts(template, ""))


def mounted(
    model: Mapping[str, Any], below: str, files: Mapping[str, ExtraFile], place: Callable[[Use], str]
) -> dict[str, Any]:
    """Return the model with each use of a file at the path that `place` says. Raises FormatError with every fault.

    Faults are files that are not there, and uses that are neither a mount, nor the file of a config or secret.
    """
    work = _Mounting(below, files, place)
    done = {**model, **{kind: work.named(kind, model[kind]) for kind in _TARGETS if model.get(kind)}}
    done["services"] = {name: work.service(name, one, done) for name, one in model["services"].items()}
    for at, text in _texts(done, ""):
        if below in text:
            work.faults.append(
                f"{at}: {SHOWN} is a folder of the device: only volumes, env_file and the files of configs and secrets "
                "may be in it"
            )
    if work.faults:
        raise FormatError(*dict.fromkeys(work.faults))
    return done


def in_words(words: str, below: str, files: Mapping[str, ExtraFile]) -> str:
    """Return what Compose says about a file, as its author wrote the path; an encrypted one is named as such."""
    text = words.replace(below, SHOWN)
    sealed = [path for path, one in files.items() if one.secret and f"{SHOWN}/{path} " in f"{text} ".replace(":", " ")]
    hint = ": it is encrypted, and an environment stands on the disk and in what the engine tells: use secrets"
    return text + hint if sealed else text


@dataclass
class _Mounting:
    below: str
    files: Mapping[str, ExtraFile]
    place: Callable[[Use], str]

    def __post_init__(self) -> None:
        self.faults: list[str] = []
        self.authored: set[tuple[str, str]] = set()  # configs and secrets, by kind and name
        self.paths: dict[tuple[str, str], str] = {}  # of those of them that are files

    def named(self, kind: str, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Return configs or secrets with the places of their files."""
        return {name: self._entry(kind, name, one) for name, one in entries.items()}

    def _entry(self, kind: str, name: str, one: Mapping[str, Any]) -> Mapping[str, Any]:
        self.authored.add((kind, name))
        path = self._path(one.get("file"))
        if path is None:
            return one
        self.paths[kind, name] = path
        return {**one, "file": self._placed(f"{kind}.{name}.file", Use(path), folders=False)}

    def service(self, name: str, service: Mapping[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        """Return a service with the places of what it mounts; what it wants an owner for gets an entry of its own."""
        changed: dict[str, Any] = {}
        if service.get("volumes"):
            volumes = enumerate(service["volumes"])
            changed["volumes"] = [self._volume(f"services.{name}.volumes[{i}]", one) for i, one in volumes]
        for kind in _TARGETS:
            if service.get(kind):
                changed[kind] = [self._reference(kind, one, model) for one in service[kind]]
        return {**service, **changed}

    def _volume(self, at: str, volume: Mapping[str, Any]) -> Mapping[str, Any]:
        path = self._path(volume.get("source")) if volume.get("type") == "bind" else None
        if path is None:
            return volume
        bind = {**(volume.get("bind") or {}), "create_host_path": False}
        return {**volume, "source": self._placed(at, Use(path)), "read_only": True, "bind": bind}

    def _reference(self, kind: str, one: Mapping[str, Any], model: dict[str, Any]) -> Mapping[str, Any]:
        """Compose passes over who a file is to belong to: so a secret that is wanted for somebody is one of its own."""
        owner = f"{one.get('uid') or '0'}:{one.get('gid') or '0'}" if one.get("uid") or one.get("gid") else ""
        source = str(one.get("source", ""))
        file = self.files.get(self.paths.get((kind, source), ""))
        if not owner or file is None or not file.secret:
            return one
        mine, suffix = model[kind][source], f"-{owner.replace(':', '-')}"
        if not all(_is_id(part) for part in owner.split(":")):
            self.faults.append(f"{kind}.{source}: uid and gid: numbers up to {_ID_LIMIT} are expected, got {owner:.80}")
            return one
        copy = source + suffix
        if (kind, copy) in self.authored:
            self.faults.append(f"{kind}.{copy}: so the copy of {source} for {owner} is called: name this another way")
            return one
        place = self._placed(f"{kind}.{source}.file", Use(file.path, owner), folders=False)
        model[kind][copy] = {**mine, "name": mine.get("name", source) + suffix, "file": place}
        kept = {key: value for key, value in one.items() if key not in ("uid", "gid", "mode")}
        return {**kept, "source": copy, "target": one.get("target") or f"{_TARGETS[kind]}{source}"}

    def _path(self, source: object) -> str | None:
        """Return where below the folder a path leads; None if it does not."""
        path = posixpath.normpath(str(source or "/"))
        if path != self.below and not path.startswith(f"{self.below}/"):
            return None
        return path.removeprefix(self.below).lstrip("/")

    def _placed(self, at: str, use: Use, *, folders: bool = True) -> str:
        is_folder = use.path not in self.files
        there = not is_folder or (folders and any(one.startswith(f"{use.path}/") or not use.path for one in self.files))
        if there:
            return self.place(use)
        shown = f"{SHOWN}/{use.path}".rstrip("/")
        self.faults.append(f"{at}: {shown} is not among the files of this deployment{_near(use.path, self.files)}")
        return shown


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _ID_LIMIT


def _near(path: str, files: Mapping[str, ExtraFile]) -> str:
    if not files:
        return ": it has none"
    return ": that is a folder" if any(one.startswith(f"{path}/") for one in files) else ""


def _texts(value: object, at: str) -> Iterator[tuple[str, str]]:
    """Yield all texts of a model, each with its place."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield at or str(key), str(key)
            yield from _texts(one, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _texts(one, f"{at}[{number}]")


def by_path(files: Sequence[ExtraFile]) -> Mapping[str, ExtraFile]:
    """Return files by their path."""
    return {one.path: one for one in files}
