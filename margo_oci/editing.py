"""A YAML document that says something else in places, with the comments and the form that its author gave it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from margo_oci.errors import FormatError
from margo_oci.yamldoc import parse_yaml
from margo_oci.yamltext import block_lines, flow, item_lines

_BOM = b"\xef\xbb\xbf"
_Loader = getattr(yaml, "CLoader", yaml.Loader)  # only its parser is used: it constructs no objects


def comments_of(data: bytes) -> Counter[str]:
    """Return the comments of a document that was parsed before, each with how often it stands there."""
    text, at = data.decode("utf-8-sig"), 0
    found: Counter[str] = Counter()
    for token in yaml.scan(text, Loader=_Loader):
        between = text[at : token.start_mark.index]
        found.update(line[line.index("#") :].strip() for line in between.splitlines() if "#" in line)
        at = max(at, token.end_mark.index)
    return found


def edited(data: bytes, wanted: dict[str, Any], *, what: str) -> bytes | None:
    """Return a document that was parsed before, edited in place so that it says `wanted`; None if that fails.

    Comments go only with what they stand in.
    """
    text = data.decode("utf-8-sig")
    edits = _Edits(text)
    edits.change(yaml.compose(text, Loader=_Loader), parse_yaml(data, what=what).value, wanted)
    changed = (_BOM if data.startswith(_BOM) else b"") + edits.applied().encode()
    try:
        return changed if _same(parse_yaml(changed, what=what).value, wanted) else None
    except FormatError:
        return None


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same: 1, 1.0 and true are not, maps in another order are."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@dataclass
class _Edits:
    """What to put in place of what, as places in the text; what is put into one place stands in the order it came."""

    text: str
    found: list[tuple[int, int, str]] = field(default_factory=list)

    def applied(self) -> str:
        """Return the text with all edits."""
        parts, at = [], 0
        for start, end, words in sorted(self.found, key=lambda one: one[0]):
            parts += [self.text[at:start], words]
            at = max(at, end)
        return "".join(parts) + self.text[at:]

    def change(self, node: Any, old: Any, new: Any) -> None:
        """Find the smallest edits that make of an old value a new one."""
        if _same(old, new):
            return
        if isinstance(old, dict) and isinstance(new, dict) and self._can_grow(node, old, new):
            self._change_map(node, old, new)
        elif isinstance(old, list) and isinstance(new, list) and self._can_grow(node, old, new):
            self._change_list(node, old, new)
        else:
            start, end = node.start_mark.index, self._end(node)
            self.found.append((start, end, f"{'' if end > start else ' '}{flow(new)}"))

    def _can_grow(self, node: Any, old: Any, new: Any) -> bool:
        """Tell whether lines can come and go: in a block of which something stays."""
        keys, wanted = (set(range(len(one))) if isinstance(one, list) else set(one) for one in (old, new))
        return keys == wanted or (not node.flow_style and bool(keys & wanted))

    def _change_map(self, node: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
        for key, value in node.value:
            if key.value in new:
                self.change(value, old[key.value], new[key.value])
            else:
                self._remove(key.start_mark.index, self._end(value))
        added = {key: value for key, value in new.items() if key not in old}
        self._append(node, list(block_lines(added)))

    def _change_list(self, node: Any, old: list[Any], new: list[Any]) -> None:
        for value, before, after in zip(node.value, old, new, strict=False):
            self.change(value, before, after)
        for value in node.value[len(new) :]:
            self._remove(value.start_mark.index, self._end(value))
        self._append(node, list(item_lines(new[len(old) :])))

    def _remove(self, start: int, end: int) -> None:
        """Take out whole lines, with the comments in them."""
        self.found.append((self.text.rfind("\n", 0, start) + 1, self._line_end(end), ""))

    def _append(self, node: Any, lines: Sequence[str]) -> None:
        """Put lines below a block, as far to the right as it stands."""
        if not lines:
            return
        at = self._line_end(self._end(node))
        words = "".join(f"{' ' * node.start_mark.column}{line}\n" for line in lines)
        self.found.append((at, at, words if self.text[:at].endswith("\n") else f"\n{words}"))

    def _line_end(self, at: int) -> int:
        """Return where the line after a place begins."""
        return self.text.find("\n", at) + 1 or len(self.text)

    def _end(self, node: Any) -> int:
        """Return where a node ends; PyYAML ends a block at what follows it."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            return self._end(last[1] if isinstance(last, tuple) else last)
        start: int = node.start_mark.index
        return start + len(self.text[start : node.end_mark.index].rstrip())
