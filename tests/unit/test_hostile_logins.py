"""Who asks, and who is told: passwords and tokens, and where they do not go."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from margo_oci.auth import Credentials
from margo_oci.content import Descriptor
from margo_oci.errors import MargoError, RegistryError
from margo_oci.proxy import Proxies
from margo_oci.reference import parse_reference
from margo_oci.registry import Access, Registry
from tests.simulators.faults import answers, cut_after, endless, redirects, says, silent, tampers, unreachable
from tests.simulators.plant import HOST, SOURCE, Plant, ask, registry_with_tags, running_plant
from tests.simulators.registry import Fault, Login
from tests.simulators.verdicts import assert_refused, assert_unreachable

SOURCE_MANIFEST = "manifests/latest"
ELSEWHERE = "https://cdn.example{path}"
EDGE = Credentials("edge-17", "secret")


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A device on which all is well: it runs `pump` by recipe a, accepted with counter 1."""
    return running_plant(tmp_path / "state")


def logged_in(plant: Plant, login: Login) -> None:
    """Let only this device in."""
    plant.sim.login = login
    plant.device.credentials = login.credentials


def test_a_registry_that_asks_for_a_password_gets_it_once_a_pass(plant: Plant) -> None:
    logged_in(plant, Login(credentials=EDGE))
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once().outcome == "applied"
    in_fleet = [one for one in plant.sim.requests if SOURCE.repository in one.path]
    assert [one.status for one in in_fleet].count(401) == 1
    assert {one.headers["authorization"] for one in in_fleet[1:]} == {EDGE.basic}


def test_a_wrong_password_is_told_as_that(plant: Plant) -> None:
    plant.sim.login = Login(credentials=EDGE)
    plant.device.credentials = Credentials("edge-17", "guess")
    assert_unreachable(plant, "401: these credentials are not accepted: log in with `margo-oci login registry.example`")
    assert "guess" not in plant.device.once().message


def test_a_token_is_fetched_with_the_password_and_the_registry_gets_the_token(plant: Plant) -> None:
    logged_in(plant, Login(credentials=EDGE, scheme="bearer"))
    plant.publish(plant.workload("pump", "b"), counter=2)
    assert plant.device.once().outcome == "applied"
    assert {one.headers.get("authorization") for one in plant.sim.requests if one.host == HOST} == {
        None,
        "Bearer token-of-this-day",
    }
    tokens = [one for one in plant.sim.requests if one.host == "auth.example"]
    assert [one.headers["authorization"] for one in tokens] == [EDGE.basic]
    assert tokens[0].path == "/token?service=registry&scope=repository%3Afleet%2Fedge-17%3Apull"


def test_a_token_that_expires_is_fetched_anew() -> None:
    login = Login(credentials=EDGE, scheme="bearer")
    sim = registry_with_tags("latest")
    sim.login = login

    async def twice(registry: Registry) -> None:
        await registry.manifest(SOURCE)
        sim.login = Login(credentials=EDGE, scheme="bearer", token="token-of-the-next-day")
        await registry.manifest(SOURCE)

    ask(sim, twice, credentials=EDGE)
    assert [one.status for one in sim.requests] == [401, 200, 200, 401, 200, 200]


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_7_8_a_login_is_not_sent_along_to_where_a_registry_redirects(plant: Plant, status: int, scheme: Any) -> None:
    logged_in(plant, Login(credentials=EDGE, scheme=scheme))
    layer = plant.publish(plant.workload("pump", "b"), counter=2).layers[0]
    plant.sim.fail(redirects(ELSEWHERE, status=status), on=layer.digest)
    assert plant.device.once().outcome == "applied"
    (elsewhere,) = [one for one in plant.sim.requests if one.host == "cdn.example"]
    assert layer.digest in elsewhere.path
    assert "authorization" not in elsewhere.headers


@pytest.mark.parametrize("rel", ['rel="next"', "rel=next"])
@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://cdn.example/v2/fleet/edge-17/tags/list?last=a",
        "//cdn.example/v2/fleet/edge-17/tags/list",
        "https://registry.example:8443/v2/fleet/edge-17/tags/list",
        "http://registry.example/v2/fleet/edge-17/tags/list",
        "https://me:secret@registry.example/v2/fleet/edge-17/tags/list",
        "https://[registry.example/",
        "file:///etc/passwd",
    ],
)
def test_7_8_a_next_page_elsewhere_is_not_asked_for(elsewhere: str, rel: str) -> None:
    sim = registry_with_tags("a")
    sim.login = Login(credentials=EDGE)
    sim.fail(answers(401, {"WWW-Authenticate": "Basic"}), on="tags/list")
    sim.fail(says({"Link": f"<{elsewhere}>; {rel}"}), on="tags/list")
    with pytest.raises(RegistryError, match="its next page is elsewhere and not asked for") as refused:
        ask(sim, lambda registry: registry.tags(SOURCE), credentials=sim.login.credentials)
    assert [one.host for one in sim.requests] == [HOST, HOST]
    assert "secret" not in str(refused.value)


def test_7_8_a_401_from_elsewhere_gets_no_login_either(plant: Plant) -> None:
    logged_in(plant, Login(credentials=EDGE))
    plant.sim.fail(answers(401, {"WWW-Authenticate": "Basic"}), on=SOURCE_MANIFEST)
    plant.sim.fail(redirects(ELSEWHERE), on=SOURCE_MANIFEST)
    plant.sim.fail(answers(401, {"WWW-Authenticate": 'Basic realm="give it to me"'}), on=SOURCE_MANIFEST)
    assert_unreachable(plant, "401")
    assert [one.headers.get("authorization") for one in plant.sim.requests if one.host != HOST] == [None]


@pytest.mark.parametrize(
    "realm",
    ["http://auth.example/token", "ftp://auth.example/token", "https://me@auth.example/token", "token", ""],
)
def test_7_8_a_password_is_not_sent_to_a_token_service_without_tls(plant: Plant, realm: str) -> None:
    plant.device.credentials = EDGE
    plant.sim.fail(answers(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}), on=SOURCE_MANIFEST)
    assert_unreachable(plant, "the registry names a token service that is not used")
    assert {one.host for one in plant.sim.requests} == {HOST}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(b"", "the token service answered nonsense", id="nothing"),
        pytest.param(b"{}", "the token service answered without a token", id="no-token"),
        pytest.param(b'{"token": 7}', "the token service answered without a token", id="a-number"),
        pytest.param(b'{"token": "a\\r\\nX-Evil: 1"}', "the token service answered without a token", id="two-lines"),
        pytest.param(b'{"token": "\xc3\xa9"}', "the token service answered without a token", id="no-ascii"),
    ],
)
def test_nonsense_from_a_token_service_is_told_as_that(plant: Plant, answer: bytes, message: str) -> None:
    logged_in(plant, Login(credentials=EDGE, scheme="bearer"))
    plant.sim.fail(answers(200, body=answer), on="/token")
    assert_unreachable(plant, message)


def test_an_endless_token_is_refused(plant: Plant) -> None:
    logged_in(plant, Login(credentials=EDGE, scheme="bearer"))
    plant.sim.fail(endless, on="/token")
    assert_refused(plant, "too-large", "more than 65536 bytes")


def test_a_busy_token_service_is_not_told_as_a_wrong_password(plant: Plant) -> None:
    logged_in(plant, Login(credentials=EDGE, scheme="bearer"))
    plant.sim.fail(answers(429, {"Retry-After": "7"}), on="/token")
    report = plant.device.once()
    assert (report.outcome, report.retry_after_s) == ("unreachable", 7.0)
    assert "429" in report.message
    assert "credentials are not accepted" not in report.message


@pytest.mark.parametrize("host", ["registry.example:443", "Registry.Example"])
def test_a_registry_written_another_way_gets_its_login_all_the_same(host: str) -> None:
    sim = registry_with_tags("latest")
    sim.login = Login(credentials=EDGE)
    access = {host: Access(credentials=EDGE)}

    async def read() -> None:
        async with Registry(lambda name: access.get(name, Access()), transport_for=lambda _: sim.transport) as registry:
            await registry.manifest(parse_reference(f"{host}/fleet/edge-17:latest"))

    asyncio.run(read())
    assert [one.status for one in sim.requests] == [401, 200]


SECRETS = ("home-secret", "token-of-this-day", "refresh-secret", "signed-secret", "proxy-secret")
WHO = {
    "basic": Credentials("edge-17", "home-secret"),
    "bearer": Credentials("edge-17", "home-secret"),
    "identity": Credentials("", "", "refresh-secret"),
}


@pytest.mark.parametrize("who", list(WHO))
@pytest.mark.parametrize("on", ["", "manifests", "blobs", "tags/list", "token"])
@pytest.mark.parametrize(
    "fault",
    [
        answers(401, {"WWW-Authenticate": 'Bearer realm="https://me:home-secret@auth.example/?s=signed-secret"'}),
        answers(403),
        answers(407),
        answers(416),
        answers(500, body=b"home-secret refresh-secret"),
        answers(200, body=b"home-secret"),
        endless,
        cut_after(3),
        silent,
        unreachable,
        tampers(b"home-secret"),
        redirects("https://cdn.example/?sig=signed-secret"),
        redirects("http://cdn.example/?sig=signed-secret"),
        redirects("https://me:home-secret@cdn.example/?sig=signed-secret"),
        redirects("https://[home-secret"),
        says({"Link": '<https://me:home-secret@cdn.example/?sig=signed-secret>; rel="next"'}),
        says({"Docker-Content-Digest": "sha256:\x7f" + "x" * 5000}),
        says({"Content-Encoding": "gzip"}),
    ],
)
def test_7_9_no_error_shows_a_secret(fault: Fault, on: str, who: str) -> None:
    sim = registry_with_tags("latest")
    login = Login(credentials=WHO[who], scheme="basic" if who == "basic" else "bearer")
    sim.login = login
    sim.put_blob(SOURCE.repository, b"x" * 100)
    sim.fail(fault, on=on, times=3)

    async def everything(registry: Registry) -> None:
        await registry.manifest(SOURCE)
        await registry.small_blob(SOURCE, Descriptor.of(b"x" * 100, "text/plain"), limit_bytes=1000)
        await registry.digest(SOURCE)
        await registry.tags(SOURCE)

    try:
        ask(sim, everything, credentials=login.credentials)
    except MargoError as error:
        shown = f"{error} {login.credentials!r}"
    else:
        return
    assert not [secret for secret in SECRETS if secret in shown], shown
    assert str(shown).isprintable()
    assert len(shown) < 2000


def test_7_9_settings_do_not_show_their_secrets() -> None:
    proxy = "http://plant:proxy-secret@proxy.plant:3128"
    access = Access(credentials=WHO["basic"], proxies=Proxies(proxy, proxy))
    shown = f"{access!r} {Registry(lambda _: access)!r} {WHO['identity']!r}"
    assert not [secret for secret in SECRETS if secret in shown], shown


def test_a_token_without_the_right_is_told_as_that(plant: Plant) -> None:
    logged_in(plant, Login(credentials=EDGE, scheme="bearer"))
    wanted = (
        'Bearer realm="https://auth.example/token",scope="repository:fleet/edge-17:pull",error="insufficient_scope"'
    )
    plant.sim.fail(answers(401, {"WWW-Authenticate": wanted}), on=SOURCE_MANIFEST, times=2)
    assert_unreachable(plant, "401: the right repository:fleet/edge-17:pull is missing: ask for it, or log in as")


def test_a_token_is_fetched_once_however_many_ask_at_once() -> None:
    sim = registry_with_tags(*"abcdefgh")
    sim.login = Login(credentials=EDGE, scheme="bearer")

    async def all_at_once(registry: Registry) -> None:
        await asyncio.gather(*(registry.manifest(SOURCE.at(tag)) for tag in "abcdefgh"))

    ask(sim, all_at_once, credentials=EDGE)
    assert [one.host for one in sim.requests].count("auth.example") == 1


def test_a_login_is_asked_for_when_the_registry_wants_it_and_again_when_it_is_refused() -> None:
    sim = registry_with_tags("latest")
    asked: list[str] = []
    access = Access(login=lambda repository: asked.append(repository) or EDGE)  # type: ignore[func-returns-value]

    async def looks() -> None:
        async with Registry(lambda _: access, transport_for=lambda _: sim.transport) as registry:
            await registry.manifest(SOURCE)
            assert asked == []
            sim.login = Login(credentials=EDGE)
            await registry.manifest(SOURCE)
            await registry.manifest(SOURCE)
            assert asked == [SOURCE.repository]
            sim.fail(answers(401, {"WWW-Authenticate": "Basic"}))
            await registry.manifest(SOURCE)

    asyncio.run(looks())
    assert asked == [SOURCE.repository] * 2
