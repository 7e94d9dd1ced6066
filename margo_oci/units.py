"""Unit files as systemd reads them: sections, `Key=value`, comments and lines that go on (systemd.syntax(7)).

What stands in them is Podman's and systemd's business: nothing is made of a value here.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

UNIT_LIMIT_BYTES = 1024 * 1024
LINES_LIMIT = 20_000
_SECTION = re.compile(r"\[([^\[\]\x00-\x1f]{1,255})\]\s*")
_KEY = re.compile(r"[A-Za-z0-9-]{1,255}")


@dataclass(frozen=True)
class Line:
    """One `Key=value` of a section; lines that go on are one."""

    number: int
    section: str
    key: str
    value: str


@dataclass(frozen=True)
class Unit:
    """A unit file; `faults` are numbers of lines and what is wrong there."""

    sections: Sequence[str]
    lines: Sequence[Line]
    faults: Sequence[tuple[int, str]] = field(default=())

    def values(self, section: str, key: str) -> Sequence[Line]:
        """Return what a key is set to; an empty value takes back what stands before it, as systemd has it."""
        found: list[Line] = []
        for line in self.lines:
            if (line.section, line.key) == (section, key):
                if line.value:
                    found.append(line)
                else:
                    found.clear()
        return found


@functools.lru_cache(maxsize=64)  # each rule looks at each unit
def parse_unit(data: bytes) -> Unit:
    """Parse a unit file, whatever it holds; what is no unit has faults."""
    if len(data) > UNIT_LIMIT_BYTES or data.count(b"\n") > LINES_LIMIT:
        return Unit((), (), ((0, f"at most {UNIT_LIMIT_BYTES} bytes and {LINES_LIMIT} lines are read"),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Unit((), (), ((data.count(b"\n", 0, error.start) + 1, f"not UTF-8: {error.reason}"),))
    sections: dict[str, None] = {}
    lines: list[Line] = []
    faults: list[tuple[int, str]] = []
    section = ""
    for number, line in _logical(text):
        key, equals, value = line.partition("=")
        if "\0" in line:
            faults.append((number, "a NUL character is not accepted"))
        elif header := _SECTION.fullmatch(line):
            section = header[1]
            sections[section] = None
        elif not equals or not _KEY.fullmatch(key.rstrip()):
            faults.append((number, f"{line!r:.80} is neither [Section] nor Key=value nor a comment"))
        elif not section:
            faults.append((number, f"{line!r:.80} stands before the first [Section]"))
        else:
            lines.append(Line(number, section, key.rstrip(), value.strip()))
    return Unit(tuple(sections), tuple(lines), tuple(faults))


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers: joined where one ends in a backslash, without comments and empty ones."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.lstrip()[:1] in ("#", ";"):  # also between lines that go on
            continue
        if line.endswith("\\"):
            begun = begun or number
            parts.append(line[:-1])
            continue
        whole = " ".join([*parts, line]).strip()
        if whole:
            yield begun or number, whole
        begun, parts = 0, []
    if whole := " ".join(parts).strip():
        yield begun, whole
