"""Signing keyless: a login (OIDC) is turned into a certificate for a key of a few minutes, and noted in a log.

Sigstore's library talks to the services. It is imported with this module, which only those import who sign so.
"""

from collections.abc import Callable
from pathlib import Path

import requests
from sigstore.dsse import Statement
from sigstore.errors import Error
from sigstore.oidc import ExpiredIdentity, IdentityToken, detect_credential
from sigstore.sign import SigningContext

from margo_oci.errors import FormatError, RegistryError, said, shown
from margo_oci.identity import Identity
from margo_oci.keyless_check import client_config

TOKEN_LIMIT_BYTES = 64 * 1024


def find_token() -> str | None:
    """Return the token that a CI system has for its jobs; None if there is none. Raises FormatError."""
    try:
        return detect_credential()
    except Error as error:
        raise FormatError(f"identity token of this CI system: {said(error)}") from None


def identity_of(token: str) -> Identity:
    """Return whom a token is for, by its own words. Raises FormatError."""
    parsed = _token(token)
    return Identity(parsed.identity, parsed.federated_issuer)


def keyless_signer(token: str, trust_config: Path | None) -> Callable[[bytes], bytes]:
    """Return what signs in-toto statements, and gives bundles; `trust_config` names the services of an instance.

    None stands for Sigstore's public instance. Raises FormatError; what is returned raises RegistryError where a
    service cannot be reached or refuses.
    """
    parsed = _token(token)
    config = client_config(trust_config)

    def sign(statement: bytes) -> bytes:
        try:
            with SigningContext.from_trust_config(config).signer(parsed) as signer:
                return signer.sign_dsse(Statement(statement)).to_json().encode()
        except ExpiredIdentity:
            raise FormatError("identity token: it has expired") from None
        except requests.RequestException as error:
            raise RegistryError(f"Sigstore: {shown(error)}") from None
        except Exception as error:  # each of its clients has errors of its own, without an ancestor in common
            if not type(error).__module__.startswith("sigstore"):
                raise
            cause = error.__cause__ or error
            raise RegistryError(f"Sigstore: {shown(str(error) or str(cause) or type(error).__name__)}") from None

    return sign


def _token(token: str) -> IdentityToken:
    if len(token) > TOKEN_LIMIT_BYTES:
        raise FormatError(f"identity token: longer than {TOKEN_LIMIT_BYTES} bytes")
    try:
        return IdentityToken(token.strip())
    except Error as error:
        raise FormatError(f"identity token: {said(error)}") from None
