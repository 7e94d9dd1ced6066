"""Unit files as systemd reads them: sections, `Key=value`, comments and lines that go on (systemd.syntax(7)).

What stands in them is Podman's and systemd's business: nothing is made of a value here. What the two would read
differently is a fault: a line that is a comment to us and an image to Podman would get round the lock.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

UNIT_LIMIT_BYTES = 1024 * 1024
LINES_LIMIT = 20_000
_SECTION = re.compile(r"\[([^\[\]\x00-\x1f]{1,255})\]\s*")
_KEY = re.compile(r"[A-Za-z0-9-]{1,255}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Line:
    """One `Key=value` of a section; lines that go on are one, `joined` with a blank."""

    number: int
    section: str
    key: str
    value: str
    joined: bool = False


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
    faults = list(_unclear(text))
    section = ""
    for number, line, joined in _logical(text):
        key, equals, value = line.partition("=")
        if header := _SECTION.fullmatch(line):
            section = header[1]
            sections[section] = None
        elif not equals or not _KEY.fullmatch(key.rstrip()):
            faults.append((number, f"{line!r:.80} is neither [Section] nor Key=value nor a comment"))
        elif not section:
            faults.append((number, f"{line!r:.80} stands before the first [Section]"))
        else:
            lines.append(Line(number, section, key.rstrip(), value.strip(), joined))
    return Unit(tuple(sections), tuple(lines), tuple(sorted(faults)))


def _unclear(text: str) -> Iterator[tuple[int, str]]:
    """Yield what systemd and Podman take for different things: what ends a line that goes on, and what is a blank."""
    goes_on = False
    for number, line in enumerate(_physical(text.rstrip("\r\n")), start=1):
        if _CONTROL.search(line):
            yield number, "a control character is not accepted"
        if goes_on and (_is_comment(line) or not line.strip()):
            what = "a comment" if line.strip() else "an empty line"
            yield number, f"{what} after a backslash is read in two ways: remove one of them"
        elif line.rstrip().endswith("\\") and not _is_comment(line):
            goes_on = True
            if not line.endswith("\\"):
                yield number, "blanks after the backslash are read in two ways: remove them"
        else:
            goes_on = False


def _physical(text: str) -> Sequence[str]:
    return [line.rstrip("\r") for line in text.split("\n")]


def _is_comment(line: str) -> bool:
    return line.lstrip()[:1] in ("#", ";")


def _logical(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield lines with their numbers: joined where one ends in a backslash, without comments and empty ones."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(_physical(text), start=1):
        if _is_comment(line):
            continue
        if line.endswith("\\"):
            begun = begun or number
            parts.append(line[:-1])
            continue
        whole = " ".join([*parts, line]).strip()
        if whole:
            yield begun or number, whole, bool(parts)
        begun, parts = 0, []
    if whole := " ".join(parts).strip():
        yield begun, whole, len(parts) > 1
