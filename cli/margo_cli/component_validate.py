"""`margo-oci component validate`: every archive rule of the standard, every fault at once."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from margo_cli.component_check import Checked, check_component, read_source
from margo_cli.sarif import sarif
from margo_cli.validate import fault_fields, version_of_program
from margo_oci.errors import plain_json, plain_lines
from margo_oci.faults import Located
from margo_oci.package import FORMS

type_option = click.option("--type", "kind", type=click.Choice(list(FORMS)), help="What it is. [by its files]")


@click.command("validate")
@click.argument("path", type=click.Path(exists=True, path_type=Path), default=".", metavar="[PATH]")
@type_option
@click.option("--name", default="", help="What the component is called: the folder of a Quadlet Archive must be, too.")
@click.option(
    "--output", "-o", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
    help="How to print.",
)  # fmt: skip
def validate_component(path: Path, kind: str | None, name: str, output: str) -> None:
    """Check a component (PATH: its folder, or an archive as .tar.gz) by every rule for archives.

    A Compose component is read by Docker Compose as well, which has the last word. All faults are told at once, with
    file, line and column where they have one, and the rule's number in the format. Ends with 2 if there is an error;
    warnings alone are no error.

    \b
    Examples:
      margo-oci component validate hello
      margo-oci component validate hello-1.0.0.tar.gz -o json
      margo-oci component validate pump --type quadlet -o sarif > pump.sarif
    """
    checked = check_component(read_source(path, name=name), kind=kind or "", name=name)
    faults = told(checked.faults, path)
    if output == "sarif":
        click.echo(json.dumps(sarif(_for_sarif(faults, path), version=version_of_program()), indent=2))
    elif output == "json":
        click.echo(plain_json(_json(path, checked, faults)))
    else:
        for one in faults:
            click.echo(plain_lines(f"{one.fault.level}: {one.fault.at(one.file)} (rule {one.fault.rule})"), err=True)
        if not checked.errors:
            files = sum(not entry.folder for entry in checked.entries)
            click.echo(f"{path}: valid, a {checked.form.title} component of {files} file{'s' if files != 1 else ''}")
    if checked.errors:
        click.get_current_context().exit(2)


def told(faults: Sequence[Located], path: Path) -> Sequence[Located]:
    """Return faults with files as they lie on the disk, if the component is a folder, else below the archive's name."""
    return [replace(one, file=_file(one.file, path)) for one in faults]


def _file(file: str, path: Path) -> str:
    if path.is_dir():
        return (path / file.partition("/")[2]).as_posix() if file else path.as_posix()
    return f"{path.as_posix()}: {file}" if file else path.as_posix()


def _for_sarif(faults: Sequence[Located], path: Path) -> Sequence[Located]:
    """What lies in an archive has no address: the archive has, and the message says the rest."""
    if path.is_dir():
        return faults
    return [
        replace(one, file=path.as_posix(), fault=replace(one.fault, line=0, field="", message=one.fault.at(one.file)))
        for one in faults
    ]


def _json(path: Path, checked: Checked, faults: Sequence[Located]) -> dict[str, Any]:
    return {
        "path": str(path),
        "type": checked.form.name,
        "valid": not checked.errors,
        "composeChecked": checked.template is not None,
        "files": sorted(entry.path for entry in checked.entries if not entry.folder),
        "faults": [{"file": one.file, **fault_fields(one.fault)} for one in faults],
    }
