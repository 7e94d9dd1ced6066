"""YAML as Compose reads it, as a tree of text with lines: aliases and merge keys work, and are bounded (format 7.6).

Nothing is made of a value: a scalar is its text. What other parsers may read otherwise than ours is refused.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import yaml

from margo_oci.errors import FormatError
from margo_oci.yamldoc import DEPTH_LIMIT, DOCUMENT_LIMIT_BYTES, NODE_LIMIT

# Line breaks for some parsers and not for others: a key could hide in what we take for a comment.
_OTHER_BREAKS = re.compile("[\u0085\u2028\u2029\ufeff]|\r(?!\n)")
# Not !!binary: a key or a path could hide in it. !reset and !override are words of Compose.
_TAGS = {None, "!", "!reset", "!override"} | {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
}
_Loader = getattr(yaml, "CLoader", yaml.Loader)  # only its parser is used: it constructs no objects


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value, and the place of its key: text, or `items`, or `pairs` as they are written, merge keys among them."""

    line: int
    column: int = 1
    text: str = ""
    absent: bool = False  # a plain null
    items: Sequence["Node"] = ()
    pairs: Sequence[tuple[str, "Node"]] = ()
    size: int = 1
    depth: int = 0  # of what is in it, counting what aliases stand for

    def members(self) -> Iterator[tuple[str, "Node"]]:
        """Yield keys and values, those of merge keys among them, also where they are overridden."""
        for key, value in self.pairs:
            if key == "<<":
                for merged in value.items or (value,):
                    yield from merged.members()
            else:
                yield key, value

    def nearest(self, dotted: str) -> "Node":
        """Return what stands at `services.web.image`, or the nearest thing around it that is written."""
        for key, value in self.members():
            if dotted == key:
                return value
            if dotted.startswith(f"{key}."):
                return value.nearest(dotted.removeprefix(f"{key}."))
        return self


def parse_tree(data: bytes, *, what: str) -> Node:
    """Parse one YAML document. Raises FormatError `what:line: …`, also when its aliases expand to too much."""
    if len(data) > DOCUMENT_LIMIT_BYTES:
        raise FormatError(f"{what}: {len(data)} bytes, at most {DOCUMENT_LIMIT_BYTES} are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8: {error.reason} at byte {error.start}") from None
    if found := _OTHER_BREAKS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise FormatError(f"{what}:{line}: the character U+{ord(found[0]):04X} is not accepted")
    try:
        return _Tree(what, yaml.parse(text, Loader=_Loader)).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise FormatError(f"{what}:{mark.line + 1 if mark else 1}: not usable YAML: {problem}") from None


@dataclass
class _Tree:
    what: str
    events: Iterator[yaml.Event]
    anchors: dict[str, Node] = field(default_factory=dict)

    def document(self) -> Node:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._fault(event, "one document a file is expected, here starts another")
                root = self._node(next(self.events), 0)
        return root or Node(line=1, absent=True)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if depth > DEPTH_LIMIT:
            raise self._fault(event, f"nested deeper than {DEPTH_LIMIT} levels")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise self._fault(event, f"*{event.anchor:.80} names nothing that ends before it")
            return self.anchors[event.anchor]
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise self._fault(event, "a value is expected")
        if event.tag not in _TAGS:
            raise self._fault(event, f"tags ({event.tag!r:.80}) are not accepted")
        node = _scalar(event) if isinstance(event, yaml.ScalarEvent) else self._collection(event, depth)
        if node.size > NODE_LIMIT:
            raise self._fault(event, f"more than {NODE_LIMIT} values, counting what aliases stand for")
        if node.depth > DEPTH_LIMIT:
            raise self._fault(event, f"nested deeper than {DEPTH_LIMIT} levels, counting what aliases stand for")
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _collection(self, event: yaml.CollectionStartEvent, depth: int) -> Node:
        items: list[Node] = []
        pairs: list[tuple[str, Node]] = []
        keys: set[str] = set()
        size = 1
        while not isinstance(following := next(self.events), yaml.CollectionEndEvent):
            if isinstance(event, yaml.SequenceStartEvent):
                items.append(self._node(following, depth + 1))
                size += items[-1].size
            else:
                key = self._key(following, keys)
                value = self._node(next(self.events), depth + 1)
                pairs.append((key, replace(value, line=_line(following), column=_column(following))))
                size += pairs[-1][1].size
            if size > NODE_LIMIT:
                raise self._fault(following, f"more than {NODE_LIMIT} values, counting what aliases stand for")
        depth = max((one.depth + 1 for one in (*items, *(value for _, value in pairs))), default=0)
        return Node(line=_line(event), column=_column(event), items=items, pairs=pairs, size=size, depth=depth)

    def _key(self, event: yaml.Event, keys: set[str]) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag not in (None, "!"):
            raise self._fault(event, "a key is text, without a tag")
        if event.value in keys:
            raise self._fault(event, f"{event.value!r:.80} stands twice")
        keys.add(event.value)
        if event.anchor:
            self.anchors[event.anchor] = _scalar(event)
        return str(event.value)

    def _fault(self, event: yaml.Event, words: str) -> FormatError:
        return FormatError(f"{self.what}:{_line(event)}: {words}")


def _scalar(event: yaml.ScalarEvent) -> Node:
    absent = not event.style and event.tag is None and event.value in ("", "null")
    return Node(line=_line(event), column=_column(event), text=str(event.value), absent=absent)


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1 if event.start_mark else 1


def _column(event: yaml.Event) -> int:
    return int(event.start_mark.column) + 1 if event.start_mark else 1
