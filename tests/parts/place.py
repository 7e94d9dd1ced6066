"""A place on disk for data of the real parts."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def temporary_place() -> Iterator[Path]:
    """Yield a new directory, gone afterwards: under $TMPDIR (which `isolated` sets) or /var/tmp."""
    # /tmp is often small and in memory, and an engine needs a file system that can carry overlays.
    path = Path(tempfile.mkdtemp(prefix="margo-", dir=os.environ.get("TMPDIR", "/var/tmp")))  # noqa: S108
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
