"""Notary's trust policy: `trustpolicy.json`, and which authorities count for a repository by it.

Source: Notary trust-store-trust-policy specification, version 1.0. What its levels `audit` and `skip` let through
is not verified, so here it does not count: asking for authorities under one of them is an error.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from margo_oci.content import parse_json
from margo_oci.errors import FormatError
from margo_oci.reference import HOST, REPOSITORY
from margo_oci.subjects import Subject, parse_subject

POLICY_LIMIT_BYTES = 1024 * 1024
IDENTITY_LIMIT = 256  # each is held against each
ANY = "*"
CHECKS = ("integrity", "authenticity", "authenticTimestamp", "expiry", "revocation")
LEVELS: Mapping[str, Mapping[str, str]] = {
    "strict": dict.fromkeys(CHECKS, "enforce"),
    "permissive": dict.fromkeys(CHECKS, "log") | {"integrity": "enforce", "authenticity": "enforce"},
    "audit": dict.fromkeys(CHECKS, "log") | {"integrity": "enforce"},
    "skip": dict.fromkeys(CHECKS, "skip"),
}
SCHEMES = {"ca": "notary.x509", "signingAuthority": "notary.x509.signingAuthority"}  # a store's type, its scheme
_STORE = re.compile(r"(ca|signingAuthority|tsa):([a-zA-Z0-9_.-]+)")
_IDENTITY = "x509.subject:"


@dataclass(frozen=True)
class Statement:
    """One of the policies in the document, as it stands there."""

    name: str
    scopes: Sequence[str]
    level: str
    actions: Mapping[str, str]
    stores: Sequence[str]
    identities: Sequence[Subject] | None  # None: anybody whom the stores' authorities vouch for
    stamp_always: bool = True


@dataclass(frozen=True)
class Authorities:
    """Who counts for a repository: whose chains, which subjects, and how strictly times are taken."""

    policy: str
    roots: Mapping[str, frozenset[bytes]] = field(repr=False)  # by signing scheme, certificates in DER
    identities: Sequence[Subject] | None
    actions: Mapping[str, str]

    def knows(self, scheme: str, chain: Sequence[bytes]) -> bool:
        """Tell whether one of the chain's certificates (DER) stands in a trust store for this scheme."""
        return not self.roots.get(scheme, frozenset()).isdisjoint(chain)

    def accepts(self, subject: Subject) -> bool:
        """Tell whether a signer by this name is one of those meant."""
        return self.identities is None or any(identity.covers(subject) for identity in self.identities)


@dataclass(frozen=True)
class TrustPolicy:
    """A document with one statement, or several, about which repositories' signatures count."""

    statements: Sequence[Statement]

    @property
    def stores(self) -> Sequence[str]:
        """The trust stores it names, such as `ca:fleet`: what is to be read before `authorities` is asked."""
        return sorted({store for each in self.statements for store in each.stores if not store.startswith("tsa:")})

    def statement_for(self, repository: str) -> Statement:
        """Return what applies to `host/repository`: its own statement before the one for all. Raises FormatError."""
        for scope in (repository, ANY):
            for statement in self.statements:
                if scope in statement.scopes:
                    return statement
        raise FormatError(f"trust policy: no statement has the registry scope {repository} (or {ANY!r})")

    def authorities(self, repository: str, stores: Mapping[str, Sequence[bytes]]) -> Authorities:
        """Return who counts for `host/repository`; `stores` has the certificates (DER) of each named store.

        Raises FormatError, also for a statement under which nothing counts as verified.
        """
        statement = self.statement_for(repository)
        at = f"trust policy {statement.name!r}"
        if statement.actions["authenticity"] != "enforce":
            raise FormatError(
                f"{at}: level {statement.level} does not enforce who signed, and so nothing counts as verified "
                "by it: use strict or permissive"
            )
        if statement.stamp_always and any(store.startswith("tsa:") for store in statement.stores):
            raise FormatError(
                f"{at}: trust store {next(s for s in statement.stores if s.startswith('tsa:'))}: timestamps are not "
                'looked at here: leave it out, or set "verifyTimestamp": "afterCertExpiry"'
            )
        roots: dict[str, frozenset[bytes]] = {}
        for store in statement.stores:
            kind = store.partition(":")[0]
            if kind in SCHEMES:
                if not stores.get(store):
                    raise FormatError(f"{at}: trust store {store}: no certificates are there")
                roots[SCHEMES[kind]] = roots.get(SCHEMES[kind], frozenset()) | frozenset(stores[store])
        return Authorities(statement.name, roots, statement.identities, statement.actions)


def parse_trust_policy(data: bytes, *, what: str = "trustpolicy.json") -> TrustPolicy:
    """Parse a trust policy document. Raises FormatError with every fault in it."""
    raw = parse_json(data, what=what, limit_bytes=POLICY_LIMIT_BYTES)
    _only(raw, {"version", "trustPolicies"}, what)
    if raw.get("version") != "1.0":
        raise FormatError(f"{what}: version {raw.get('version')!r:.80}: '1.0' is expected")
    entries = raw.get("trustPolicies")
    if not isinstance(entries, list) or not entries:
        raise FormatError(f"{what}: trustPolicies: a list with at least one policy is expected")
    statements: list[Statement] = []
    faults: list[str] = []
    for number, entry in enumerate(entries):
        try:
            statements.append(_statement(entry, f"{what}: trustPolicies[{number}]"))
        except FormatError as error:
            faults += error.faults
    faults += _repeated([each.name for each in statements], f"{what}: name")
    faults += _repeated([scope for each in statements for scope in each.scopes], f"{what}: registry scope")
    if faults:
        raise FormatError(*faults)
    return TrustPolicy(tuple(statements))


def _statement(raw: object, at: str) -> Statement:
    if not isinstance(raw, dict):
        raise FormatError(f"{at}: an object is expected")
    _only(raw, {"name", "registryScopes", "signatureVerification", "trustStores", "trustedIdentities"}, at)
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        raise FormatError(f"{at}: name is missing")
    at = f"{at} {name!r:.80}"
    level, actions, stamp_always = _verification(raw.get("signatureVerification"), f"{at}: signatureVerification")
    stores = _texts(raw.get("trustStores", []), f"{at}: trustStores")
    identities = _texts(raw.get("trustedIdentities", []), f"{at}: trustedIdentities")
    if level == "skip" and (stores or identities):
        raise FormatError(f"{at}: level skip goes with no trustStores and no trustedIdentities")
    if level != "skip" and not (stores and identities):
        raise FormatError(f"{at}: trustStores and trustedIdentities are expected")
    return Statement(
        name,
        _scopes(raw.get("registryScopes"), f"{at}: registryScopes"),
        level,
        actions,
        [_store(store, f"{at}: trustStores") for store in stores],
        _identities(identities, f"{at}: trustedIdentities"),
        stamp_always,
    )


def _verification(raw: object, at: str) -> tuple[str, Mapping[str, str], bool]:
    if not isinstance(raw, dict):
        raise FormatError(f"{at}: an object with a level is expected")
    _only(raw, {"level", "override", "verifyTimestamp"}, at)
    level, override, stamp = raw.get("level"), raw.get("override", {}), raw.get("verifyTimestamp", "always")
    if not isinstance(level, str) or level not in LEVELS:
        raise FormatError(f"{at}: level {level!r:.80}: one of {', '.join(LEVELS)} is expected")
    if not isinstance(override, dict) or (override and level == "skip"):
        raise FormatError(f"{at}: override: an object is expected, and none with level skip")
    if stamp not in ("always", "afterCertExpiry"):
        raise FormatError(f"{at}: verifyTimestamp {stamp!r:.80}: always or afterCertExpiry is expected")
    for check, action in override.items():
        if check not in CHECKS or check == "integrity":
            raise FormatError(f"{at}: override: {check!r:.80}: one of {', '.join(CHECKS[1:])} is expected")
        if action not in ("enforce", "log", "skip") or (action == "skip" and check != "revocation"):
            raise FormatError(f"{at}: override: {check}: {action!r:.80}: enforce, log (revocation: or skip)")
    return level, {**LEVELS[level], **override}, stamp == "always"


def _scopes(raw: object, at: str) -> Sequence[str]:
    scopes = _texts(raw, at)
    if not scopes or (ANY in scopes and len(scopes) > 1):
        raise FormatError(f"{at}: repositories are expected, or {ANY!r} alone")
    for scope in scopes:
        host, _, repository = scope.partition("/")
        if scope != ANY and not (HOST.fullmatch(host) and REPOSITORY.fullmatch(repository)):
            raise FormatError(f"{at}: {scope!r:.80}: a whole repository is expected (host/repository)")
    return scopes


def _store(text: str, at: str) -> str:
    if not _STORE.fullmatch(text):
        raise FormatError(f"{at}: {text!r:.80}: ca:NAME, signingAuthority:NAME or tsa:NAME is expected")
    return text


def _identities(texts: Sequence[str], at: str) -> Sequence[Subject] | None:
    if ANY in texts:
        if len(texts) > 1:
            raise FormatError(f"{at}: {ANY!r} stands alone or not at all")
        return None
    if len(texts) > IDENTITY_LIMIT:
        raise FormatError(f"{at}: {len(texts)} identities, at most {IDENTITY_LIMIT} are read")
    subjects: list[Subject] = []
    for text in texts:
        if not text.startswith(_IDENTITY):
            raise FormatError(f"{at}: {text!r:.80}: {_IDENTITY} C=…, ST=…, O=… is expected, or {ANY!r}")
        subject = parse_subject(text.removeprefix(_IDENTITY), at=f"{at}: {text!r:.80}")
        if any(subject.covers(other) or other.covers(subject) for other in subjects):
            raise FormatError(f"{at}: {text!r:.80}: another of the identities says the same")
        subjects.append(subject)
    return tuple(subjects)


def _texts(raw: object, at: str) -> Sequence[str]:
    if not isinstance(raw, list) or not all(isinstance(item, str) and item for item in raw):
        raise FormatError(f"{at}: a list of text is expected")
    return raw


def _repeated(values: Sequence[str], at: str) -> list[str]:
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    return [f"{at} {value!r:.80} stands twice" for value in twice]


def _only(raw: Mapping[str, Any], known: set[str], at: str) -> None:
    if unknown := sorted(set(raw) - known):
        raise FormatError(f"{at}: unknown field {unknown[0]!r:.80}")
