"""The variables that a Compose file reads, with their defaults, as far as its text tells."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_LIMIT_CHARS = 1000  # of a default; it may hold others, and those others again
_BRACE = re.compile("[{}]")
# `$$` stands for a dollar; else a name, or a name in braces with what is to be if it is not set.
_VARIABLE = re.compile(r"\$\$|\$([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)(:?[-+?])?", re.ASCII)


@dataclass(frozen=True)
class Variable:
    """A variable, and its default (None if it has none).

    `required` is one that must be set, `optional` one that is written so that it need not.
    """

    name: str
    default: str | None = None
    required: bool = False
    optional: bool = False


def variables_of(template: Any) -> Mapping[str, Variable]:
    """Return the variables of a model that is not filled in, by name; the first default that is written counts."""
    found: dict[str, Variable] = {}
    for text in _texts(template):
        for one in _in_text(text):
            known = found.get(one.name, one)
            default = one.default if known.default is None else known.default
            both = known.required or one.required, known.optional or one.optional
            found[one.name] = Variable(one.name, default, *both)
    return dict(sorted(found.items()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _in_text(text: str) -> Iterator[Variable]:
    closing = _closing(text)
    for found in _VARIABLE.finditer(text):
        plain, braced, how = found.groups()
        if braced is None:
            if plain:
                yield Variable(plain)
            continue
        start, end = found.end(), closing.get(found.start() + 1, len(text))
        default = text[start : min(end, start + DEFAULT_LIMIT_CHARS)] if how in (":-", "-") else None
        yield Variable(braced, default, how in (":?", "?"), how in (":-", "-", ":+", "+"))


def _closing(text: str) -> Mapping[int, int]:
    """Return where each brace is closed; a default may have variables itself."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closing[opened.pop()] = brace.start()
    return closing
