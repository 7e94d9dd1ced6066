"""`margo-oci login` and `logout`: Docker's auth file is the only store."""

import asyncio
import sys
from dataclasses import replace

import click

from margo_cli.session import Session, auth_files, output_option, say, with_session
from margo_oci.auth import Credentials
from margo_oci.errors import FormatError
from margo_oci.reference import HOST, Reference
from margo_oci.registry import Registry

PASSWORD_LIMIT_BYTES = 64 * 1024


@click.command()
@click.argument("host")
@click.option("--username", "-u", help="[asked for]")
@click.option("--password-stdin", is_flag=True, help="Read the password or token from stdin. [asked for]")
@with_session()
def login(session: Session, host: str, username: str | None, password_stdin: bool) -> None:
    """Log in to a registry; what works is kept where docker and podman keep it.

    \b
    Examples:
      margo-oci login registry.example -u operator
      echo "$TOKEN" | margo-oci login registry.example -u operator --password-stdin
    """
    _check(host)
    if not password_stdin and not sys.stdin.isatty():
        raise FormatError("no terminal to ask for the password: use --password-stdin")
    if password_stdin and not username:
        raise click.UsageError("Missing option '--username'.")
    username = username or click.prompt("Username", err=True)
    password = (
        sys.stdin.read(PASSWORD_LIMIT_BYTES).rstrip("\r\n")
        if password_stdin
        else click.prompt("Password", hide_input=True, err=True)
    )
    credentials = Credentials(username, password)
    plain = session.access(Reference(host, ""))

    async def try_it() -> None:
        async with Registry(lambda name: replace(plain(name), credentials=credentials, login=None)) as registry:
            await registry.ping(host)

    asyncio.run(try_it())
    kept = auth_files().save(host, credentials)
    session.show({"host": host, "username": username, "file": str(kept)}, [f"logged in to {host}; kept in {kept}"])


@click.command()
@click.argument("host")
@output_option
def logout(output: str, host: str) -> None:
    """Forget the credentials of a registry; those of parts of it (HOST/team) stay.

    \b
    Example:
      margo-oci logout registry.example
    """
    _check(host)
    known = auth_files().remove(host)
    if output == "json":
        Session(output).show({"host": host, "removed": known}, ())
    else:
        say(f"logged out of {host}" if known else f"nothing was known of {host}")


def _check(host: str) -> None:
    if not HOST.fullmatch(host):
        raise FormatError(f"{host!r}: the host of a registry is expected, as in registry.example or localhost:5000")
