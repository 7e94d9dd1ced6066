"""`margo-oci app validate`: every rule of the standard, every fault at once. Loads little: it is run at each save."""

import json
from pathlib import Path
from typing import Any

import click

from margo_cli.bounded import bounded
from margo_cli.plainfile import fault_in, read_plain
from margo_oci.application import Checked, check_description
from margo_oci.errors import plain, plain_json, plain_lines
from margo_oci.faults import Fault, Located
from margo_oci.yamldoc import DOCUMENT_LIMIT_BYTES

DESCRIPTION_FILE = "margo.yaml"


def description_file(path: Path) -> Path:
    """Return the description that a folder or a file stands for."""
    return path / DESCRIPTION_FILE if path.is_dir() else path


def read_description(file: Path) -> Checked:
    """Read and check a description, and whether the files that it names are beside it, and no links.

    Raises FormatError.
    """
    data = read_plain(file, limit_bytes=DOCUMENT_LIMIT_BYTES)
    with bounded(str(file)):
        return check_description(data, what=str(file), fault_of=lambda path: fault_in(file.parent, path))


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=".", metavar="[PATH]")
@click.option(
    "--output", "-o", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
    help="How to print.",
)  # fmt: skip
def validate(path: Path, output: str) -> None:
    """Check an ApplicationDescription (PATH: the file, or a folder with margo.yaml) by every rule of the standard.

    All faults are told at once, with line, column, field, the rule's number in the format, and how to mend them. Ends
    with 2 if there is an error; warnings alone are no error.

    \b
    Examples:
      margo-oci app validate hello
      margo-oci app validate hello/margo.yaml -o sarif > margo.sarif
    """
    file = description_file(path)
    checked = read_description(file)
    errors = [fault for fault in checked.faults if fault.level == "error"]
    if output == "sarif":
        from margo_cli.sarif import sarif

        placed = [Located(file=file.as_posix(), fault=fault) for fault in checked.faults]
        click.echo(json.dumps(sarif(placed, version=version_of_program()), indent=2))
    elif output == "json":
        click.echo(plain_json(_json(file, checked)))
    else:
        for fault in checked.faults:
            click.echo(plain_lines(f"{fault.level}: {fault.at(str(file))} (rule {fault.rule})"), err=True)
        if one := checked.description:
            profiles = ", ".join(f"{profile.id} ({profile.type})" for profile in one.profiles)
            click.echo(plain(f"{file}: {one.id} {one.version} is valid; profiles: {profiles}"))
    if errors:
        click.get_current_context().exit(2)


def _json(file: Path, checked: Checked) -> dict[str, Any]:
    one = checked.description
    return {
        "file": str(file),
        "valid": one is not None,
        "id": one.id if one else None,
        "version": one.version if one else None,
        "faults": [fault_fields(fault) for fault in checked.faults],
    }


def fault_fields(fault: Fault) -> dict[str, Any]:
    """Return a fault as JSON has it."""
    return {
        "level": fault.level,
        "rule": fault.rule,
        "field": fault.field,
        "line": fault.line or None,  # of the whole file
        "column": fault.column if fault.line else None,
        "message": fault.message,
    }


def version_of_program() -> str:
    """Return the version that SARIF names."""
    from importlib.metadata import version

    return version("margo-oci")
