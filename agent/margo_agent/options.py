"""The options that every command has."""

from pathlib import Path

import click

DEFAULT_CONFIG = "/etc/margo-agent/config.yaml"

config_option = click.option(
    "--config", "-c", "config_file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True,
    help="The agent's configuration.",
)  # fmt: skip
output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print.",
)
log_option = click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), help="How to print.  [`log.format` of the configuration]"
)
