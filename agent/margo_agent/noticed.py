"""What the last look at the engine found: the settings of containers when they were new, and what stands as drift."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from margo_oci.content import parse_json
from margo_oci.errors import FormatError
from margo_oci.store import write_whole

NOTICED_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """Kept beside the record; losing it costs only what was changed by hand in containers before.

    `projects` and `names` (of networks, images and containers) lead to a deployment they are of, `found` to what of it
    is not as it should be. `stopped` are containers that somebody stopped, and that still are.
    """

    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    projects: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stopped: Sequence[str] = ()


@dataclass(frozen=True)
class NoticedFile:
    """Where that is kept."""

    path: Path

    def load(self) -> Noticed:
        """Return what was noticed; of a damaged file, or none, nothing."""
        try:
            raw = parse_json(self.path.read_bytes(), what=str(self.path), limit_bytes=NOTICED_LIMIT_BYTES)
            return Noticed(
                settings={str(key): _texts(one) for key, one in raw["settings"].items()},
                projects=_texts(raw["projects"]),
                names=_texts(raw["names"]),
                found={str(key): [str(words) for words in one] for key, one in raw["found"].items()},
                stopped=[str(one) for one in raw["stopped"]],
            )
        except (OSError, FormatError, KeyError, TypeError, AttributeError):
            return Noticed()

    def save(self, noticed: Noticed) -> None:
        """Keep it, if it is another than before."""
        if noticed != self.load():
            write_whole(self.path, json.dumps(asdict(noticed), sort_keys=True).encode())


def _texts(raw: Mapping[str, object]) -> Mapping[str, str]:
    return {str(key): str(value) for key, value in raw.items()}
