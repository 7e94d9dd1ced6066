"""`margo-oci component`: workloads as OCI artifacts."""

import click

from margo_cli.lazy import LazyGroup

COMMANDS = {
    "inspect": "margo_cli.component_inspect:inspect_component",
    "pull": "margo_cli.component_pull:pull_component",
    "push": "margo_cli.component_push:push_component",
    "validate": "margo_cli.component_validate:validate_component",
}


@click.group(cls=LazyGroup, places=COMMANDS)
def component() -> None:
    """Package workloads as OCI artifacts."""
