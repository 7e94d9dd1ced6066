"""Whom to believe, out of files: the judge that the sources of a policy make, and the root that was given by hand."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from margo_oci.errors import FormatError, TrustError
from margo_oci.root import ROOT_LIMIT_BYTES, Root
from margo_oci.transfer import Judge
from margo_oci.trustconfig import Sources


def load_judge(sources: Sources, name: str, now: Callable[[], datetime], *, scopes: Sequence[str] = ()) -> Judge:
    """Return what judges signatures in the repository `name` (`host/repository`).

    Raises FormatError, also if identities are trusted and nothing here can check them.
    """
    policy = sources.load(name, scopes=scopes)
    if not policy.identities:
        return Judge(policy, now)
    # Imported where identities are trusted: nobody else holds it in memory.
    from margo_oci.keyless import voucher

    return Judge(policy, now, voucher(sources.trusted_root))


def read_root(file: Path) -> Root:
    """Return the root in a file. Raises FormatError if it cannot be read, TrustError as `Root.from_bytes` (10.4)."""
    try:
        with file.open("rb") as stream:
            return Root.from_bytes(stream.read(ROOT_LIMIT_BYTES + 1))
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}") from None
    except TrustError as error:
        raise TrustError(error.reason, f"{file}: {error}") from None
