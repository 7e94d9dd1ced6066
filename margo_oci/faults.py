"""Faults of a YAML document: all of them, each with its place, its rule and how to mend it. And the way to walk one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from margo_oci.errors import FormatError
from margo_oci.yamldoc import Document, Path, parse_yaml

EXTENSION = re.compile(r"x-[a-z][a-z0-9-]*-extensions")
FAULT_LIMIT = 1000
_AT_LINE = re.compile(r":([0-9]+): (.*)", re.DOTALL)
_PLACED = re.compile(r".*?:([0-9]+): (.*)", re.DOTALL)
Level = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True, order=True)
class Fault:
    """One fault; `rule` is its number in docs/format.md, `message` says what is wrong and how to mend it.

    `line` is 0 if it is of the whole document.
    """

    line: int
    column: int
    field: str
    message: str
    rule: str
    level: Level = "error"

    def at(self, what: str) -> str:
        """Return the fault as a line: `what:line:column: field: message`, without a place if it has none."""
        place = f"{what}:{self.line}:{self.column}" if self.line else what
        return f"{place}: {self.field + ': ' if self.field else ''}{self.message}"


@dataclass(frozen=True, kw_only=True)
class Located:
    """A fault in one of several files: `file` is "" if it is of all of them, the line 0 if it is of a whole file."""

    file: str
    fault: Fault

    def __str__(self) -> str:
        """Return it as a line: `file:line: field: message`."""
        at = f"{self.file}:{self.fault.line}" if self.fault.line else self.file
        return ": ".join(filter(None, (at, self.fault.field, self.fault.message)))


def located(
    file: str, rule: str, message: str, *, line: int = 0, column: int = 1, field: str = "", level: Level = "error"
) -> Located:
    """Return a fault in a file."""
    fault = Fault(line=line, column=column, field=field, message=message, rule=rule, level=level)
    return Located(file=file, fault=fault)


def unreadable(error: FormatError, file: str, rule: str) -> list[Located]:
    """Return what made a file unreadable, as its reader said it: `file:line: words`, or `file: words`."""
    placed = ((_AT_LINE.fullmatch(words), words) for words in (one.removeprefix(file) for one in error.faults))
    return [
        located(file, rule, at[2], line=int(at[1])) if at else located(file, rule, words.removeprefix(": "))
        for at, words in placed
    ]


def raise_faults(faults: Sequence[Fault], *, what: str) -> None:
    """Raise FormatError with every fault that is an error, in their order in the document; do nothing without one."""
    if errors := [fault.at(what) for fault in sorted(faults) if fault.level == "error"]:
        raise FormatError(*errors)


def dotted(path: Path) -> str:
    """Return a path as people write it: `parameters.greeting.targets[0].pointer`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


@dataclass(frozen=True)
class Place:
    """A place in a document. What is asked for and wrong there becomes a fault and a harmless stand-in."""

    document: Document
    faults: list[Fault] = field(default_factory=list)
    path: Path = ()

    @property
    def value(self) -> Any:
        """What stands here; None if nothing does."""
        return self.document.find(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self.path[-1]) if self.path else ""

    def at(self, *keys: str | int) -> "Place":
        """Return a place below."""
        return Place(self.document, self.faults, (*self.path, *keys))

    def fault(self, rule: str, message: str, *, level: Level = "error") -> None:
        """Note a fault of this place."""
        if len(self.faults) < FAULT_LIMIT:
            line, column = self.document.mark(self.path)
            self.faults.append(
                Fault(line=line, column=column, field=dotted(self.path), rule=rule, message=message, level=level)
            )

    def text(
        self, key: str, rule: str, *, required: bool = False, pattern: re.Pattern[str] | None = None, hint: str = ""
    ) -> str:
        """Return the text at `key`; "" if there is none."""
        place = self.at(key)
        value = place.value
        if value is None or value == "":
            if required:
                place.fault(rule, f"is missing: {hint or 'a text is expected'}")
            return ""
        if not isinstance(value, str):
            place.fault(rule, f"text is expected, got {value!r:.80}: put it in quotes")
            return ""
        if pattern and not pattern.fullmatch(value):
            place.fault(rule, f"{value!r:.100} does not fit: {hint or pattern.pattern} is expected")
        return value

    def flag(self, key: str, rule: str, *, default: bool = False) -> bool:
        """Return true or false."""
        value = self.at(key).value
        if not isinstance(value, bool | None):
            self.at(key).fault(rule, f"true or false is expected, got {value!r:.80}")
        return value if isinstance(value, bool) else default

    def number(self, key: str, rule: str, *, whole: bool = False, least: float | None = None) -> float | None:
        """Return a number; None if there is none."""
        value = self.at(key).value
        if value is None:
            return None
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or (least is not None and value < least):
            floor = f" of at least {least:g}" if least is not None else ""
            self.at(key).fault(rule, f"a {'whole ' if whole else ''}number{floor} is expected, got {value!r:.80}")
            return None
        return float(value) if isinstance(value, float) else int(value)

    def each(self, key: str, rule: str, *, required: bool = False) -> Sequence["Place"]:
        """Return the places of a list's entries."""
        place = self.at(key)
        value = place.value
        if isinstance(value, list) and (value or not required):
            return [place.at(i) for i in range(len(value))]
        if value is not None or required:
            place.fault(rule, "a list with at least one entry is expected")
        return ()

    def entries(self, key: str, rule: str, *, required: bool = False) -> Mapping[str, "Place"]:
        """Return the places of a map's values by their keys."""
        place = self.at(key)
        if isinstance(place.value, dict):
            return {name: place.at(name) for name in place.value}
        if place.value is not None or required:
            place.fault(rule, "a map is expected")
        return {}

    def is_map(self, rule: str) -> bool:
        """Tell whether a map stands here; else that is a fault."""
        if not isinstance(self.value, dict):
            self.fault(rule, f"a map is expected, got {type_name(self.value)}")
            return False
        return True

    def known(self, rule: str, *names: str) -> None:
        """Note each key that is neither one of `names` nor an extension."""
        for key, value in (self.value if isinstance(self.value, dict) else {}).items():
            if EXTENSION.fullmatch(key):
                if not isinstance(value, dict):
                    self.at(key).fault(rule, "an extension is a map")
            elif key not in names:
                near = get_close_matches(key, names, 1)
                hint = f"is {near[0]} meant?" if near else f"{', '.join(names)} are known, and x-NAME-extensions"
                self.at(key).fault(rule, f"is not known here: {hint}")


def read_document(data: bytes, *, what: str, rule: str) -> tuple[Place | None, Sequence[Fault]]:
    """Parse YAML; what makes it unreadable is returned as a fault."""
    try:
        return Place(parse_yaml(data, what=what)), ()
    except FormatError as error:
        return None, [_placed(str(error).removeprefix(what), rule)]


def _placed(message: str, rule: str) -> Fault:
    found = _PLACED.fullmatch(message)
    line, words = (int(found[1]), found[2]) if found else (0, message.removeprefix(": "))
    return Fault(line=line, column=1, field="", message=words, rule=rule)


def twice(places: Sequence[tuple[str, Place]], rule: str) -> Iterator[str]:
    """Note each name that stands twice; yield those that do not."""
    seen: dict[str, Place] = {}
    for name, place in places:
        if name and name in seen:
            line, _ = seen[name].document.mark(seen[name].path)
            place.fault(rule, f"{name!r:.100} stands twice (first in line {line}): give it another name")
        elif name:
            seen[name] = place
            yield name


def type_name(value: object) -> str:
    """Return what a value is, in words."""
    names = {"NoneType": "nothing", "list": "a list", "str": "text", "dict": "a map", "bool": "true or false"}
    return names.get(type(value).__name__, "a number")
