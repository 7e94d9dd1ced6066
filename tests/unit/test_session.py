"""What the options of a command mean for which host, and what Docker and Podman know of it."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from margo_cli.login import logout
from margo_cli.main import cli, main
from margo_cli.session import Session, cache, proxy_ca_files, read_file, say
from margo_oci.access import Access
from margo_oci.auth import Credentials
from margo_oci.errors import FormatError, write_utf8
from margo_oci.reference import Reference, parse_reference
from tests.parts.certs import Authority

CA = Path("ca.pem")


def named(text: str) -> Reference:
    return parse_reference(f"{text}/fleet/edge-17")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing is configured yet."""
    for name in (
        "DOCKER_CONFIG",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "REGISTRY_AUTH_FILE",
        "HTTPS_PROXY",
        "HTTP_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    proxy_ca_files.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "host", "meant"),
    [
        ("registry.example", "registry.example", True),
        ("registry.example", "other.example", False),
        ("registry.example", "localhost:5000", False),
        ("localhost:5001", "localhost:5000", True),
        ("127.0.0.1:5001", "localhost:5000", True),
        ("localhost:5001", "[::1]:5000", True),
        ("localhost:5001", "127.evil.example", False),
        ("127.evil.example", "localhost:5000", False),
        ("localhost:5001", "registry.example", False),
    ],
)
def test_options_are_for_the_named_registry_or_for_one_machine(reference: str, host: str, meant: bool) -> None:
    access = Session("text", plain_http=True, ca_file=CA).access(named(reference))(host)
    assert (access.plain_http, access.ca_file) == ((True, CA) if meant else (False, None))


def test_certificates_are_found_where_docker_and_podman_keep_them(home: Path) -> None:
    kept = home / ".docker" / "certs.d" / "registry.example:5000"
    Authority.create(kept).for_client("client")
    (kept / "client.pem").rename(kept / "client.cert")
    (kept / "ca.pem").rename(kept / "ca.crt")
    access = Session().access(named("registry.example:5000"))("registry.example:5000")
    assert access.extra_ca_files == (kept / "ca.crt",)
    assert (access.client_cert, access.client_key) == (kept / "client.cert", kept / "client.key")
    access.tls()
    assert Session().access(named("registry.example:5000"))("registry.example").client_cert is None


def test_the_ca_of_a_proxy_is_found_there_as_well(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "https://plant:secret@proxy.plant:3128")
    Authority.create(home / ".config" / "containers" / "certs.d" / "proxy.plant:3128")
    folder = home / ".config" / "containers" / "certs.d" / "proxy.plant:3128"
    (folder / "ca.pem").rename(folder / "ca.crt")
    assert Session().access(named("registry.example"))("registry.example").proxy_ca_files == (folder / "ca.crt",)


def test_logins_of_parts_of_a_registry_are_kept_apart(home: Path) -> None:
    (home / ".docker").mkdir()
    auth = {"auth": base64.b64encode(b"team:secret").decode()}
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {"registry.example/team": auth}}))
    access = Session().access(named("registry.example"))("registry.example")
    assert access.who("team/edge-17") == Credentials("team", "secret")
    assert access.who("other/edge-17") is None


def test_logout_speaks_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".docker").mkdir()
    auth = {"auth": base64.b64encode(b"me:secret").decode()}
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {"registry.example": auth}}))
    for removed in (True, False):
        logout.main(["registry.example", "-o", "json"], standalone_mode=False)
        assert json.loads(capsys.readouterr().out) == {"host": "registry.example", "removed": removed}


def test_of_a_file_no_more_is_read_than_shows_that_it_is_too_long(home: Path) -> None:
    (home / "long").write_bytes(bytes(1000))
    assert len(read_file(home / "long", limit_bytes=99)) == 100
    with pytest.raises(FormatError, match="gone: No such file or directory"):
        read_file(home / "gone")


def test_the_history_of_a_digest_is_a_slip() -> None:
    with pytest.raises(Exception, match="a tag is expected, not a digest") as slip:
        cli.main(["history", f"registry.example/fleet/edge-17@sha256:{'0' * 64}"], standalone_mode=False)
    assert getattr(slip.value, "exit_code", None) == 2


def test_an_encrypted_client_key_is_told_and_nobody_is_asked_for_its_password(home: Path) -> None:
    pair = Authority.create(home).for_client("client")
    key = load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(FormatError, match=r"client\.key: not usable as certificates"):
        Access(client_cert=pair.certificate, client_key=pair.key).tls()


def test_no_terminal_obeys_what_came_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    name = "ev\x1b[2Jil\x9b1m\u202e\nverified: signed by vendor"
    Session().show({}, [f"name      {name}", "vendor    x"])
    assert capsys.readouterr().out == "name      ev [2Jil 1m  verified: signed by vendor\nvendor    x\n"
    say(name)
    assert capsys.readouterr().err == "ev [2Jil 1m \n  verified: signed by vendor\n"


def test_no_terminal_obeys_json_either_and_programs_read_it_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "grün \x1b[2J\x9b1m\x7f\u202e\U000e0001\ud800 \U0001f600\n"}
    Session(output="json").show(value, [])
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert "grün" in out
    assert out.replace("\n", "").isprintable()


def test_where_no_cache_can_be_nothing_is_kept_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = cache().ingest.parent
    assert first.is_dir()
    assert f"{tmp_path / 'file' / 'margo-oci'}: nothing can be written there" in capsys.readouterr().err
    assert cache().ingest.parent == first
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    assert cache().ingest.parent == tmp_path / "kept" / "margo-oci"


def test_what_is_told_is_utf_8_wherever_it_goes() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="latin-1")
    write_utf8(stream, None)
    print("└── grün \udcff", file=stream, flush=True)
    assert written.getvalue() == "└── grün \\udcff\n".encode()


def test_a_reader_that_went_away_is_no_failure() -> None:
    command = f"set -o pipefail; {sys.executable} -m margo_cli completion bash | true"
    assert subprocess.run(["bash", "-c", command], check=False, capture_output=True).returncode == 0


def test_no_terminal_obeys_what_an_error_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise FormatError("a \x1b[2J", "b")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: a  [2J\n  b\n"
