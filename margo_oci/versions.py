"""Versions as tags write them (SemVer 2.0 without `v`, `_` for `+`): their order, and which are newer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from margo_oci.deployment import REVISION

Step = Literal["patch", "minor", "major"]
STEPS: Sequence[Step] = ("patch", "minor", "major")


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
    if not REVISION.fullmatch(current):
        return []
    here = _order(current)
    found: dict[Step, str] = {}
    for tag in tags:
        if not REVISION.fullmatch(tag) or ("-" in tag.partition("_")[0] and "-" not in current.partition("_")[0]):
            continue
        if _order(tag) > here:
            step = _step(here, _order(tag))
            if step not in found or _order(tag) > _order(found[step]):
                found[step] = tag
    return [Newer(found[step], step) for step in STEPS if step in found]


def _step(old: tuple[Any, ...], new: tuple[Any, ...]) -> Step:
    return "major" if new[0] > old[0] else "minor" if new[1] > old[1] else "patch"


def _order(version: str) -> tuple[Any, ...]:
    """Return what SemVer sorts by: builds (`_…`) are one version, what is not finished comes before what is."""
    found = REVISION.fullmatch(version)
    assert found is not None  # noqa: S101  (only versions are ordered)
    before = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in (found[4] or "").split(".") if part]
    return (*(int(number) for number in found.group(1, 2, 3)), not before, before)
