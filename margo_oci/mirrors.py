"""Mirrors: places that are asked before a registry itself, in their order; one that failed not for a while."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from margo_oci.access import Access
from margo_oci.errors import MargoError, NotFound, RegistryError, said
from margo_oci.reference import Reference

MIRROR_PAUSE_S = 300.0  # how long a mirror that failed is not asked
T = TypeVar("T")


@dataclass
class Mirrors:
    """The mirrors of all hosts; `faults` has the last fault of each that failed, by its host."""

    access: Callable[[str], Access]
    monotonic_s: Callable[[], float]
    faults: dict[str, str] = field(default_factory=dict)
    _paused_until_s: dict[str, float] = field(default_factory=dict)

    async def read(self, reference: Reference, read: Callable[[Reference], Awaitable[T]]) -> T:
        """Read from the first mirror that answers rightly, else from the host itself. Raises what the host does."""
        for place in self.to_ask(reference):
            try:
                return await read(place)
            except NotFound:
                continue  # it need not have everything
            except MargoError as error:
                self.pause(place, error)
        try:
            return await read(reference)
        except RegistryError as error:
            faults = [self.faults[one.host] for one in self._all(reference) if one.host in self.faults]
            if not faults:
                raise
            words = f"{error}; before that {'; '.join(faults)}"
            raise type(error)(words, retry_after_s=error.retry_after_s) from None

    def to_ask(self, reference: Reference) -> Sequence[Reference]:
        """Return where to ask for `reference` now, in their order."""
        now_s = self.monotonic_s()
        return [one for one in self._all(reference) if self._paused_until_s.get(one.host, now_s) <= now_s]

    def pause(self, place: Reference, error: Exception) -> None:
        """Ask a mirror no more for MIRROR_PAUSE_S, and remember why."""
        self._paused_until_s[place.host] = self.monotonic_s() + MIRROR_PAUSE_S
        self.faults[place.host] = said(f"mirror {place.host}: {error}")

    def _all(self, reference: Reference) -> Sequence[Reference]:
        if not reference.repository:
            return ()
        mirrors = self.access(reference.host).mirrors
        return [
            replace(reference, host=one.host, repository="/".join(filter(None, (one.repository, reference.repository))))
            for one in mirrors
        ]
