"""Who asks, and who is told: passwords and tokens, and where they do not go."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from margo_oci.auth import Credentials
from margo_oci.errors import RegistryError
from margo_oci.reference import parse_reference
from margo_oci.registry import Access, Registry
from tests.simulators.faults import answers, endless, redirects, says
from tests.simulators.plant import HOST, SOURCE, Plant, ask, registry_with_tags, running_plant
from tests.simulators.registry import Login
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
