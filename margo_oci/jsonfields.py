"""Typed, bounded fields of a JSON object that somebody else wrote. Text is printable: it may be shown as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.content import is_digest
from margo_oci.errors import FormatError, said
from margo_oci.freshness import parse_moment

TEXT_LIMIT_CHARS = 255
WORDS_LIMIT_CHARS = 2000
NUMBER_LIMIT = 2**64 - 1


def line(text: object) -> str:
    """Return any words as a line that `JsonFields.text` reads."""
    return said(text, limit_chars=TEXT_LIMIT_CHARS)


def words(text: object) -> str:
    """Return any words as a message that `JsonFields.words` reads."""
    return said(text or "", limit_chars=WORDS_LIMIT_CHARS)


@dataclass(frozen=True)
class JsonFields:
    """One object and where it stands; each method raises FormatError that says so. What is absent is empty."""

    raw: Mapping[str, Any]
    at: str

    def text(self, key: str, *, required: bool = False, limit_chars: int = TEXT_LIMIT_CHARS) -> str:
        """Return a line of text."""
        value = self.raw.get(key, "")
        if not isinstance(value, str) or len(value) > limit_chars or not value.isprintable():
            raise self._wrong(key, f"a printable line of at most {limit_chars} characters")
        if required and not value:
            raise self._wrong(key, "a text")
        return value

    def words(self, key: str) -> str:
        """Return a message for people."""
        return self.text(key, limit_chars=WORDS_LIMIT_CHARS)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return one of `choices`."""
        value = self.raw.get(key)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return value

    def number(self, key: str, *, least: int = 0, most: int = NUMBER_LIMIT) -> int:
        """Return a whole number; 0 if it is absent."""
        value = self.raw.get(key, 0 if least <= 0 else None)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(key, f"a whole number from {least} to {most}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; false if it is absent."""
        value = self.raw.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def digest(self, key: str) -> str:
        """Return a digest."""
        value = self.raw.get(key, "")
        if value != "" and not is_digest(value):
            raise self._wrong(key, "sha256:<64 lower-case hex>")
        return str(value)

    def moment(self, key: str, *, required: bool = False) -> str:
        """Return a moment, as text: whole seconds, UTC, `Z`."""
        if not required and self.raw.get(key, "") == "":
            return ""
        parse_moment(self.raw.get(key), at=f"{self.at}.{key}")
        return str(self.raw[key])

    def inner(self, key: str) -> "JsonFields":
        """Return the object at `key`; an empty one if it is absent."""
        value = self.raw.get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return JsonFields(value, f"{self.at}.{key}")

    def each(self, key: str, *, most: int) -> Iterator["JsonFields"]:
        """Yield the objects of a list with at most so many entries."""
        value = self.raw.get(key, [])
        if not isinstance(value, list) or len(value) > most or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, f"a list of at most {most} objects")
        for number, item in enumerate(value):
            yield JsonFields(item, f"{self.at}.{key}[{number}]")

    def texts(self, key: str, *, most: int) -> tuple[str, ...]:
        """Return a list with at most so many texts."""
        value = self.raw.get(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(key, f"a list of at most {most} texts")
        return tuple(JsonFields({key: item}, self.at).text(key, required=True) for item in value)

    def _wrong(self, key: str, expected: str) -> FormatError:
        return FormatError(f"{self.at}.{key}: {expected} is expected, got {self.raw.get(key)!r:.80}")
