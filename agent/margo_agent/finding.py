"""Finding the state that is meant: by the tag alone, or by the signed head beside it. Verified, or refused.

What a finder has accepted it saves before it returns: counter, head and root are durable before anything is fetched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from margo_agent.clock import Clock
from margo_agent.pins import check_pin
from margo_agent.record import Accepted, GivenRoot, Record, SeenCarrier
from margo_agent.report import Report
from margo_agent.standing import ROOT_LOOK_EVERY, check_head, last_head, look_for_roots_is_due
from margo_oci.content import Descriptor
from margo_oci.desired_state import SCOPE
from margo_oci.errors import MargoError, RegistryError, TrustError
from margo_oci.freshness import Freshness, format_moment
from margo_oci.head import Head, check_release, open_head, verify_head, verify_release
from margo_oci.heads import Carried, newer_roots, open_carrier, read_head
from margo_oci.manifest import IMAGE_MANIFEST, Manifest
from margo_oci.reference import Reference
from margo_oci.registry import Registry
from margo_oci.root import Root
from margo_oci.transfer import Judge, parse_manifest, resolve
from margo_oci.trust import Seen, Verified, recall

ROOT_LOOK_AGAIN = timedelta(hours=1)
ROOT_LOOK_BEFORE_EXPIRY = timedelta(days=30)

Save = Callable[[Record], Record]


class Finder(Protocol):
    """How a device finds out which state is meant."""

    @property
    def terms(self) -> str:
        """What changes when the configuration asks for more or less of a state."""

    async def find(
        self, registry: Registry, record: Record, report: Report, *, offered: bytes, save: Save
    ) -> Verified | None:
        """Return the state that is meant, accepted and saved; None if nothing is new.

        `offered` is a manifest that was just received. Raises TrustError, RegistryError.
        """


def bound(record: Record, terms: str) -> bool:
    """Tell whether a state was accepted under just these terms: then its scope stays (6.11)."""
    return bool(record.current) and record.accepted[record.current].policy == terms


def last_of(record: Record, scope: str) -> Seen | None:
    """Return the last state that was accepted for a scope."""
    seen = record.accepted.get(scope)
    return Seen(seen.counter, seen.digest) if seen else None


@dataclass(frozen=True)
class ByTag:
    """The tag leads to the state: signature, scope and counter are all there is to go by."""

    source: Reference
    judge: Judge
    terms: str

    async def find(
        self, registry: Registry, record: Record, report: Report, *, offered: bytes, save: Save
    ) -> Verified | None:
        """Resolve the tag and verify what it leads to."""
        with report.timed("resolve"):
            known = record.known_by(self.terms)
            manifest = parse_manifest(offered) if offered else await resolve(registry, self.source, known=known)
        if manifest is None:
            return None
        pins = check_pin(self.source, manifest.digest, record.pins)
        with report.timed("verify"):
            verified = await self._verify(registry, manifest, record, report)
        state = verified.state
        save(record.accept(Accepted(state.counter, manifest.digest, state.scope, self.terms)).pin(pins))
        return verified

    async def _verify(self, registry: Registry, manifest: Manifest, record: Record, report: Report) -> Verified:
        report.digest = manifest.digest
        last = last_of(record, manifest.annotations.get(SCOPE, ""))
        if last and record.digest == last.digest == manifest.digest and bound(record, self.terms):
            verified = recall(manifest, last)
        else:
            verified = await self._judge(record).state(registry, self.source, manifest, last=last)
        report.counter, report.scope = verified.state.counter, verified.state.scope
        return verified

    def _judge(self, record: Record) -> Judge:
        """Of several scopes, the first that was accepted stays: a registry must not choose between them (6.11)."""
        if not bound(record, self.terms):
            return self.judge
        return replace(self.judge, policy=replace(self.judge.policy, scopes=[record.current]))


@dataclass(frozen=True, kw_only=True)
class ByHead:
    """The head beside the tag says which digest is meant, and until when; the root says whose heads count.

    `given` is the root this device was provisioned with, `chain` where newer ones are looked for.
    """

    source: Reference
    scopes: Sequence[str]
    given: Root
    chain: Reference
    freshness: Freshness
    clock: Clock
    terms: str

    async def find(
        self, registry: Registry, record: Record, report: Report, *, offered: bytes, save: Save
    ) -> Verified | None:
        """Read the head and what it names. After a refusal newer roots are looked for, once."""
        record = self._with_root(record)
        try:
            return await self._find_by_newest_root(registry, record, report, offered=offered, save=save)
        except MargoError:
            check_head(record, report, self.clock.now(record.time), "warn")  # what runs may be stale besides
            raise

    async def _find_by_newest_root(
        self, registry: Registry, record: Record, report: Report, *, offered: bytes, save: Save
    ) -> Verified | None:
        looked = self._look_is_due(record)
        if looked:
            record = await self._newer_roots(registry, record, save)
        try:
            return await self._find(registry, record, report, offered=offered, save=save)
        except TrustError as refused:
            following = record if looked else await self._unless_refused(registry, record, save)
            if self._root(following).version == self._root(record).version:
                raise refused from None
        return await self._find(registry, following, report, offered=b"", save=save)

    async def _find(
        self, registry: Registry, record: Record, report: Report, *, offered: bytes, save: Save
    ) -> Verified | None:
        root = self._root(record)
        now = self.clock.now(record.time, root.floor)
        root.check_fresh(now)
        with report.timed("resolve"):
            carried = await self._carried(registry, record, offered)
        if carried is None:
            check_head(record, report, now, self.freshness)
            return None
        with report.timed("verify"):
            head = self._verify_head(carried, root, record, now)
            report.digest, report.counter, report.scope = head.digest, head.counter, head.scope
            accepted = Accepted(head.counter, head.digest, head.scope, self.terms, _seen(carried, head))
            following = replace(
                record.accept(accepted), time=self.clock.mark(head.issued, self.clock.known(record.time))
            )
            if record.known_by(self.terms) and _names_current(head, record):  # the same state, vouched for anew
                check_release(_described(head), carried.bundles, root)
                last = last_head(record)
                if not last or last.content != head.content:  # in another wrapping it is no news, and not written
                    record = save(following)
                check_head(record, report, now, self.freshness)
                return None
            manifest = await resolve(registry, self.source.at(head.digest))
            assert manifest is not None  # noqa: S101  (nothing was known before)
            verified = verify_release(manifest, carried.bundles, head, root, last=last_of(record, head.scope))
        check_head(save(following), report, now, self.freshness)
        return verified

    async def _carried(self, registry: Registry, record: Record, offered: bytes) -> Carried | None:
        if offered:
            return await open_carrier(registry, self.source, offered)
        # Without a head there is nothing that "nothing new" could be said of.
        return await read_head(registry, self.source, known=record.known_by(self.terms) if last_head(record) else "")

    def _verify_head(self, carried: Carried, root: Root, record: Record, now: datetime) -> Head:
        scopes = [record.current] if bound(record, self.terms) else self.scopes
        # Which head was the last one depends on the scope, and that is read once the signatures held.
        last = record.accepted.get(open_head(carried.head, root).scope)
        seen = last.head.seen if last and last.head else None
        return verify_head(carried.head, root, scopes=scopes, now=now, last=seen)

    def _with_root(self, record: Record) -> Record:
        """Begin with the root that was given; if it is another one than before, heads are forgotten."""
        if record.root and record.root.given == self.given.content:
            return record
        return replace(record.forget_heads(), root=GivenRoot(self.given.content, self.given.data.decode(), ""))

    async def _unless_refused(self, registry: Registry, record: Record, save: Save) -> Record:
        try:
            return await self._newer_roots(registry, record, save)
        except TrustError:
            return record  # what was refused first tells more

    def _root(self, record: Record) -> Root:
        assert record.root is not None  # noqa: S101  (_with_root saw to it)
        return Root.from_bytes(record.root.data.encode())

    def _look_is_due(self, record: Record) -> bool:
        """Daily, and near its end hourly."""
        root = self._root(record)
        now = self.clock.now(record.time, root.floor)
        near = root.expires - now < ROOT_LOOK_BEFORE_EXPIRY
        return look_for_roots_is_due(record, now, every=ROOT_LOOK_AGAIN if near else ROOT_LOOK_EVERY)

    async def _newer_roots(self, registry: Registry, record: Record, save: Save) -> Record:
        """Follow the chain and save where it led. One that cannot be had now is looked for again in an hour."""
        assert record.root is not None  # noqa: S101  (_with_root saw to it)
        root, given = self._root(record), record.root.given
        try:
            reached = await newer_roots(registry, self.chain, root)
        except RegistryError:
            tried = self.clock.now(record.time, root.floor) - ROOT_LOOK_EVERY + ROOT_LOOK_AGAIN
            return save(replace(record, root=replace(record.root, looked=format_moment(tried))))
        known = self.clock.known(record.time)
        if reached.heads_changed:
            record, known = record.forget_heads(), None
        if reached.releases_changed:
            record = record.forget_counters()
        now = self.clock.now(record.time if known else None, reached.root.floor)
        mark = self.clock.mark(known) if known else None
        return save(
            replace(
                record,
                root=GivenRoot(given, reached.root.data.decode(), format_moment(now)),
                time=mark,
            )
        )


def _seen(carried: Carried, head: Head) -> SeenCarrier:
    return SeenCarrier(carrier=carried.digest, **head.seen.to_dict())


def _names_current(head: Head, record: Record) -> bool:
    """Tell whether a head says of the current state what the state itself said: else the state is read again."""
    current = record.accepted[record.current]
    return (head.scope, head.digest, head.counter) == (current.scope, current.digest, current.counter)


def _described(head: Head) -> Descriptor:
    return Descriptor(media_type=IMAGE_MANIFEST, digest=head.digest, size=head.length)
