"""The command `margo-oci`: its commands, and the one place where an error becomes an exit code."""

import sys

import click
from click.shell_completion import get_completion_class

from margo_cli.attach import attach_command
from margo_cli.compare import diff
from margo_cli.head import head
from margo_cli.keygen import keygen
from margo_cli.login import login, logout
from margo_cli.look import inspect, pull
from margo_cli.push import component, push
from margo_cli.releases import history, rollback
from margo_cli.root import root
from margo_cli.sign import sign, verify
from margo_cli.status import devices, status
from margo_cli.tree import tree_command
from margo_oci.errors import explain

PROGRAM = "margo-oci"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="margo-oci", prog_name=PROGRAM)
def cli() -> None:
    """Publish desired states for edge devices to plain OCI registries, signed.

    REFERENCE is host/repository:tag or host/repository@sha256:…

    \b
    A first success:
      margo-oci keygen --name fleet --no-password
      margo-oci component push hello localhost:5000/components/hello:1.0.0 --plain-http
      margo-oci push states/edge-17 localhost:5000/fleet/edge-17 --key fleet.key --scope edge-17 --plain-http

    \b
    Exit codes: 0 done, 1 unexpected (diff: different; status, devices: not all is well), 2 bad input or usage,
                3 registry or network, 4 refused by trust, 5 applying failed.
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      margo-oci completion bash > ~/.local/share/bash-completion/completions/margo-oci
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  (the choice above)
    click.echo(found(cli, {}, PROGRAM, "_MARGO_OCI_COMPLETE").source())


for command in (
    keygen,
    component,
    push,
    sign,
    verify,
    attach_command,
    tree_command,
    inspect,
    pull,
    diff,
    history,
    rollback,
    status,
    devices,
    root,
    head,
    login,
    logout,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every failure ends in one message and a documented exit code."""
    try:
        sys.exit(cli.main(prog_name=PROGRAM, standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        code, message = explain(error)
        click.echo(f"error: {message}", err=True)
        sys.exit(code)
