"""YAML read without surprises: values with their lines, no aliases, no tags, no key twice (format 7.6).

Plain scalars mean what YAML 1.2's core schema says: `yes` is text, `1.20` is a number, dates are text.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from margo_oci.errors import FormatError

DOCUMENT_LIMIT_BYTES = 1024 * 1024
DEPTH_LIMIT = 32
NODE_LIMIT = 50_000  # values: a second of a processor for 1 MiB of them is too much
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_Loader = getattr(yaml, "CLoader", yaml.Loader)  # only its parser is used: it constructs no objects

_ENDS = (yaml.SequenceEndEvent, yaml.MappingEndEvent)
_BETWEEN = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
_QUOTED = ("'", '"', "|", ">")  # written as text, so it is text

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML document as plain values, and the line and column at which each of them (or its key) starts."""

    value: Any
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def find(self, path: Path) -> Any:
        """Return what stands at `path`; None if nothing does."""
        value = self.value
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def line(self, path: Path) -> int:
        """Return the line of `path`, or of the nearest thing around it that exists."""
        return self.mark(path)[0]

    def mark(self, path: Path) -> tuple[int, int]:
        """Return line and column of `path`, or of the nearest thing around it that exists."""
        while path not in self.marks and path:
            path = path[:-1]
        return self.marks.get(path, (1, 1))


def parse_yaml(data: bytes, *, what: str) -> Document:
    """Parse exactly one YAML document. Raises FormatError `what:line: …`."""
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise FormatError(f"{what}: {len(data)} bytes, at most {DOCUMENT_LIMIT_BYTES} are read")
    marks: dict[Path, tuple[int, int]] = {}
    try:
        text = data.decode("utf-8-sig")
        events = _significant(_Loader(text), what)
        first = next(events, None)
        value = None if first is None else _value(first, events, (), marks, what)
        if extra := next(events, None):
            raise FormatError(f"{what}:{_line(extra)}: one document a file is expected, here starts another")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8: {error.reason} at byte {error.start}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise FormatError(f"{what}:{mark.line + 1 if mark else 1}: not usable YAML: {problem}") from None
    return Document(value, marks)


def _line(event: yaml.Event) -> int:
    return _mark(event)[0]


def _mark(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _significant(loader: Any, what: str) -> Iterator[yaml.Event]:
    """Yield values and ends of collections; a thousand documents are read at once, so each event counts."""
    try:
        while loader.check_event():
            event = loader.get_event()
            kind = type(event)
            if kind in _BETWEEN:
                continue
            if kind is yaml.AliasEvent:
                raise FormatError(
                    f"{what}:{_line(event)}: aliases (*{event.anchor:.80}) are not accepted: write it out"
                )
            if kind not in _ENDS and event.tag not in (None, "!"):
                raise FormatError(f"{what}:{_line(event)}: tags ({event.tag!r:.80}) are not accepted")
            yield event
    finally:
        loader.dispose()


def _value(
    event: yaml.Event, events: Iterator[yaml.Event], path: Path, marks: dict[Path, tuple[int, int]], what: str
) -> Any:
    marks[path] = _mark(event)
    if len(marks) > NODE_LIMIT:
        raise FormatError(f"{what}:{_line(event)}: more than {NODE_LIMIT} values")
    if len(path) > DEPTH_LIMIT:
        raise FormatError(f"{what}:{_line(event)}: nested deeper than {DEPTH_LIMIT} levels")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_value(item, events, (*path, len(items)), marks, what))
        return items
    mapping: dict[str, Any] = {}
    while type(key := next(events)) is not yaml.MappingEndEvent:
        if not isinstance(key, yaml.ScalarEvent):
            raise FormatError(f"{what}:{_line(key)}: a key is text")
        if key.value in mapping:
            raise FormatError(f"{what}:{_line(key)}: {key.value!r:.80} stands twice")
        mapping[key.value] = _value(next(events), events, (*path, key.value), marks, what)
        marks[(*path, key.value)] = _mark(key)
    return mapping


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = str(event.value)
    if event.style in _QUOTED:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= 40 and _INT.fullmatch(text):  # Python's int() is quadratic in the length
        return int(text, 10 if text.lstrip("+-").isdigit() else 0)
    if len(text) <= 40 and _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text
