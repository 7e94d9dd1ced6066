"""A state from a bundle instead of a registry: the same pass, with the same checks, and nobody else is asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from margo_agent.config import AgentConfig
from margo_agent.report import Report
from margo_oci.content import MANIFEST_LIMIT_BYTES
from margo_oci.desired_state import SCOPE, parse_state
from margo_oci.errors import FormatError, TrustError
from margo_oci.layout import open_layout
from margo_oci.layout_registry import LayoutTransport
from margo_oci.manifest import Manifest
from margo_oci.offering import Offer
from margo_oci.reference import Reference
from margo_oci.registry import Registry

if TYPE_CHECKING:
    from margo_agent.building import Parts

SHOWN_COUNT = 20
DoPass = Callable[["Parts", Report], Report]


def import_bundle(
    config: AgentConfig,
    bundle: Path,
    report: Report,
    parts: Callable[[AgentConfig, Callable[[], Registry]], "Parts"],
    work: DoPass,
) -> Report:
    """Do a pass with a bundle in place of all registries. Raises FormatError if it has nothing for this device."""
    transport = LayoutTransport(Offer(open_layout(bundle)))
    source = source_in(transport.offer, config.source, config.scopes)
    report.reference = f"{source} in {bundle}"
    work(parts(replace(config, source=source), transport.registry), report)
    if transport.missing and report.outcome not in ("applied", "unchanged", "refused"):
        report.message = missing_words(bundle, sorted(transport.missing), report.message)
    return report


def source_in(offer: Offer, source: Reference, scopes: Sequence[str]) -> Reference:
    """Return where in a bundle this device's state is: under the name of its source, else by what it says it is for.

    It is a hint: whether the state is for this device is checked once its signature held (6.7).
    """
    if offer.find(source):
        return source
    scope_of = {reference: scope for reference in offer.references if (scope := _scope(offer, reference))}
    # Of the names of one state the shortest is taken: the others keep it reachable.
    ours = sorted((one for one in scope_of if scope_of[one] in scopes), key=lambda one: (len(one.tag), str(one)))
    states = {_digest(offer, one): one for one in ours[::-1]}
    where, names = offer.layout.where, ", ".join(sorted(map(str, states.values())))
    if len(states) > 1:
        raise FormatError(f"{where}: several states are for this device ({names}): name one as `source`")
    if not states:
        raise FormatError(
            f"{where}: nothing for this device: neither {source}, nor a state for {', '.join(scopes)}; it has states "
            f"for {', '.join(sorted(set(scope_of.values()))) or 'nobody'}"
        )
    return next(iter(states.values()))


def _digest(offer: Offer, reference: Reference) -> str:
    """Return what a tag in a bundle leads to."""
    found = offer.find(reference)
    return found.digest if found else ""


def _scope(offer: Offer, reference: Reference) -> str:
    """Return the scope that a state says it is for; "" for anything else."""
    try:
        data = offer.layout.small(_digest(offer, reference), limit_bytes=MANIFEST_LIMIT_BYTES)
        if data is None:
            return ""
        manifest = Manifest.from_bytes(data, what=str(reference))
        return parse_state(manifest, what=str(reference)).scope if SCOPE in manifest.annotations else ""
    except (FormatError, TrustError):
        return ""


def missing_words(bundle: Path, missing: Sequence[str], message: str) -> str:
    """Say what a bundle lacks."""
    more = f" and {len(missing) - SHOWN_COUNT} more" if len(missing) > SHOWN_COUNT else ""
    return (
        f"{bundle}: {len(missing)} that are neither in this bundle nor on this device: "
        f"{', '.join(missing[:SHOWN_COUNT])}{more}: it was made with --since: import the earlier bundle first, "
        f"or make one without{f' ({message})' if message else ''}"
    )
