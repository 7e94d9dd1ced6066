"""Which names the agent gave to images, and to which image each was given: only these are its to take away."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from margo_oci.content import parse_json
from margo_oci.errors import FormatError
from margo_oci.store import write_whole

GIVEN_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class GivenNames:
    """`stateDir/images.json`: local name to the engine's id of the image, "" while that is on its way there."""

    path: Path

    def load(self) -> Mapping[str, str]:
        """Return all names. Raises FormatError for a damaged file: without it nobody knows whose an image is."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        raw = parse_json(data, what=str(self.path), limit_bytes=GIVEN_LIMIT_BYTES)
        if not all(isinstance(one, str) for one in raw.values()):
            raise FormatError(f"{self.path}: a map from image name to id is expected: remove it, images then stay")
        return raw

    def gave(self, name: str, image_id: str) -> None:
        """Remember, durably, that `name` was given to an image; do it before the engine is told."""
        names = self.load()
        if names.get(name) != image_id:
            self._save({**names, name: image_id})

    def took(self, name: str) -> None:
        """Forget a name that was taken away."""
        self._save({key: one for key, one in self.load().items() if key != name})

    def _save(self, names: Mapping[str, str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.path, json.dumps(names, sort_keys=True).encode())
