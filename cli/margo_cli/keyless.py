"""The options that sign keyless: as whom, and by which instance of Sigstore."""

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_oci.content import SIGNATURE_LIMIT_BYTES
from margo_oci.errors import FormatError
from margo_oci.identity import Identity
from margo_oci.transfer import Judge
from margo_oci.trust import Policy

F = TypeVar("F", bound=Callable[..., Any])
TOKEN_VARIABLE = "SIGSTORE_ID_TOKEN"  # noqa: S105  (its name, not its value)
_TOKEN = re.compile(r"ey[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Keyless:
    """Who signs without a key of their own, and what makes bundles of statements."""

    identity: Identity
    sign: Callable[[bytes], bytes]
    judge: Judge


def keyless_options(command: F) -> F:
    """Add the options that sign keyless, and hand them over as `keyless`; None if it is not asked for."""

    @click.option("--keyless", is_flag=True, help="Sign with a login instead of a key.")
    @click.option("--identity-token", envvar=TOKEN_VARIABLE, metavar="FILE",
                  help=f"Keyless: file with the login's token, - for stdin. [what a CI system offers]  [env: {TOKEN_VARIABLE}]")  # fmt: skip  # noqa: E501
    @click.option("--trust-config", type=click.Path(exists=True, path_type=Path), metavar="FILE",
                  help="Keyless: client trust config of a private instance. [Sigstore's public one]")  # fmt: skip
    @functools.wraps(command)
    def called(*args: Any, keyless: bool, identity_token: str | None, trust_config: Path | None, **kwargs: Any) -> Any:
        return command(*args, keyless=_keyless(identity_token, trust_config) if keyless else None, **kwargs)

    return called  # type: ignore[return-value]


def _keyless(given: str | None, trust_config: Path | None) -> Keyless:
    from margo_oci.keyless import need_sigstore, voucher

    need_sigstore()
    from margo_oci.keyless_sign import find_token, identity_of, keyless_signer

    token = _token(given) if given else find_token()
    if token is None:
        raise click.UsageError(f"Missing option '--identity-token' (or {TOKEN_VARIABLE}): as whom is to be signed?")
    identity = identity_of(token)
    judge = Judge(Policy(identities=[identity]), lambda: datetime.now(UTC), voucher(trust_config))
    return Keyless(identity, keyless_signer(token, trust_config), judge)


def _token(given: str) -> str:
    """Return the token: from the variable as it is, else from where it says."""
    if _TOKEN.fullmatch(given.strip()):
        return given.strip()
    try:
        if given == "-":
            return sys.stdin.read(SIGNATURE_LIMIT_BYTES + 1)
        with Path(given).open("rb") as stream:
            return stream.read(SIGNATURE_LIMIT_BYTES + 1).decode(errors="replace")
    except OSError as error:
        words = f"identity token: neither a token nor a file that can be read: {error.strerror}"  # it may be a secret
        raise FormatError(words) from None
