"""`margo-oci diff`: what changes between two states, in words and in bytes."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import click

from margo_cli.folder import read_deployments
from margo_cli.look import read
from margo_cli.session import Session, human_bytes, say, with_session
from margo_cli.trusting import Trusting, trust_options
from margo_oci.deployment import Deployment
from margo_oci.desired_state import Lock, build_file_layer, build_layer
from margo_oci.manifest import TITLE
from margo_oci.reference import parse_reference
from margo_oci.trust import TrustAnything


@dataclass(frozen=True)
class Side:
    """One of the two states: its deployments, their locks where known, layer digest to size, its manifest's size.

    `files` are by deployment and path: the digest of each one's layer.
    """

    deployments: Mapping[str, Deployment]
    locks: Mapping[str, Lock | None]
    layers: Mapping[str, int]
    manifest_bytes: int = 0
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def locked(self) -> bool:
        """Whether it has locks: a folder has none."""
        return bool(self.locks) or not self.deployments


@dataclass(frozen=True)
class Change:
    """A deployment that differs: the document's diff, what else it is locked to, and which of its files differ."""

    id: str
    name: str
    diff: Sequence[str]
    lock: Sequence[str]
    files: Sequence[str] = ()


@dataclass(frozen=True)
class Difference:
    """What changes from one side to the other."""

    added: Mapping[str, str]
    removed: Mapping[str, str]
    changed: Sequence[Change]
    fetch_bytes: int
    locks_compared: bool = True

    @property
    def same(self) -> bool:
        """Whether nothing changes."""
        return not (self.added or self.removed or self.changed)


def compare(old: Side, new: Side) -> Difference:
    """Return what changes; `fetch_bytes` is what a device that has `old` fetches of `new`."""
    changes = [
        Change(name, deployment.name, document, lock, files)
        for name, deployment in new.deployments.items()
        if name in old.deployments
        for document in [_diff(old.deployments[name], deployment)]
        for lock in [_lock_diff(old.locks.get(name), new.locks.get(name))]
        for files in [_files_diff(old.files.get(name, {}), new.files.get(name, {}))]
        if document or lock or files
    ]
    missing = sum(size for digest, size in new.layers.items() if digest not in old.layers)
    difference = Difference(
        added={name: one.name for name, one in new.deployments.items() if name not in old.deployments},
        removed={name: one.name for name, one in old.deployments.items() if name not in new.deployments},
        changed=changes,
        fetch_bytes=missing,
        locks_compared=old.locked and new.locked,
    )
    return difference if difference.same else replace(difference, fetch_bytes=missing + new.manifest_bytes)


def _diff(old: Deployment, new: Deployment) -> Sequence[str]:
    before, after = (one.data.decode(errors="replace").splitlines() for one in (old, new))
    lines = list(difflib.unified_diff(before, after, f"old/{old.name}.yaml", f"new/{new.name}.yaml", lineterm=""))
    return lines or (["(only line ends or the last newline differ)"] if old.data != new.data else [])


def _files_diff(old: Mapping[str, str], new: Mapping[str, str]) -> Sequence[str]:
    words = {(False, True): "added", (True, False): "removed"}
    return [
        f"{words.get((path in old, path in new), 'changed')} {path}"
        for path in sorted({**old, **new})
        if old.get(path) != new.get(path)
    ]


def _lock_diff(old: Lock | None, new: Lock | None) -> Sequence[str]:
    if old is None or new is None:  # a folder has no locks: nothing to compare
        return []
    before, after = ({**lock.components, **lock.images} for lock in (old, new))
    return [
        f"{name}: {before.get(name, '(not there)')} -> {after.get(name, '(gone)')}"
        for name in sorted({**before, **after})
        if before.get(name) != after.get(name)
    ]


@click.command()
@click.argument("old")
@click.argument("new")
@trust_options
@with_session()
def diff(session: Session, old: str, new: str, trusting: Trusting) -> int:
    """Show what changes from OLD to NEW, each a folder or a reference, and the bytes a device would fetch.

    References are only looked at, unless --key or another option says whose signature they must have.

    Exit code: 0 the same, 1 different.

    \b
    Examples:
      margo-oci diff registry.example/fleet/edge-17:latest states/edge-17
      margo-oci diff registry.example/fleet/edge-17:latest-counter-4 registry.example/fleet/edge-17:latest
    """
    difference = compare(_side(session, old, trusting), _side(session, new, trusting))
    session.show(_json(difference), _lines(difference))
    if not difference.locks_compared:
        say("locks were not compared: a folder has none")
    return 0 if difference.same else 1


def _side(session: Session, text: str, trusting: Trusting) -> Side:
    if Path(text).is_dir():
        return _folder(Path(text))
    reference = parse_reference(text)
    verified, placed = read(session, reference, trusting.judge(reference) if trusting.given else TrustAnything())
    state = verified.state
    return Side(
        {name: one.deployment for name, one in placed.items()},
        {name: one.lock for name, one in placed.items()},
        {layer.digest: layer.size for layer in (*state.layers, *chain(*state.files.values()))},
        len(state.manifest.data),
        {name: {layer.annotations[TITLE]: layer.digest for layer in one.files} for name, one in placed.items()},
    )


def _folder(folder: Path) -> Side:
    documents = read_deployments(folder, allow_empty=True)
    layers = [build_layer(one.deployment).descriptor for one in documents]
    files = {
        one.deployment.id: [build_file_layer(one.deployment.id, file).descriptor for file in one.files]
        for one in documents
    }
    return Side(
        {one.deployment.id: one.deployment for one in documents},
        {},
        {layer.digest: layer.size for layer in (*layers, *chain(*files.values()))},
        files={name: {one.annotations[TITLE]: one.digest for one in mine} for name, mine in files.items()},
    )


def _json(difference: Difference) -> dict[str, Any]:
    return {
        "same": difference.same,
        "added": [{"id": name, "name": title} for name, title in difference.added.items()],
        "removed": [{"id": name, "name": title} for name, title in difference.removed.items()],
        "changed": [
            {
                "id": one.id,
                "name": one.name,
                "diff": list(one.diff),
                "lock": list(one.lock),
                "files": list(one.files),
            }
            for one in difference.changed
        ],
        "fetchBytes": difference.fetch_bytes,
        "locksCompared": difference.locks_compared,
    }


def _lines(difference: Difference) -> Sequence[str]:
    if difference.same:
        return ["no difference"]
    lines = [f"added    {name}  {title}" for name, title in difference.added.items()]
    lines += [f"removed  {name}  {title}" for name, title in difference.removed.items()]
    for one in difference.changed:
        lines.append(f"changed  {one.id}  {one.name}")
        lines += [f"  {line}" for line in one.diff]
        lines += [f"  locked {line}" for line in one.lock]
        lines += [f"  file {line}" for line in one.files]
    return [*lines, f"a device fetches {human_bytes(difference.fetch_bytes)}"]
