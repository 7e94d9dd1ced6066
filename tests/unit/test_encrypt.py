"""`margo-oci encrypt` and `margo-agent identity`: who may read a file, and how a device says who it is."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from margo_agent.config import load_config
from margo_agent.device_identity import load_identity, load_keys, make_identity
from margo_agent.main import cli as agent
from margo_cli.encrypt import encrypt
from margo_oci.errors import FormatError
from margo_oci.jwe import parse_envelope, unseal
from margo_oci.jwk import thumbprint
from margo_oci.keys import generate
from tests.unit.test_jwe import NOW, SECRET, private, public_pem, sealed

CONFIG = """\
device: edge-17
source: registry.example/fleet/edge-17:latest
scopes: [edge-17]
trust: {keys: [fleet.pub]}
stateDir: state
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a device's configuration, a key, and a file to encrypt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.pub").write_bytes(generate(None)[1])
    (tmp_path / "agent.yaml").write_text(CONFIG)
    (tmp_path / "edge-17.pub").write_bytes(public_pem("edge-17"))
    (tmp_path / "word").write_bytes(SECRET)
    return tmp_path


def run(*arguments: str, data: bytes = b"") -> Result:
    return CliRunner().invoke(encrypt, arguments, input=data)


def refusal(*arguments: str, data: bytes = b"") -> str:
    done = run(*arguments, data=data)
    assert done.exit_code != 0
    assert SECRET.decode() not in done.output + str(done.exception)
    return done.output if isinstance(done.exception, SystemExit) else str(done.exception)


def opened(file: Path, name: str = "edge-17") -> bytes | None:
    return unseal(file.read_bytes(), [private(name)], what=file.name)


def private_pem(name: str) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return private(name).private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def test_a_file_is_encrypted_beside_itself(place: Path) -> None:
    done = run("word", "--to", "edge-17.pub", "--output", "json")
    assert json.loads(done.stdout)["file"] == "word.jwe"
    assert opened(place / "word.jwe") == SECRET
    assert SECRET.decode() not in done.output


def test_standard_input_is_encrypted_and_what_was_there_is_replaced(place: Path) -> None:
    for word in (b"one", b"two"):
        done = run("-", "--to", "edge-17.pub", "-o", "hello.files/deep/word.jwe", data=word)
        assert done.exit_code == 0, done.output
        assert opened(place / "hello.files" / "deep" / "word.jwe") == word
    assert "standard input has no name" in refusal("-", "--to", "edge-17.pub", data=b"x")


def test_what_push_would_publish_as_it_is_is_not_taken(place: Path) -> None:
    (place / "hello.files").mkdir()
    (place / "word").rename(place / "hello.files" / "word")
    assert "lies where `push` publishes it unencrypted" in refusal("hello.files/word", "--to", "edge-17.pub")


def test_nothing_but_an_encrypted_file_is_replaced(place: Path) -> None:
    (place / "word.jwe").write_text("my only copy")
    assert "word.jwe is there, and is not replaced" in refusal("word", "--to", "edge-17.pub")
    assert (place / "word.jwe").read_text() == "my only copy"
    assert "a name that ends in .jwe" in refusal("word", "--to", "edge-17.pub", "-o", "word.txt")
    assert "is empty" in refusal("-", "--to", "edge-17.pub", "-o", "x.jwe")


def test_whoever_can_open_a_file_lets_others_read_it(place: Path) -> None:
    (place / "x.jwe").write_bytes(sealed("ops"))
    (place / "ops.key").write_bytes(private_pem("ops"))
    done = run("--add", "x.jwe", "--to", "edge-17.pub", "--identity", "ops.key")
    assert done.exit_code == 0, done.output
    assert [opened(place / "x.jwe", name) for name in ("ops", "edge-17")] == [SECRET, SECRET]
    assert "--add and --identity go together" in refusal("--add", "x.jwe", "--to", "edge-17.pub")
    assert "FILE, or --add with an encrypted file" in refusal("word", "--add", "x.jwe", "--to", "edge-17.pub")


def test_a_plain_file_is_told_as_such_before_a_key_is_asked_for(place: Path) -> None:
    words = "word: is not encrypted: `margo-oci encrypt FILE --to …` encrypts a plain file, for all who may read it"
    assert refusal("--add", "word", "--to", "edge-17.pub") == words
    (place / "x.jwe").write_bytes(sealed("ops")[:-20])
    (place / "ops.key").write_bytes(private_pem("ops"))
    assert "is not encrypted" not in refusal("--add", "x.jwe", "--to", "edge-17.pub", "--identity", "ops.key")


@pytest.mark.parametrize("name", ["kid", "apu", "apv"])
def test_a_file_that_is_made_for_one_recipient_alone_stays_as_it_is(place: Path, name: str) -> None:
    raw = json.loads(sealed("ops"))
    said = raw["recipients"][0]["header"].pop("kid")
    raw["unprotected"] = {name: said if name == "kid" else ""}
    (place / "x.jwe").write_text(json.dumps(raw))
    (place / "ops.key").write_bytes(private_pem("ops"))
    words = refusal("--add", "x.jwe", "--to", "edge-17.pub", "--identity", "ops.key")
    assert "made for one recipient alone: encrypt the plain file again" in words
    assert opened(place / "x.jwe", "ops") == SECRET


def device(*arguments: str) -> Result:
    return CliRunner().invoke(agent, ["identity", *arguments, "--config", "agent.yaml"])


def test_a_device_makes_an_identity_and_files_are_encrypted_to_it(place: Path) -> None:
    made = device("init")
    assert made.exit_code == 0, made.output
    (place / "edge.crt").write_text(made.stdout)
    key = place / "state" / "identity" / "device.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert device("show").stdout == made.stdout
    shown = json.loads(device("show", "-o", "json").stdout)
    assert (shown["device"], shown["expires"][:2]) == ("edge-17", "20")
    assert run("word", "--to", "edge.crt").exit_code == 0
    assert list(parse_envelope((place / "word.jwe").read_bytes(), what="x").kids) == [shown["keyId"]]
    identity = load_identity(load_config(place / "agent.yaml"))
    assert unseal((place / "word.jwe").read_bytes(), identity.keys, what="x") == SECRET
    again = device("init")
    assert "is there already: show it with identity show, replace it with identity init --renew" in str(again.exception)


def test_after_it_was_renewed_the_old_key_still_opens(place: Path) -> None:
    config = load_config(place / "agent.yaml")
    first = make_identity(config, NOW)
    second = make_identity(config, NOW, renew=True)
    kids = [thumbprint(one.public_key()) for one in second.keys]
    assert kids == [second.kid, first.kid]
    assert second.kid != first.kid
    with pytest.raises(FormatError, match="--drop-earlier lets it go"):
        make_identity(config, NOW, renew=True)
    third = make_identity(config, NOW, renew=True, drop_earlier=True)
    assert [thumbprint(one.public_key()) for one in third.keys] == [third.kid, second.kid]


def test_a_renewal_that_was_cut_off_takes_nothing_away_and_is_done_again(place: Path) -> None:
    config = load_config(place / "agent.yaml")
    first = make_identity(config, NOW)
    key = place / "state" / "identity" / "device.key"
    before = key.read_bytes()
    make_identity(config, NOW, renew=True)
    key.write_bytes(before)  # the power went when the certificate was there, and the key was not
    assert thumbprint(load_keys(config)[0].public_key()) == first.kid
    with pytest.raises(FormatError, match=r"not the certificate of .*: make both anew: .* --renew"):
        load_identity(config)
    done = make_identity(config, NOW, renew=True)
    assert [thumbprint(one.public_key()) for one in done.keys][1:] == [first.kid]


def test_a_certificate_with_a_key_that_nobody_knows_is_told_by_its_file(place: Path) -> None:
    config = load_config(place / "agent.yaml")
    der = make_identity(config, NOW).certificate.public_bytes(serialization.Encoding.DER)
    p256, unknown = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030163")
    strange = x509.load_der_x509_certificate(der.replace(p256, unknown)).public_bytes(serialization.Encoding.PEM)
    (place / "state" / "identity" / "device.crt").write_bytes(strange)
    with pytest.raises(FormatError, match=r"device\.crt: not a usable X\.509 certificate"):
        load_identity(config)


def test_a_request_is_for_the_key_of_the_device(place: Path) -> None:
    assert "margo-agent identity init" in str(device("csr").exception)
    device("init")
    request = x509.load_pem_x509_csr(device("csr").stdout.encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=edge-17"
    assert request.public_key() == load_identity(load_config(place / "agent.yaml")).key.public_key()


def test_an_identity_that_was_given_is_used_and_never_replaced(place: Path) -> None:
    made = make_identity(load_config(place / "agent.yaml"), NOW)
    for name in ("device.key", "device.crt"):
        (place / "state" / "identity" / name).rename(place / name)
    (place / "agent.yaml").write_text(f"{CONFIG}identity: {{key: device.key, certificate: device.crt}}\n")
    config = load_config(place / "agent.yaml")
    assert load_identity(config).kid == made.kid
    with pytest.raises(FormatError, match="it is not for the agent to replace"):
        make_identity(config, NOW, renew=True)
    (place / "device.crt").write_text("rubbish")
    with pytest.raises(FormatError, match=r"not a usable X\.509 certificate"):
        load_identity(config)
    (place / "agent.yaml").write_text(f"{CONFIG}identity: {{key: device.key}}\n")
    with pytest.raises(FormatError, match="key and certificate go together"):
        load_config(place / "agent.yaml")


def test_a_certificate_of_another_key_is_refused(place: Path) -> None:
    config = load_config(place / "agent.yaml")
    make_identity(config, NOW)
    certificate = (place / "state" / "identity" / "device.crt").read_bytes()
    make_identity(config, NOW, renew=True)
    (place / "state" / "identity" / "device.crt").write_bytes(certificate)
    with pytest.raises(FormatError, match="is not the certificate of"):
        load_identity(config)


def test_nothing_is_encrypted_to_a_certificate_that_expired(place: Path) -> None:
    made = make_identity(load_config(place / "agent.yaml"), NOW - timedelta(days=4000), days=3)
    (place / "old.crt").write_text(made.pem)
    assert "old.crt: this certificate expired at 20" in refusal("word", "--to", "old.crt")


def test_the_key_for_reports_is_another_one(place: Path) -> None:
    device("init")
    done = CliRunner().invoke(agent, ["identity", "--config", "agent.yaml"])
    assert done.stdout.startswith("-----BEGIN PUBLIC KEY-----")
    reports = serialization.load_pem_public_key(done.stdout.encode())
    assert reports != load_identity(load_config(place / "agent.yaml")).key.public_key()
