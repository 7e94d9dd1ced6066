"""`margo-oci attach`: SBOMs, VEX, provenance and other documents beside what they are about."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_cli.session import Session, read_file, reference_argument, say, with_session
from margo_cli.sign import subject_of
from margo_cli.trusting import Signing, signing_options
from margo_oci.attest import Attachment, Document, attach, attest
from margo_oci.attestation import DOCUMENT_LIMIT_BYTES, TYPES, document_type
from margo_oci.keys import Signer
from margo_oci.reference import Reference
from margo_oci.signing import Attacher

ONE_KEY = (
    "this key also signs releases: keep another one for attestations, as programs that do not look at the predicate "
    "type take either for the other"
)
ONLY_TAG = (
    "this is signed only under cosign v2's tag: cosign v3 looks there no more now that there is a bundle; "
    "`margo-oci sign` adds one for the release"
)


@click.command("attach")
@reference_argument
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--type", "type_name", required=True, metavar="TYPE",
              help=f"{', '.join(TYPES)}, or a media type.")  # fmt: skip
@signing_options
@with_session()
def attach_command(session: Session, reference: Reference, file: Path, type_name: str, signing: Signing) -> None:
    """Attach FILE, a document such as an SBOM, to what REFERENCE leads to.

    Without a key it is attached as it is. With one it is signed: an in-toto attestation in a Sigstore bundle, as
    `cosign attest --key` makes it. An attestation is never taken for a release. What is there already is not attached
    again. At most 16 MiB.

    \b
    Examples:
      margo-oci attach registry.example/components/hello:1.0.0 hello.spdx.json --type sbom-spdx
      margo-oci attach registry.example/components/hello:1.0.0 hello.cdx.json --type sbom-cyclonedx --key sbom.key
      margo-oci attach registry.example/images/web:1.0 vex.json --type vex --key sbom.key
      margo-oci attach registry.example/images/web:1.0 manual.pdf --type application/pdf
    """
    if signing.forms.chain or not signing.forms.simple:
        raise click.UsageError("--cert-chain and --no-sig-tag are for releases: attestations are Sigstore bundles.")
    data = read_file(file, limit_bytes=DOCUMENT_LIMIT_BYTES)
    document = Document(document_type(type_name), data, file.name)
    signer = signing.required() if signing.given else None
    made, warnings = asyncio.run(_attach(session, reference, document, signer))
    pinned = str(reference.at(made.digest))
    raw = {
        "reference": pinned,
        "digest": made.digest,
        "type": document.kind.media_type,
        "predicateType": made.predicate_type or None,
        "signed": bool(signer),
        "changed": made.made,
        "warnings": warnings,
    }
    doing = f"signed with {signer.public.name} and attached" if signer else "attached, unsigned"
    session.show(raw, [f"{file.name}: {doing if made.made else 'there already'}", pinned])
    for warning in warnings:
        say(f"warning: {warning}")


async def _attach(
    session: Session, reference: Reference, document: Document, signer: Signer | None
) -> tuple[Attachment, list[str]]:
    async with session.registry(reference) as registry:
        received = await registry.manifest(reference)
        assert received is not None  # noqa: S101  (nothing was known before)
        subject = subject_of(received)
        attacher = Attacher(registry, session.uploader(reference), lambda: datetime.now(UTC))
        if signer is None:
            return await attach(attacher, reference, subject, document), []
        warnings = [ONE_KEY] if await attacher.released_by(reference, subject, signer) else []
        warnings += [ONLY_TAG] if await attacher.only_simple(reference, subject) else []
        return await attest(attacher, reference, subject, document, signer), warnings
