"""The variables that a Compose file reads, with their defaults, as far as its text tells."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# `$$` stands for a dollar; else a name, or a name in braces with what is to be if it is not set.
_VARIABLE = re.compile(r"\$\$|\$([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)(:?[-+?])?", re.ASCII)


@dataclass(frozen=True)
class Variable:
    """A variable, its default (None if it has none), and whether it must be set."""

    name: str
    default: str | None = None
    required: bool = False


def variables_of(template: Any) -> Mapping[str, Variable]:
    """Return the variables of a model that is not filled in, by name; the first default that is written counts."""
    found: dict[str, Variable] = {}
    for text in _texts(template):
        for one in _in_text(text):
            known = found.get(one.name)
            if known is None or (known.default is None and one.default is not None):
                found[one.name] = one
    return dict(sorted(found.items()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _in_text(text: str) -> Iterator[Variable]:
    for found in _VARIABLE.finditer(text):
        plain, braced, how = found.groups()
        if braced is None:
            if plain:
                yield Variable(plain)
            continue
        words = _until_brace(text, found.end()) if how else ""
        default = words if how in (":-", "-") else None
        yield Variable(braced, default, required=how in (":?", "?"))


def _until_brace(text: str, start: int) -> str:
    """Return what stands up to the brace that closes the one before; a default may have variables itself."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:]
