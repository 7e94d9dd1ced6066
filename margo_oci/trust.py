"""The rules of trust, without I/O: bytes, signatures, a policy and what was seen before in; `Verified` out.

The order is fixed, and nothing of a payload is read before its signature held (docs/format.md, section 6):

    1  caps and well-formed JSON                      -> malformed
    2  signatures, by as many signers as the policy   -> unsigned, malformed-signature, wrong-key, below-threshold
       asks for, of those that it names
    3  each is a release signature                    -> not-a-release
    4  each is over the digest of the bytes held      -> moved-signature
    5  the state is for one of the own scopes         -> wrong-scope
    6  the counter rises                              -> rollback, counter-reused

What a manifest's own JSON says (rule 1) is read first, as its signatures are found by its digest; it is not acted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from margo_oci.content import Descriptor, canonical_json, digest_of
from margo_oci.desired_state import DesiredState, parse_state
from margo_oci.errors import FormatError, TrustError
from margo_oci.identity import Identity
from margo_oci.keys import PublicKey
from margo_oci.manifest import Manifest
from margo_oci.signatures import Found, SignedBy, check, each_once
from margo_oci.trustpolicy import Authorities


@dataclass(frozen=True)
class Policy:
    """Whose signatures count, how many of them are needed, and for whom a state must be.

    No scopes means: scope is not asked for.
    """

    keys: Sequence[PublicKey] = ()
    scopes: Sequence[str] = ()
    threshold: int = 1
    authorities: Authorities | None = None
    identities: Sequence[Identity] = ()

    def __post_init__(self) -> None:
        if not (self.keys or self.authorities or self.identities):
            # An empty list would otherwise be the easiest way to write "trust nobody" and mean it.
            raise FormatError("trust: at least one key is expected")
        signers = len({key.fingerprint for key in self.keys}) + len(self.identities)
        if self.threshold < 1 or (self.authorities is None and self.threshold > signers):
            raise FormatError(f"trust: threshold {self.threshold}: 1 to {signers}, the number of signers, is expected")

    @property
    def digest(self) -> str:
        """What changes when anything in the policy does: then what was verified before is verified again."""
        authorities = self.authorities and [
            {scheme: sorted(map(digest_of, roots)) for scheme, roots in self.authorities.roots.items()},
            None if self.authorities.identities is None else sorted(map(str, self.authorities.identities)),
            dict(self.authorities.actions),
        ]
        keys, identities = sorted(key.hint for key in self.keys), sorted(map(str, self.identities))
        return digest_of(canonical_json([keys, sorted(self.scopes), self.threshold, authorities, identities]))


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
    signers: Sequence[SignedBy] = ()

    @property
    def signed_by(self) -> str:
        """Who signed it, for people."""
        return ", ".join(one.name for one in self.signers) or "nobody (not checked)"


# Of several signatures that do not count, the one that tells most is reported.
_TELLING = (
    "moved-signature",
    "not-a-release",
    "expired-signature",
    "revocation-unknown",
    "bad-certificate",
    "bad-identity",
    "wrong-key",
    "malformed-signature",
)


def verify(
    manifest: Manifest,
    found: Found,
    policy: Policy,
    *,
    now: datetime,
    last: Seen | None = None,
) -> Verified:
    """Return the state if `policy` accepts it at `now`. Raises TrustError with the rule's reason."""
    try:
        state = _state(manifest)
    except FormatError as error:
        raise TrustError("malformed", str(error)) from None
    signers = signers_of(manifest.descriptor, found, policy, now=now)
    _check_scope(state, policy.scopes)
    if last:
        _check_counter(state, last)
    return Verified(state, signers)


def recall(manifest: Manifest, last: Seen) -> Verified:
    """Return a state that was verified before: its digest stands in our own durable record."""
    if manifest.digest != last.digest:
        raise TrustError("digest-mismatch", f"recorded is {last.digest}, kept is {manifest.digest}")
    return Verified(_state(manifest))


def look_at(manifest: Manifest, _: TrustAnything) -> Verified:
    """Return a state that nobody vouches for. Raises FormatError if it is none."""
    return Verified(_state(manifest))


def _state(manifest: Manifest) -> DesiredState:
    return parse_state(manifest, what=f"manifest {manifest.digest[:19]}")


def signers_of(subject: Descriptor, found: Found, policy: Policy, *, now: datetime) -> Sequence[SignedBy]:
    """Return who of the policy signed `subject`, each once. Raises TrustError if they are too few."""
    if not (found.attached or found.refused):
        raise TrustError(
            "unsigned",
            f"{subject.digest} has no signature: pushed without a key, or its signature was removed on the way",
        )
    counting: list[SignedBy] = []
    refused = list(found.refused)
    for one in found.attached:
        try:
            counting.append(check(subject, one, policy.keys, policy.authorities, now=now))
        except TrustError as error:
            refused.append(error)
    signers = each_once(counting)
    if not signers:
        raise min(refused, key=_rank)
    if len(signers) < policy.threshold:
        names = ", ".join(one.name for one in signers)
        raise TrustError(
            "below-threshold",
            f"{subject.digest}: signed by {names}: {policy.threshold} of those who are trusted must sign",
        )
    return signers


def _rank(error: TrustError) -> int:
    return _TELLING.index(error.reason) if error.reason in _TELLING else len(_TELLING)


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
