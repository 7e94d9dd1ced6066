"""Distinguished names as Notary's trust policies write them (RFC 4514, and "Trusted Identities" there)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from margo_oci.errors import FormatError

WANTED = ("C", "ST", "O")
_ATTRIBUTE = re.compile(
    r"""
    \ *([A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)\ *=\ *+  # a short name or an object identifier
    (?!\#)((?:[^"+,;<>\\]|\\[0-9A-Fa-f]{2}|\\[ "#+,;<=>\\])++)  # possessive: each letter is tried once
    (,|$)
    """,
    re.VERBOSE,
)
_ESCAPED = re.compile(rb"\\([0-9A-Fa-f]{2}|.)")


@dataclass(frozen=True)
class Subject:
    """A distinguished name: each attribute once, by its short name or its object identifier."""

    attributes: Mapping[str, str]

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.attributes.items())

    def covers(self, other: "Subject") -> bool:
        """Tell whether every attribute named here stands in `other` with the same value."""
        return self.attributes.items() <= other.attributes.items()


def parse_subject(text: str, *, at: str) -> Subject:
    """Parse `C=DE, ST=BW, O=example.org`; C, ST and O must be there. Raises FormatError that starts with `at`."""
    attributes: dict[str, str] = {}
    place, more = 0, True
    while more:
        found = _ATTRIBUTE.match(text, place)
        if not found:
            raise FormatError(f"{at}: {text[place:].strip()!r:.80}: NAME=value is expected, with commas between")
        key = "ST" if found[1] == "S" else found[1]
        if key in attributes:
            raise FormatError(f"{at}: {key} stands twice")
        attributes[key] = _plain(found[2], at)
        place, more = found.end(), found[3] == ","
    if missing := [key for key in WANTED if key not in attributes]:
        raise FormatError(f"{at}: {', '.join(missing)} is missing: C, ST and O at least are expected")
    return Subject(attributes)


def _plain(value: str, at: str) -> str:
    stripped = value.rstrip(" ") + (" " if re.search(r"(?<!\\)(?:\\\\)*\\ +$", value) else "")
    try:
        return _ESCAPED.sub(_character, stripped.encode()).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{at}: {value!r:.80}: not UTF-8") from None


def _character(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if len(found[1]) == 2 else found[1]
