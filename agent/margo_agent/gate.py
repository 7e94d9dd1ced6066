"""Whether applying may begin now: a hold, the maintenance windows, and the file by which an application says "not now".

Fetching never waits for it, and neither does bringing back what ran before a restart (format 5.9).
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from margo_agent.notnow import NotNow
from margo_oci.errors import ApplyError


@dataclass(frozen=True)
class Gate:
    """Tells what `delays` applying whenever it is asked, and has the file that is locked while something is applied.

    Fetching may take hours: a hold or the end of a window that comes meanwhile counts as well.
    """

    delays: Callable[[], Sequence[NotNow]] = tuple
    lock_file: Path | None = None

    @property
    def closed(self) -> str:
        """Why applying has to wait now; "" if it may begin."""
        return "; ".join(one.words for one in self.delays())

    @property
    def held(self) -> bool:
        """Whether a person holds it now."""
        return any(one.what == "hold" for one in self.delays())

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Hold the lock file for as long as something is applied, so that the application can wait for the end."""
        try:
            stream = self.lock_file.open("rb") if self.lock_file else None
        except FileNotFoundError:  # locked by nobody
            stream = None
        except OSError as error:
            raise ApplyError(f"apply.lockFile: {self.lock_file}: {error.strerror}") from None
        if stream is None:
            yield
            return
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ApplyError(f"apply.lockFile: {self.lock_file} was locked just now: nothing was begun") from None
            yield
