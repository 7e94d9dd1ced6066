"""Whether applying may begin now: a hold, the maintenance windows, and the file by which an application says "not now".

Fetching never waits for it, and neither does bringing back what ran before a restart (format 5.9).
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO

from margo_agent.settings import ApplySettings
from margo_oci.errors import ApplyError


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What stands before applying. `hold` says why a person holds it back, "" if nobody does; `now` knows its zone."""

    settings: ApplySettings = field(default_factory=ApplySettings)
    hold: Callable[[], str] = lambda: ""
    now: Callable[[], datetime]

    def closed(self) -> str:
        """Return why applying has to wait; "" if it may begin."""
        return self.hold() or self._outside() or self._locked()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Hold the lock file for as long as something is applied, so that the application can wait for the end."""
        stream = self._open()
        if stream is None:
            yield
            return
        with stream:
            if not _lock(stream):
                raise ApplyError(f"apply.lockFile: {self.settings.lock_file} was locked just now: nothing was begun")
            yield

    def _outside(self) -> str:
        now = self.now().astimezone(self.settings.timezone)
        if not self.settings.windows or any(window.holds(now) for window in self.settings.windows):
            return ""
        opens = min(window.next(now) for window in self.settings.windows)
        return f"outside the maintenance window, which opens {opens.isoformat(timespec='minutes')}"

    def _locked(self) -> str:
        stream = self._open()
        if stream is None:
            return ""
        with stream:
            return "" if _lock(stream) else f"an application holds {self.settings.lock_file}: not now"

    def _open(self) -> IO[bytes] | None:
        """Return the lock file; a file that is not there is locked by nobody."""
        try:
            return self.settings.lock_file.open("rb") if self.settings.lock_file else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ApplyError(f"apply.lockFile: {self.settings.lock_file}: {error.strerror}") from None


def _lock(stream: IO[bytes]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
