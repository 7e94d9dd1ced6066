"""Attaching signatures to what a registry has: cosign v3 always, cosign v2 and Notary where asked for.

distribution-spec v1.1 "Pushing Manifests with Subject": without `OCI-Subject` in the answer, we keep the tag index.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from margo_oci import cosign, notary, simple_signing
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, SIGNATURE_LIMIT_BYTES, Descriptor
from margo_oci.errors import FormatError, TrustError
from margo_oci.keys import Signer
from margo_oci.manifest import IMAGE_INDEX, REFERRER_COUNT_LIMIT, Manifest, build_index
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.signatures import Format, Found, SignedBy
from margo_oci.signed import SignatureFolder
from margo_oci.transfer import (
    SIGNATURE_COUNT_LIMIT,
    Judge,
    carried_signatures,
    referrers,
    signatures,
    simple_image,
    simple_signatures,
    tagged_referrers,
)
from margo_oci.trust import Policy, signers_of

if TYPE_CHECKING:
    from margo_oci.upload import Uploader  # oras takes a while to load, and reading needs none of it

NOTARY_COUNT_LIMIT = 3  # Flux looks at no more


@dataclass(frozen=True)
class Forms:
    """In which formats beside the Sigstore bundle is signed: the tag of cosign v2, and Notary with these certificates.

    `chain` is in DER, the signer's certificate first and the root last.
    """

    simple: bool = True
    chain: Sequence[bytes] = ()


DEFAULT_FORMS = Forms()


@dataclass(frozen=True)
class Attacher:
    """Signs what a registry has, and attaches the signatures."""

    registry: Registry
    uploader: "Uploader"
    now: Callable[[], datetime]
    forms: Forms = DEFAULT_FORMS
    kept: SignatureFolder | None = None

    async def sign(
        self, reference: Reference, subject: Descriptor, signer: Signer, *, new: bool = False
    ) -> Sequence[Format]:
        """Attach those signatures by `signer` over `subject` that are not there; return which were made.

        Nobody looks for signatures of what was `new` to its repository a moment ago, with the empty config there.
        Raises FormatError for a key that a format does not take, RegistryError.
        """
        made: list[Format] = []
        self.check(signer)
        if signer.public.algorithm == "ES256" and (new or not await self._signed(reference, subject, signer)):
            bundle = cosign.sign(subject.digest, signer, name=reference.name)
            carrier = cosign.signature_manifest(bundle, subject, created=timestamp(self.now()))
            await self.carry(reference, carrier, bundle, new=new)
            if self.kept:
                self.kept.keep(subject.digest, bundle)
            made.append("bundle")
        if self.forms.simple and signer.public.algorithm == "ES256":
            existing = None if new else await simple_image(self.registry, reference, subject.digest)
            if await self._simple(reference, subject, signer, existing):
                made.append("simple-signing")
        if self.forms.chain and await self._notary(reference, subject, signer):
            made.append("notary")
        return made

    def check(self, signer: Signer) -> None:
        """Find out before anything is pushed whether `signer` can sign in all the formats that are asked for.

        Raises FormatError.
        """
        if self.forms.chain:
            notary.check_chain(signer, self.forms.chain, now=self.now())
        elif signer.public.algorithm != "ES256":
            raise FormatError(f"{signer.public.name}: a P-256 key is expected, or a chain of certificates beside it")

    async def sign_keyless(
        self, reference: Reference, subject: Descriptor, sign: Callable[[bytes], bytes], judge: Judge
    ) -> Sequence[Format]:
        """Attach a bundle that `sign` makes of a statement, unless `judge` finds one; return what was made.

        Raises RegistryError, also for services that `sign` asks, and FormatError.
        """
        try:
            await judge.signers(self.registry, reference, subject)
        except TrustError:  # none of this identity's, or an unusable one: it does not stop ours
            statement = cosign.statement(subject.digest, name=reference.name)
            bundle = await asyncio.to_thread(sign, statement)
            if len(bundle) > SIGNATURE_LIMIT_BYTES:
                raise FormatError(
                    f"keyless signature: {len(bundle)} bytes, at most {SIGNATURE_LIMIT_BYTES} are read"
                ) from None
            await self.carry(
                reference, cosign.signature_manifest(bundle, subject, created=timestamp(self.now())), bundle
            )
            return ["keyless"]
        return []

    async def carry(self, reference: Reference, carrier: Manifest, data: bytes, *, new: bool = False) -> None:
        """Push a manifest that refers to another one, with its one layer; where needed, list it under the tag.

        If that other one is `new`, nothing is listed yet, and the empty config is there.
        """
        assert carrier.subject is not None  # noqa: S101  (else it would refer to nothing)
        if not new:
            await asyncio.to_thread(self.uploader.blob, reference, EMPTY_CONFIG, EMPTY_JSON)
        await asyncio.to_thread(self.uploader.send, reference, carrier.layers[0], data)
        if not await asyncio.to_thread(self.uploader.manifest, reference.at(carrier.digest), carrier.data):
            subject = reference.at(carrier.subject.digest)
            await self._list(subject, carrier, () if new else await tagged_referrers(self.registry, subject))

    async def _list(self, subject: Reference, carrier: Manifest, others: Sequence[Descriptor]) -> None:
        entry = Descriptor(
            media_type=carrier.descriptor.media_type,
            digest=carrier.digest,
            size=len(carrier.data),
            annotations=carrier.annotations,
            artifact_type=carrier.artifact_type,
        )
        listed = [*(one for one in others if one.digest != entry.digest), entry]
        if len(listed) > REFERRER_COUNT_LIMIT:
            raise FormatError(
                f"{subject.name}: {len(others)} things refer to {subject.digest}, and no more than that are read: "
                "delete what is not needed any more"
            )
        index = build_index(listed)
        tag = subject.at(subject.digest.replace(":", "-"))
        await asyncio.to_thread(self.uploader.manifest, tag, index, IMAGE_INDEX)

    async def released_by(self, reference: Reference, subject: Descriptor, signer: Signer) -> bool:
        """Tell whether `signer` has signed `subject` as a release, in any format that needs a key alone."""
        found = await signatures(self.registry, reference, subject.digest, enough=SIGNATURE_COUNT_LIMIT)
        return bool(self._by(signer, subject, found))

    async def only_simple(self, reference: Reference, subject: Descriptor) -> bool:
        """Tell whether only cosign v2's tag has signatures: cosign v3 stops to look there once there is any bundle."""
        found = await signatures(self.registry, reference, subject.digest)
        return {one.format for one in found.attached} == {"simple-signing"}

    async def _signed(self, reference: Reference, subject: Descriptor, signer: Signer) -> bool:
        """Tell whether a bundle by this key is there: a repeated push ends the same."""
        found = await signatures(self.registry, reference, subject.digest)
        return any(one.format == "bundle" for one in self._by(signer, subject, found))

    def _by(self, signer: Signer, subject: Descriptor, found: Found) -> Sequence[SignedBy]:
        """Return `signer` if it made one of the signatures; what is unusable beside it does not matter."""
        try:
            return signers_of(subject, found, Policy([signer.public]), now=self.now())
        except TrustError:
            return ()

    async def _simple(
        self, reference: Reference, subject: Descriptor, signer: Signer, existing: Manifest | None
    ) -> bool:
        if existing:
            found = await simple_signatures(self.registry, reference, subject.digest, existing)
            if self._by(signer, subject, found):
                return False
        signature = simple_signing.sign(subject.digest, signer, name=reference.name)
        config, image = simple_signing.signature_image(signature, existing)
        await asyncio.to_thread(self.uploader.send, reference, image.config, config)
        await asyncio.to_thread(self.uploader.send, reference, signature.descriptor, signature.payload)
        tag = reference.at(simple_signing.tag_of(subject.digest))
        await asyncio.to_thread(self.uploader.manifest, tag, image.data)
        return True

    async def _notary(self, reference: Reference, subject: Descriptor, signer: Signer) -> bool:
        listed = [
            one
            for one in await referrers(self.registry, reference, subject.digest)
            if one.artifact_type == notary.ARTIFACT_TYPE
        ]
        now = self.now()
        if await self._signed_with_chain(reference, subject, listed, now):
            return False
        if len(listed) >= NOTARY_COUNT_LIMIT:
            raise FormatError(
                f"{reference.name}: {subject.digest} has {len(listed)} Notary signatures: verifiers look at no more"
            )
        envelope = notary.sign(subject, signer, self.forms.chain, now=now)
        carrier = notary.signature_manifest(envelope, self.forms.chain, subject, created=timestamp(now))
        await self.carry(reference, carrier, envelope)
        return True

    async def _signed_with_chain(
        self, reference: Reference, subject: Descriptor, listed: Sequence[Descriptor], now: datetime
    ) -> bool:
        """Tell whether one of the carriers has a signature made with our chain. What they say of it decides on the
        order alone: anybody can write down thumbprints.
        """
        thumbprints = notary.thumbprints(self.forms.chain)
        likely_first = sorted(listed, key=lambda one: one.annotations.get(notary.THUMBPRINTS) != thumbprints)
        found = await carried_signatures(self.registry, reference, likely_first[:SIGNATURE_COUNT_LIMIT], subject.digest)
        return any(
            notary.made_with(self.forms.chain, one.data, one.media_type, subject, now=now)
            for one in found.attached
            if one.format == "notary"
        )


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in seconds, UTC, with Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
