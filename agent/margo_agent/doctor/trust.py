"""Checks of trust: whether keys, policy and root can be read, how long they hold, and whether the state verifies."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from margo_agent.clock import Clock
from margo_agent.config import AgentConfig
from margo_agent.doctor.check import Check, Status, days_left
from margo_agent.reasons import REASONS
from margo_agent.record import Record
from margo_agent.report import Report
from margo_agent.standing import last_head
from margo_agent.trusted import load_trusted
from margo_oci.errors import FormatError, MargoError, TrustError
from margo_oci.registry import Registry
from margo_oci.root import Root

VERIFY_LIMIT_S = 40.0
ROOT_SOON_S = 30 * 86400.0
HEAD_SOON_S = 12 * 3600.0
CERTIFICATE_SOON_S = 30 * 86400.0
_CERTIFICATES = (".crt", ".cer", ".pem")


def trust(config: AgentConfig, record: Record, clock: Clock) -> Iterator[Check]:
    """Whether what the configuration trusts can be read, and how long it holds."""
    try:
        load_trusted(config, clock)
    except (FormatError, TrustError) as error:
        yield Check("trust", "fail", str(error), "put the file there that `trust` names, or correct the configuration")
        return
    yield Check("trust", "ok", _summary(config))
    now = clock.now(record.time)
    if config.trust.mode == "head+release":
        yield from _head_and_root(config, record, now)
    for file in _certificate_files(config):
        yield from _certificate(file, now)


def _summary(config: AgentConfig) -> str:
    sources = config.trust.sources
    if config.trust.root:
        return f"heads and releases by {config.trust.root}, for {', '.join(config.scopes)}"
    parts = [f"{len(sources.keys)} keys"] if sources.keys else []
    parts += [f"Notary policy {sources.notary}"] if sources.notary else []
    parts += [f"{len(sources.identities)} identities"] if sources.identities else []
    return f"releases by {', '.join(parts)} (threshold {sources.threshold}), for {', '.join(config.scopes)}"


def _head_and_root(config: AgentConfig, record: Record, now: datetime) -> Iterator[Check]:
    data = record.root.data.encode() if record.root else (config.trust.root or Path()).read_bytes()
    root = Root.from_bytes(data)
    left_s = (root.expires - now).total_seconds()
    todo = "" if left_s >= ROOT_SOON_S else "make and publish a newer root: margo-oci root rotate"
    yield Check("root", _status(left_s, todo), f"version {root.version}: {days_left(left_s)}", todo)
    if head := last_head(record):
        left_s = (head.expires - now).total_seconds()
        todo = "" if left_s >= HEAD_SOON_S else "renew it: margo-oci head renew; if it was, somebody holds it back"
        yield Check("head", _status(left_s, todo), f"version {head.version}: {days_left(left_s)}", todo)


def _status(left_s: float, todo: str) -> Status:
    return "fail" if left_s < 0 else "warn" if todo else "ok"


def _certificate_files(config: AgentConfig) -> list[Path]:
    """Return the certificates that the configuration names: of trust stores, CAs and clients."""
    every = (config.trust.sources, *(rule.sources for rule in config.trust.components))
    files = [file for sources in every for file in sources.files if file.suffix in _CERTIFICATES]
    for access in config.registries.values():
        files += [file for file in (access.ca_file, access.client_cert) if file]
    return sorted(set(files))


def _certificate(file: Path, now: datetime) -> Iterator[Check]:
    from cryptography import x509

    data = file.read_bytes()
    if b"BEGIN CERTIFICATE" not in data:
        return  # a public key
    soonest = min(x509.load_pem_x509_certificates(data), key=lambda one: one.not_valid_after_utc)
    left_s = (soonest.not_valid_after_utc - now).total_seconds()
    seen = f"{file.name}: {days_left(left_s)}"
    if left_s >= CERTIFICATE_SOON_S:
        yield Check("certificate", "ok", seen)
    else:
        yield Check("certificate", "fail" if left_s < 0 else "warn", seen, f"replace {file}")


def state(config: AgentConfig, record: Record, clock: Clock) -> Iterator[Check]:
    """Fetch what is under the tag and verify it as a pass would; nothing is remembered of it."""
    report = Report(str(config.source), config.device)
    # Without the terms it was accepted under, even a known state is verified once more.
    accepted = {scope: replace(one, policy="") for scope, one in record.accepted.items()}
    afresh = replace(record, accepted=accepted, settled=False)
    finder = load_trusted(config, clock).finder

    async def find() -> str:
        async with Registry(config.access) as registry:
            verified = await finder.find(registry, afresh, report, offered=b"", save=lambda record: record)
        return f", signed by {verified.signed_by}" if verified else ""

    try:
        signed = asyncio.run(asyncio.wait_for(find(), VERIFY_LIMIT_S))
    except TrustError as error:
        known = REASONS.get(error.reason)
        seen = f"refused ({error.reason}{f', format {known.rule}' if known else ''}): {error}"
        yield Check("state", "fail", seen, known.todo if known else "see the message")
    except TimeoutError:
        yield Check("state", "fail", f"not read after {VERIFY_LIMIT_S:.0f} s", "see after the registry")
    except (MargoError, OSError) as error:
        yield Check("state", "fail", str(error), "see after the registry")
    else:
        yield Check("state", "ok", f"counter {report.counter} for {report.scope} verifies{signed}")
