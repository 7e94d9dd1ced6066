"""`margo-oci deploy` and `undeploy`: deployments of a folder, made of application packages."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from margo_cli.bounded import bounded
from margo_cli.folder import FILES, Document, read_deployments, replace_file
from margo_cli.packages import APP_REFERENCE, open_app
from margo_cli.session import Session, read_file, say, with_session
from margo_cli.trusting import Trusting, trust_options
from margo_oci.application import Description
from margo_oci.applications import Opened
from margo_oci.constraints import Device, parse_device
from margo_oci.deploying import PROFILE, Before, Wish, make_deployment, read_before, typed
from margo_oci.deployment import COMPONENT_NAME
from margo_oci.desired_state import check_scope
from margo_oci.editing import comments_of
from margo_oci.errors import FormatError
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.versions import is_lower, newest_first
from margo_oci.yamldoc import DOCUMENT_LIMIT_BYTES, parse_yaml


@dataclass(frozen=True)
class Given:
    """What the command line says about values."""

    texts: Sequence[str]
    files: Sequence[Path]

    def values(self, description: Description) -> Mapping[str, Any]:
        """Return the values by parameter: files in their order, then --set. Raises FormatError."""
        values: dict[str, Any] = {}
        for file in self.files:
            raw = parse_yaml(read_file(file, limit_bytes=DOCUMENT_LIMIT_BYTES), what=str(file)).value
            if not isinstance(raw, dict | None):
                raise FormatError(f"{file}: a map from parameter to value is expected")
            values |= raw or {}
        for text in self.texts:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise FormatError(f"--set {text!r:.80}: name=value is expected")
            values[name] = typed(description, name, value)
        return values


@click.command()
@click.argument("name")
@click.option("--app", "app", type=APP_REFERENCE, metavar="REFERENCE",
              help="The package; without a version, the newest. [the one it was made of]")  # fmt: skip
@click.option("--set", "texts", multiple=True, metavar="NAME=VALUE", help="Value of a parameter; several are possible.")
@click.option("--values", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="YAML with values of parameters; --set goes before it.")  # fmt: skip
@click.option(
    "--scope",
    required=True,
    help="The device or group the folder is for, as `push` has it; a deployment keeps its own.",
)
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="The folder of deployments; made if it is missing.")  # fmt: skip
@click.option("--profile", default="", metavar="ID", help="The deployment profile. [what fits, or what it has]")
@click.option("--capabilities", type=click.Path(path_type=Path), metavar="FILE",
              help="What `margo-agent capabilities -o json` says: the first profile it can run is taken.")  # fmt: skip
@click.option("--namespace", default="", help="Namespace of the deployment. [the one it has, or default]")
@click.option("--device-id", default="", help="Margo's deviceId. [from --capabilities, if given]")
@click.option("--upgrade", is_flag=True, help="Move a deployment that is there to another version of its package.")
@trust_options
@with_session()
def deploy(
    session: Session,
    name: str,
    app: Reference | None,
    texts: Sequence[str],
    files: Sequence[Path],
    scope: str,
    folder: Path,
    profile: str,
    capabilities: Path | None,
    namespace: str,
    device_id: str,
    upgrade: bool,
    trusting: Trusting,
) -> None:
    """Write the deployment NAME, made of an application package, into a folder for `margo-oci push`.

    Values are checked by the package's schemas. A deployment that is there keeps its id and the values that were set;
    what nobody set follows the package. The same call writes the same bytes; other files are not touched.

    \b
    Examples:
      margo-oci deploy hello --app registry.example/apps/hello --set greeting=Hi --scope edge-17 --out states/edge-17
      margo-oci deploy hello --upgrade --scope edge-17 --out states/edge-17
    """
    check_scope(scope)
    if not COMPONENT_NAME.fullmatch(name):
        raise FormatError(f"{name!r:.80} is no name of a deployment: 1 to 63 lower-case letters, digits and dashes")
    if namespace and not COMPONENT_NAME.fullmatch(namespace):
        raise FormatError(
            f"--namespace {namespace!r:.80}: 1 to 63 lower-case letters, digits and dashes are expected, as Kubernetes "
            "has them"
        )
    file, before = _found(folder, name)
    device = _device(capabilities)
    reference = _meant(name, file, app, before, upgrade=upgrade)

    async def work() -> Opened:
        async with session.registry(reference) as registry:
            return await open_app(registry, await _newest(registry, reference), trusting)

    opened = asyncio.run(work())
    description = opened.description
    _check_move(name, opened, before, upgrade=upgrade, named=bool(reference.target))
    with bounded(str(reference)):
        wish = Wish(
            name=name, scope=scope, source=_source(opened), values=Given(texts, files).values(description),
            namespace=namespace, device_id=device_id, profile=profile, device=device,
        )  # fmt: skip
        data = make_deployment(description, wish, before)
    made = read_before(data, what=str(file))
    _check_place(folder, file, made)
    changed = not before or before.deployment.data != data
    if changed:
        _tell_lost(file, before, data)
        replace_file(file, data)
    if not trusting.given:
        say(f"the signature of {reference.name} was not looked at: --key asks for one")
    session.show(
        {
            "file": str(file),
            "id": made.deployment.id,
            "name": name,
            "application": str(_source(opened)),
            "version": description.version,
            "profile": made.note(PROFILE),
            "changed": changed,
            "parameters": {key: one.value for key, one in made.deployment.parameters.items()},
        },
        [f"{'wrote' if changed else 'unchanged'} {file}: {description.id} {description.version}"],
    )


def _tell_lost(file: Path, before: Before | None, data: bytes) -> None:
    """Say which comments a deployment no longer has: what they stood at is gone, or could not be edited in place."""
    if before and (lost := comments_of(before.deployment.data) - comments_of(data)):
        say(f"warning: {file}: comments that are lost: {', '.join(lost):.500}")


def _source(opened: Opened) -> Reference:
    return Reference(
        opened.reference.host, opened.reference.repository, opened.description.version, opened.reference.digest
    )


def _meant(name: str, file: Path, app: Reference | None, before: Before | None, *, upgrade: bool) -> Reference:
    """Return which package is meant; without a tag, its newest version."""
    if upgrade and before is None:
        raise FormatError(f"{file}: there is no deployment {name} to upgrade: leave --upgrade out")
    there = before.source if before else None
    if app is None:
        if there is None:
            raise click.UsageError(f"Missing option '--app': nothing says which package {name} is made of.")
        return Reference(there.host, there.repository) if upgrade else there.at(there.digest or there.tag)
    stays = there and not upgrade and not app.target and app.name == there.name
    return there.at(there.digest or there.tag) if there and stays else app


async def _newest(registry: Registry, reference: Reference) -> Reference:
    if reference.target:
        return reference
    versions = newest_first(await registry.tags(reference))
    finished = [one for one in versions if "-" not in one] or versions
    if not finished:
        raise FormatError(f"{reference}: no tag there is a version: name one, as in {reference}:1.0.0")
    return reference.at(finished[0])


def _check_move(name: str, opened: Opened, before: Before | None, *, upgrade: bool, named: bool) -> None:
    """An application is not exchanged for another one, and a version only if that is meant; a lower one is `named`."""
    if before is None:
        return
    if before.deployment.application_id != opened.description.id:
        raise FormatError(
            f"{name} is a deployment of {before.deployment.application_id}, not of {opened.description.id}: "
            "undeploy it, or take another name"
        )
    there, asked = before.source.tag if before.source else "an unknown version", opened.description.version
    if there != asked and not upgrade:
        raise FormatError(f"{name} has {there}, and {asked} is asked for: --upgrade moves it")
    if is_lower(asked, there) and not named:
        raise FormatError(
            f"{name} has {there}, and the newest finished version is {asked}, a lower one: if that is meant, "
            f"--app {opened.reference.name}:{asked}"
        )
    if is_lower(asked, there):
        say(f"warning: {name} goes back from {there} to {asked}, a lower version")


def _device(file: Path | None) -> Device | None:
    return parse_device(read_file(file), what=str(file)) if file else None


def _found(folder: Path, name: str) -> tuple[Path, Before | None]:
    """Return the file of a deployment by its name, and what stands there; of a new one, where it will be."""
    documents = read_deployments(folder, allow_empty=True, complete=False) if folder.exists() else []
    named = [one for one in documents if one.deployment.name == name]
    if len(named) > 1:
        raise FormatError(*(f"{one.file}: {name} stands in several files: keep one" for one in named))
    if named:
        return named[0].file, read_before(named[0].deployment.data, what=str(named[0].file))
    file = folder / f"{name}.yaml"
    if file.exists():
        raise FormatError(f"{file}: holds another deployment: take another name, or rename the file")
    return file, None


def _check_place(folder: Path, file: Path, made: Before) -> None:
    """The id of a new one may stand in the folder, in a deployment that somebody renamed."""
    others: Sequence[Document] = read_deployments(folder, allow_empty=True, complete=False) if folder.exists() else []
    for one in others:
        if one.file != file and one.deployment.id == made.deployment.id:
            raise FormatError(
                f"{one.file}: has the id of {made.deployment.name} in this scope: give it that name again"
            )


@click.command()
@click.argument("name")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR",
              help="The folder of deployments.")  # fmt: skip
def undeploy(name: str, folder: Path) -> None:
    """Take the deployment NAME out of a folder; devices remove it with the next `margo-oci push`.

    \b
    Example:
      margo-oci undeploy hello --out states/edge-17
    """
    documents = read_deployments(folder, complete=False)
    named = [one for one in documents if one.deployment.name == name]
    if len(named) != 1:
        there = ", ".join(one.deployment.name for one in documents)
        raise FormatError(f"{folder}: {len(named)} deployments are called {name}, one is expected (there: {there})")
    needing = [one for one in documents if {name, named[0].deployment.id} & set(one.deployment.depends_on)]
    if needing:
        raise FormatError(*(f"{one.file}: depends on {name}: change that first" for one in needing))
    named[0].file.unlink()
    click.echo(f"removed {named[0].file}")
    if (extra := named[0].file.with_suffix(FILES)).is_dir():
        click.echo(f"{extra} is left for you to remove or rename: no push goes out with it", err=True)
    if len(documents) == 1:
        click.echo(f"{folder} is empty now: push it with --allow-empty, and devices remove everything", err=True)
