"""What a registry's answers say besides their content: how long to wait, and where a list goes on."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from margo_oci.errors import RegistryError, shown

RETRY_AFTER_LIMIT_S = 3600.0


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how long the registry asks to wait (RFC 9110 10.2.3); None if it does not say so.

    A date is held against the `Date` of the same answer: the clock of a device may be wrong.
    """
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return min(float(value), RETRY_AFTER_LIMIT_S)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("Date", ""))
        return min(max(wait.total_seconds(), 0.0), RETRY_AFTER_LIMIT_S)
    except (ValueError, TypeError, OverflowError):
        return None


def next_page(link: str, *, asked: str) -> str:
    """Return the URL of a next page (distribution-spec, `Link`), relative to the one that was asked for.

    Raises RegistryError for one that is not at the same registry.
    """
    following = link
    try:
        following = urljoin(asked, link)
        elsewhere = not same_host(following, asked) or "@" in urlsplit(following).netloc
    except ValueError:
        elsewhere = True
    if elsewhere:
        raise RegistryError(f"GET {shown(asked)}: its next page is elsewhere and not asked for: {shown(following)}")
    return following


def same_host(one: str, other: str) -> bool:
    """Tell whether two URLs lead to the same host and port in the same way, however they are written."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
