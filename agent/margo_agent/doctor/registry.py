"""Checks of the registry: whether it is reached, lets us in, has the tag, and agrees with our clock."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from margo_agent.config import AgentConfig
from margo_agent.doctor.check import Check, days_left
from margo_oci.errors import MargoError, NotFound, RegistryError, TrustError
from margo_oci.registry import Registry

STEP_LIMIT_S = 20.0
SKEW_LIMIT_S = 60.0
SOON_S = 14 * 86400.0


@dataclass
class Heard:
    """What hosts say beside what is asked: what time it is, and until when their certificates hold."""

    dates: dict[str, str] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)

    def note(self, host: str, response: httpx2.Response) -> None:
        """Note it of an answer."""
        self.dates[host] = response.headers.get("Date", "")
        stream: Any = response.extensions.get("network_stream")
        secured = stream.get_extra_info("ssl_object") if stream else None
        certificate = secured.getpeercert() if secured else None
        if certificate:
            self.certificates[host] = str(certificate.get("notAfter", ""))


def registry(config: AgentConfig, now: datetime) -> Iterator[Check]:
    """Ask the registry what a look asks it, step by step."""

    async def collected() -> list[Check]:
        heard = Heard()
        async with Registry(config.access, heard=heard.note) as asked:
            return [one async for one in _asked(asked, heard, config, now)]

    yield from asyncio.run(collected())


async def _asked(asked: Registry, heard: Heard, config: AgentConfig, now: datetime) -> AsyncIterator[Check]:
    host = config.source.host
    started_s = time.monotonic()
    try:
        await asyncio.wait_for(asked.ping(host), STEP_LIMIT_S)
        took_ms = (time.monotonic() - started_s) * 1000
        yield Check("registry", "ok", f"{host} answers in {took_ms:.0f} ms{_as_whom(config)}")
    except NotFound:
        yield Check("registry", "warn", f"{host} answers, but has no /v2/", "is it a registry? compare `source`")
    except TimeoutError:
        yield Check("registry", "fail", f"{host}: no answer after {STEP_LIMIT_S:.0f} s", _remedy(""))
        return
    except (MargoError, OSError) as error:
        yield Check("registry", "fail", str(error), _remedy(str(error)))
    if host not in heard.dates:
        return  # not even reached
    yield await _tag(asked, config)
    for check in (_skew(heard.dates[host], host, now), _certificate(heard.certificates.get(host), now)):
        if check:
            yield check
    for mirror, fault in asked.mirrors.faults.items():
        yield Check("mirror", "warn", fault, f"see after {mirror}; the next mirror, and the registry, stand in for it")


async def _tag(asked: Registry, config: AgentConfig) -> Check:
    try:
        digest = await asyncio.wait_for(asked.digest(config.look_at), STEP_LIMIT_S)
    except NotFound as error:
        return Check(
            "tag", "fail", str(error), "publish there with margo-oci push (and head issue), or correct `source`"
        )
    except TimeoutError:
        return Check("tag", "fail", f"{config.look_at}: no answer after {STEP_LIMIT_S:.0f} s", _remedy(""))
    except (RegistryError, TrustError, OSError) as error:
        return Check("tag", "fail", str(error), _remedy(str(error)))
    return Check("tag", "ok", f"{config.look_at} is {digest}")


def _as_whom(config: AgentConfig) -> str:
    access = config.access(config.source.host)
    credentials = access.credentials
    who = f", as {credentials.username}" if credentials and credentials.username else ""
    return f"{who}, without TLS" if access.plain_http else who


def _remedy(words: str) -> str:
    lowered = words.lower()
    if "certificate" in lowered or "ssl" in lowered or "tls" in lowered:
        return "give registries.HOST.caFile the CA that signed its certificate; is the clock right?"
    if " 401" in words or " 403" in words or "credentials" in words:
        return "correct registries.HOST.username and passwordFile"
    if "name" in lowered and ("resolution" in lowered or "known" in lowered):
        return "correct the host in `source`, or the name servers of this device (/etc/resolv.conf)"
    return "see that the registry runs and that network, firewall and proxy let this device through"


def _skew(date: str, host: str, now: datetime) -> Check | None:
    try:
        skew_s = (now - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):
        return None  # it says no time
    ahead = "ahead of" if skew_s > 0 else "behind"
    if abs(skew_s) > SKEW_LIMIT_S:
        todo = "set the clock of this device right; if it is, tell who runs the registry"
        return Check("clock skew", "warn", f"our clock is {abs(skew_s):.0f} s {ahead} that of {host}", todo)
    return Check("clock skew", "ok", f"{abs(skew_s):.0f} s between our clock and that of {host}")


def _certificate(not_after: str | None, now: datetime) -> Check | None:
    if not not_after:
        return None
    left_s = ssl.cert_time_to_seconds(not_after) - now.timestamp()
    seen = f"the registry's certificate: {days_left(left_s)}"
    return Check("TLS", "warn", seen, "have it renewed") if left_s < SOON_S else Check("TLS", "ok", seen)
