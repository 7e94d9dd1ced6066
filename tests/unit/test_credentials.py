"""Credentials where Docker's and Podman's tools keep them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from margo_oci import helper as helpers
from margo_oci.auth import Credentials
from margo_oci.credentials import AuthFiles
from margo_oci.errors import FormatError
from margo_oci.reference import DOCKER_HUB

HELPER = """#!/bin/sh
# A credential helper that keeps one login in a file (docker-credential-helpers, protocol).
kept="$(dirname "$0")/kept"
asked=$(cat)
case "$1" in
    get) if [ "$asked" = registry.example ]; then cat "$kept"; else echo "credentials not found"; exit 1; fi ;;
    store) printf %s "$asked" > "$kept" ;;
    erase) rm "$kept" ;;
esac
"""


def auth_file(path: Path, auths: Any = None, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths or {}, **more}))
    return path


def entry(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with docker-credential-shelf in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker-credential-shelf").write_text(HELPER)
    (folder / "docker-credential-shelf").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_the_files_are_those_of_docker_and_podman() -> None:
    home = Path("/home/op")
    assert AuthFiles.of({}, home).files == (
        home / ".docker" / "config.json",
        home / ".config" / "containers" / "auth.json",
    )
    environment = {"DOCKER_CONFIG": "/d", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_CONFIG_HOME": "/c"}
    assert AuthFiles.of(environment, home).files == (
        Path("/d/config.json"),
        Path("/run/user/7/containers/auth.json"),
        Path("/c/containers/auth.json"),
    )
    assert AuthFiles.of({"REGISTRY_AUTH_FILE": "/mine.json", "DOCKER_CONFIG": "/d"}, home).files == (
        Path("/mine.json"),
    )


def test_a_login_is_found_in_the_first_file_that_has_it(tmp_path: Path) -> None:
    files = AuthFiles((tmp_path / "gone.json", auth_file(tmp_path / "a", {"other.example": entry("o", "p")}),
                       auth_file(tmp_path / "b", {"registry.example": entry("user", "pa:ss")}),
                       auth_file(tmp_path / "c", {"registry.example": entry("late", "x")})))  # fmt: skip
    assert files.find("registry.example") == Credentials("user", "pa:ss")
    assert files.find("nobody.example") is None


@pytest.mark.parametrize(
    "key", ["registry.example:5000", "https://registry.example:5000", "http://registry.example:5000/v2/"]
)
def test_a_host_is_found_as_older_tools_wrote_it(key: str, tmp_path: Path) -> None:
    files = AuthFiles((auth_file(tmp_path / "a", {key: entry("user", "secret")}),))
    assert files.find("registry.example:5000") == Credentials("user", "secret")
    assert files.find("registry.example") is None
    assert files.find("egistry.example:5000") is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_the_hub_has_many_names(key: str, tmp_path: Path) -> None:
    files = AuthFiles((auth_file(tmp_path / "a", {key: entry("user", "secret")}),))
    assert files.find(DOCKER_HUB) == Credentials("user", "secret")


def test_name_and_password_may_stand_apart(tmp_path: Path) -> None:
    files = AuthFiles((auth_file(tmp_path / "a", {"registry.example": {"username": "user", "password": "secret"}}),))
    assert files.find("registry.example") == Credentials("user", "secret")


def test_an_entry_without_a_name_is_no_login(tmp_path: Path) -> None:
    files = AuthFiles((auth_file(tmp_path / "a", {"registry.example": {}}),))
    assert files.find("registry.example") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rubbish", "not a usable auth file: "),
        ("[]", "not a usable auth file: an object with auths is expected"),
        ('{"auths":[7]}', "not a usable auth file: an object with auths is expected"),
        ('{"auths":{"registry.example":{"auth":"%"}}}', "the entry for registry.example is not usable: log in again"),
        ('{"auths":{"registry.example":{"auth":7}}}', "the entry for registry.example is not usable: log in again"),
        (
            '{"auths":{"registry.example":{"auth":"/w=="}}}',
            "the entry for registry.example is not usable: log in again",
        ),
    ],
)
def test_a_damaged_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(content)
    with pytest.raises(FormatError) as refused:
        AuthFiles((file,)).find("registry.example")
    assert str(refused.value).startswith(f"{file}: {message}")


def test_a_file_in_which_podman_left_no_logins_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text('{"auths":null}')
    assert AuthFiles((file,)).find("registry.example") is None


def test_a_login_is_kept_for_its_owner_alone_and_leaves_the_rest(tmp_path: Path) -> None:
    file = auth_file(tmp_path / "new" / "config.json", {"other.example": entry("o", "p")}, psFormat="x")
    file.chmod(0o644)
    files = AuthFiles((file,))
    assert files.save("registry.example", Credentials("user", "secret")) == file
    assert file.stat().st_mode & 0o777 == 0o600
    content = json.loads(file.read_text())
    assert content["psFormat"] == "x"
    assert set(content["auths"]) == {"other.example", "registry.example"}
    assert files.find("registry.example") == Credentials("user", "secret")


def test_a_first_login_makes_the_file(tmp_path: Path) -> None:
    files = AuthFiles((tmp_path / ".docker" / "config.json",))
    files.save(DOCKER_HUB, Credentials("user", "secret"))
    assert "https://index.docker.io/v1/" in (tmp_path / ".docker" / "config.json").read_text()
    assert (tmp_path / ".docker").stat().st_mode & 0o077 == 0


def test_a_login_is_forgotten_everywhere(tmp_path: Path) -> None:
    one = auth_file(tmp_path / "a", {"https://registry.example": entry("u", "p")})
    two = auth_file(tmp_path / "b", {"registry.example": entry("u", "p"), "x.example": entry("u", "p")})
    files = AuthFiles((one, two))
    assert files.remove("registry.example")
    assert not files.remove("registry.example")
    assert files.find("registry.example") is None
    assert files.find("x.example") == Credentials("u", "p")


@pytest.mark.parametrize("names", [{"credsStore": "shelf"}, {"credHelpers": {"registry.example": "shelf"}}])
def test_a_helper_keeps_and_finds_a_login(names: dict[str, Any], tmp_path: Path, helper: Path) -> None:
    file = auth_file(tmp_path / "config.json", **names)
    files = AuthFiles((file,))
    files.save("registry.example", Credentials("user", "secret"))
    assert json.loads((helper / "kept").read_text())["ServerURL"] == "registry.example"
    assert "secret" not in file.read_text()
    assert files.find("registry.example") == Credentials("user", "secret")
    assert files.find("other.example") is None
    assert files.remove("registry.example")
    assert not (helper / "kept").exists()


def test_a_helper_that_talks_nonsense_is_named(tmp_path: Path, helper: Path) -> None:
    (helper / "kept").write_text('{"Username":"user"}')
    files = AuthFiles((auth_file(tmp_path / "config.json", credsStore="shelf"),))
    with pytest.raises(FormatError, match=r"docker-credential-shelf: its answer for registry.example is not usable"):
        files.find("registry.example")


def test_a_helper_that_is_missing_is_named(tmp_path: Path) -> None:
    files = AuthFiles((auth_file(tmp_path / "config.json", credsStore="no-such-shelf"),))
    with pytest.raises(FormatError, match="credential helper docker-credential-no-such-shelf: "):
        files.find("registry.example")


def test_a_helper_that_could_not_keep_a_login_does_not_pass_for_one_that_did(tmp_path: Path, helper: Path) -> None:
    (helper / "docker-credential-shelf").write_text("#!/bin/sh\necho 'the keyring is locked' >&2\nexit 1\n")
    files = AuthFiles((auth_file(tmp_path / "config.json", credsStore="shelf"),))
    with pytest.raises(FormatError, match=r"docker-credential-shelf could not keep the login for registry\.example"):
        files.save("registry.example", Credentials("user", "secret"))


@pytest.mark.parametrize(
    ("repository", "who"),
    [("team/line-1/edge-17", "line"), ("team/line-1", "line"), ("team/line-10", "team"), ("team", "team"),
     ("teams", "host"), ("", "host")],
)  # fmt: skip
def test_the_longest_key_about_a_repository_counts(repository: str, who: str, tmp_path: Path) -> None:
    auths = {
        "registry.example/team": entry("team", "t"),
        "registry.example": entry("host", "h"),
        "registry.example/team/line-1": entry("line", "l"),
        "registry.example:5000/team": entry("other", "o"),
    }
    found = AuthFiles((auth_file(tmp_path / "a", auths),)).find("registry.example", repository)
    assert found
    assert found.username == who


def test_a_login_for_a_part_is_none_for_the_rest(tmp_path: Path) -> None:
    files = AuthFiles((auth_file(tmp_path / "a", {"registry.example/team": entry("team", "t")}),))
    assert files.find("registry.example") is None
    assert files.find("registry.example", "other/repo") is None


def test_a_logout_leaves_the_logins_of_parts(tmp_path: Path) -> None:
    auths = {"registry.example": entry("h", "h"), "registry.example/team": entry("t", "t"),
             "https://registry.example/v1/": entry("o", "o")}  # fmt: skip
    file = auth_file(tmp_path / "a", auths)
    assert AuthFiles((file,)).remove("registry.example")
    assert list(json.loads(file.read_text())["auths"]) == ["registry.example/team"]


def test_an_identity_token_is_found_beside_an_empty_password(tmp_path: Path) -> None:
    kept = {**entry("00000000-0000-0000-0000-000000000000", ""), "identitytoken": "refresh-me"}
    found = AuthFiles((auth_file(tmp_path / "a", {"registry.example": kept}),)).find("registry.example")
    assert found
    assert found.identity_token == "refresh-me"
    assert "refresh-me" not in repr(found)


def test_a_helper_says_by_the_name_that_it_is_an_identity_token(tmp_path: Path, helper: Path) -> None:
    (helper / "kept").write_text('{"Username":"<token>","Secret":"refresh-me"}')
    files = AuthFiles((auth_file(tmp_path / "config.json", credsStore="shelf"),))
    assert files.find("registry.example") == Credentials("", "", "refresh-me")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'the keyring is locked'; exit 3", "get for registry.example ended with 3: the keyring is locked"),
        ("exit 3", "get for registry.example ended with 3: no word why"),
        ("printf '\\033[31mred'; exit 1", r"ended with 1:  ?\[31mred"),
        ("yes", "it said more than 65536 bytes"),
        ("exec sleep 5", "no answer within 0 s"),
        ("exec >&-; exec sleep 5", "no answer within 0 s"),
    ],
)
def test_a_helper_that_fails_is_told_and_never_waited_for_long(
    script: str, message: str, tmp_path: Path, helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "HELPER_TIMEOUT_S", 0.3)
    (helper / "docker-credential-shelf").write_text(f"#!/bin/sh\n{script}\n")
    file = auth_file(tmp_path / "config.json", credsStore="shelf")
    with pytest.raises(FormatError, match=f"{file}: .*docker-credential-shelf.*{message}"):
        AuthFiles((file,)).find("registry.example")
