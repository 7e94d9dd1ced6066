"""Which files Compose reads when it reads a `compose.yaml`: all of them are in the archive (format 8.7, 8.8).

Compose reads any file that a Compose file names, and tells what it read: so nothing outside the archive is named.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Literal

from margo_oci.archive import FAULT_LIMIT, Entry, lies_below
from margo_oci.composefile import COMPOSE_FILE, astray, files_of, of_deployment, of_services, refused_words
from margo_oci.deployment import STEERING
from margo_oci.errors import FormatError
from margo_oci.faults import Located, located, unreadable
from margo_oci.yamldoc import NODE_LIMIT
from margo_oci.yamltree import Node, parse_tree

FILES_LIMIT = 32
# Compose takes a name at the start of a line, after a byte order mark too, and right after the end of a quoted value.
_DOTENV_NAME = re.compile(r"""(?:^\ufeff?|['"])\s*(?:export\s+)*([A-Za-z_][A-Za-z0-9_]*)\s*(?:[=:]|$)""")


def reads_only_the_archive(entries: Sequence[Entry]) -> list[Located]:
    """Rule 8.7: `compose.yaml`, and what it extends or includes, names files of the archive only, word for word."""
    return walk(entries).faults


def steers_no_compose(entries: Sequence[Entry]) -> list[Located]:
    """Rule 8.8: the `.env` beside `compose.yaml` sets nothing that Compose or the engine's client listens to."""
    return [
        fault
        for entry in entries
        if entry.path.count("/") == 1 and posixpath.basename(entry.path) == ".env"
        for fault in islice(_steering(entry.path, entry.data), FAULT_LIMIT)
    ]


def _steering(path: str, data: bytes) -> Iterator[Located]:
    for number, line in enumerate(re.split(r"[\n\r]", data.decode(errors="replace")), start=1):
        for name in _DOTENV_NAME.findall(line):
            if STEERING.fullmatch(name):
                words = f"{name:.80} is not accepted: it steers Compose, not the workload"
                yield located(path, "8.8", words, line=number)


@dataclass(frozen=True)
class _Use:
    """A file that Compose reads. Its paths start at `base` if it is included, and else where it lies itself."""

    at: str
    node: Node
    path: str
    optional: bool = False
    how: Literal["read", "extends", "include", "variables"] = "read"
    base: str = ""


@dataclass(frozen=True)
class _Visit:
    path: str
    base: str


@dataclass
class Walk:
    """All Compose files that lead to each other, with what is wrong with them; `trees` are those by their path.

    `named` are all files that they name, there or not. `open` says that Compose must not make a model of them: what it
    reads for that leads elsewhere, is not there, or cannot be told.
    """

    files: dict[str, bytes]
    faults: list[Located] = field(default_factory=list)
    trees: dict[str, Node] = field(default_factory=dict)
    seen: set[_Visit] = field(default_factory=set)
    waiting: list[_Visit] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    steered: set[str] = field(default_factory=set)
    values: int = 0
    open: bool = False

    def go(self) -> "Walk":
        """Look at every file once; a visit with another base is another one."""
        while self.waiting:
            visit = self.waiting.pop()
            if visit in self.seen:
                continue
            if len(self.seen) == FILES_LIMIT:
                self._too_much(visit, f"more than {FILES_LIMIT} files extend or include each other")
                break
            self.seen.add(visit)
            if (tree := self._tree(visit.path)) is None:
                continue
            if self.values > NODE_LIMIT:
                self._too_much(visit, f"more than {NODE_LIMIT} values in files that extend or include each other")
                break
            for use in (*_uses(tree), *self._includes(tree, visit)):
                self._follow(use, visit)
        return self

    def _too_much(self, visit: _Visit, words: str) -> None:
        self.open = True
        self.faults.append(located(visit.path, "8.7", words))

    def place_of(self, dotted: str) -> tuple[str, Node]:
        """Return the file and the node of `services.web.image`, or what is nearest to it."""
        for path, tree in self.trees.items():
            node = tree.nearest(dotted)
            if node is not tree and node is not tree.nearest("services"):
                return path, node
        return next(iter(self.trees.items()))

    def _tree(self, path: str) -> Node | None:
        """Parse a file and see what may not stand in it, the first time."""
        if path not in self.trees:
            try:
                tree = parse_tree(self.files[path], what=path)
            except FormatError as error:
                self.open = True
                self.faults += unreadable(error, path, "7.6")
                return None
            self.trees[path] = tree
            self.values += tree.size
            for node, rule, at, words in refused_words(tree):
                self.faults.append(located(path, rule, words, line=node.line, column=node.column, field=at))
        return self.trees[path]

    def _follow(self, use: _Use, visit: _Visit) -> None:
        if of_deployment(use.path):
            words = astray(use.path) if use.how == "read" else "comes with the deployment, this with the component"
            if words:
                self._fault(visit, use.node, use.at, f"{use.path!r:.200} {words}")
            return
        if words := astray(use.path):
            self._fault(visit, use.node, use.at, f"{use.path!r:.200} {words}")
            return
        named = posixpath.normpath(posixpath.join(visit.base, use.path))
        self.named.add(named)
        if named not in self.files and not use.optional:
            # What a service reads, Compose reads when it applies, not for its model.
            self._fault(visit, use.node, use.at, f"{use.path!r:.200} is not in the archive", opens=use.how != "read")
        elif use.how == "variables":
            self._variables(named)
        elif use.how != "read":
            self.waiting.append(_Visit(named, use.base or posixpath.dirname(named)))

    def _variables(self, path: str) -> None:
        """See what a file of variables steers, the first time."""
        if path not in self.steered:
            self.steered.add(path)
            found = list(islice(_steering(path, self.files[path]), FAULT_LIMIT))
            self.open = self.open or bool(found)
            self.faults += found

    def _fault(self, visit: _Visit, node: Node, at: str, words: str, *, opens: bool = True) -> None:
        self.open = self.open or opens
        self.faults.append(located(visit.path, "8.7", words, line=node.line, column=node.column, field=at))

    def _includes(self, tree: Node, visit: _Visit) -> Iterator[_Use]:
        """Yield the files that `include` names, and the files of variables that go with them."""
        for key, value in tree.members():
            if key == "include":
                for i, item in enumerate(_items(value)):
                    yield from self._include(f"include[{i}]", item, visit)

    def _include(self, at: str, item: Node, visit: _Visit) -> Iterator[_Use]:
        if words := _unclear(item, nested=visit.path.count("/") > 1):
            self._fault(visit, item, at, words)
            return
        parts = dict(item.pairs) if item.pairs else {"path": item}
        paths = parts["path"].items or (parts["path"],)
        base = self._base(visit, paths[0].text, parts.get("project_directory"), f"{at}.project_directory")
        yield from (_Use(at, path, path.text, how="include", base=base) for path in paths)
        if named := _items(parts["env_file"]) if "env_file" in parts else ():
            yield from (_Use(f"{at}.env_file", one, one.text, how="variables") for one in named)
        elif (dotenv := f"{base}/.env") in self.files:
            self._variables(dotenv)

    def _base(self, visit: _Visit, path: str, project: Node | None, at: str) -> str:
        """Return the folder that relative paths of an included file start from."""
        if project is None or project.absent:
            return posixpath.normpath(posixpath.join(visit.base, posixpath.dirname(path)))
        base = posixpath.normpath(posixpath.join(visit.base, project.text))
        inside = posixpath.normpath(project.text) == "." or not astray(project.text)
        if not inside or not lies_below(self.ordered, base):
            self._fault(visit, project, at, f"{project.text!r:.200} is no folder of the archive")
        return base

    @cached_property
    def ordered(self) -> Sequence[str]:
        """The paths of all files, in their order."""
        return sorted(self.files)


def walk(entries: Sequence[Entry]) -> Walk:
    """Return all Compose files of an archive that lead to each other, from its `compose.yaml` on."""
    files = {entry.path: entry.data for entry in entries if not entry.folder}
    first = [path for path in files if posixpath.basename(path) == COMPOSE_FILE and path.count("/") == 1]
    return Walk(files, waiting=[_Visit(path, posixpath.dirname(path)) for path in first]).go()


def _uses(tree: Node) -> Iterator[_Use]:
    """Yield every file that Compose reads for the services and configs of this one."""
    for name, key, value in of_services(tree):
        at = f"services.{name:.80}.{key}"
        if key in ("env_file", "label_file"):
            yield from _listed(at, value)
        elif key == "extends":
            for word, file in value.members():
                if word == "file" and not file.absent:
                    yield _Use(f"{at}.file", file, file.text, how="extends")
    for name, file in files_of(tree, "configs"):
        yield _Use(f"configs.{name:.80}.file", file, file.text)


def _listed(at: str, value: Node) -> Iterator[_Use]:
    """Yield a path, a list of paths, or of `{path: …, required: …}`."""
    for item in _items(value):
        words = list(item.members())
        optional = [one.text for word, one in words if word == "required"] == ["false"]
        paths = [one for word, one in words if word == "path"] if words else [item]
        yield from (_Use(at, path, path.text, optional=optional) for path in paths if not item.absent)


def _items(value: Node) -> Sequence[Node]:
    """Return the entries of a list, or the one value that stands in its place; of nothing and `[]` none."""
    nothing = value.absent or not (value.items or value.pairs or value.text)
    return () if nothing else value.items or (value,)


def _unclear(item: Node, *, nested: bool) -> str:
    """Tell what makes an entry of `include` mean one thing to Compose and another one here."""
    keys = [key for key, _ in item.pairs]
    if "<<" in keys:
        return "merge keys are not accepted here: write it out"
    if item.pairs and "path" not in keys:
        return "path is missing: name the file to include"
    if nested and {"project_directory", "env_file"} & set(keys):
        # Compose 2.40 looks for these of nested files in other folders than it says.
        return f"project_directory and env_file stand in {COMPOSE_FILE} only"
    return ""
