"""`margo-oci app init`: a package, a component and an example state to begin with."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from margo_cli.along import Taken, check, in_words, read_compose
from margo_cli.component_validate import told
from margo_oci.application import parse_description
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.deploying import Wish, make_deployment
from margo_oci.deployment import APPLICATION_ID, COMPONENT_NAME, REVISION, STEERING
from margo_oci.errors import FormatError, plain
from margo_oci.interpolation import Variable, variables_of
from margo_oci.reference import parse_reference
from margo_oci.yamltext import write_yaml
from margo_oci.yamltree import Node

_SAMPLE = """\
# One service. GREETING and PORT are parameters of the application.
services:
  web:
    image: {image}
    environment:
      GREETING: ${{GREETING:-Hello}}
    ports: ["${{PORT:-8080}}:80"]
    restart: unless-stopped
    stop_grace_period: 2s
"""
_README = "# {name}\n\nWhat {name} does, for people who choose from a catalog.\n"


class _Asked(click.Option):
    """An option that is asked for where it is not given, if anybody is there to answer."""

    def prompt_for_value(self, ctx: click.Context) -> Any:
        """Ask; raises UsageError where the input ends instead of an answer."""
        try:
            return super().prompt_for_value(ctx)
        except click.Abort as error:
            if isinstance(error.__context__, EOFError):
                asked = [one for one in ctx.command.params if isinstance(one, _Asked)]
                given = ParameterSource.COMMANDLINE
                missing = [one.opts[0] for one in asked if ctx.get_parameter_source(str(one.name)) is not given]
                raise click.UsageError(f"nobody is there to answer: give {', '.join(missing)}", ctx) from None
            raise


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--name", cls=_Asked, prompt="Name of the application", help="What people call it.")
@click.option("--vendor", cls=_Asked, prompt="Who makes it", help="The organization in the catalog.")
@click.option("--repository", cls=_Asked, prompt="Registry and path for its artifacts", metavar="HOST/PATH",
              help="Its component goes to HOST/PATH/components/…, the package to HOST/PATH/apps/….")  # fmt: skip
@click.option("--compose", "compose_file", type=click.Path(path_type=Path), metavar="FILE",
              help="An existing compose file; its variables become parameters. [a small example]")  # fmt: skip
@click.option("--image", default="docker.io/library/nginx:1.29", show_default=True, help="Image of the small example.")
@click.option("--id", "app_id", default="", help="Margo's id of the application. [from the name]")
@click.option("--version", "app_version", default="1.0.0", show_default=True, help="Version to begin with.")
@click.option("--older", is_flag=True, help="The shape with apiVersion and kind, for managers that want it.")
def init(
    folder: Path,
    name: str,
    vendor: str,
    repository: str,
    compose_file: Path | None,
    image: str,
    app_id: str,
    app_version: str,
    older: bool,
) -> None:
    """Write an application package into DIR: margo.yaml, its component, and an example state. Nothing is overwritten.

    What is not given is asked for. Files that the compose file names come along, but none that looks like secrets; a
    variable without which it does not run (`${NAME:?…}`) becomes a parameter that has to be set.

    \b
    Example:
      margo-oci app init hello --name Hello --vendor "Example Ltd" --repository registry.example --compose compose.yaml
    """
    component = _slug(name)
    app_id = app_id or component
    source = repository.removeprefix("oci://").rstrip("/")
    _check(app_id, component, source, app_version)
    taken = read_compose(compose_file) if compose_file else _sample(image)
    faults = check(taken, compose_file) if compose_file else ()
    found = variables_in(taken.files)
    raw = _description(name, vendor, app_id, app_version, component, f"oci://{source}/components/{component}", found)
    header = {"apiVersion": "margo.org/v1-alpha1", "kind": "ApplicationDescription"} if older else {}
    description = write_yaml({**header, **raw})
    parsed = parse_description(description, what="margo.yaml")
    needed = {
        name: "change-me"
        for name, one in raw.get("parameters", {}).items()
        if "value" not in one and not found[one["targets"][0]["pointer"]].optional
    }
    package = parse_reference(f"{source}/apps/{component}:{app_version}")
    wish = Wish(name=component, scope="example", source=package, values=needed)
    files = {
        "margo.yaml": description,
        "resources/description.md": _README.format(name=name).encode(),
        **{f"{component}/{path}": data for path, data in sorted(taken.files.items())},
        f"states/example/{component}.yaml": make_deployment(parsed, wish),
    }
    _write(folder, files)
    for line in in_words(taken, compose_file.parent, folder / component) if compose_file else ():
        click.echo(plain(line), err=True)
    for one in told(faults, folder / component):
        click.echo(plain(f"for you to look at: {one}"), err=True)
    click.echo("\n".join(str(folder / path) for path in files))
    if needed:
        click.echo(f"states/example says change-me for {', '.join(needed)}: set them before you push it", err=True)
    first = [f"mend {folder / component}, until it is valid: margo-oci component validate {folder / component}"]
    steps = [
        *(first if any(one.fault.level == "error" for one in faults) else []),
        f"margo-oci app validate {folder}",
        f"margo-oci app push {folder} {source}/apps/{component} --with-components",
    ]
    click.echo("next: " + "\n      ".join(steps), err=True)


def _sample(image: str) -> Taken:
    return Taken({COMPOSE_FILE: _SAMPLE.format(image=image).encode()}, {})


def _check(app_id: str, component: str, source: str, version: str) -> None:
    if not COMPONENT_NAME.fullmatch(component):
        raise FormatError("--name: at least one letter or digit (a-z, 0-9) is expected in it, at most 63")
    if not APPLICATION_ID.fullmatch(app_id):
        raise FormatError(f"--id {app_id!r:.80}: 1 to 200 of a-z, 0-9 and - are expected")
    if not REVISION.fullmatch(version):
        raise FormatError(f"--version {version!r:.80}: SemVer 2.0 without v, with _ for +, is expected, as in 1.4.0")
    parse_reference(f"{source}/components/{component}")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-")


def _description(
    name: str, vendor: str, app_id: str, version: str, component: str, repository: str, found: Mapping[str, Variable]
) -> dict[str, Any]:
    called = {one: _parameter(one) for one in found}
    if len(set(called.values())) < len(called):
        called = {one: one for one in found}
    parameters = {
        called[variable]: {
            **({"value": one.default} if one.default else {}),
            "targets": [{"pointer": variable, "components": [component]}],
        }
        for variable, one in found.items()
    }
    settings = [
        {
            "parameter": name,
            "name": one.replace("_", " ").capitalize(),
            "schema": "someText" if found[one].required else "anyText",
        }
        for one, name in called.items()
    ]
    schemas = {one["schema"] for one in settings}
    configuration = {
        "sections": [{"name": "General", "settings": settings}],
        "schema": [{"name": name, "dataType": "string", "allowEmpty": name == "anyText"} for name in sorted(schemas)],
    }
    profile = {
        "type": "compose",
        "id": f"{component}-compose",
        "components": [{"name": component, "properties": {"repository": repository, "revision": version}}],
    }
    catalog = {"application": {"descriptionFile": "resources/description.md"}, "organization": [{"name": vendor}]}
    return {
        "id": app_id,
        "metadata": {"name": name, "version": version, "catalog": catalog},
        "deploymentProfiles": [profile],
        **({"parameters": parameters, "configuration": configuration} if found else {}),
    }


def variables_in(files: Mapping[str, bytes]) -> Mapping[str, Variable]:
    """Return the variables of compose.yaml and of what it includes or extends.

    Those that steer Compose itself are left out. A default that is written in two ways, or holds another variable, is
    left to Compose.
    """
    written: dict[str, list[Variable]] = {}
    for tree in Taken(files, {}).walk().trees.values():
        for text in _texts(tree):
            for name, one in variables_of(text).items():
                written.setdefault(name, []).append(one)
    return {name: _together(uses) for name, uses in written.items() if not STEERING.fullmatch(name)}


def _together(uses: Sequence[Variable]) -> Variable:
    defaults = {one.default for one in uses if one.default is not None}
    only = defaults.pop() if len(defaults) == 1 else ""
    default = only if only and "$" not in only else None
    required = any(one.required for one in uses)
    return Variable(uses[0].name, default, required, not required and any(one.optional for one in uses))


def _texts(node: Node) -> Iterator[str]:
    yield node.text
    for child in (*node.items, *(value for _, value in node.pairs)):
        yield from _texts(child)


def _parameter(variable: str) -> str:
    """Return the name of a parameter: `POLL_FREQUENCY` becomes `pollFrequency`."""
    first, *rest = [part for part in variable.lower().split("_") if part] or [variable]
    return first + "".join(part.capitalize() for part in rest)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    if taken := [folder / path for path in files if (folder / path).exists()]:
        raise FormatError(*(f"{file} is there: nothing was written" for file in taken))
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
