"""The process that checks one keyless bundle with Sigstore's library: JSON in, JSON out, and it ends.

in:  {"bundle": text, "identities": [[subject, issuer]], "trustedRoot": file, or "" for the public instance}
out: {"signedBy": text, "statement": base64}, {"refused": [reason, words]}, or {"fault": words}
"""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate, SubjectAlternativeName
from cryptography.x509.extensions import ExtensionNotFound
from sigstore.errors import Error, VerificationError
from sigstore.models import Bundle, ClientTrustConfig, InvalidBundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity as Expected

from margo_oci.cosign import PAYLOAD_TYPE
from margo_oci.errors import FormatError, TrustError, said
from margo_oci.identity import Identity

REQUEST_LIMIT_BYTES = 1024 * 1024
ROOT_FILE_LIMIT_BYTES = 4 * 1024 * 1024
_CLIENT_CONFIG = "application/vnd.dev.sigstore.clienttrustconfig"


class Expectation:
    """Any of several identities; `met` is the one that it was."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        """Accept a certificate for any of `identities`."""
        self.identities = identities
        self.met: Identity | None = None

    def verify(self, cert: Certificate) -> None:
        """Do what Sigstore's policies do. Raises VerificationError."""
        for one in self.identities:
            try:
                Expected(identity=one.subject, issuer=one.issuer).verify(cert)
            except VerificationError:
                continue
            self.met = one
            return
        wanted = ", ".join(map(str, self.identities))
        raise VerificationError(f"signed keyless by {_names(cert)}, or by a login from elsewhere; trusted is {wanted}")


def check(bundle_text: str, identities: Sequence[Identity], root: TrustedRoot) -> tuple[str, bytes]:
    """Return who signed, and the statement. Raises TrustError `bad-identity`, `malformed-signature`."""
    try:
        bundle = Bundle.from_json(bundle_text)
    except (InvalidBundle, ValueError) as error:  # pydantic's and cryptography's are ValueErrors
        raise TrustError("malformed-signature", f"no keyless bundle: {_words(error)}") from None
    expected = Expectation(identities)
    try:
        kind, payload = Verifier(trusted_root=root).verify_dsse(bundle, expected)
    except Exception as error:  # whatever it is, nobody vouches for this bundle
        raise TrustError("bad-identity", f"not accepted by Sigstore's rules: {_words(error)}") from None
    if kind != PAYLOAD_TYPE:
        raise TrustError("malformed-signature", f"payloadType {said(kind)!r}: {PAYLOAD_TYPE} is expected")
    assert expected.met is not None  # noqa: S101  (verify_dsse asked)
    return str(expected.met), payload


def trusted_root(file: Path | None) -> TrustedRoot:
    """Read a trusted root, alone or in a client trust config; None fetches the public one. Raises FormatError."""
    if file is None:
        return client_config(None).trusted_root
    text = _text(file)
    try:
        if json.loads(text).get("mediaType", "").startswith(_CLIENT_CONFIG):
            return ClientTrustConfig.from_json(text).trusted_root
        return TrustedRoot.from_file(str(file))
    except (Error, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{file}: no trusted root of Sigstore: {_words(error)}") from None


def client_config(file: Path | None) -> ClientTrustConfig:
    """Read what a client of an instance knows: its services as well. Raises FormatError."""
    try:
        return ClientTrustConfig.from_json(_text(file)) if file else ClientTrustConfig.production()
    except (Error, ValueError) as error:
        raise FormatError(f"{file or 'Sigstore'}: no client trust config: {_words(error)}") from None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(ROOT_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}") from None
    if len(data) > ROOT_FILE_LIMIT_BYTES:
        raise FormatError(f"{file}: at most {ROOT_FILE_LIMIT_BYTES} bytes are read")
    return data.decode(errors="replace")


def _names(cert: Certificate) -> str:
    try:
        names = cert.extensions.get_extension_for_class(SubjectAlternativeName).value
        return said(", ".join(str(getattr(one, "value", one)) for one in names))
    except (ExtensionNotFound, ValueError):
        return "nobody"


def _words(error: Exception) -> str:
    return said(str(error) or type(error).__name__)


def _answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
    identities = [Identity(subject, issuer) for subject, issuer in request["identities"]]
    file = Path(request["trustedRoot"]) if request["trustedRoot"] else None
    try:
        name, statement = check(request["bundle"], identities, trusted_root(file))
    except TrustError as error:
        return {"refused": [error.reason, str(error)]}
    except FormatError as error:
        return {"fault": str(error)}
    return {"signedBy": name, "statement": base64.b64encode(statement).decode()}


def main() -> None:
    """Answer one question."""
    print(json.dumps(_answer(json.loads(sys.stdin.buffer.read(REQUEST_LIMIT_BYTES)))))


if __name__ == "__main__":
    main()
