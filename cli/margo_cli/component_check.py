"""A component, from a folder, an archive file or a registry, and all that is wrong with it."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from margo_cli.folder import read_component
from margo_cli.session import compose, read_file
from margo_oci.archive import Entry, unpack
from margo_oci.compose import Compose, faults_of_template
from margo_oci.composefile import COMPOSE_FILE, faults_of_model
from margo_oci.composereads import Walk, steers_no_compose, walk
from margo_oci.content import BLOB_LIMIT_BYTES
from margo_oci.deployment import COMPONENT_NAME
from margo_oci.errors import FormatError
from margo_oci.faults import Level, Located, located
from margo_oci.package import COMPOSE, FORMS, QUADLET, Form, below_top, form_of_content, placed_below
from margo_oci.quadlet import warnings_of
from margo_oci.store import extract

# Faults beside which Compose is asked as well, if nothing that it reads leads elsewhere.
_BESIDE = frozenset({"7.5", "8.5", "8.7", "8.8", "8.9", "14.7"})
_STRANGE = re.compile(r"additional properties (.*) not allowed")  # Compose's own words
_AT = re.compile(r"(?:services|configs|secrets|volumes|networks)\.[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Source:
    """What was read: the entries of an archive, or of what would be one, and what cannot be in it."""

    entries: Sequence[Entry]
    faults: Sequence[Located] = ()


@dataclass(frozen=True)
class Checked:
    """A component, what it is, all faults, and the model that Compose makes of it: None if Compose did not see it.

    `missing` is true if that is because it is not there, and nothing else is wrong.
    """

    form: Form
    entries: Sequence[Entry]
    faults: Sequence[Located]
    template: Mapping[str, Any] | None = None
    missing: bool = False

    @property
    def errors(self) -> Sequence[Located]:
        """The faults that are no warnings."""
        return [one for one in self.faults if one.fault.level == "error"]

    @property
    def warnings(self) -> Sequence[Located]:
        """The others."""
        return [one for one in self.faults if one.fault.level == "warning"]


def read_source(path: Path, *, name: str = "") -> Source:
    """Read a folder, as the archive that would be made of it, or an archive file. Raises FormatError for neither."""
    if path.is_dir():
        files, faults = read_component(path)
        top = name or path.resolve().name
        return Source(placed_below(top, files), [located(f"{top}/{file}", "7.5", words) for file, words in faults])
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: a folder or an archive file is expected, no pipe, socket or device")
    data = read_file(path, limit_bytes=BLOB_LIMIT_BYTES)
    if len(data) > BLOB_LIMIT_BYTES:
        return Source((), [located("", "7.2", f"more than {BLOB_LIMIT_BYTES} bytes, which nobody reads")])
    try:
        return Source(unpack(data, what=""))
    except FormatError as error:
        return Source((), [located("", "7.5", fault.removeprefix(": ")) for fault in error.faults])


def check_component(source: Source, *, kind: str = "", name: str = "") -> Checked:
    """Hold a component against every rule; Compose sees it unless what is wrong until then stands in its way.

    `kind` is the form if it is said, `name` what the component is called.
    """
    paths = [entry.path.partition("/")[2] for entry in source.entries if not entry.folder]
    form = FORMS[kind] if kind else form_of_content(paths)
    faults = [*source.faults]
    if source.entries or not source.faults:
        faults += form.faults_of(source.entries)
    if form is QUADLET:
        faults += [*_called(source.entries, name), *warnings_of(source.entries)]
    if form is QUADLET or not _can_ask(source.entries, faults):
        return Checked(form, source.entries, faults)
    return _ask_compose(source.entries, faults)


def _can_ask(entries: Sequence[Entry], faults: Sequence[Located]) -> bool:
    """Tell whether Compose can make a model: it is there, and reads and obeys nothing but what is in the archive."""
    if not faults:
        return True
    if not entries or any(one.fault.rule not in _BESIDE for one in faults):
        return False
    return not walk(entries).open and not steers_no_compose(entries)


def _called(entries: Sequence[Entry], name: str) -> list[Located]:
    """The folder of a Quadlet Archive is called as its component (format 8.11)."""
    tops = {entry.path.partition("/")[0] for entry in entries}
    wanted = f"{name!r:.80}, as the component" if name else "as the component: lower-case letters, digits and dashes"
    return [
        located("", "8.11", f"the folder {top!r:.80} must be called {wanted}")
        for top in sorted(tops)[:1]
        if (name and top != name) or not COMPONENT_NAME.fullmatch(top)
    ]


def _ask_compose(entries: Sequence[Entry], faults: list[Located]) -> Checked:
    """Compose's own parser has the last word."""
    try:
        tool = compose()
    except FormatError as error:
        words = f"Compose's own parser did not see it: {error}"
        return Checked(COMPOSE, entries, [*faults, located("", "8.6", words)], missing=not faults)
    with tempfile.TemporaryDirectory(prefix="margo-oci-") as scratch:
        folder = Path(scratch).resolve() / "component"
        archive = below_top(entries)
        extract(archive.entries, folder)
        found, template = _asked(tool, folder, walk(entries))
    return Checked(COMPOSE, entries, [*faults, *(one for one in found if not _repeats(one, faults))], template)


def _asked(tool: Compose, folder: Path, read: Walk) -> tuple[Sequence[Located], Mapping[str, Any] | None]:
    try:
        template = tool.template(folder)
    except FormatError as error:
        words = [fault.removeprefix(f"{COMPOSE_FILE}: ") for fault in error.faults]
        return [_placed(read, at[0] if (at := _AT.search(one)) else "", one, "8.6") for one in words], None
    known = set(faults_of_model(template))
    faults, warnings = faults_of_template(template, folder)
    found = [_told(read, one, "8.8" if one in known else "8.5", "error") for one in faults]
    found += [_told(read, one, "8.5", "warning") for one in warnings]
    return found, template


def _repeats(one: Located, told: Sequence[Located]) -> bool:
    """Tell whether a fault that Compose led to is one that our own rules have told, in other words."""
    if strange := _STRANGE.search(one.fault.message):
        known = {fault.fault.field.rpartition(".")[2] for fault in told}
        named = set(re.findall("'([^']*)'", strange[1]))
        return bool(named) and named <= known
    same = [fault.fault.message for fault in told if one.fault.field and fault.fault.field == one.fault.field]
    if one.fault.level == "error" and one.fault.field.endswith(".volumes"):  # each of them may have its own
        return one.fault.message in same
    return bool(same)


def _told(read: Walk, fault: str, rule: str, level: Level) -> Located:
    """Return a fault of the model, at the place in the file that it comes from."""
    at, _, words = fault.partition(": ")
    one = _placed(read, at, words, rule)
    return replace(one, fault=replace(one.fault, field=at, level=level))


def _placed(read: Walk, at: str, words: str, rule: str) -> Located:
    path, node = read.place_of(at)
    return located(path, rule, words, line=node.line, column=node.column)
