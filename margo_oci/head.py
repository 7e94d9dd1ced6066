"""The head of a scope: a small document, signed and short-lived, that says which state is meant now.

It is a TUF targets document with one target (docs/format.md, section 10). The order of the rules is fixed:

    1  caps and well-formed JSON                                  -> malformed
    2  signed by as many of the root's head keys as it asks for   -> head-unsigned, wrong-key
    3  a head, and well-formed                                    -> malformed
    4  for one of the own scopes                                  -> wrong-scope
    5  its version is not lower than seen, and not far above      -> rollback, version-reused, fast-forward
    6  issued after the root's floor                              -> rollback
    7  not expired, and not issued after what a clock allows      -> freeze, from-the-future

Then the state it names: the same digest, length, scope and counter (`mix-and-match`), and release signatures by as
many keys as the root asks for (`below-threshold`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from margo_oci.content import Descriptor, digest_of, is_digest
from margo_oci.desired_state import COUNTER_LIMIT, DesiredState, check_counter, check_scope
from margo_oci.errors import FormatError, TrustError
from margo_oci.freshness import SeenHead, check_expiry, format_moment, parse_moment
from margo_oci.keys import Signer
from margo_oci.manifest import Manifest
from margo_oci.root import Root
from margo_oci.signatures import Attached, Found, SignedBy
from margo_oci.trust import Policy, Seen, Verified, signers_of, verify
from margo_oci.tuf import SPEC_VERSION, VERSION_LIMIT, Document, Header, sign, whole

HEAD_LIMIT_BYTES = 16 * 1024
TARGET = "desired-state"
SCOPE = "x-scope"
ISSUED = "x-issued"
LIFETIME_LIMIT = timedelta(days=366)
COUNTER_TEXT = re.compile(r"[1-9][0-9]{0,19}")
_ANY_TIME = datetime.max.replace(tzinfo=UTC)  # release keys have no validity of their own
JUMP_LIMIT = 1_000_000  # a head a minute for almost two years


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a head says: for `scope`, the state with this digest, length in bytes and counter, until `expires`."""

    scope: str
    version: int
    issued: datetime
    expires: datetime
    digest: str
    length: int
    counter: int
    content: str = ""
    signed_by: Sequence[str] = ()

    @property
    def seen(self) -> SeenHead:
        """What is to be remembered of it once it is accepted."""
        return SeenHead(
            version=self.version, content=self.content, state=self.digest, issued=self.issued, expires=self.expires
        )


def build_head(head: Head) -> dict[str, Any]:
    """Return the part of the document that is signed. Raises FormatError for what no device would take."""
    signed: dict[str, Any] = {
        "_type": "targets",
        "spec_version": SPEC_VERSION,
        "version": head.version,
        "expires": format_moment(head.expires),
        SCOPE: head.scope,
        ISSUED: format_moment(head.issued),
        "targets": {
            TARGET: {
                "length": head.length,
                "hashes": {"sha256": head.digest.removeprefix("sha256:")},
                "custom": {"counter": str(head.counter)},
            }
        },
    }
    parse_head(signed)
    return signed


def sign_head(head: Head, root: Root, signers: Sequence[Signer]) -> bytes:
    """Return the signed document. Raises FormatError if these keys are not enough for the root's devices."""
    by_id: dict[str, Signer] = {}
    for signer in signers:
        key = root.heads.key_of(signer.public)
        if key is None:
            raise FormatError(
                f"{signer.public.name}: root version {root.version} has as head keys only {root.heads.labels}"
            )
        by_id[key.id] = signer
    if len(by_id) < root.heads.threshold:
        raise FormatError(
            f"{root.heads.threshold} head keys must sign (root version {root.version}), {len(by_id)} are given"
        )
    return sign(build_head(head), by_id)


def parse_head(signed: Mapping[str, Any], *, content: str = "", signed_by: Sequence[str] = ()) -> Head:
    """Read what a head says, whoever signed it. Raises FormatError."""
    header = Header.of(signed, "targets", what="head")
    targets = signed.get("targets")
    target = targets.get(TARGET) if isinstance(targets, dict) and len(targets) == 1 else None
    if not isinstance(target, dict):
        raise FormatError(f"head: targets: exactly one, {TARGET!r}, is expected")
    scope = signed.get(SCOPE)
    head = Head(
        scope=check_scope(scope if isinstance(scope, str) else ""),
        version=header.version,
        issued=parse_moment(signed.get(ISSUED), at=f"head: {ISSUED}"),
        expires=header.expires,
        digest=_digest(target),
        length=whole(target.get("length"), VERSION_LIMIT, at="head: length"),
        counter=_counter(target),
        content=content,
        signed_by=tuple(signed_by),
    )
    if not timedelta(0) < head.expires - head.issued <= LIFETIME_LIMIT:
        raise FormatError(
            f"head: issued {format_moment(head.issued)}, expires {format_moment(head.expires)}: "
            f"it must live longer than nothing and at most {LIFETIME_LIMIT.days} days"
        )
    return head


def _digest(target: Mapping[str, Any]) -> str:
    hashes = target.get("hashes")
    value = hashes.get("sha256") if isinstance(hashes, dict) else None
    digest = f"sha256:{value}"
    if not isinstance(value, str) or not is_digest(digest):
        raise FormatError(f"head: hashes.sha256: 64 lower-case hex digits are expected, got {value!r:.80}")
    return digest


def _counter(target: Mapping[str, Any]) -> int:
    custom = target.get("custom")
    text = custom.get("counter") if isinstance(custom, dict) else None
    if not isinstance(text, str) or not COUNTER_TEXT.fullmatch(text):
        raise FormatError(f"head: custom.counter: a decimal from 1 to {COUNTER_LIMIT} is expected, got {text!r:.80}")
    return check_counter(int(text))


def open_head(data: bytes, root: Root) -> Head:
    """Return the head in `data` if the root's keys signed it: rules 1 to 3. Raises TrustError."""
    try:
        document = Document.from_bytes(data, what="head", limit_bytes=HEAD_LIMIT_BYTES)
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None
    if not any(document.signatures.values()):
        raise TrustError("head-unsigned", "the head has no signature: it was removed on the way, or never made")
    signers = root.heads.signers(document)
    if len(signers) < root.heads.threshold:
        raise TrustError(
            "wrong-key",
            f"the head is signed by {len(signers)} of the {root.heads.threshold} keys it needs; root version "
            f"{root.version} trusts {root.heads.labels}: made by somebody else, or with keys that were replaced",
        )
    try:
        content = digest_of(document.signed_bytes)
        return parse_head(document.signed, content=content, signed_by=[key.name for key in signers])
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None


def verify_head(
    data: bytes,
    root: Root,
    *,
    scopes: Sequence[str],
    now: datetime,
    last: SeenHead | None = None,
    latest: datetime | None = None,
) -> Head:
    """Return the head in `data` if a device that has `scopes` and saw `last` may take it: all rules. Raises TrustError.

    `now` is `freshness.clock(…)`: the device's clock, and not before what it knows to be past. A device whose clock is
    kept right gives `latest`, a little after that clock: no head that was issued later is taken (10.12).
    """
    head = open_head(data, root)
    if head.scope not in scopes:
        raise TrustError(
            "wrong-scope",
            f"this head is for scope {head.scope!r}, here only {', '.join(scopes)} is accepted: "
            "another device's head was put in this place",
        )
    if last:
        _check_version(head, last)
    if root.floor and head.issued < root.floor:
        raise TrustError(
            "rollback",
            f"head version {head.version} was issued {format_moment(head.issued)}, and root version {root.version} "
            f"asks for {format_moment(root.floor)} or later: an older head was replayed",
        )
    check_expiry(head.version, head.expires, now)
    if latest and head.issued > latest:
        raise TrustError(
            "from-the-future",
            f"head version {head.version} was issued {format_moment(head.issued)}, and it is {format_moment(now)}: "
            "this clock is wrong, or the issuer's, or somebody wants it to be later than it is",
        )
    return head


def _check_version(head: Head, last: SeenHead) -> None:
    if head.version < last.version:
        raise TrustError(
            "rollback",
            f"head version {head.version} is lower than {last.version}, seen before: an older head was replayed",
        )
    if head.version == last.version and head.content != last.content:
        raise TrustError(
            "version-reused",
            f"head version {head.version} was seen naming {last.state}, now another one names {head.digest}: "
            "two heads were signed with one version",
        )
    if head.version - last.version > JUMP_LIMIT:
        raise TrustError(
            "fast-forward",
            f"head version {head.version} is more than {JUMP_LIMIT} above {last.version}: whoever signed it wants no "
            "other to be higher: replace the head key (`margo-oci root rotate`)",
        )


def verify_release(
    manifest: Manifest, bundles: Sequence[bytes], head: Head, root: Root, *, last: Seen | None = None
) -> Verified:
    """Return the state that a verified head names, if enough release keys signed it.

    Raises TrustError: `mix-and-match`, and what `trust.verify` raises (10.13, 10.14).
    """
    if (manifest.digest, len(manifest.data)) != (head.digest, head.length):
        raise _mixed(head, f"{manifest.digest} with {len(manifest.data)} bytes")
    policy = Policy(root.release_keys, [head.scope], root.releases.threshold)
    verified = verify(manifest, _found(bundles), policy, now=_ANY_TIME, last=last)
    check_pair(head, verified.state)
    return verified


def check_pair(head: Head, state: DesiredState) -> None:
    """Refuse a state that is not the one a head names. Raises TrustError `mix-and-match`."""
    manifest = state.manifest
    got = (manifest.digest, len(manifest.data), state.scope, state.counter)
    if got != (head.digest, head.length, head.scope, head.counter):
        raise _mixed(head, f"{manifest.digest} with {got[1]} bytes, scope {state.scope!r}, counter {state.counter}")


def _mixed(head: Head, got: str) -> TrustError:
    return TrustError(
        "mix-and-match",
        f"the head names {head.digest} with {head.length} bytes, scope {head.scope!r}, counter {head.counter}, and "
        f"this is {got}: parts of two releases were put together",
    )


def check_release(subject: Descriptor, bundles: Sequence[bytes], root: Root) -> Sequence[SignedBy]:
    """Return which of the root's release keys signed `subject`. Raises TrustError unless they are enough (10.14)."""
    policy = Policy(root.release_keys, threshold=root.releases.threshold)
    return signers_of(subject, _found(bundles), policy, now=_ANY_TIME)


def release_signers(subject: Descriptor, bundles: Sequence[bytes], root: Root) -> Sequence[SignedBy]:
    """Return which of the root's release keys signed `subject`, each once; nobody is asked for."""
    try:
        return signers_of(subject, _found(bundles), Policy(root.release_keys), now=_ANY_TIME)
    except TrustError:
        return ()


def _found(bundles: Sequence[bytes]) -> Found:
    return Found([Attached("bundle", data) for data in bundles])
