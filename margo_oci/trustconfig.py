"""Whom to trust, as people write it down: the `trust` part of an agent's configuration, or a file of its own.

trust:
  keys: [fleet.pub]                     # P-256 public keys of those who sign releases
  threshold: 1                          # how many of them must have signed
  notary: notary                        # a folder as notation keeps it: trustpolicy.json and truststore/
  identities: [{subject: ci@example.org, issuer: "https://issuer.example"}]
  trustedRoot: trusted_root.json        # what keyless signatures are checked with
  components:                           # signatures of vendors on their components; the first match counts
    - repositories: ["registry.example/vendor/*"]
      keys: [vendor.pub]
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from margo_oci.errors import FormatError
from margo_oci.freshness import Freshness
from margo_oci.identity import Identity
from margo_oci.reference import Reference, parse_reference
from margo_oci.yamldoc import Document, parse_yaml
from margo_oci.yamldoc import Path as FieldPath

if TYPE_CHECKING:
    from margo_oci.keys import PublicKey
    from margo_oci.trust import Policy

_PATTERN = re.compile(r"\*|[^/\s@]+/[^/\s@:][^\s@:]*")
_SOURCES = ("keys", "threshold", "notary", "identities", "trustedRoot")
_HEAD = ("mode", "root", "chain", "freshness")
Mode = Literal["release", "head+release"]
Fault = Callable[[FieldPath, str], None]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a policy's keys, certificates and identities are; files are read by `load`."""

    keys: Sequence[Path] = ()
    threshold: int = 1
    notary: Path | None = None
    identities: Sequence[Identity] = ()
    trusted_root: Path | None = None

    @property
    def files(self) -> Sequence[Path]:
        """The files that decide who counts, as far as they are there."""
        folder = sorted(file for file in self.notary.rglob("*") if file.is_file()) if self.notary else []
        return (*self.keys, *folder, *([self.trusted_root] if self.trusted_root else []))

    def load(self, name: str, *, scopes: Sequence[str] = ()) -> "Policy":
        """Return the policy for the repository `name` (`host/repository`). Raises FormatError."""
        # Imported when a state is to be judged: a device that only looks needs no cryptography.
        from margo_oci.trust import Policy
        from margo_oci.truststore import read_trust_policy, read_trust_stores

        authorities = None
        if self.notary:
            document = read_trust_policy(self.notary)
            authorities = document.authorities(name, read_trust_stores(self.notary, document.stores))
        return Policy(
            tuple(load_public_key(file) for file in self.keys), scopes, self.threshold, authorities, self.identities
        )


@dataclass(frozen=True)
class ComponentRule:
    """Whose signature a component must have, if its `host/repository` fits one of the patterns."""

    patterns: Sequence[str]
    sources: Sources

    def fits(self, name: str) -> bool:
        """Tell whether this rule is about the repository `name`; `*` stands for anything, slashes too."""
        return any(_matches(pattern, name) for pattern in self.patterns)


@dataclass(frozen=True, kw_only=True)
class TrustConfig:
    """What is trusted: for states `sources`, or with heads the keys of `root`; for components the first rule that fits.

    `chain` is where newer roots are looked for; "" is the tag `trust` beside the state.
    """

    mode: Mode = "release"
    sources: Sources = Sources()
    components: Sequence[ComponentRule] = ()
    root: Path | None = None
    chain: Reference | None = None
    freshness: Freshness = "enforce"
    scopes: Sequence[str] = ()  # of the device, where the whole of its configuration was read

    def component_sources(self, name: str) -> Sources | None:
        """Return whose signature the component in the repository `name` needs; None if nobody's."""
        return next((rule.sources for rule in self.components if rule.fits(name)), None)


def _matches(pattern: str, name: str) -> bool:
    """Only `*` is special; case counts for nothing, as in host names."""
    wanted = ".*".join(re.escape(part) for part in pattern.lower().split("*"))
    return re.fullmatch(wanted, name.lower(), re.DOTALL) is not None


def load_public_key(file: Path) -> "PublicKey":
    """Read a public key. Raises FormatError."""
    from margo_oci.keys import KEY_LIMIT_BYTES, PublicKey

    try:
        with file.open("rb") as stream:
            return PublicKey.from_pem(stream.read(KEY_LIMIT_BYTES), name=file.name)
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}: the public key of a signer is expected there") from None


def load_trust_config(file: Path) -> TrustConfig:
    """Read a file that has the part `trust`, such as an agent's configuration. Raises FormatError with every fault."""
    try:
        document = parse_yaml(file.read_bytes(), what=str(file))
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror}") from None
    faults: list[str] = []

    def fault(path: FieldPath, message: str) -> None:
        faults.append(f"{file}:{document.line(path)}: {'.'.join(map(str, path)) or 'document'}: {message}")

    config = parse_trust(document, file.absolute().parent, fault)
    scopes = document.find(("scopes",))
    if scopes is not None and not (isinstance(scopes, list) and all(isinstance(one, str) for one in scopes)):
        fault(("scopes",), "a list of text is expected")
    if faults:
        raise FormatError(*faults)
    return replace(config, scopes=tuple(scopes or ()))


def parse_trust(document: Document, folder: Path, fault: Fault) -> TrustConfig:
    """Read the part `trust` of a document; paths are relative to `folder`. What is wrong goes to `fault`."""
    return _Reader(document, folder, fault).config()


@dataclass(frozen=True)
class _Reader:
    document: Document
    folder: Path
    fault: Fault

    def config(self) -> TrustConfig:
        at: FieldPath = ("trust",)
        raw = self.map(at)
        if raw is None:
            return TrustConfig()
        mode = self.choice((*at, "mode"), ("release", "head+release"), "release")
        self.known(at, raw, (*_SOURCES, *_HEAD, "components"))
        if mode == "release":
            for key in ("root", "chain", "freshness"):
                if key in raw:
                    self.fault((*at, key), "goes with mode: head+release")
            sources = self.sources(at)
        else:
            for key in _SOURCES:
                if key in raw and key != "trustedRoot":
                    self.fault((*at, key), "with mode: head+release the root names the keys")
            sources = Sources()
        return TrustConfig(
            mode="head+release" if mode == "head+release" else "release",
            sources=sources,
            components=self.components((*at, "components")),
            root=self.path((*at, "root"), required=mode == "head+release"),
            chain=self.reference((*at, "chain")),
            freshness=self.freshness((*at, "freshness")),
        )

    def freshness(self, at: FieldPath) -> Freshness:
        return "warn" if self.choice(at, ("enforce", "warn"), "enforce") == "warn" else "enforce"

    def components(self, at: FieldPath) -> Sequence[ComponentRule]:
        raw = self.document.find(at)
        if raw is not None and not isinstance(raw, list):
            self.fault(at, "a list is expected")
        return tuple(self.component((*at, i)) for i, _ in enumerate(raw if isinstance(raw, list) else ()))

    def component(self, at: FieldPath) -> ComponentRule:
        raw = self.map(at)
        if raw is None:
            return ComponentRule((), Sources())
        self.known(at, raw, (*_SOURCES, "repositories"))
        patterns = self.texts((*at, "repositories"))
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                self.fault(
                    (*at, "repositories"), f"{pattern!r:.80}: host/repository, without oci:// and tag, is expected"
                )
        if not patterns:
            self.fault((*at, "repositories"), 'a list of patterns is expected, as in ["registry.example/vendor/*"]')
        return ComponentRule(patterns, self.sources(at))

    def sources(self, at: FieldPath) -> Sources:
        sources = Sources(
            keys=[self.folder / name for name in self.texts((*at, "keys"))],
            threshold=self.threshold((*at, "threshold")),
            notary=self.path((*at, "notary")),
            identities=self.identities((*at, "identities")),
            trusted_root=self.path((*at, "trustedRoot")),
        )
        if not (sources.keys or sources.notary or sources.identities):
            self.fault((*at, "keys"), "a list with at least one entry is expected, as in [fleet.pub]")
        if sources.identities and not sources.trusted_root:
            self.fault((*at, "trustedRoot"), "is missing: identities are checked with it")
        return sources

    def identities(self, at: FieldPath) -> Sequence[Identity]:
        raw = self.document.find(at)
        if raw is None:
            return ()
        identities = [
            Identity(subject, issuer)
            for one in (raw if isinstance(raw, list) else ())
            if isinstance(one, dict) and len(one) == 2
            for subject, issuer in [(one.get("subject"), one.get("issuer"))]
            if isinstance(subject, str) and isinstance(issuer, str) and subject and issuer
        ]
        if not isinstance(raw, list) or len(identities) != len(raw):
            self.fault(at, "a list of {subject: …, issuer: …} is expected")
        return tuple(identities)

    def threshold(self, at: FieldPath) -> int:
        value = self.document.find(at)
        if value is None:
            return 1
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
            self.fault(at, f"a whole number from 1 to 64 is expected, got {value!r:.80}")
            return 1
        return value

    def reference(self, at: FieldPath) -> Reference | None:
        text = self.text(at)
        try:
            return parse_reference(text, default_tag="trust") if text else None
        except FormatError as error:
            self.fault(at, str(error))
            return None

    def path(self, at: FieldPath, *, required: bool = False) -> Path | None:
        text = self.text(at)
        if required and not text:
            self.fault(at, "is missing")
        return self.folder / text if text else None

    def choice(self, at: FieldPath, choices: Sequence[str], default: str) -> str:
        text = self.text(at)
        if text and text not in choices:
            self.fault(at, f"one of {', '.join(choices)} is expected, got {text!r:.80}")
        return text or default

    def text(self, at: FieldPath) -> str:
        value = self.document.find(at)
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            self.fault(at, f"text is expected, got {value!r:.80}")
        return value if isinstance(value, str) else ""

    def texts(self, at: FieldPath) -> Sequence[str]:
        value = self.document.find(at)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(
            isinstance(item, str) and item and "\0" not in item for item in value
        ):
            self.fault(at, "a list of text is expected")
            return ()
        return value

    def map(self, at: FieldPath) -> Mapping[str, Any] | None:
        value = self.document.find(at)
        if isinstance(value, dict):
            return value
        self.fault(at, "is missing" if value is None else "a map is expected")
        return None

    def known(self, at: FieldPath, raw: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in raw:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
                self.fault(
                    (*at, key), f"unknown: {f'did you mean {near[0]}?' if near else 'one of ' + ', '.join(keys)}"
                )
