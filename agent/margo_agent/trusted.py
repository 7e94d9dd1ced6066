"""Whom this device trusts, with the files read that its configuration names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig
from margo_agent.finding import ByHead, ByTag, Finder
from margo_oci.carrier import TRUST_TAG
from margo_oci.content import canonical_json, digest_of
from margo_oci.errors import FormatError, TrustError
from margo_oci.judging import load_judge, read_root
from margo_oci.root import Root
from margo_oci.transfer import Judge


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


def load_trusted(config: AgentConfig, clock: Clock) -> Trusted:
    """Read the keys, certificates or root that states are judged by; what components are judged by when one is met.

    Raises FormatError.
    """

    def component_judge(name: str) -> Judge | None:
        sources = config.trust.component_sources(name)
        return load_judge(sources, name, lambda: clock.now(None)) if sources else None

    return Trusted(
        finder=_by_head(config, config.trust.root, clock) if config.trust.root else _by_tag(config, clock),
        component_judge=component_judge,
    )


def _by_tag(config: AgentConfig, clock: Clock) -> ByTag:
    judge = load_judge(config.trust.sources, config.source.name, lambda: clock.now(None), scopes=config.scopes)
    return ByTag(config.source, judge, terms_of(judge.policy.digest, config))


def _by_head(config: AgentConfig, root: Path, clock: Clock) -> ByHead:
    given = _given(root)
    return ByHead(
        source=config.source,
        scopes=config.scopes,
        given=given,
        chain=config.trust.chain or config.source.at(TRUST_TAG),
        freshness=config.trust.freshness,
        clock=clock,
        terms=terms_of(given.content, config),
    )


def _given(file: Path) -> Root:
    try:
        return read_root(file)
    except (FormatError, TrustError) as error:  # either way it is the configuration that is to be mended
        raise FormatError(f"trust.root: {error}") from None
