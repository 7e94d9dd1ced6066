"""Where a head lies, until when it holds, and what a device remembers of it. No clock is read here.

A loop that only looks needs no more than this, and so no cryptography in memory.

Sources: RFC 3339; TUF 1.0 section 4.2.1 (expires); docs/format.md, section 10.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from margo_oci.errors import FormatError, TrustError
from margo_oci.reference import TAG, Reference

Freshness = Literal["enforce", "warn"]  # what becomes of a device whose head expired: refused, or told only
CARRIER_LIMIT_BYTES = 256 * 1024
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def parse_moment(text: object, *, at: str) -> datetime:
    """Return the moment in `text`, as TUF writes it: whole seconds, UTC, `Z`. Raises FormatError."""
    try:
        if not isinstance(text, str) or not _MOMENT.fullmatch(text):
            raise ValueError
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise FormatError(f"{at}: a moment as 2026-11-21T09:33:39Z is expected, got {text!r:.80}") from None


def format_moment(moment: datetime) -> str:
    """Return a moment as TUF writes it."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return text.rjust(20, "0")  # strftime writes years before 1000 short


def head_tag(reference: Reference) -> Reference:
    """Return where the head of a tag lies: `<tag>-head`. Raises FormatError if there is no tag, or it is too long."""
    tag = f"{reference.tag}-head"
    if reference.digest or not reference.tag or not TAG.fullmatch(tag):
        raise FormatError(f"{reference}: a tag of at most 123 characters is expected: its head lies under <tag>-head")
    return reference.at(tag)


def clock(rtc: datetime, *floors: datetime | None) -> datetime:
    """Return what time it is at least: the device's clock, or the latest moment that is known to be past (10.12).

    Floors are the build time of the software, the root's `x-floor` and `SeenHead.issued`.
    """
    return max(rtc, *(floor for floor in floors if floor), rtc)


@dataclass(frozen=True, kw_only=True)
class SeenHead:
    """The last head that was accepted for a scope; what a device keeps durably.

    `content` is the digest of the bytes its signatures are over, `state` the digest of the manifest it names.
    """

    version: int
    content: str
    state: str
    issued: datetime
    expires: datetime

    @classmethod
    def from_dict(cls, raw: object, *, at: str) -> "SeenHead":
        """Read what `to_dict` made. Raises FormatError."""
        if not isinstance(raw, dict):
            raise FormatError(f"{at}: the last head is expected")
        version, content, state = raw.get("version"), raw.get("content"), raw.get("state")
        if not isinstance(version, int) or not isinstance(content, str) or not isinstance(state, str):
            raise FormatError(f"{at}: version, content and state of the last head are expected")
        return cls(
            version=version,
            content=content,
            state=state,
            issued=parse_moment(raw.get("issued"), at=f"{at}.issued"),
            expires=parse_moment(raw.get("expires"), at=f"{at}.expires"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for a durable record, as JSON has it."""
        return {
            "version": self.version,
            "content": self.content,
            "state": self.state,
            "issued": format_moment(self.issued),
            "expires": format_moment(self.expires),
        }

    def check_fresh(self, now: datetime) -> None:
        """Tell after every look, whatever the answer was, whether the head still holds. Raises TrustError `freeze`."""
        check_expiry(self.version, self.expires, now)


def check_expiry(version: int, expires: datetime, now: datetime) -> None:
    """Refuse a head that expired. Raises TrustError `freeze` (10.11)."""
    if now >= expires:
        raise TrustError(
            "freeze",
            f"head version {version} expired at {format_moment(expires)}, and it is {format_moment(now)}: somebody "
            "holds newer ones back, or nobody renewed it in time (`margo-oci head issue`)",
        )
