"""What tests of heads and roots begin with: ceremonies in one line, heads, and the moment it is."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from margo_oci.ceremony import Change, RoleName, add_signature, begin, rotate
from margo_oci.content import canonical_json
from margo_oci.cosign import sign
from margo_oci.desired_state import DesiredState
from margo_oci.errors import TrustError
from margo_oci.head import Head, build_head, sign_head, verify_head
from margo_oci.root import Root
from margo_oci.tuf import canonical
from tests.unit.scenes import SCOPE, key, state

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
YEAR = timedelta(days=365)


def role(*names: str, threshold: int = 1) -> Change:
    """Keys that join a role."""
    return Change(add=[key(name).public for name in names], threshold=threshold)


def first_root(
    *, heads: Change | None = None, releases: Change | None = None, expires: datetime = NOW + YEAR, **more: Any
) -> bytes:
    """Version 1, unsigned: two of the holders a, b and c, the head key `head`, the release key `fleet`."""
    roles: dict[RoleName, Change] = {
        "root": role("a", "b", "c", threshold=2), "head": heads or role("head"), "release": releases or role("fleet"),
    }  # fmt: skip
    return begin(roles, expires=expires, **more)


def signed_by(data: bytes, *names: str, previous: Root | None = None) -> bytes:
    """The same root with signatures of holders."""
    for name in names:
        data = add_signature(data, key(name), previous=previous)
    return data


def root(**more: Any) -> Root:
    """A trusted root."""
    return Root.from_bytes(signed_by(first_root(**more), "a", "b"))


def rotated(old: Root, *names: str, expires: datetime = NOW + YEAR, **changes: Change) -> bytes:
    """The next version, signed by these holders."""
    data = rotate(old.data, changes, expires=expires)  # type: ignore[arg-type]  # roles by their names
    return signed_by(data, *names, previous=old)


def head_of(one: DesiredState, **changes: Any) -> Head:
    """A head for a state, issued now for a week."""
    head = Head(
        scope=one.scope, version=5, issued=NOW, expires=NOW + 7 * DAY,
        digest=one.manifest.digest, length=len(one.manifest.data), counter=one.counter,
    )  # fmt: skip
    return replace(head, **changes)


def signed_head(trusted: Root, *names: str, **changes: Any) -> bytes:
    """A head for the usual state, signed by these head keys."""
    return sign_head(head_of(state(), **changes), trusted, [key(name) for name in names or ("head",)])


def made_by(name: str, keyid: str = "", **changes: Any) -> bytes:
    """A head's document signed by any key at all, listed under any id; `changes` go to what is signed."""
    said = {**build_head(head_of(state())), **changes}
    signature = key(name).sign(canonical(said)).hex()
    return canonical_json({"signatures": [{"keyid": keyid, "sig": signature}], "signed": said})


def bundle_of(one: DesiredState, *names: str) -> Sequence[bytes]:
    """Release signatures over a state."""
    return [sign(one.manifest.digest, key(name), name="registry.example/fleet/edge-17") for name in names or ("fleet",)]


def taken(data: bytes, trusted: Root, *, now: datetime = NOW, scope: str = SCOPE, **more: Any) -> Head:
    """What the device of `scope` makes of a head."""
    return verify_head(data, trusted, scopes=[scope], now=now, **more)


def refusal(data: bytes, trusted: Root, **more: Any) -> tuple[str, str]:
    """Why it is refused: reason and message."""
    with pytest.raises(TrustError) as refused:
        taken(data, trusted, **more)
    return refused.value.reason, str(refused.value)
