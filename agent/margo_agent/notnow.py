"""What says "not now" at this moment: a hold, the window, an application's lock on a file."""

import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from margo_agent.config import AgentConfig
from margo_agent.hold import read_hold
from margo_agent.settings import ApplySettings


@dataclass(frozen=True)
class NotNow:
    """One thing that delays applying: what (`hold`, `window`, `lock`), in words, and how it ends."""

    what: str
    words: str
    todo: str


def not_now(config: AgentConfig, now: datetime) -> Sequence[NotNow]:
    """Return everything that delays applying at `now`."""
    return tuple(_standing(config, now))


def _standing(config: AgentConfig, now: datetime) -> Iterator[NotNow]:
    if hold := read_hold(config.state_dir, now):
        yield NotNow("hold", hold.words, "margo-agent resume ends it")
    if outside := outside_window(config.apply, now):
        yield NotNow("window", outside, "wait for it, or change apply.window and margo-agent reload")
    if config.apply.lock_file and (who := locked_words(config.apply.lock_file)):
        yield NotNow("lock", who, "applied when the application lets go of it; `fuser -v FILE` says who holds it")


def outside_window(settings: ApplySettings, now: datetime) -> str:
    """Return that no window is open at `now`, and when the next one begins; "" if one is, or none is set."""
    local = now.astimezone(settings.timezone)
    if not settings.windows or any(window.holds(local) for window in settings.windows):
        return ""
    begins = min(window.next(local) for window in settings.windows)
    return f"outside of every window of apply.window; the next begins {begins.isoformat(timespec='minutes')}"


def locked_words(file: Path) -> str:
    """Return that somebody holds a lock on `file`, or that nobody can tell; "" if nobody does, or it is not there."""
    try:
        with file.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)  # of the other kind; they do not see each other
            except OSError:
                return f"an application holds a lock on {file}"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{file}: {error.strerror}: whether it is locked cannot be told"
    return ""
