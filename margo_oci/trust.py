"""The rules of trust, without I/O: bytes, signatures, a policy and what was seen before in; `Verified` out.

The order is fixed, and nothing of a payload is read before its signature held (docs/format.md, section 6):

    1  caps and well-formed JSON                      -> malformed
    2  a signature, by a key that the policy names    -> unsigned, malformed-signature, wrong-key
    3  it is a release signature                      -> not-a-release
    4  it is over the digest of the bytes held        -> moved-signature
    5  the state is for one of the own scopes         -> wrong-scope
    6  the counter rises                              -> rollback, counter-reused
"""

from collections.abc import Sequence
from dataclasses import dataclass

from margo_oci.content import canonical_json, digest_of
from margo_oci.cosign import RELEASE, parse_bundle, parse_statement
from margo_oci.desired_state import DesiredState, parse_state
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import PublicKey
from margo_oci.manifest import Manifest


@dataclass(frozen=True)
class Policy:
    """Whose signature counts and for whom a state must be. No scopes means: scope is not asked for."""

    keys: Sequence[PublicKey]
    scopes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            # An empty list would otherwise be the easiest way to write "trust nobody" and mean it.
            raise FormatError("trust: at least one key is expected")

    @property
    def digest(self) -> str:
        """What changes when the keys or the scopes do: then what was verified before is verified again."""
        return digest_of(canonical_json([sorted(key.hint for key in self.keys), sorted(self.scopes)]))


@dataclass(frozen=True)
class TrustAnything:
    """Skips every check of who signed what. For looking at things, never for applying them."""


@dataclass(frozen=True)
class Seen:
    """The last state that was verified and accepted for a scope."""

    counter: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """A desired state that a policy accepted. Only this module makes one, and only this is fetched."""

    state: DesiredState
    signed_by: str


# Of several signatures that do not count, the one that tells most is reported.
_TELLING = ("moved-signature", "not-a-release", "wrong-key", "malformed-signature")


def verify(
    manifest: Manifest,
    bundles: Sequence[bytes],
    policy: Policy | TrustAnything,
    *,
    last: Seen | None = None,
) -> Verified:
    """Return the state if `policy` accepts it. Raises TrustError with the rule's reason."""
    what = f"manifest {manifest.digest[:19]}"
    try:
        state = parse_state(manifest, what=what)
    except FormatError as error:
        if isinstance(policy, TrustAnything):
            raise
        raise TrustError("malformed", str(error)) from None
    if isinstance(policy, TrustAnything):
        return Verified(state, "nobody (not checked)")
    signed_by = _signer(manifest.digest, bundles, policy.keys)
    _check_scope(state, policy.scopes)
    if last:
        _check_counter(state, last)
    return Verified(state, signed_by)


def recall(manifest: Manifest, last: Seen) -> Verified:
    """Return a state that was verified before: its digest stands in our own durable record."""
    if manifest.digest != last.digest:
        raise TrustError("digest-mismatch", f"recorded is {last.digest}, kept is {manifest.digest}")
    return Verified(parse_state(manifest, what=f"manifest {manifest.digest[:19]}"), "recorded before")


def signer_of(digest: str, bundles: Sequence[bytes], keys: Sequence[PublicKey]) -> str | None:
    """Return which of `keys` made a release signature over `digest`; None if none did."""
    try:
        return _signer(digest, bundles, keys)
    except TrustError:
        return None


def _signer(digest: str, bundles: Sequence[bytes], keys: Sequence[PublicKey]) -> str:
    if not bundles:
        raise TrustError(
            "unsigned",
            f"{digest} has no signature: pushed without a key, or its signature was removed on the way",
        )
    refusals: dict[str, TrustError] = {}
    for data in bundles:
        try:
            return _check_signature(digest, data, keys)
        except TrustError as error:
            refusals.setdefault(error.reason, error)
    raise next(refusals[reason] for reason in _TELLING if reason in refusals)


def _check_signature(digest: str, data: bytes, keys: Sequence[PublicKey]) -> str:
    try:
        envelope = parse_bundle(data)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{digest}: {error}") from None
    key = next((key for key in keys if key.verifies(envelope.signature, envelope.signed)), None)
    if key is None:
        names = ", ".join(f"{key.name} ({key.fingerprint})" for key in keys)
        raise TrustError("wrong-key", f"{digest}: signed, but by no key that is trusted here: {names}")
    try:
        said = parse_statement(envelope.payload)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{digest}: {error}") from None
    if said.predicate_type != RELEASE:
        raise TrustError(
            "not-a-release",
            f"{digest}: {key.name} signed {said.predicate_type!r:.100} for it, which is no release",
        )
    if said.digests != {digest}:
        raise TrustError(
            "moved-signature",
            f"{digest}: its signature is for {', '.join(sorted(said.digests))}: moved here from there",
        )
    return key.name


def _check_scope(state: DesiredState, scopes: Sequence[str]) -> None:
    if scopes and state.scope not in scopes:
        raise TrustError(
            "wrong-scope",
            f"this state is for scope {state.scope or '(none)'!r}, here only {', '.join(scopes)} is accepted: "
            "another device's state was put in this place",
        )


def _check_counter(state: DesiredState, last: Seen) -> None:
    if state.counter < last.counter:
        raise TrustError(
            "rollback",
            f"counter {state.counter} is lower than {last.counter}, seen before: an older state was replayed",
        )
    if state.counter == last.counter and state.manifest.digest != last.digest:
        raise TrustError(
            "counter-reused",
            f"counter {state.counter} was seen with {last.digest}, now with {state.manifest.digest}: "
            "two states were signed with one counter",
        )
