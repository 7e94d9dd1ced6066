"""`margo-oci app`: application packages."""

import click

from margo_cli.lazy import LazyGroup

COMMANDS = {
    "init": "margo_cli.scaffold:init",
    "inspect": "margo_cli.packages:inspect_app",
    "pull": "margo_cli.packages:pull_app",
    "push": "margo_cli.packages:push_app",
    "schema": "margo_cli.schemas:schema",
    "validate": "margo_cli.validate:validate",
    "versions": "margo_cli.packages:versions",
}


@click.group(cls=LazyGroup, places=COMMANDS)
def app() -> None:
    """Write, check and publish application packages."""
