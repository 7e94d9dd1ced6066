"""Mirrors: copies that are asked first, believed no more than anybody, and left alone for a while when they fail."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from margo_oci.auth import Credentials
from margo_oci.content import EMPTY_JSON, Descriptor, digest_of
from margo_oci.errors import NotFound, RegistryError, TrustError
from margo_oci.mirrors import MIRROR_PAUSE_S
from margo_oci.reference import Reference
from margo_oci.registry import Access, Registry
from margo_oci.store import Store
from margo_oci.transfer import pull_blob, referrers
from tests.simulators.faults import answers, cut_after, ends_after, longer, says, silent, tampers, unreachable
from tests.simulators.plant import SOURCE
from tests.simulators.registry import ALWAYS, Fault, Login, SimulatedRegistry

NEAR, FAR = "mirror.plant:5000", "other.plant:5000"
BLOB = b"recipe" * 1000
LAYER = Descriptor.of(BLOB, "application/octet-stream")
EDGE, CACHE = Credentials("edge-17", "home-secret"), Credentials("cache", "mirror-secret")
T = TypeVar("T")


class Line:
    """A registry, and the mirrors in front of it; what is in the registry, the mirrors have under `cache/`."""

    def __init__(self, *mirrors: str) -> None:
        self.home = SimulatedRegistry(host=SOURCE.host)
        self.sims = {SOURCE.host: self.home, **{host: SimulatedRegistry(host=host) for host in mirrors}}
        self.access = {host: Access() for host in self.sims}
        self.access[SOURCE.host] = Access(mirrors=tuple(Reference(host, "cache") for host in mirrors))
        self.now_s = 0.0
        for host, sim in self.sims.items():
            place = SOURCE.repository if host == SOURCE.host else f"cache/{SOURCE.repository}"
            sim.put_manifest(place, SOURCE.tag, EMPTY_JSON)
            sim.put_blob(place, BLOB)

    def ask(self, question: Callable[[Registry], Awaitable[T]]) -> T:
        """Ask something, from a Registry object that is new."""

        async def asked() -> T:
            async with Registry(
                self.access.__getitem__,
                transport_for=lambda host: self.sims[host].transport,
                monotonic_s=lambda: self.now_s,
            ) as registry:
                return await question(registry)

        return asyncio.run(asked())

    @property
    def asked(self) -> list[tuple[str, int]]:
        """Who was asked and answered how, mirrors first."""
        return [
            (host, one.status) for host in sorted(self.sims, key=[NEAR, FAR, SOURCE.host].index)
            for one in self.sims[host].requests
        ]  # fmt: skip


async def no_pause(_: float) -> None:
    """Do not wait."""


def test_7_11_an_unchanged_look_is_one_request_to_the_first_mirror() -> None:
    line = Line(NEAR, FAR)
    assert line.ask(lambda registry: registry.manifest(SOURCE, known=digest_of(EMPTY_JSON))) is None
    assert line.asked == [(NEAR, 304)]
    assert line.sims[NEAR].requests[0].path == "/v2/cache/fleet/edge-17/manifests/latest"


def test_7_11_where_a_tag_leads_may_be_asked_of_a_mirror() -> None:
    line = Line(NEAR)
    assert line.ask(lambda registry: registry.digest(SOURCE)) == digest_of(EMPTY_JSON)
    assert line.asked == [(NEAR, 200)]


def test_a_list_of_tags_is_asked_of_the_registry_itself() -> None:
    line = Line(NEAR)
    assert line.ask(lambda registry: registry.tags(SOURCE)) == ["latest"]
    assert line.asked == [(SOURCE.host, 200)]


@pytest.mark.parametrize(
    "fault",
    [answers(404), answers(500), answers(401), answers(429, {"Retry-After": "60"}), silent, unreachable, cut_after(1),
     tampers(b"[]"), longer(), says({"Docker-Content-Digest": digest_of(b"?")}), answers(304),
     says({"Content-Encoding": "gzip"})],
)  # fmt: skip
def test_7_11_a_mirror_that_fails_leads_to_the_next(fault: Fault) -> None:
    line = Line(NEAR, FAR)
    line.sims[NEAR].fail(fault)
    line.sims[FAR].fail(fault)
    received = line.ask(lambda registry: registry.manifest(SOURCE))
    assert received
    assert received.data == EMPTY_JSON
    assert [host for host, _ in line.asked] == [NEAR, FAR, SOURCE.host]


@pytest.mark.parametrize(
    "fault", [answers(404), answers(503), silent, cut_after(100), ends_after(100), tampers(BLOB[::-1]), longer()]
)
def test_7_11_a_blob_of_a_mirror_is_checked_and_comes_from_the_registry_in_the_end(
    fault: Fault, tmp_path: Path
) -> None:
    line, store = Line(NEAR), Store(tmp_path)
    line.sims[NEAR].fail(fault, times=ALWAYS)
    line.ask(lambda registry: pull_blob(registry, SOURCE, LAYER, store, sleep=no_pause))
    assert store.read(LAYER) == BLOB


def test_what_mirrors_did_stands_in_the_message_when_the_registry_fails_as_well() -> None:
    line = Line(NEAR)
    line.sims[NEAR].fail(tampers(b"[]"))
    line.home.fail(answers(503, {"Retry-After": "9"}))
    with pytest.raises(RegistryError, match=r"answered 503; before that mirror mirror\.plant:5000: .*got ") as error:
        line.ask(lambda registry: registry.manifest(SOURCE))
    assert error.value.retry_after_s == 9.0


def test_what_nobody_has_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"registry\.example"):
        Line(NEAR).ask(lambda registry: registry.manifest(SOURCE.at("other")))


def test_the_registrys_own_wrong_content_is_still_refused() -> None:
    line = Line(NEAR)
    line.sims[NEAR].fail(answers(404))
    line.home.fail(tampers(b"[]"))
    with pytest.raises(TrustError, match="tampered content"):
        line.ask(lambda registry: registry.manifest(SOURCE))


def test_a_mirror_that_failed_is_left_alone_for_a_while() -> None:
    line = Line(NEAR)
    line.sims[NEAR].fail(answers(500))

    async def three_looks(registry: Registry) -> None:
        await registry.manifest(SOURCE)
        line.now_s = MIRROR_PAUSE_S - 1
        await registry.manifest(SOURCE)
        line.now_s = MIRROR_PAUSE_S
        await registry.manifest(SOURCE)

    line.ask(three_looks)
    assert line.asked == [(NEAR, 500), (NEAR, 200), (SOURCE.host, 200), (SOURCE.host, 200)]


def test_a_mirror_that_does_not_have_something_is_asked_for_the_next_thing() -> None:
    line = Line(NEAR)
    line.sims[NEAR].fail(answers(404))

    async def twice(registry: Registry) -> None:
        await registry.manifest(SOURCE)
        await registry.manifest(SOURCE)

    line.ask(twice)
    assert line.asked == [(NEAR, 404), (NEAR, 200), (SOURCE.host, 200)]


def test_signatures_are_found_on_a_mirror_when_the_registry_is_away() -> None:
    line = Line(NEAR)
    line.home.fail(unreachable, times=ALWAYS)
    digest = digest_of(EMPTY_JSON)
    index = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    line.sims[NEAR].put_manifest(f"cache/{SOURCE.repository}", digest.replace(":", "-"), index)
    assert line.ask(lambda registry: referrers(registry, SOURCE, digest)) == []
    assert (NEAR, 404) in line.asked


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_7_8_a_mirror_gets_its_own_login_only(scheme: str) -> None:
    line = Line(NEAR, FAR)
    line.sims[NEAR].login = Login(credentials=CACHE, scheme=scheme, realm=f"https://{NEAR}/token")  # type: ignore[arg-type]
    line.sims[FAR].fail(answers(401, {"WWW-Authenticate": "Basic"}))
    line.home.login = Login(credentials=EDGE)
    line.access[NEAR] = Access(credentials=CACHE)
    line.access[SOURCE.host] = replace(line.access[SOURCE.host], credentials=EDGE)

    async def read(registry: Registry) -> None:
        await registry.manifest(SOURCE)
        line.sims[NEAR].fail(answers(503))
        await registry.manifest(SOURCE)

    line.ask(read)
    sent = {host: {one.headers.get("authorization") for one in sim.requests} for host, sim in line.sims.items()}
    assert EDGE.basic not in sent[NEAR] | sent[FAR]
    assert sent[FAR] == {None}
    assert sent[SOURCE.host] == {None, EDGE.basic}
