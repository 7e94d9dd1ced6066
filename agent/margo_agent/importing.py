"""A state from a bundle instead of a registry: the same pass, with the same checks, and nobody else is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from margo_agent.config import AgentConfig
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_oci.content import MANIFEST_LIMIT_BYTES
from margo_oci.desired_state import SCOPE, DesiredState, parse_state
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
LOOK_LIMIT_BYTES = 64 * 1024 * 1024  # of manifests, before any signature was checked
DoPass = Callable[["Parts", Report], Report]


def import_bundle(
    config: AgentConfig,
    bundle: Path,
    report: Report,
    parts: Callable[[AgentConfig, Callable[[], Registry]], "Parts"],
    work: DoPass,
    known: Record | None = None,
) -> Report:
    """Do a pass with a bundle in place of all registries. Raises FormatError if it has nothing for this device.

    With what is `known`, a bundle is left alone that says itself to be older: it is no attack, it was left lying there.
    """
    transport = LayoutTransport(Offer(open_layout(bundle)))
    source = source_in(transport.offer, config.source, config.scopes)
    report.reference = f"{source} in {bundle}"
    if known and (words := older(_state(transport.offer, source), known)):
        report.message = words
        return report
    record_file = RecordFile(config.state_dir / "record.json")
    before = record_file.load()
    work(parts(replace(config, source=source), transport.registry), report)
    if transport.missing and report.outcome not in ("applied", "unchanged", "refused"):
        report.message = missing_words(bundle, sorted(transport.missing))
        record_file.save(unaccepted(record_file.load(), before))
    return report


def unaccepted(now: Record, before: Record) -> Record:
    """Let a state that is not whole here not count as accepted: the earlier bundle, which has the rest, is older.

    Unless something of it was begun. A newer root and the time that were learned stay, and with a newer root what was
    accepted by it, too: what an old key signed does not come back (format 13.7).
    """
    begun = (now.installed, now.failed, now.unsure, now.before) != (
        before.installed, before.failed, before.unsure, before.before,
    )  # fmt: skip
    if begun or (now.root and now.root.data) != (before.root and before.root.data):
        return now
    return replace(
        now, accepted=before.accepted, current=before.current, settled=before.settled, waiting=before.waiting
    )


def source_in(offer: Offer, source: Reference, scopes: Sequence[str]) -> Reference:
    """Return where in a bundle this device's state is: under the name of its source, else by what it says it is for.

    It is a hint: whether the state is for this device is checked once its signature held (6.7).
    """
    if offer.find(source):
        return source
    states_of = _states(offer)
    scope_of = {
        one: states_of[digest].scope for one in offer.references if (digest := _digest(offer, one)) in states_of
    }
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


def _states(offer: Offer) -> Mapping[str, DesiredState]:
    """Return the states that have a name, by digest: each is looked at once. Raises FormatError for too many."""
    sizes: dict[str, int] = {}
    named: dict[str, Reference] = {}
    for one in offer.references:
        if (digest := _digest(offer, one)) not in named:
            size, named[digest] = offer.layout.size_bytes(digest) or 0, one
            sizes[digest] = size if size <= MANIFEST_LIMIT_BYTES else 0
    if (total := sum(sizes.values())) > LOOK_LIMIT_BYTES:
        raise FormatError(
            f"{offer.layout.where}: {total} bytes of manifests have a name, at most {LOOK_LIMIT_BYTES} are searched: "
            "make a bundle with fewer states, or name one as `source`"
        )
    return {digest: state for digest, size in sizes.items() if size and (state := _state(offer, named[digest]))}


def _digest(offer: Offer, reference: Reference) -> str:
    """Return what a tag in a bundle leads to."""
    found = offer.find(reference)
    return found.digest if found else ""


def _state(offer: Offer, reference: Reference) -> DesiredState | None:
    """Return a state, as it says itself: nothing of it is verified yet. None for anything else."""
    try:
        data = offer.layout.small(_digest(offer, reference), limit_bytes=MANIFEST_LIMIT_BYTES)
        if data is None:
            return None
        manifest = Manifest.from_bytes(data, what=str(reference))
        return parse_state(manifest, what=str(reference)) if SCOPE in manifest.annotations else None
    except (FormatError, TrustError):
        return None


def older(state: DesiredState | None, known: Record) -> str:
    """Say that a state is no newer than what was accepted for its scope; "" if it may be, or cannot be told."""
    last = known.accepted.get(state.scope) if state else None
    if state is None or last is None or state.counter > last.counter:
        return ""
    if state.counter < last.counter:
        return f"counter {state.counter} is older than {last.counter}, which was accepted"
    return f"counter {state.counter} is what is installed" if known.is_done(state.manifest.digest, last.counter) else ""


def missing_words(bundle: Path, missing: Sequence[str]) -> str:
    """Say what a bundle lacks."""
    more = f" and {len(missing) - SHOWN_COUNT} more" if len(missing) > SHOWN_COUNT else ""
    return (
        f"{bundle}: {len(missing)} that are neither in this bundle nor on this device: "
        f"{', '.join(missing[:SHOWN_COUNT])}{more}: it was made with --since: import the earlier bundle first, "
        "or make one without"
    )
