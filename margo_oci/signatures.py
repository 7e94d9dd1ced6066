"""Who signed a digest, in whatever format. No I/O; nothing of a payload is read before its signature held.

Formats: Sigstore bundle v0.3 (cosign v3), simple signing (cosign v2), Notary JWS and COSE, and what a checker of
keyless signatures vouches for. A predicate type other than a release's is no release signature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from margo_oci import notary, simple_signing
from margo_oci.content import Descriptor
from margo_oci.cosign import RELEASE, is_keyless, parse_bundle, parse_statement
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import PublicKey
from margo_oci.simple_signing import Signature
from margo_oci.trustpolicy import Authorities

Format = Literal["bundle", "simple-signing", "notary", "keyless"]


@dataclass(frozen=True)
class Attached:
    """A signature as it was found beside a digest: nothing of it is believed yet.

    `data` is the bundle, the simple-signing payload or the Notary envelope (of `media_type`). Of a keyless signature
    it is the statement that `vouched_for` signed: only a checker of identities makes one.
    """

    format: Format
    data: bytes
    media_type: str = ""
    signature: bytes = b""
    vouched_for: str = ""


@dataclass(frozen=True)
class Found:
    """All that was found beside a digest: signatures, and why others could not even be read."""

    attached: Sequence[Attached] = ()
    refused: Sequence[TrustError] = ()


@dataclass(frozen=True)
class SignedBy:
    """A signature that counts. `identity` tells signers apart, whatever formats they used; `notes` are only logged.

    `certified` is the name in a certificate: who has it twice, with two keys, is one signer all the same.
    """

    name: str
    identity: str
    format: Format
    notes: Sequence[str] = ()
    certified: str | None = None

    @property
    def marks(self) -> frozenset[tuple[str, str]]:
        """What this signer has and no other: who shares one of these is the same."""
        named = () if self.certified is None else (("name", self.certified),)
        return frozenset((("identity", self.identity), *named))


def each_once(found: Sequence[SignedBy]) -> Sequence[SignedBy]:
    """Return the first signature of each signer, whatever keys, certificates and formats the others were made with."""
    apart: list[tuple[SignedBy, frozenset[tuple[str, str]]]] = []
    for one in found:
        same = [each for each in apart if each[1] & one.marks]
        if not same:
            apart.append((one, one.marks))
            continue
        merged = (same[0][0], one.marks.union(*(marks for _, marks in same)))
        apart = [merged if each is same[0] else each for each in apart if each is same[0] or each not in same]
    return tuple(first for first, _ in apart)


def check(
    subject: Descriptor,
    attached: Attached,
    keys: Sequence[PublicKey],
    authorities: Authorities | None = None,
    *,
    now: datetime,
) -> SignedBy:
    """Return who made a signature over `subject`, if that counts. Raises TrustError with the rule's reason."""
    if attached.format == "notary":
        return _notary(subject, attached, authorities, now)
    if attached.format == "simple-signing":
        return _simple(subject, attached, keys)
    if attached.format == "keyless":
        _check_statement(subject.digest, attached.data, attached.vouched_for)
        return SignedBy(attached.vouched_for, attached.vouched_for, "keyless")
    return _bundle(subject, attached.data, keys)


def _bundle(subject: Descriptor, data: bytes, keys: Sequence[PublicKey]) -> SignedBy:
    try:
        if is_keyless(data):
            raise TrustError("bad-identity", f"{subject.digest}: signed keyless, and no identity is trusted here")
        envelope = parse_bundle(data)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{subject.digest}: {error}") from None
    signature = Signature(envelope.signed, envelope.signature)
    key = next((key for key in keys if signature.made_by(key)), None)
    if key is None:
        names = ", ".join(f"{key.name} ({key.fingerprint})" for key in keys) or "no keys are"
        raise TrustError("wrong-key", f"{subject.digest}: signed, but by no key that is trusted here: {names}")
    _check_statement(subject.digest, envelope.payload, key.name)
    return SignedBy(key.name, key.fingerprint, "bundle")


def _check_statement(digest: str, payload: bytes, name: str) -> None:
    try:
        said = parse_statement(payload)
    except FormatError as error:
        raise TrustError("malformed-signature", f"{digest}: {error}") from None
    if said.predicate_type != RELEASE:
        raise TrustError(
            "not-a-release", f"{digest}: {name} signed {said.predicate_type!r:.100} for it, which is no release"
        )
    if said.digests != {digest}:
        raise TrustError(
            "moved-signature",
            f"{digest}: its signature is for {', '.join(sorted(said.digests))}: moved here from there",
        )


def _simple(subject: Descriptor, attached: Attached, keys: Sequence[PublicKey]) -> SignedBy:
    # Its docker-reference is not compared, as in cosign: through a mirror or after a copy the name is another one.
    key, _ = simple_signing.verify(Signature(attached.data, attached.signature), subject.digest, keys)
    return SignedBy(key.name, key.fingerprint, "simple-signing")


def _notary(subject: Descriptor, attached: Attached, authorities: Authorities | None, now: datetime) -> SignedBy:
    if authorities is None:
        raise TrustError(
            "wrong-key", f"{subject.digest}: signed with a certificate, and no certificates are trusted here"
        )
    signed = notary.verify(attached.data, attached.media_type, subject, authorities, now=now)
    return SignedBy(signed.signed_by, signed.key.fingerprint, "notary", signed.notes, signed.name)
