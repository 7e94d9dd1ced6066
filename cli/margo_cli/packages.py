"""`margo-oci app push`, `pull`, `inspect` and `versions`: application packages in a registry."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from margo_cli.bounded import bounded
from margo_cli.component_push import built, sent
from margo_cli.plainfile import read_plain
from margo_cli.session import Session, cache, human_bytes, reference_argument, say, with_session
from margo_cli.trusting import Signing, Trusting, signing_options, trust_options
from margo_cli.validate import description_file, read_description
from margo_oci.application import Description
from margo_oci.applications import Opened, at_version, fetch_files, open_application, push_application
from margo_oci.apppackage import DESCRIPTION_FILE, RESOURCE_LIMIT_BYTES, AppArtifact, build_package
from margo_oci.errors import FormatError, NotFound
from margo_oci.faults import raise_faults
from margo_oci.package import FORMS, ComponentArtifact
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.signing import Attacher
from margo_oci.versions import newest_first


class AppReferenceType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """A reference whose tag may be left out: it is the version then."""

    name = "reference"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        """Parse, and let the usage error say what is wrong."""
        try:
            return value if isinstance(value, Reference) else parse_reference(str(value), default_tag="")
        except FormatError as error:
            self.fail(str(error), param, ctx)


APP_REFERENCE = AppReferenceType()


@click.command("push")
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@click.argument("reference", type=APP_REFERENCE)
@click.option("--with-components", is_flag=True,
              help="First push the components that lie in folders of their names beside margo.yaml.")  # fmt: skip
@signing_options
@with_session()
def push_app(session: Session, path: Path, reference: Reference, with_components: bool, signing: Signing) -> None:
    """Push the package in PATH (margo.yaml and the files it names); its tag is the version in it.

    It is checked first, by every rule of the standard. The same files give the same digest.

    \b
    Examples:
      margo-oci app push hello registry.example/apps/hello
      margo-oci app push hello localhost:5000/apps/hello:1.0.0 --with-components --key vendor.key --plain-http
    """
    file = description_file(path)
    description, artifact = _build(file)
    reference = at_version(reference, description.version)
    components = _components(description, file.parent) if with_components else {}
    signer = signing.load()
    for at, one in components.items():
        status = "uploaded" if asyncio.run(sent(session, at, one, signer, signing.forms)) else "present"
        say(f"{status}  {at.at(one.manifest.digest)}")

    async def upload() -> tuple[int, str]:
        async with session.registry(reference) as registry:
            uploader = session.uploader(reference)
            done = await push_application(registry, uploader, reference, artifact)
            if signer:
                attacher = Attacher(registry, uploader, lambda: datetime.now(UTC), signing.forms)
                await attacher.sign(reference, artifact.manifest.descriptor, signer)
            return done

    count, before = asyncio.run(upload())
    digest = artifact.manifest.digest
    if before not in ("", digest):
        say(f"warning: {reference} moves from {before}: a version that changes is not what others have tested")
    raw = {
        "reference": str(reference),
        "digest": digest,
        "id": description.id,
        "version": description.version,
        "uploaded": count,
        "signed": signer is not None,
        "components": [str(at.at(one.manifest.digest)) for at, one in components.items()],
    }
    lines = [f"pushed {description.id} {description.version}, {count} files sent", str(reference.at(digest))]
    session.show(raw, lines)


def _components(description: Description, folder: Path) -> Mapping[Reference, ComponentArtifact]:
    """Check and pack the components that lie beside a description. Raises FormatError for one that does not."""
    found: dict[Reference, ComponentArtifact] = {}
    for profile in description.profiles:
        for part in profile.components if profile.kind in FORMS else ():
            at, place = parse_reference(f"{part.repository}:{part.revision}"), folder / part.name
            if at in found:
                continue
            if place.is_symlink():
                raise FormatError(f"{place}: is a link: a component is pushed with its package only if it lies there")
            if not place.is_dir():
                raise FormatError(f"{place}: not there, and component {part.name} is to be made of it")
            found[at] = built(place, part.name, part.revision, profile.kind)
    return found


def _build(file: Path) -> tuple[Description, AppArtifact]:
    checked = read_description(file)
    for fault in checked.faults:
        if fault.level == "warning":
            say(f"warning: {fault.at(str(file))}")
    raise_faults(checked.faults, what=str(file))
    assert checked.description is not None  # noqa: S101  (there is no error)
    files = {
        one.path: read_plain(file.parent / one.path, limit_bytes=RESOURCE_LIMIT_BYTES)
        for one in checked.description.resources
    }
    return checked.description, build_package(checked.description, files)


@click.command("pull")
@reference_argument
@click.option("--output-dir", "-o", "folder", type=click.Path(path_type=Path), required=True, help="Where to write.")
@trust_options
@with_session(short=False)
def pull_app(session: Session, reference: Reference, folder: Path, trusting: Trusting) -> None:
    """Write the files of a package, byte for byte; with --key (or another), only if it is signed.

    \b
    Example:
      margo-oci app pull registry.example/apps/hello:1.0.0 -o hello --key vendor.pub
    """

    async def work() -> tuple[Opened, Mapping[str, bytes]]:
        async with session.registry(reference) as registry:
            opened = await open_app(registry, reference, trusting)
            return opened, await fetch_files(registry, opened, cache())

    opened, files = asyncio.run(work())
    contents = {folder / DESCRIPTION_FILE: opened.description.data, **{folder / path: files[path] for path in files}}
    if taken := [file for file, data in contents.items() if file.exists() and file.read_bytes() != data]:
        raise FormatError(*(f"{file} is there with other content: nothing was written" for file in taken))
    for file, data in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    raw = {"reference": str(opened.reference), "verified": trusting.given, "files": [str(file) for file in contents]}
    session.show(raw, [str(file) for file in contents])
    if not trusting.given:
        say("nothing of this was verified: --key asks for a signature")


async def open_app(registry: Registry, reference: Reference, trusting: Trusting | None = None) -> Opened:
    """Fetch and check a package's description, and its signature if anybody is trusted; tell what is odd about it."""
    judge = trusting.component_judge(reference) if trusting and trusting.given else None
    try:
        with bounded(str(reference)):
            opened = await open_application(registry, reference, cache(), judge)
    except NotFound as error:
        raise NotFound(f"{error}: its versions: margo-oci app versions {reference.name}") from None
    if opened.warning:
        say(f"warning: {reference}: {opened.warning}")
    return opened


@click.command("inspect")
@reference_argument
@with_session()
def inspect_app(session: Session, reference: Reference) -> None:
    """Show what a package has: profiles, components, parameters, files. Nothing is verified.

    \b
    Example:
      margo-oci app inspect registry.example/apps/hello:1.0.0
    """

    async def work() -> Opened:
        async with session.registry(reference) as registry:
            return await open_app(registry, reference)

    opened = asyncio.run(work())
    session.show(_inspected(opened), list(_lines(opened)))
    say("nothing of this was verified: `margo-oci verify` does")


def _inspected(opened: Opened) -> Mapping[str, Any]:
    one = opened.description
    return {
        "reference": str(opened.reference),
        "digest": opened.package.manifest.digest,
        "id": one.id,
        "name": one.name,
        "version": one.version,
        "vendor": one.vendor,
        "profiles": [
            {
                "id": profile.id,
                "type": profile.type,
                "components": [
                    {"name": part.name, "repository": part.repository, "revision": part.revision}
                    for part in profile.components
                ],
            }
            for profile in one.profiles
        ],
        "parameters": {
            name: {"default": parameter.value, "immutable": one.settings.is_immutable(name)}
            for name, parameter in one.parameters.items()
        },
        "files": [
            {"path": path, "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
            for path, layer in opened.package.files.items()
        ],
    }


def _lines(opened: Opened) -> Sequence[str]:
    one = opened.description
    lines = [f"digest    {opened.package.manifest.digest}", f"id        {one.id}", f"version   {one.version}"]
    lines += [f"name      {one.name}", f"vendor    {one.vendor}"]
    for profile in one.profiles:
        lines.append(f"profile   {profile.id}  {profile.type}")
        lines += [f"  component {part.name}  {part.repository}:{part.revision}" for part in profile.components]
    for name, parameter in one.parameters.items():
        notes = "  immutable" if one.settings.is_immutable(name) else ""
        lines.append(f"parameter {name}  {'(no default)' if parameter.value is None else parameter.value}{notes}")
    lines += [f"file      {path}  {human_bytes(layer.size)}" for path, layer in opened.package.files.items()]
    return lines


@click.command("versions")
@click.argument("reference", type=APP_REFERENCE)
@with_session()
def versions(session: Session, reference: Reference) -> None:
    """List the versions of an application, newest first; tags that are no versions are left out.

    \b
    Example:
      margo-oci app versions registry.example/apps/hello
    """

    async def work() -> Sequence[str]:
        async with session.registry(reference) as registry:
            return newest_first(await registry.tags(reference))

    found = asyncio.run(work())
    session.show({"repository": reference.name, "versions": found}, found)
