"""YAML as we write it: the same bytes for the same values, and read alike by YAML 1.1 and 1.2."""

import json
import re
from collections.abc import Iterator
from typing import Any

# Plain text that no reader takes for a number, a boolean, nothing, a date or a comment.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*|oci://[A-Za-z0-9_./:-]*[A-Za-z0-9_./-]")
_WORDS = re.compile(r"(?i)(y|n|yes|no|on|off|true|false|null)")
_BARE_EXPONENT = re.compile(r"^(-?[0-9]+)e")  # YAML 1.1 takes 1e+16 for text, and 1.0e+16 for a number
_UNSEEN = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")


def write_yaml(value: dict[str, Any]) -> bytes:
    """Return a map of maps, lists, texts, numbers, booleans and None as a YAML document."""
    return "".join(f"{line}\n" for line in [*block_lines(value)] or ["{}"]).encode()


def block_lines(value: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a map, each key on its own."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield f"{_text(key)}:"
            yield from (f"  {line}" for line in block_lines(inner))
        elif isinstance(inner, list) and any(isinstance(one, dict | list) for one in inner):
            yield f"{_text(key)}:"
            yield from (f"  {line}" for line in item_lines(inner))
        else:
            yield f"{_text(key)}: {flow(inner)}"


def item_lines(values: list[Any]) -> Iterator[str]:
    """Yield the lines of a list, each of its values on its own."""
    for one in values:
        lines = list(block_lines(one)) if isinstance(one, dict) and one else [flow(one)]
        yield f"- {lines[0]}"
        yield from (f"  {line}" for line in lines[1:])


def flow(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str):
        return _text(value)
    return _BARE_EXPONENT.sub(r"\1.0e", json.dumps(value))


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text):
        return text
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))
