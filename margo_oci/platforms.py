"""Which images run on a machine, by what image indexes call its architecture (image-spec v1.1, image-index.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from margo_oci.errors import said

# What `uname -m` and engines say, to what image indexes say (image-spec v1.1, image-index.md, platform; Go's names).
_MACHINES = {
    "x86_64": ("amd64", "v1"), "amd64": ("amd64", "v1"), "aarch64": ("arm64", "v8"), "arm64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"), "arm": ("arm", "v7"), "armv6l": ("arm", "v6"), "i686": ("386", ""),
}  # fmt: skip
_ONLY = {("amd64", "v1"), ("arm64", "v8")}  # nobody writes these


@dataclass(frozen=True)
class Platform:
    """What a device can run: always Linux, one architecture, and of its variants those up to its own."""

    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        known = (self.architecture, self.variant) in _ONLY
        return "/".join(filter(None, ("linux", self.architecture, "" if known else self.variant)))

    @classmethod
    def of(cls, machine: str) -> "Platform":
        """Return the platform of a machine, as `uname -m` or an engine names it."""
        return cls(*_MACHINES.get(machine, (machine, "")))

    def rank(self, raw: object) -> str | None:
        """Return how well an image for `raw` (image-index.md, platform) fits, higher is better; None: not at all."""
        if not isinstance(raw, dict) or (raw.get("os"), raw.get("architecture")) != ("linux", self.architecture):
            return None
        variant = str(raw.get("variant") or self._usual)
        return variant if variant <= (self.variant or self._usual) else None

    def runs_one_of(self, offered: Iterable[object]) -> bool:
        """Tell whether an image for these platforms has one that runs here."""
        return any(self.rank(raw) is not None for raw in offered)

    @property
    def _usual(self) -> str:
        return _MACHINES.get(self.architecture, ("", ""))[1]


def worded_platforms(offered: Iterable[object]) -> str:
    """Return platforms as people write them: linux/amd64, linux/arm/v7. What belongs to no machine is left out."""
    names = []
    for raw in offered:
        one = raw if isinstance(raw, Mapping) else {}
        parts = [str(one.get(key) or "") for key in ("os", "architecture", "variant")]
        if parts[:2] != ["unknown", "unknown"]:  # attestations that a builder lists beside its images
            names.append("/".join(filter(None, parts)) or "(it does not say)")
    return said(", ".join(dict.fromkeys(names))) or "none"
