"""Ways to a real registry as plants have them, for reading and for pushing: logins, certificates, proxies, mirrors."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from margo_agent.config import load_config
from margo_oci.auth import Credentials
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON
from margo_oci.errors import MargoError
from margo_oci.manifest import Manifest
from margo_oci.proxy import Proxies
from margo_oci.reference import Reference
from margo_oci.registry import Access, Registry
from margo_oci.upload import Uploader
from tests.contract.conftest import repository_for
from tests.parts.certs import Authority, Pair
from tests.parts.proxy import ConnectProxy
from tests.parts.registry import LocalRegistry
from tests.parts.tokens import TokenService
from tests.unit.scenes import ROOT

READER, WRITER = Credentials("reader", "reader-secret"), Credentials("writer", "writer-secret")
IDENTITY = Credentials("", "", "identity-secret")
SECRETS = ("reader-secret", "writer-secret", "identity-secret", "proxy-secret", "guess-secret", "basic ", "bearer ")
EXAMPLE = ROOT / "examples" / "components" / "hello"
Door = Callable[[Reference, Access], None]


def read(reference: Reference, access: Access) -> None:
    """Read what is under the tag."""

    async def asked() -> None:
        async with Registry(lambda _: access) as registry:
            await registry.manifest(reference)

    asyncio.run(asked())


def push(reference: Reference, access: Access) -> None:
    """Push a manifest under the tag."""
    uploader = Uploader(reference.host, access, lambda _: access)
    with closing(uploader.oras.session):
        uploader.blob(reference, EMPTY_CONFIG, EMPTY_JSON)
        assert not uploader.send(reference, EMPTY_CONFIG, EMPTY_JSON)
        uploader.manifest(reference, Manifest.build("application/vnd.margo.test", [], {}).data)


doors = pytest.mark.parametrize("door", [read, push])


def refused(door: Door, reference: Reference, access: Access) -> str:
    """Return in what words a door says that it is shut; no secret may be among them."""
    with pytest.raises(MargoError) as error:
        door(reference, access)
    words = str(error.value)
    assert not [secret for secret in SECRETS if secret in words.lower()], words
    return words


@pytest.fixture
def at(request: pytest.FixtureRequest) -> Callable[[LocalRegistry], Reference]:
    """Say where in a registry this test works."""
    return lambda registry: Reference(registry.host, repository_for(request), "latest")


# Tokens with rights


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[TokenService]:
    """A token service beside `tokened`."""
    certs = folder / "token" / "certs"
    authority = Authority.create(certs)
    authority.for_server("server")
    rights = {READER: "pull", WRITER: "pull,push", IDENTITY: "pull,push"}
    with TokenService(authority.for_server("tokens"), rights) as service:
        yield service


@pytest.fixture(scope="module")
def tokened(folder: Path, service: TokenService) -> Iterator[LocalRegistry]:
    """A registry that wants tokens."""
    with LocalRegistry(folder / "token", "token", upstream=service.realm) as registry:
        yield registry


def as_whom(registry: LocalRegistry, credentials: Credentials | None) -> Access:
    return Access(ca_file=registry.ca_file, credentials=credentials)


@pytest.mark.parametrize("who", [WRITER, IDENTITY], ids=["password", "identity-token"])
def test_whoever_has_the_rights_pushes_and_reads(
    tokened: LocalRegistry, service: TokenService, at: Callable[[LocalRegistry], Reference], who: Credentials
) -> None:
    service.asked.clear()
    push(at(tokened), as_whom(tokened, who))
    read(at(tokened), as_whom(tokened, who))
    assert {one.method for one in service.asked} == {"POST" if who.identity_token else "GET"}
    assert {one.scope.rpartition(":")[2] for one in service.asked} <= {"pull", "pull,push", "push,pull"}


def test_a_push_without_the_right_to_it_names_the_right(
    tokened: LocalRegistry, at: Callable[[LocalRegistry], Reference]
) -> None:
    place = at(tokened)
    push(place, as_whom(tokened, WRITER))
    read(place, as_whom(tokened, READER))
    words = refused(push, replace(place, tag="other"), as_whom(tokened, READER))
    assert f"not allowed to push: the right repository:{place.repository}:p" in words
    assert "push" in words.partition(place.repository + ":")[2]
    assert "log in" in words


@doors
@pytest.mark.parametrize("who", [None, Credentials("reader", "guess-secret"), Credentials("", "", "guess-secret")])
def test_who_is_not_known_to_the_token_service_is_told_so(
    door: Door, tokened: LocalRegistry, at: Callable[[LocalRegistry], Reference], who: Credentials | None
) -> None:
    assert "401: " in refused(door, at(tokened), as_whom(tokened, who))


def test_a_token_that_ended_is_renewed_before_it_is_refused(
    tokened: LocalRegistry, service: TokenService, at: Callable[[LocalRegistry], Reference]
) -> None:
    place, now_s = at(tokened), [0.0]
    push(place, as_whom(tokened, WRITER))
    service.asked.clear()
    tokened.forget()

    async def three_times() -> None:
        access = as_whom(tokened, READER)
        async with Registry(lambda _: access, monotonic_s=lambda: now_s[0]) as registry:
            await registry.manifest(place)
            await registry.manifest(place)
            now_s[0] = float(service.life_s)
            await registry.manifest(place)

    asyncio.run(three_times())
    assert len(service.asked) == 2
    assert [one.status for one in tokened.requests()] == [401, 200, 200, 200]


# Client certificates


@pytest.fixture(scope="module")
def mtls(folder: Path) -> Iterator[LocalRegistry]:
    """A registry for those who show a certificate."""
    with LocalRegistry(folder / "mtls", "mtls") as registry:
        yield registry


@doors
def test_a_client_certificate_opens_the_door(
    door: Door, mtls: LocalRegistry, at: Callable[[LocalRegistry], Reference]
) -> None:
    assert mtls.client
    access = Access(ca_file=mtls.ca_file, client_cert=mtls.client.certificate, client_key=mtls.client.key)
    push(at(mtls), access)
    door(at(mtls), access)
    refused(door, at(mtls), Access(ca_file=mtls.ca_file))  # the words depend on who hangs up first


# CAs


@doors
def test_a_ca_beside_the_systems_is_enough(
    door: Door, guarded: LocalRegistry, at: Callable[[LocalRegistry], Reference]
) -> None:
    assert guarded.ca_file
    login = Credentials(guarded.username, guarded.password)
    push(at(guarded), Access(extra_ca_files=(guarded.ca_file,), credentials=login))
    door(at(guarded), Access(extra_ca_files=(guarded.ca_file,), credentials=login))
    assert "certificate verify failed" in refused(door, at(guarded), Access(credentials=login))


@doors
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_cas_of_the_environment_count(
    door: Door, variable: str, guarded: LocalRegistry, at: Callable[[LocalRegistry], Reference],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    assert guarded.ca_file
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, str(guarded.ca_file if variable == "SSL_CERT_FILE" else hashed(guarded, tmp_path)))
    login = Credentials(guarded.username, guarded.password)
    push(at(guarded), Access(credentials=login))
    door(at(guarded), Access(credentials=login))


def hashed(registry: LocalRegistry, folder: Path) -> Path:
    """Return a folder with the CA under the name by which OpenSSL looks for it."""
    assert registry.ca_file
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(registry.ca_file)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (folder / f"{name}.0").write_bytes(registry.ca_file.read_bytes())
    return folder


def test_a_ca_file_of_the_environment_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    assert "SSL_CERT_FILE: not usable as certificates" in refused(read, Reference("127.0.0.1:1", "a", "b"), Access())


# Proxies


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Whose certificate the proxy has: not the registry's."""
    authority = Authority.create(folder / "proxy")
    authority.for_server("proxy")
    return authority


@contextmanager
def proxied(authority: Authority, kind: str) -> Iterator[tuple[ConnectProxy, Access]]:
    """Yield a proxy, plain or over TLS, and how it is used."""
    pair = Pair(authority.directory / "proxy.pem", authority.directory / "proxy.key") if kind == "https" else None
    with ConnectProxy(pair, Credentials("plant", "proxy-secret")) as proxy:
        yield proxy, Access(proxies=Proxies(proxy.url, proxy.url), proxy_ca_files=(authority.ca_file,))


def through(way: Access, registry: LocalRegistry) -> Access:
    """Return how a guarded registry is reached by a way."""
    return replace(way, ca_file=registry.ca_file, credentials=Credentials(registry.username, registry.password))


kinds = pytest.mark.parametrize("kind", ["http", "https"])


@doors
@kinds
def test_a_proxy_carries(
    door: Door, kind: str, guarded: LocalRegistry, authority: Authority, at: Callable[[LocalRegistry], Reference]
) -> None:
    with proxied(authority, kind) as (proxy, way):
        push(at(guarded), through(way, guarded))
        proxy.asked.clear()
        door(at(guarded), through(way, guarded))
        assert proxy.asked == [(guarded.host, 200)]  # one connection for everything


@doors
@pytest.mark.parametrize("variables", [("HTTPS_PROXY",), ("https_proxy",), ("ALL_PROXY",)])
def test_a_proxy_of_the_environment_carries(
    door: Door, variables: tuple[str, ...], guarded: LocalRegistry, authority: Authority,
    at: Callable[[LocalRegistry], Reference], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with proxied(authority, "https") as (proxy, way):
        for variable in variables:
            monkeypatch.setenv(variable, proxy.url)
        access = through(replace(way, proxies=None), guarded)
        push(at(guarded), access)
        door(at(guarded), access)
        carried = len(proxy.asked)
        assert carried
        monkeypatch.setenv("NO_PROXY", "registry.example,127.0.0.0/8")
        door(at(guarded), access)
        assert len(proxy.asked) == carried


@doors
@kinds
def test_a_proxy_that_wants_another_login_is_told_as_that(
    door: Door, kind: str, guarded: LocalRegistry, authority: Authority, at: Callable[[LocalRegistry], Reference]
) -> None:
    with proxied(authority, kind) as (proxy, way):
        url = proxy.url.replace("proxy-secret", "guess-secret")
        words = refused(door, at(guarded), through(replace(way, proxies=Proxies(url, url)), guarded))
    assert f"the proxy {kind}://127.0.0.1:" in words
    assert "answered 407" in words
    assert "it wants a login it knows" in words


@doors
def test_a_proxy_whose_certificate_is_not_trusted_is_told_as_that(
    door: Door, guarded: LocalRegistry, authority: Authority, at: Callable[[LocalRegistry], Reference]
) -> None:
    with proxied(authority, "https") as (_, way):
        words = refused(door, at(guarded), through(replace(way, proxy_ca_files=()), guarded))
    assert "certificate verify failed" in words
    assert "(through the proxy https://127.0.0.1:" in words


@doors
def test_a_proxy_that_is_not_there_is_named(
    door: Door, guarded: LocalRegistry, at: Callable[[LocalRegistry], Reference]
) -> None:
    url = "http://plant:proxy-secret@127.0.0.1:1"
    words = refused(door, at(guarded), through(Access(proxies=Proxies(url, url)), guarded))
    assert "(through the proxy http://127.0.0.1:1)" in words


# A mirror


def test_a_pull_through_mirror_answers_when_the_registry_is_away(
    folder: Path, at: Callable[[LocalRegistry], Reference]
) -> None:
    with LocalRegistry(folder / "copied", "plain") as home:
        place = at(home)
        push(place, Access(plain_http=True))
        with LocalRegistry(folder / "mirror", "mirror", upstream=home.url) as mirror:
            ways: Mapping[str, Access] = {
                home.host: Access(plain_http=True, mirrors=(Reference(mirror.host, ""),)),
                mirror.host: Access(plain_http=True),
            }
            home.forget()
            mirror.forget()
            before = asyncio.run(all_of(place, ways))
            asked = [f"{one.method} {one.path}" for one in mirror.requests()]
            assert len(asked) == 3
            await_copy(mirror, EMPTY_CONFIG.digest)
            home.stop()
            assert asyncio.run(all_of(place.at(before), ways)) == before
            assert asyncio.run(all_of(place, ways)) == before


def await_copy(mirror: LocalRegistry, digest: str) -> None:
    """Wait until a mirror has a blob: it keeps what it passes on in the background."""
    deadline_s = time.monotonic() + 10
    while not any(mirror.storage.rglob(f"_layers/sha256/{digest.removeprefix('sha256:')}/link")):
        assert time.monotonic() < deadline_s, "the mirror keeps no copy"
        time.sleep(0.02)


async def all_of(place: Reference, ways: Mapping[str, Access]) -> str:
    """Read a manifest, look again, and read its config; return its digest."""
    async with Registry(ways.__getitem__) as registry:
        received = await registry.manifest(place)
        assert received
        assert await registry.manifest(place, known=received.digest) is None
        assert await registry.small_blob(place, EMPTY_CONFIG, limit_bytes=10) == EMPTY_JSON
        assert registry.traffic.requests == 3
        return received.digest


# A device's configuration


def test_a_device_finds_its_way_by_its_configuration(
    guarded: LocalRegistry, authority: Authority, at: Callable[[LocalRegistry], Reference], tmp_path: Path
) -> None:
    """Through a proxy with a certificate of its own, with a login from a helper, past a mirror that is not there."""
    place, helper = at(guarded), tmp_path / "helper"
    push(place, through(Access(), guarded))
    helper.write_text(f"""#!/bin/sh\necho '{{"Username": "{guarded.username}", "Secret": "{guarded.password}"}}'\n""")
    helper.chmod(0o755)
    with proxied(authority, "https") as (proxy, _):
        (tmp_path / "agent.yaml").write_text(f"""\
device: edge-17
source: {place}
scopes: [edge-17]
trust: {{keys: [fleet.pub]}}
stateDir: state
proxy: {{url: "{proxy.url}", noProxy: [10.0.0.0/8], caFile: {authority.ca_file}}}
registries:
  "{guarded.host}": {{caFile: {guarded.ca_file}, credentialHelper: helper, mirrors: ["127.0.0.1:1/cache"]}}
  "127.0.0.1:1": {{plainHttp: true, proxy: {{url: "http://127.0.0.1:1"}}}}
""")
        config = load_config(tmp_path / "agent.yaml")

        async def look() -> tuple[int, str]:
            async with Registry(config.access) as registry:
                received = await registry.manifest(config.source)
                assert received
                first = registry.traffic.requests
                assert await registry.manifest(config.source, known=received.digest) is None
                return registry.traffic.requests - first, str(registry.mirrors.faults)

        requests, faults = asyncio.run(look())
        assert requests == 1
        assert "(through the proxy http://127.0.0.1:1)" in faults
        assert proxy.asked == [(guarded.host, 200)]


# The command line


HELPER = """#!/bin/sh
kept="$(dirname "$0")/kept"
case "$1" in
    get) cat >/dev/null; cat "$kept" || { echo "credentials not found in native keychain"; exit 1; } ;;
    store) cat > "$kept" ;;
    erase) rm "$kept" ;;
esac
"""


def run(folder: Path, *arguments: str, stdin: str = "") -> tuple[int, str]:
    """Run margo-oci in a home of its own; return its exit code and all it said."""
    environment = {**os.environ, "HOME": str(folder), "PATH": f"{folder}:{os.environ['PATH']}", "DOCKER_CONFIG": ""}
    command = [sys.executable, "-m", "margo_cli", *arguments]
    done = subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_login_is_tried_with_a_token_and_kept_by_the_helper(
    tokened: LocalRegistry, at: Callable[[LocalRegistry], Reference], tmp_path: Path
) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text('{"credsStore": "shelf"}')
    (tmp_path / "docker-credential-shelf").write_text(HELPER)
    (tmp_path / "docker-credential-shelf").chmod(0o755)
    place, way = at(tokened), ["--ca-file", str(tokened.ca_file)]
    push(place, as_whom(tokened, WRITER))
    login = ["login", tokened.host, "-u", "reader", "--password-stdin", *way]
    code, words = run(tmp_path, *login, stdin="guess-secret\n")
    assert (code, "guess-secret" in words, "401: these credentials are not accepted" in words) == (3, False, True)
    assert run(tmp_path, *login, stdin="reader-secret\n")[0] == 0
    assert json.loads((tmp_path / "kept").read_text())["Secret"] == "reader-secret"
    assert "reader-secret" not in (tmp_path / ".docker" / "config.json").read_text()
    # The helper answered and the registry let us in: what lies there is no state.
    assert "a desired state is expected" in run(tmp_path, "inspect", str(place), *way)[1]
    assert run(tmp_path, "logout", tokened.host, "-o", "json")[1].split() == ["{", '"host":', f'"{tokened.host}",',
                                                                           '"removed":', "true", "}"]  # fmt: skip
    assert not (tmp_path / "kept").exists()


def test_a_client_certificate_is_found_where_docker_keeps_it(
    mtls: LocalRegistry, at: Callable[[LocalRegistry], Reference], tmp_path: Path
) -> None:
    assert mtls.client
    assert mtls.ca_file
    kept = tmp_path / ".docker" / "certs.d" / mtls.host
    kept.mkdir(parents=True)
    for name, file in {"ca.crt": mtls.ca_file, "client.cert": mtls.client.certificate,
                       "client.key": mtls.client.key}.items():  # fmt: skip
        shutil.copy(file, kept / name)
    place = at(mtls)
    push(place, Access(ca_file=mtls.ca_file, client_cert=mtls.client.certificate, client_key=mtls.client.key))
    assert run(tmp_path, "component", "push", str(EXAMPLE), f"{place.name}:1.0.0")[0] == 0
    assert "a desired state is expected" in run(tmp_path, "inspect", str(place))[1]
    (kept / "client.cert").unlink()
    (kept / "client.key").unlink()
    assert run(tmp_path, "inspect", str(place))[0] == 3


def test_the_history_of_a_repository_that_is_not_there_is_not_found(plain: LocalRegistry, tmp_path: Path) -> None:
    code, words = run(tmp_path, "history", f"{plain.host}/nobody/here:latest", "--plain-http")
    assert code == 3
    assert "the registry has no repository nobody/here: check how it is written, or log in" in words
