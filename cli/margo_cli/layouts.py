"""How an image layout, or one thing in it, is named on the command line, and what is found there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from margo_oci.errors import FormatError, NotFound, said
from margo_oci.layout import NAME
from margo_oci.layout_registry import LayoutTransport
from margo_oci.offering import Offer
from margo_oci.reference import TAG, Reference, parse_reference

SHOWN_COUNT = 5


def layout_and_name(text: str) -> tuple[Path, str]:
    """Take DIR|TAR[:REF] apart: what is there as a whole is a path. Raises FormatError if nothing is there."""
    if Path(text).exists():
        return Path(text), ""
    for at, char in enumerate(text):
        if char == ":" and at and Path(text[:at]).exists():
            return Path(text[:at]), text[at + 1 :]
    raise FormatError(f"{text}: there is no such layout")


@dataclass(frozen=True)
class CopySource:
    """What is copied: `text` as it was typed, and its layout, of which a `name` is one entry."""

    text: str
    layout: Path | None = None
    name: str = ""

    @classmethod
    def of(cls, text: str) -> "CopySource":
        """Take REFERENCE, oci:DIR[:REF] or TAR[:REF] apart. Raises FormatError if there is no such layout."""
        if text.startswith("oci:") and not text.startswith("oci://"):
            return cls(text, *layout_and_name(text.removeprefix("oci:")))
        if text.lower().endswith(".tar"):
            return cls(text, Path(text))
        with suppress(FormatError):
            path, name = layout_and_name(text)
            if path.suffix.lower() == ".tar":  # a folder may be called as the host of a registry is
                return cls(text, path, name)
        return cls(text)

    @property
    def is_whole_layout(self) -> bool:
        """Whether everything in a layout is copied."""
        return self.layout is not None and not self.name

    def entries(self, offer: Offer, to: Reference | None) -> Sequence[Reference]:
        """Return what of a layout is copied: one entry, or all that have a name. Raises FormatError."""
        if self.name:
            reference = self._entry(to)
            if offer.find(reference) is None:
                raise FormatError(f"{self.text}: {self.layout} has nothing under this name; it has {_names(offer)}")
            return [reference]
        offer.check_unambiguous()  # below one host each name has one place
        if not offer.all_references:
            raise FormatError(
                f"{self.text}: nothing in it says where it belongs: copy one thing by its name, as {self.text}:TAG; "
                f"it has {_names(offer)}"
            )
        return offer.all_references

    def _entry(self, to: Reference | None) -> Reference:
        if to and TAG.fullmatch(self.name):  # a mere tag stands in every repository
            return Reference(to.host, to.repository, self.name)
        return parse_reference(self.name)

    @contextmanager
    def lacking(self, transport: LayoutTransport) -> Iterator[None]:
        """Say of what is not in the layout that it is not there: nobody else was asked. Raises FormatError."""
        try:
            yield
        except NotFound:
            if not transport.missing:
                raise
            raise FormatError(
                f"{self.layout}: {len(transport.missing)} that something in it names are not in it: "
                f"{_some(sorted(transport.missing))}: it was made with --since or --platform; copy out of a whole one"
            ) from None


def _names(offer: Offer) -> str:
    names = {name for one in offer.layout.entries if (name := one.annotations.get(NAME, ""))}
    return _some(sorted(map(said, names))) or "no names"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_COUNT} more" if len(names) > SHOWN_COUNT else ""
    return ", ".join(names[:SHOWN_COUNT]) + more
