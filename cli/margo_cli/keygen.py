"""`margo-oci keygen`."""

import os
import sys
from pathlib import Path

import click

from margo_cli.session import PASSWORD_VARIABLE, Session, long_output_option, password_of_environment, say
from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey, generate, generate_cosign


@click.command()
@click.option(
    "-o",
    "--output-dir",
    "folder",
    type=click.Path(path_type=Path),
    default=".",
    help="Where to write. [.]",
)
@click.option("--name", default="margo", show_default=True, help="NAME.key and NAME.pub are written.")
@click.option("--no-password", is_flag=True, help="Leave the private key unencrypted.")
@click.option("--cosign", is_flag=True, help="Write the private key as cosign keeps it, always encrypted.")
@long_output_option
def keygen(folder: Path, name: str, no_password: bool, cosign: bool, output: str) -> None:
    """Make a P-256 key pair for signing desired states.

    The password comes from MARGO_OCI_KEY_PASSWORD, or is asked for. Files are never overwritten.

    \b
    Examples:
      margo-oci keygen --name fleet
      MARGO_OCI_KEY_PASSWORD=… margo-oci keygen -o keys --name fleet
      margo-oci keygen --name vendor --cosign
    """
    if cosign and no_password:
        raise click.UsageError("--cosign: its file is always encrypted; an empty password is one, too.")
    if Path(name).name != name or name in ("", ".", ".."):
        raise FormatError(f"--name {name!r}: a file name is expected")
    private_file, public_file = folder / f"{name}.key", folder / f"{name}.pub"
    for file in (private_file, public_file):
        if file.exists():
            raise FormatError(f"{file} is there already: keys are never overwritten")
    password = None if no_password else _password()
    if not (password or no_password or cosign):
        raise FormatError("the password is empty: set one, or pass --no-password for an unencrypted key")
    private, public = generate_cosign(password or b"") if cosign else generate(password)
    folder.mkdir(parents=True, exist_ok=True)
    _write_new(private_file, private, 0o600)
    try:
        _write_new(public_file, public, 0o644)
    except (OSError, FormatError):
        private_file.unlink()  # nobody has used it yet
        raise
    say(f"{private_file}: keep it secret")
    say(f"{public_file}: give it to devices and verifiers")
    fingerprint = PublicKey.from_pem(public, name=public_file.name).fingerprint
    raw = {"private": str(private_file), "public": str(public_file), "fingerprint": fingerprint}
    Session(output).show(raw, [fingerprint])


def _password() -> bytes | None:
    if (password := password_of_environment()) is not None:
        return password or None
    if not sys.stdin.isatty():
        raise FormatError(f"set {PASSWORD_VARIABLE}, or pass --no-password for an unencrypted key")
    typed: str = click.prompt("Password for the private key", hide_input=True, confirmation_prompt=True, err=True)
    return typed.encode()


def _write_new(file: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there, or leave none."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
    except OSError as error:
        file.unlink()
        raise type(error)(error.errno, error.strerror, str(file)) from None
