"""The root of trust: which keys sign heads, which sign releases, and how one root hands over to the next.

A root is a TUF `root.json` (TUF 1.0.31 sections 4.3 and 5.3) with two fields more: `x-roles.release` and `x-floor`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from margo_oci.content import digest_of
from margo_oci.errors import FormatError, TrustError
from margo_oci.freshness import format_moment, parse_moment
from margo_oci.keys import PublicKey
from margo_oci.tuf import Document, Header, Quorum, canonical, parse_keys, parse_quorum

ROOT_LIMIT_BYTES = 64 * 1024
CHAIN_LIMIT = 256
ROLES = "x-roles"
RELEASE = "release"
FLOOR = "x-floor"


@dataclass(frozen=True, kw_only=True)
class Root:
    """A root that is trusted: its keys signed it, and it was handed over, or given by hand.

    `content` is the digest of the bytes that signatures are over: the same however the file is written.

    `floor`: no head that was issued before is accepted, and it is not earlier than that.
    """

    data: bytes
    content: str
    version: int
    expires: datetime
    holders: Quorum
    heads: Quorum
    releases: Quorum
    floor: datetime | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> "Root":
        """Read the root that a device or operator was given by hand. Raises TrustError (10.4)."""
        document = _document(data)
        root = _parse(document, data)
        _check_quorum(document, root.holders, f"root version {root.version}", "its own")
        return root

    @property
    def release_keys(self) -> Sequence[PublicKey]:
        """The keys of releases, as `trust.Policy` takes them."""
        return tuple({key.der: PublicKey(key.name, key.der) for key in self.releases.keys}.values())

    def check_fresh(self, now: datetime) -> None:
        """Refuse an expired root. Raises TrustError `root-expired` (10.7)."""
        if now >= self.expires:
            raise TrustError(
                "root-expired",
                f"root version {self.version} expired at {format_moment(self.expires)}, and it is "
                f"{format_moment(now)}: newer ones are held back, or there is none yet (`margo-oci root rotate`)",
            )


@dataclass(frozen=True)
class Advanced:
    """Where a chain of roots led, and whether keys were taken away on the way.

    Heads changed: forget the head's version and its moment. Releases changed: forget the counter (10.6).
    """

    root: Root
    heads_changed: bool = False
    releases_changed: bool = False

    def then(self, data: bytes) -> "Advanced":
        """Go one root further. A key that was taken away on the way counts as taken away. Raises as `advance`."""
        step = advance(self.root, data)
        return Advanced(
            step.root, self.heads_changed or step.heads_changed, self.releases_changed or step.releases_changed
        )


def advance(root: Root, data: bytes) -> Advanced:
    """Return the next root, which the holders of `root` and its own have signed.

    Raises TrustError `malformed`, `wrong-root`, `root-unsigned` (10.5). Expiry is looked at where the chain ends.
    """
    document = _document(data)
    what = f"the root after version {root.version}"
    _check_quorum(document, root.holders, what, f"version {root.version}'s")
    following = _parse(document, data)
    if following.version != root.version + 1:
        raise TrustError("wrong-root", f"{what} says that it is version {following.version}: the chain has a gap")
    _check_quorum(document, following.holders, what, "its own")
    return Advanced(following, _lost(root.heads, following.heads), _lost(root.releases, following.releases))


def follow(root: Root, chain: Sequence[bytes]) -> Advanced:
    """Advance step by step, at most CHAIN_LIMIT steps. Raises as `advance`."""
    if len(chain) > CHAIN_LIMIT:
        raise TrustError(
            "malformed", f"{len(chain)} roots follow version {root.version}, at most {CHAIN_LIMIT} are read"
        )
    reached = Advanced(root)
    for data in chain:
        reached = reached.then(data)
    return reached


def _lost(old: Quorum, new: Quorum) -> bool:
    """Whether a key was taken away. Adding one ends nobody's say, so nothing must be forgotten for it."""
    return not {key.der for key in old.keys} <= {key.der for key in new.keys}


def _document(data: bytes) -> Document:
    try:
        return Document.from_bytes(data, what="root", limit_bytes=ROOT_LIMIT_BYTES)
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None


def _parse(document: Document, data: bytes) -> Root:
    try:
        return parse_root(document.signed, data)
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None


def parse_root(signed: Mapping[str, Any], data: bytes) -> Root:
    """Read what a root says, whoever signed it. Raises FormatError."""
    header = Header.of(signed, "root", what="root")
    keys = parse_keys(signed.get("keys"), what="root")
    roles, more = signed.get("roles"), signed.get(ROLES)
    if not isinstance(roles, dict) or not {"root", "targets", "snapshot", "timestamp"} <= set(roles):
        raise FormatError("root: roles: root, targets, snapshot and timestamp are expected")
    if not isinstance(more, dict):
        raise FormatError(f"root: {ROLES}: the keys of releases are expected, as {ROLES}.{RELEASE}")
    releases = parse_quorum(more.get(RELEASE), keys, at=f"root: {ROLES}.{RELEASE}")
    for key in releases.keys:
        if not isinstance(key.public, ec.EllipticCurvePublicKey):
            raise FormatError(f"root: {ROLES}.{RELEASE}: {key.label}: releases are signed with P-256 keys only")
    return Root(
        data=data,
        content=digest_of(canonical(signed)),
        version=header.version,
        expires=header.expires,
        holders=parse_quorum(roles["root"], keys, at="root: roles.root"),
        heads=parse_quorum(roles["targets"], keys, at="root: roles.targets"),
        releases=releases,
        floor=parse_moment(signed[FLOOR], at=f"root: {FLOOR}") if FLOOR in signed else None,
    )


def _check_quorum(document: Document, quorum: Quorum, what: str, whose: str) -> None:
    signed = quorum.signers(document)
    if len(signed) < quorum.threshold:
        names = ", ".join(key.label for key in signed) or "none"
        raise TrustError(
            "root-unsigned",
            f"{what}: {quorum.threshold} of {whose} keys must sign, signed by {names}: "
            "the ceremony is not over (`margo-oci root sign`), or somebody made it up",
        )
