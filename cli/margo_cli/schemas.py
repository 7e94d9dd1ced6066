"""`margo-oci app schema`: JSON Schemas for editors."""

from importlib.resources import files

import click

KINDS = {"description": "application-description", "deployment": "application-deployment"}


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)), default="description")
def schema(kind: str) -> None:
    """Print the JSON Schema of ApplicationDescriptions, or of ApplicationDeployments, for an editor.

    A schema cannot say everything: `margo-oci app validate` does.

    \b
    Example:
      margo-oci app schema > margo.schema.json
    """
    click.echo(
        files("margo_oci").joinpath("schemas", f"{KINDS[kind]}.schema.json").read_text(encoding="utf-8"), nl=False
    )
