"""The command `margo-oci`: its commands, and the one place where an error becomes an exit code."""

import sys

import click

from margo_cli.lazy import LazyGroup
from margo_oci.errors import explain, plain_lines, write_utf8

PROGRAM = "margo-oci"
COMMANDS = {
    "app": "margo_cli.app:app",
    "attach": "margo_cli.attach:attach_command",
    "bundle": "margo_cli.bundle:bundle",
    "component": "margo_cli.component:component",
    "copy": "margo_cli.copy:copy",
    "deploy": "margo_cli.deploy:deploy",
    "devices": "margo_cli.status:devices",
    "diff": "margo_cli.compare:diff",
    "encrypt": "margo_cli.encrypt:encrypt",
    "head": "margo_cli.head:head",
    "history": "margo_cli.releases:history",
    "inspect": "margo_cli.look:inspect",
    "keygen": "margo_cli.keygen:keygen",
    "lock": "margo_cli.lock:lock",
    "login": "margo_cli.login:login",
    "logout": "margo_cli.login:logout",
    "pull": "margo_cli.look:pull",
    "push": "margo_cli.push:push",
    "rollback": "margo_cli.releases:rollback",
    "root": "margo_cli.root:root",
    "serve": "margo_cli.serve:serve",
    "sign": "margo_cli.sign:sign",
    "status": "margo_cli.status:status",
    "tree": "margo_cli.tree:tree_command",
    "undeploy": "margo_cli.deploy:undeploy",
    "verify": "margo_cli.sign:verify",
}


@click.group(
    cls=LazyGroup, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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
    Exit codes: 0 done, 1 unexpected (diff: different; lock update: something moves; status, devices: not all is well),
                2 bad input or usage, 3 registry or network, 4 refused by trust, 5 applying failed.
    """


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      margo-oci completion bash > ~/.local/share/bash-completion/completions/margo-oci
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  (the choice above)
    click.echo(found(cli, {}, PROGRAM, "_MARGO_OCI_COMPLETE").source())


def main() -> None:
    """Run the command line; every failure ends in one message and a documented exit code."""
    write_utf8(sys.stdout, sys.stderr)
    stdout = sys.stdout
    try:
        sys.exit(cli.main(prog_name=PROGRAM, standalone_mode=False) or 0)
    except SystemExit:
        if sys.stdout is not stdout:  # click put another in its place: whoever read what is printed has gone
            sys.exit(0)
        raise
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        code, message = explain(error)
        click.echo(plain_lines(f"error: {message}"), err=True)
        sys.exit(code)
