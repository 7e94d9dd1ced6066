"""Release tags do not move: what one had when it was first seen, it has for good (format 6.14)."""

import re
from collections.abc import Mapping

from margo_oci.deployment import REVISION
from margo_oci.errors import TrustError
from margo_oci.reference import Reference

_RELEASE = re.compile(f"v?{REVISION.pattern}", re.ASCII)


def is_release(reference: Reference) -> bool:
    """Tell whether a reference names a release: its tag is a version, as in 1.4.0 or v2.0.0-rc1."""
    return bool(_RELEASE.fullmatch(reference.tag))


def check_pin(reference: Reference, digest: str, pins: Mapping[str, str]) -> Mapping[str, str]:
    """Return what is to be remembered of a reference that led to `digest` just now.

    Raises TrustError `tag-moved` if it is a release that led to something else before.
    """
    if not is_release(reference):
        return {}
    at = str(Reference(reference.host, reference.repository, reference.tag))
    pinned = pins.get(at, digest)
    if pinned != digest:
        raise TrustError(
            "tag-moved",
            f"{at}: a release tag, seen as {pinned}, leads to {digest} now: somebody moved it; find out who, and "
            "publish what is meant under a version of its own",
        )
    return {at: digest}
