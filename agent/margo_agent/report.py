"""What one pass did, as values and as the JSON that `-o json` prints (docs/reference/json.md)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["applied", "unchanged", "waiting", "refused", "failed", "unreachable"]
EXIT_CODES: dict[Outcome, int] = {
    "applied": 0,
    "unchanged": 0,
    "waiting": 0,
    "unreachable": 3,
    "refused": 4,
    "failed": 5,
}


@dataclass(frozen=True)
class Brought:
    """How many images came, and what that cost."""

    images: int = 0
    requests: int = 0
    bytes_in: int = 0


@dataclass(frozen=True)
class Timing:
    """When a step began and ended, by the monotonic clock; of one deployment, or of the whole pass."""

    step: str
    begun_s: float
    ended_s: float
    deployment: str = ""


@dataclass
class DeploymentReport:
    """What was done with one deployment, and how it is now."""

    id: str
    name: str
    action: str
    state: str
    components: list[dict[str, str]] = field(default_factory=list)
    error: str = ""
    code: str = ""  # of the error
    restarts: list[str] | None = None
    bytes: int | None = None
    drift: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; what is unknown or empty is left out."""
        raw = {
            "id": self.id,
            "name": self.name,
            "action": self.action,
            "state": self.state,
            "components": self.components,
            "error": self.error,
            "code": self.code,
            "restarts": self.restarts,
            "bytes": self.bytes,
            "drift": self.drift or None,
        }
        return {key: value for key, value in raw.items() if value is not None and value != ""}


@dataclass
class Report:
    """One pass. `planned` says that nothing was touched: what stands here is what would be done."""

    reference: str
    device: str
    outcome: Outcome = "unchanged"
    planned: bool = False
    digest: str = ""
    counter: int = 0
    scope: str = ""
    requests: int = 0
    bytes_in: int = 0
    fetched: int = 0
    reused: int = 0
    images_pulled: int = 0
    reason: str = ""
    message: str = ""
    stale: str = ""
    head_version: int = 0
    head_expires: str = ""
    retry_after_s: float | None = None
    held: bool = False
    deployments: list[DeploymentReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)
    monotonic_s: Callable[[], float] = time.monotonic

    @contextmanager
    def timed(self, step: str, *, deployment: str = "") -> Iterator[None]:
        """Note how long a step of the journey took. One of a single deployment is only traced, and counts for none."""
        start_s = self.monotonic_s()
        try:
            yield
        finally:
            end_s = self.monotonic_s()
            self.timings.append(Timing(step, start_s, end_s, deployment))
            if not deployment:
                self.seconds[step] = round(self.seconds.get(step, 0.0) + end_s - start_s, 3)

    def brought(self, images: Brought) -> None:
        """Count images that came."""
        self.images_pulled += images.images
        self.requests += images.requests
        self.bytes_in += images.bytes_in

    @property
    def exit_code(self) -> int:
        """0 done, 3 unreachable, 4 refused, 5 failed."""
        return EXIT_CODES[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        raw: dict[str, Any] = {
            "outcome": self.outcome,
            "planned": self.planned or None,
            "device": self.device or None,
            "reference": self.reference or None,
            "digest": self.digest or None,
            "counter": self.counter or None,
            "scope": self.scope or None,
            "requests": self.requests,
            "bytesIn": self.bytes_in,
            "layers": {"fetched": self.fetched, "reused": self.reused},
            "imagesPulled": self.images_pulled,
            "reason": self.reason or None,
            "message": self.message or None,
            "stale": self.stale or None,
            "head": {"version": self.head_version, "expires": self.head_expires} if self.head_version else None,
            "retryAfterSeconds": self.retry_after_s,
            "held": self.held or None,
            "deployments": [one.to_dict() for one in self.deployments],
            "seconds": self.seconds,
        }
        return {key: value for key, value in raw.items() if value is not None}
