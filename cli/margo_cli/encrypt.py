"""`margo-oci encrypt`: a file for the devices that may read it, and for nobody else."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from margo_cli.folder import FILES, replace_file
from margo_cli.session import Session, load_signer, long_output_option, read_file, say
from margo_oci.errors import FormatError
from margo_oci.files import SUFFIX
from margo_oci.jwe import (
    ENVELOPE_LIMIT_BYTES,
    PLAIN_LIMIT_BYTES,
    PrivateKey,
    add_recipients,
    looks_sealed,
    parse_envelope,
    seal,
)
from margo_oci.jwk import Recipient, read_recipient


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True), metavar="[FILE]")
@click.option(
    "--to",
    "recipient_files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Who may read it: certificate or public key (PEM), or JWK. Repeatable.",
)
@click.option("-o", "--output-file", "target", type=click.Path(path_type=Path), help="Where to write. [FILE.jwe]")
@click.option(
    "--add",
    "sealed",
    type=click.Path(path_type=Path),
    metavar="FILE.jwe",
    help="Let --to read this encrypted file, too.",
)
@click.option(
    "--identity",
    "identity_file",
    type=click.Path(path_type=Path),
    help="With --add: a private key that opens it.",
)
@long_output_option
def encrypt(
    file: Path | None,
    recipient_files: Sequence[Path],
    target: Path | None,
    sealed: Path | None,
    identity_file: Path | None,
    output: str,
) -> None:
    """Encrypt FILE (`-` is standard input) to the keys of devices, as a JWE that any JOSE tool reads.

    Put it into NAME.files/ beside NAME.yaml: the device has it there without .jwe, in memory only. Keys are EC P-256;
    a device's is what `margo-agent identity show` prints. Of an encrypted file that is there, the content is replaced.

    \b
    Examples:
      margo-oci encrypt db-password --to edge-17.crt -o states/edge-17/hello.files/db-password.jwe
      pass show db | margo-oci encrypt - --to edge-17.crt --to edge-18.crt -o hello.files/db-password.jwe
      margo-oci encrypt --add hello.files/db-password.jwe --to edge-19.crt --identity ops.key
    """
    if (file is None) == (sealed is None):
        raise click.UsageError("FILE, or --add with an encrypted file, is expected.")
    before = _sealed(sealed) if sealed else b""
    if (sealed is None) != (identity_file is None):
        raise click.UsageError("--add and --identity go together: the key opens what is let --to read.")
    recipients = [_recipient(one) for one in recipient_files]
    if sealed is not None and identity_file is not None:
        target = target or sealed
        data = add_recipients(before, [_key(identity_file)], recipients, what=str(sealed))
    else:
        assert file is not None  # noqa: S101  (checked above)
        target = _target(file, target)
        data = seal(_plain(file), recipients)
    kids = parse_envelope(data, what=str(target)).kids  # before what is there is replaced
    _write(target, data)
    Session(output).show({"file": str(target), "encryptedFor": list(kids)}, [str(target)])
    say(f"encrypted for {', '.join(kid or '(unnamed)' for kid in kids)}")


def _target(file: Path, target: Path | None) -> Path:
    if target is None and str(file) == "-":
        raise click.UsageError("-o FILE.jwe is expected: standard input has no name.")
    found = target or file.with_name(file.name + SUFFIX)
    if not found.name.endswith(SUFFIX) or found.name == SUFFIX:
        raise FormatError(f"{found}: a name that ends in {SUFFIX} is expected: by it `push` tells what is encrypted")
    return found


def _plain(file: Path) -> bytes:
    """Read what is to be encrypted. Raises FormatError, also for what `push` would publish as it is."""
    if str(file) == "-":
        data = sys.stdin.buffer.read(PLAIN_LIMIT_BYTES + 1)
    elif any(parent.name.endswith(FILES) for parent in file.absolute().parents):
        raise FormatError(f"{file}: lies where `push` publishes it unencrypted: move it elsewhere first")
    else:
        data = read_file(file, limit_bytes=PLAIN_LIMIT_BYTES)
    if not data:
        raise FormatError(f"{file}: is empty: nothing to encrypt")
    return data


def _sealed(file: Path) -> bytes:
    """Read what is encrypted already. Raises FormatError for what is plain."""
    data = read_file(file, limit_bytes=ENVELOPE_LIMIT_BYTES)
    if not looks_sealed(data):
        raise FormatError(
            f"{file}: is not encrypted: `margo-oci encrypt FILE --to …` encrypts a plain file, for all who may read it"
        )
    return data


def _recipient(file: Path) -> Recipient:
    return read_recipient(read_file(file), name=str(file), now=datetime.now(UTC))


def _key(file: Path) -> PrivateKey:
    key = load_signer(file).key
    assert isinstance(key, PrivateKey)  # noqa: S101  (P-256 alone is read)
    return key


def _write(target: Path, data: bytes) -> None:
    """Write it whole or not at all. Raises FormatError if something else has that name."""
    if target.exists():
        parse_envelope(
            read_file(target, limit_bytes=ENVELOPE_LIMIT_BYTES), what=f"{target} is there, and is not replaced"
        )
    try:
        replace_file(target, data)
    except OSError as error:
        raise FormatError(f"{target}: {error.strerror}") from None
