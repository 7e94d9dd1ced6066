"""Reading a YAML configuration field by field: faults are collected, each with its line, and told at once."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from margo_oci.errors import FormatError
from margo_oci.yamldoc import Document
from margo_oci.yamldoc import Path as FieldPath

T = TypeVar("T")

_DURATION = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})(B|kB|KB|KiB|MB|MiB|GB|GiB)?", re.ASCII)
_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}


def parse_duration_s(text: str, *, least_s: float = 1.0) -> float:
    """Return a duration, as in 90s, 1h30m or 7d. Raises FormatError."""
    found = _DURATION.fullmatch(text)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    duration_s = float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    if not found or not text or duration_s < least_s:
        raise FormatError(
            f"{text!r:.80}: a duration of at least {least_s:.0f}s is expected, as in 30s, 5m, 1h30m or 7d"
        )
    return duration_s


class Fields:
    """Hands out typed values of `document`, or harmless stand-ins where it has faults."""

    def __init__(self, document: Document, file: Path) -> None:
        self.document = document
        self.file = file
        self.faults: list[tuple[int, str]] = []

    def raise_faults(self) -> None:
        """Raise FormatError with every fault, in the order of their lines."""
        if self.faults:
            raise FormatError(*(message for _, message in sorted(self.faults)))

    def fault(self, path: FieldPath, message: str) -> None:
        """Note what is wrong at `path`."""
        line = self.document.line(path)
        self.faults.append((line, f"{self.file}:{line}: {'.'.join(map(str, path)) or 'document'}: {message}"))

    def known(self, path: FieldPath, raw: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Note every key of `raw` that is not among `keys`."""
        for key in raw:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
                self.fault(
                    (*path, key),
                    f"unknown: {f'did you mean {near[0]}?' if near else 'one of ' + ', '.join(keys)}",
                )

    def section(self, path: FieldPath, keys: Sequence[str]) -> Mapping[str, Any]:
        """Return the map at `path`, which may have `keys`; an empty one if it is not there."""
        raw = self.map(path)
        self.known(path, raw, keys)
        return raw

    def text(self, path: FieldPath, *, required: bool = True) -> str:
        """Return a text that is not empty; "" if it may be missing."""
        value = self.document.find(path)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or not value or "\0" in value:
            self.fault(path, "is missing" if value is None else f"text is expected, got {value!r:.80}")
            return ""
        return value

    def texts(self, path: FieldPath, *, required: bool = True, example: str = "edge-17") -> Sequence[str]:
        """Return a list of texts."""
        value = self.document.find(path)
        if value is None and not required:
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            self.fault(path, f"a list with at least one entry is expected, as in [{example}]")
            return ()
        return value

    def map(self, path: FieldPath, *, required: bool = False) -> dict[str, Any]:
        """Return a map; an empty one if it may be missing."""
        value = self.document.find(path)
        if isinstance(value, dict):
            return value
        if required or value is not None:
            self.fault(path, "a map is expected")
        return {}

    def flag(self, path: FieldPath) -> bool:
        """Return true or false; false if it is not there."""
        value = self.document.find(path)
        if not isinstance(value, bool | None):
            self.fault(path, f"true or false is expected, got {value!r:.80}")
        return value is True

    def choice(self, path: FieldPath, choices: Sequence[str]) -> str:
        """Return one of `choices`; "" if it is not there."""
        value = self.text(path, required=False)
        if value and value not in choices:
            self.fault(path, f"{value!r:.80}: one of {', '.join(choices)} is expected")
        return value

    def checked(self, path: FieldPath, parse: Callable[[str], T], *, required: bool = True) -> T | None:
        """Return what `parse` makes of the text; its FormatError is a fault here."""
        text = self.text(path, required=required)
        try:
            return parse(text) if text else None
        except FormatError as error:
            self.fault(path, str(error))
            return None

    def duration_s(self, path: FieldPath, default_s: float, *, least_s: float = 1.0) -> float:
        """Return a duration, as in 90s, 1h30m or 7d."""
        text = self.text(path, required=False)
        if not text:
            return default_s
        try:
            return parse_duration_s(text, least_s=least_s)
        except FormatError as error:
            self.fault(path, str(error))
            return default_s

    def size_bytes(self, path: FieldPath, default_bytes: int, *, per_second: bool = False) -> int:
        """Return a size, as in 500MiB; with `per_second` a rate, as in 200KiB/s."""
        value = self.document.find(path)
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(path, required=False)
        if not text:
            return default_bytes
        found = _SIZE.fullmatch(text.removesuffix("/s") if per_second else text)
        if not found or not int(found[1]):
            self.fault(path, f"{text!r:.80}: as in {'200KiB/s' if per_second else '500MiB'} is expected")
            return default_bytes
        return int(found[1]) * _UNITS[found[2] or ""]

    def path(self, text: str) -> Path:
        """Return a path that is relative to the file, if to anything."""
        return self.file.parent / text

    def file_at(self, path: FieldPath) -> Path | None:
        """Return a file that must be there; None if none is named."""
        text = self.text(path, required=False)
        if not text:
            return None
        file = self.path(text)
        try:
            there = file.is_file()
        except OSError:  # a name that is too long
            there = False
        if not there:
            self.fault(path, f"{file!s:.300} is not there")
        return file if there else None

    def place(self, path: FieldPath, default: Path) -> Path:
        """Return where something is to be written."""
        text = self.text(path, required=False)
        return self.path(text) if text else default
