"""Whom this device trusts, with the files read that its configuration names."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig
from margo_agent.finding import ByHead, ByTag, Finder
from margo_oci.carrier import TRUST_TAG
from margo_oci.content import canonical_json, digest_of
from margo_oci.errors import FormatError, TrustError
from margo_oci.root import ROOT_LIMIT_BYTES, Root
from margo_oci.transfer import Judge, Voucher
from margo_oci.trustconfig import Sources


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """How the state that is meant is found and judged, and who judges components."""

    finder: Finder
    component_judge: Callable[[str], Judge | None] = lambda _: None


def terms_of(what: str, config: AgentConfig) -> str:
    """Return what changes when the configuration asks for more or less of a state: then it is looked at afresh.

    `what` is the digest of the policy, or of the root that was given. Of other files it is their content that counts.
    """
    every = (config.trust.sources, *(rule.sources for rule in config.trust.components))
    files = {str(file): _digest(file) for sources in every for file in sources.files}
    rules = [[list(rule.patterns), repr(rule.sources)] for rule in config.trust.components]
    return digest_of(canonical_json([config.trust.mode, what, sorted(config.scopes), config.lock, rules, files]))


def _digest(file: Path) -> str:
    try:
        return digest_of(file.read_bytes())
    except OSError:
        return ""  # who needs it says that it is gone


def load_trusted(config: AgentConfig, clock: Clock, voucher: Callable[[Sources], Voucher | None]) -> Trusted:
    """Read the keys, certificates or root that states are judged by; what components are judged by when one is met.

    Raises FormatError.
    """

    def now() -> datetime:
        return clock.now(None)

    def judge(sources: Sources, name: str) -> Judge:
        policy = sources.load(name)
        return Judge(policy, now, voucher(sources) if policy.identities else None)

    def component_judge(name: str) -> Judge | None:
        sources = config.trust.component_sources(name)
        return judge(sources, name) if sources else None

    return Trusted(
        finder=_by_head(config, clock) if config.trust.root else _by_tag(config, now, voucher),
        component_judge=component_judge,
    )


def _by_tag(config: AgentConfig, now: Callable[[], datetime], voucher: Callable[[Sources], Voucher | None]) -> ByTag:
    sources = config.trust.sources
    policy = sources.load(config.source.name, scopes=config.scopes)
    judge = Judge(policy, now, voucher(sources) if policy.identities else None)
    return ByTag(config.source, judge, terms_of(policy.digest, config))


def _by_head(config: AgentConfig, clock: Clock) -> ByHead:
    given = _read_root(config.trust.root or Path())
    return ByHead(
        source=config.source,
        scopes=config.scopes,
        given=given,
        chain=config.trust.chain or config.source.at(TRUST_TAG),
        freshness=config.trust.freshness,
        clock=clock,
        terms=terms_of(Root.from_bytes(given).content, config),
    )


def _read_root(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(ROOT_LIMIT_BYTES + 1)
        Root.from_bytes(data)
    except OSError as error:
        raise FormatError(f"trust.root: {file}: {error.strerror}") from None
    except TrustError as error:
        raise FormatError(f"trust.root: {file}: {error}") from None
    return data
