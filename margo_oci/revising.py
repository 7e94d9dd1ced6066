"""A document with other revisions of its components, and every other byte as its author wrote it."""

from collections.abc import Mapping
from typing import Any

import yaml

from margo_oci.deployment import parse_deployment
from margo_oci.errors import FormatError

_Loader = getattr(yaml, "CLoader", yaml.Loader)  # only its parser is used: it constructs no objects


def revised(data: bytes, revisions: Mapping[str, str], *, what: str) -> bytes:
    """Return an ApplicationDeployment in which the components named have these revisions.

    Raises FormatError for a document that breaks a rule, and where a revision is not written in its place.
    """
    before = parse_deployment(data, what=what)
    text = data.decode("utf-8-sig")
    places = _places(yaml.compose(text, Loader=_Loader))
    if missing := sorted(set(revisions) - set(places)):
        raise FormatError(f"{what}: no revision of {missing[0]!r:.80} is written there")
    for name, revision in sorted(revisions.items(), key=lambda one: -places[one[0]].start_mark.index):
        node = places[name]
        if (node.style or "") not in ("", "'", '"'):
            raise FormatError(f"{what}:{node.start_mark.line + 1}: revision of {name}: write it on one line")
        quote = node.style or ""
        text = text[: node.start_mark.index] + f"{quote}{revision}{quote}" + text[node.end_mark.index :]
    changed = (b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b"") + text.encode()
    after = parse_deployment(changed, what=what)
    for old, new in zip(before.components, after.components, strict=True):
        if new.revision != revisions.get(old.name, old.revision):
            raise FormatError(f"{what}: the revision of {old.name} could not be changed: do it by hand")
    return changed


def _places(root: Any) -> Mapping[str, Any]:
    """Return where the revision of each component stands; the document was parsed before, so all of it is there."""
    components = _at(root, "spec", "deploymentProfile", "components")
    return {_at(one, "name").value: _at(one, "properties", "revision") for one in components.value if _has(one)}


def _has(component: Any) -> bool:
    return any(key.value == "revision" for key, _ in _at(component, "properties").value)


def _at(node: Any, *path: str) -> Any:
    for name in path:
        node = next(value for key, value in node.value if key.value == name)
    return node
