"""`margo-oci component push`: a folder becomes an OCI artifact."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_cli.component_check import check_component, read_source
from margo_cli.component_validate import told, type_option
from margo_cli.session import Session, reference_argument, say, with_session
from margo_cli.trusting import Signing, signing_options
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON
from margo_oci.errors import FormatError, NotFound
from margo_oci.keys import Signer
from margo_oci.package import ComponentArtifact, below_top, build_component, check_version
from margo_oci.reference import Reference
from margo_oci.signing import Attacher, Forms


@click.command("push")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@reference_argument
@type_option
@click.option("--name", default="", help="What the component is called. [the last part of the repository]")
@signing_options
@with_session()
def push_component(
    session: Session, folder: Path, reference: Reference, kind: str | None, name: str, signing: Signing
) -> None:
    """Push DIR (compose.yaml, or units of Quadlet, and what they need) as an archive; the tag is its version.

    It is checked first, by the rules of the standard and by Docker Compose. The same files give the same digest.

    \b
    Examples:
      margo-oci component push hello registry.example/components/hello:1.0.0
      margo-oci component push hello localhost:5000/components/hello:1.0.0 --key vendor.key --plain-http
    """
    if reference.digest:
        raise FormatError(f"{reference}: a tag is expected, not a digest: it is the component's version")
    if folder.is_file():
        raise FormatError(f"{folder}: a folder is expected: `margo-oci component pull` makes one of an archive")
    check_version(reference.tag)
    name = name or reference.repository.rpartition("/")[2]
    artifact = built(folder, name, reference.tag, kind or "")
    signer = signing.load()
    is_new = asyncio.run(sent(session, reference, artifact, signer, signing.forms))
    layer, status = artifact.manifest.layers[0], "uploaded" if is_new else "present"
    session.show(
        {
            "reference": str(reference),
            "digest": artifact.manifest.digest,
            "layer": {"digest": layer.digest, "size": layer.size, "status": status},
            "signed": signer is not None,
        },
        [f"{status:<8}  {layer.digest[:19]}  {layer.size:>7} B  {name}", str(reference.at(artifact.manifest.digest))],
    )


async def sent(
    session: Session, reference: Reference, artifact: ComponentArtifact, signer: Signer | None, forms: Forms
) -> bool:
    """Send a component, sign it if there is a signer, and tell whether its layer was new there."""
    async with session.registry(reference) as registry:
        try:
            before = await registry.digest(reference)
        except NotFound:
            before = ""
        if before and before != artifact.manifest.digest:
            say(f"warning: {reference} moves from {before}: states that were published keep what they are locked to")
        uploader = session.uploader(reference)
        await asyncio.to_thread(uploader.blob, reference, EMPTY_CONFIG, EMPTY_JSON)
        is_new = await asyncio.to_thread(uploader.blob, reference, artifact.manifest.layers[0], artifact.layer)
        if before != artifact.manifest.digest:
            await asyncio.to_thread(uploader.manifest, reference, artifact.manifest.data)
        if signer:
            attacher = Attacher(registry, uploader, lambda: datetime.now(UTC), forms)
            await attacher.sign(reference, artifact.manifest.descriptor, signer)
        return is_new


def built(folder: Path, name: str, version: str, kind: str) -> ComponentArtifact:
    """Check a folder by every rule, tell its warnings, and pack it. Raises FormatError with every fault."""
    checked = check_component(read_source(folder, name=name), kind=kind, name=name)
    for one in told(checked.warnings, folder):
        say(f"warning: {one}")
    if checked.errors:
        raise FormatError(*map(str, told(checked.errors, folder)))
    files = {entry.path: entry for entry in below_top(checked.entries).entries}
    return build_component(files, name=name, version=version, form=checked.form)
