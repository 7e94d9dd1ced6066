"""What is mounted of a deployment's files: each thing under a name that its content decides. Rules only, no I/O.

A service whose files did not change so keeps its model, and with it its container.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from margo_oci.content import canonical_json, digest_of
from margo_oci.files import ExtraFile
from margo_oci.mounting import Use


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A file or a folder that is mounted, at `path`; `files` lead from the paths in it ("" is itself) to the
    deployment's. What is `secret` lies in memory, and belongs to `owner` (`uid:gid`, "" is the agent's own user).
    """

    path: str
    files: Mapping[str, str]
    secret: bool = False
    owner: str = ""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Placement":
        """Read what `to_dict` wrote. Raises KeyError, TypeError."""
        return cls(path=raw["path"], files=dict(raw["files"]), secret=raw["secret"] is True, owner=raw["owner"])

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass
class Placing:
    """Finds the places of one deployment's files; `opened` are its secrets. `secret_name` keeps what it names secret:
    everybody sees the names, and who can guess a password must not see that it was right.
    """

    files: Mapping[str, ExtraFile]
    opened: Mapping[str, bytes]
    plain_folder: str
    secret_folder: str
    secret_name: Callable[[bytes], str]
    found: dict[Use, Placement] = field(default_factory=dict)

    def place(self, use: Use) -> str:
        """Return where what is used will be."""
        if use not in self.found:
            self.found[use] = self._placement(use)
        return self.found[use].path

    @property
    def placements(self) -> Sequence[Placement]:
        """All that is mounted, each once."""
        return list({one.path: one for one in self.found.values()}.values())

    def _placement(self, use: Use) -> Placement:
        files = {path[len(use.path) :].lstrip("/"): path for path in self.files if is_below(path, use.path)}
        secret = any(self.files[path].secret for path in files.values())
        content = canonical_json([use.owner, [[name, self._said(path)] for name, path in sorted(files.items())]])
        name = self.secret_name(content) if secret else digest_of(content).removeprefix("sha256:")
        folder = self.secret_folder if secret else self.plain_folder
        return Placement(path=f"{folder}/{name}", files=files, secret=secret, owner=use.owner)

    def _said(self, path: str) -> list[object]:
        file = self.files[path]
        return [digest_of(self.opened[path] if file.secret else file.data), file.executable]


def is_below(path: str, above: str) -> bool:
    """Tell whether `path` is `above`, or below it; everything is below ""."""
    return not above or path == above or path.startswith(f"{above}/")
