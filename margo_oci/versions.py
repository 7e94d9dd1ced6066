"""Versions as tags write them (SemVer 2.0 without `v`, `_` for `+`): their order, and which are newer."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from margo_oci.deployment import REVISION

Step = Literal["patch", "minor", "major"]
STEPS: Sequence[Step] = ("patch", "minor", "major")
_VERSION = re.compile(
    r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?(?:-([0-9A-Za-z.-]+))?(?:_[0-9A-Za-z.-]+)?", re.ASCII
)


@dataclass(frozen=True)
class Newer:
    """A newer version, and how far it is from the one that is there."""

    version: str
    step: Step


def is_release(tag: str) -> bool:
    """Tell whether a tag is a version, which nobody expects to move: `1.4.0`, or `v1.4.0` as images have it."""
    return REVISION.fullmatch(tag.removeprefix("v")) is not None


def newer(current: str, tags: Iterable[str]) -> Sequence[Newer]:
    """Return the newest version of each step above `current` that `tags` have.

    What is not finished (`-rc1`) is passed over, unless `current` is not finished either.
    """
    if not (here := REVISION.fullmatch(current)):
        return []
    found: dict[Step, re.Match[str]] = {}
    for one in filter(None, map(REVISION.fullmatch, tags)):
        if (one[4] and not here[4]) or _order(one) <= _order(here):
            continue
        step = _step(here, one)
        if step not in found or _order(one) > _order(found[step]):
            found[step] = one
    return [Newer(found[step][0], step) for step in STEPS if step in found]


def _step(old: re.Match[str], new: re.Match[str]) -> Step:
    (major, minor, *_), (newer_major, newer_minor, *_) = _order(old), _order(new)
    return "major" if newer_major > major else "minor" if newer_minor > minor else "patch"


def newest_first(tags: Iterable[str]) -> list[str]:
    """Return those tags that are versions of an application, newest first; a missing third number is 0."""
    found = [one for tag in tags if (one := _VERSION.fullmatch(tag))]
    return [one[0] for one in sorted(found, key=_order, reverse=True)]


def is_lower(version: str, than: str) -> bool:
    """Tell whether a version of an application is lower than another one; not if one of them is none."""
    one, other = _VERSION.fullmatch(version), _VERSION.fullmatch(than)
    return bool(one and other and _order(one) < _order(other))


def _order(version: re.Match[str]) -> tuple[Any, ...]:
    """Return what SemVer sorts by: builds (`_…`) are one version, what is not finished comes before what is."""
    before = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in (version[4] or "").split(".") if part]
    return (*(int(number or 0) for number in version.group(1, 2, 3)), not before, before)
