"""Signatures that this user made or saw before: what is here need not be fetched again to be checked again.

A signature proves itself, wherever it lay: whoever reads one verifies it as one from a registry.
"""

import contextlib
from pathlib import Path

from margo_oci.content import SIGNATURE_LIMIT_BYTES


class SignatureFolder:
    """Sigstore bundles by the digest that they are over, the last one of each. May be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bundle(self, digest: str) -> bytes | None:
        """Return what is kept for `digest`; None if nothing of use is."""
        try:
            with self._file(digest).open("rb") as stream:
                data = stream.read(SIGNATURE_LIMIT_BYTES + 1)
        except OSError:
            return None
        return data if 0 < len(data) <= SIGNATURE_LIMIT_BYTES else None

    def keep(self, digest: str, bundle: bytes) -> None:
        """Keep a bundle; where that cannot be, it is fetched next time."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file(digest).write_bytes(bundle)

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix('sha256:')}.json"
