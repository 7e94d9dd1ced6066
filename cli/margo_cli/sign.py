"""`margo-oci sign` and `margo-oci verify`: signatures of anything that has a digest."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from margo_cli.keyless import Keyless, keyless_options
from margo_cli.look import read
from margo_cli.session import Session, reference_argument, say, with_session
from margo_cli.trusting import Signing, Trusting, need_trust, signing_options, trust_options
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError, TrustError
from margo_oci.manifest import Manifest, kind_of
from margo_oci.reference import Reference
from margo_oci.registry import Received
from margo_oci.signatures import Format, SignedBy
from margo_oci.signing import Attacher
from margo_oci.transfer import Judge


@click.command()
@reference_argument
@signing_options
@keyless_options
@with_session()
def sign(session: Session, reference: Reference, signing: Signing, keyless: Keyless | None) -> None:
    """Sign what REFERENCE leads to: a state, a component, an image or anything else with a digest.

    Made are a Sigstore bundle (cosign v3), the tag that cosign v2 reads, and with --cert-chain a Notary signature. What
    this key has signed already is not signed again. A desired state is named by its digest: who signs one says that
    devices are to run it.

    With --keyless there is no key: Sigstore turns a login (OIDC) into a certificate for a few minutes, and notes the
    signature in a log. Only the Sigstore bundle is made.

    \b
    Examples:
      margo-oci sign registry.example/components/hello:1.0.0 --key vendor.key
      margo-oci sign registry.example/fleet/edge-17@sha256:… --key second.key
      margo-oci sign registry.example/images/web:1.0 --key leaf.key --cert-chain chain.pem
      margo-oci sign registry.example/images/web:1.0 --signer-key hsm.pub \\
        --signer-command "pkcs11-tool --sign --mechanism ECDSA-SHA256 --id 01"
      margo-oci sign registry.example/images/web:1.0 --keyless --identity-token token.jwt
    """
    if keyless and (signing.given or signing.forms.chain):
        raise click.UsageError("--keyless is a way to sign of its own: without --key, --signer-command, --cert-chain.")
    signer = None if keyless else signing.required()
    name = str(keyless.identity) if keyless else signer.public.name if signer else ""

    async def work() -> tuple[Descriptor, Sequence[Format]]:
        async with session.registry(reference) as registry:
            received = await registry.manifest(reference)
            assert received is not None  # noqa: S101  (nothing was known before)
            subject = subject_of(received)
            if not reference.digest and _is_state(received):
                raise FormatError(
                    f"{reference} is a desired state, and a tag may be moved by others: look at it with margo-oci "
                    f"inspect, and name what you mean: {reference.at(subject.digest)}"
                )
            attacher = Attacher(registry, session.uploader(reference), lambda: datetime.now(UTC), signing.forms)
            if signer:
                return subject, await attacher.sign(reference, subject, signer)
            assert keyless is not None  # noqa: S101  (else there is a signer)
            return subject, await attacher.sign_keyless(reference, subject, keyless.sign, keyless.judge)

    subject, made = asyncio.run(work())
    pinned = str(reference.at(subject.digest))
    raw = {
        "reference": pinned,
        "digest": subject.digest,
        "key": signer.public.fingerprint if signer else None,
        "identity": str(keyless.identity) if keyless else None,
        "made": list(made),
    }
    lines = [f"signed with {name}: {', '.join(made)}"] if made else [f"signed by {name} already"]
    session.show(raw, [*lines, pinned])


def subject_of(received: Received) -> Descriptor:
    """Describe a manifest as its referrers name it."""
    return Descriptor.of(received.data, received.media_type)


@click.command()
@reference_argument
@trust_options
@click.option("--scope", "scopes", multiple=True, help="A state must be for one of these.")
@with_session()
def verify(session: Session, reference: Reference, trusting: Trusting, scopes: Sequence[str]) -> None:
    """Check who signed what REFERENCE leads to. A state is checked as a device would: scope and every byte as well.

    \b
    Examples:
      margo-oci verify registry.example/fleet/edge-17:latest --key fleet.pub --scope edge-17
      margo-oci verify registry.example/fleet/edge-17:latest --key a.pub --key b.pub --key c.pub --threshold 2
      margo-oci verify registry.example/components/hello:1.0.0 --key vendor.pub -o json
      margo-oci verify registry.example/components/hello:1.0.0 --policy agent.yaml
      margo-oci verify registry.example/images/web:1.0 --notary ~/.config/notation
    """
    need_trust(trusting)

    async def work() -> tuple[Received, Judge | None, Sequence[SignedBy]]:
        async with session.registry(reference) as registry:
            received = await registry.manifest(reference)
            assert received is not None  # noqa: S101  (nothing was known before)
            if _is_state(received):
                return received, trusting.judge(reference, scopes=scopes), ()
            if scopes:
                raise TrustError(
                    "wrong-scope", f"{reference} is no desired state, so it has no scope: was the tag moved?"
                )
            judge = trusting.component_judge(reference)
            return received, None, await judge.signers(registry, reference.at(received.digest), subject_of(received))

    received, judge, signers = asyncio.run(work())
    pinned = reference.at(received.digest)
    if judge is None:
        raw = {"verified": True, "reference": str(pinned), "digest": received.digest, "signatures": _json(signers)}
        session.show(raw, [f"verified: signed by {', '.join(one.name for one in signers)}", str(pinned)])
        _notes(signers)
        return
    verified, placed = read(session, pinned, judge)
    state = verified.state
    raw = {
        "verified": True,
        "reference": str(pinned),
        "digest": received.digest,
        "counter": state.counter,
        "scope": state.scope,
        "signedBy": verified.signed_by,
        "signatures": _json(verified.signers),
        "deployments": [{"id": one.deployment.id, "name": one.deployment.name} for one in placed.values()],
    }
    session.show(
        raw,
        [
            f"verified: counter {state.counter} for {state.scope or 'no scope'}, signed by {verified.signed_by}",
            f"{len(placed)} deployments, every layer is what the signature covers",
            str(pinned),
        ],
    )
    _notes(verified.signers)


def _is_state(received: Received) -> bool:
    """Tell by its bytes, whatever the registry calls it."""
    try:
        return kind_of(Manifest.from_bytes(received.data, what="manifest").artifact_type) == "desired-state"
    except FormatError:
        return False


def _json(signers: Sequence[SignedBy]) -> list[dict[str, Any]]:
    return [
        {"signedBy": one.name, "identity": one.identity, "format": one.format, "notes": list(one.notes)}
        for one in signers
    ]


def _notes(signers: Sequence[SignedBy]) -> None:
    for one in signers:
        for note in one.notes:
            say(f"warning: {note}")
