"""Commands that sign: whatever shape the answer has, it verifies or is told what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from margo_oci.cosign import parse_bundle
from margo_oci.cosign import sign as sign_bundle
from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey, Signer
from margo_oci.signers import CommandSigner, Input
from tests.unit.chains import leaf
from tests.unit.scenes import DIGEST

PUBLIC = PublicKey.of(leaf().certificate.public_key(), name="fleet.pub")
SIDE_BY_SIDE = (
    "from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature as d;"
    "r, s = d(signature); signature = r.to_bytes(32) + s.to_bytes(32);"
)
BASE64 = "import base64; signature = base64.encodebytes(signature);"
URLSAFE = "import base64; signature = base64.urlsafe_b64encode(signature).rstrip(b'=');"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The private key of PUBLIC."""
    file = tmp_path / "fleet.key"
    file.write_bytes(leaf().key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def openssl(key_file: Path, then: str = "", of: Input = "data") -> CommandSigner:
    """A signer by openssl; `then` changes what it answers."""
    how = ["dgst", "-sha256", "-sign"] if of == "data" else ["pkeyutl", "-sign", "-inkey"]
    code = (
        "import subprocess, sys; signature = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True).stdout;"
        f"{then} sys.stdout.buffer.write(signature)"
    )
    command = ["openssl", *how, str(key_file)]
    return CommandSigner(PUBLIC, [sys.executable, "-c", code, *command] if then else command, of)


def python(code: str, *, timeout_s: float = 20) -> CommandSigner:
    return CommandSigner(PUBLIC, [sys.executable, "-c", code], timeout_s=timeout_s)


def refused(signer: CommandSigner, data: bytes = b"data") -> str:
    with pytest.raises(FormatError) as error:
        signer.sign(data)
    return str(error.value)


@pytest.mark.parametrize("then", ["", SIDE_BY_SIDE, BASE64, SIDE_BY_SIDE + BASE64, URLSAFE, SIDE_BY_SIDE + URLSAFE])
def test_openssl_signs_and_any_shape_of_its_answer_is_understood(key_file: Path, then: str) -> None:
    signer = openssl(key_file, then)
    assert PUBLIC.verifies(signer.sign(b"data" * 50_000), b"data" * 50_000)


def test_a_command_may_take_the_digest(key_file: Path) -> None:
    assert PUBLIC.verifies(openssl(key_file, of="digest").sign(b"data"), b"data")
    wrong = CommandSigner(PUBLIC, openssl(key_file).command, "digest")
    assert "another key, or it expects the data, not the digest" in refused(wrong)


def test_a_command_signs_bundles_as_a_file_does(key_file: Path) -> None:
    signer: Signer = openssl(key_file)
    envelope = parse_bundle(sign_bundle(DIGEST, signer, name="a/b"))
    assert PUBLIC.verifies(envelope.signature, envelope.signed)


def test_rsa_signs_with_pss(tmp_path: Path) -> None:
    key = leaf("RSA3072").key
    (tmp_path / "k").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
    command = ["openssl", "dgst", "-sha384", *pss, "-sign", str(tmp_path / "k")]
    signer = CommandSigner(PublicKey.from_pem(pem, name="k.pub", use="notary"), command)
    assert signer.public.verifies(signer.sign(b"data"), b"data")


def test_rsa_with_another_hash_than_its_certificate_gives_is_no_signature(tmp_path: Path) -> None:
    """It would hold, and say what it is not: published, nobody would accept it."""
    key = leaf("RSA3072").key
    (tmp_path / "k").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
    command = ["openssl", "dgst", "-sha256", *pss, "-sign", str(tmp_path / "k")]
    assert "is no signature by k.pub" in refused(
        CommandSigner(PublicKey.from_pem(pem, name="k.pub", use="notary"), command)
    )


def test_a_command_that_fails_is_quoted() -> None:
    assert refused(python("import sys; sys.exit('wrong PIN')")).endswith("it ended with 1: wrong PIN")
    assert refused(python("import sys; sys.exit(3)")).endswith("it ended with 3: it said nothing")
    long = refused(python("import sys; print('x' * 9_000_000, 'the end', file=sys.stderr); sys.exit(1)"))
    assert long.endswith("xxx the end")
    assert len(long) < 600


def test_a_command_that_is_not_there_is_told() -> None:
    assert refused(CommandSigner(PUBLIC, ["/no/such/command"])).startswith(
        "signer /no/such/command: it cannot be started"
    )
    with pytest.raises(FormatError, match="signer: a command and its arguments are expected"):
        CommandSigner(PUBLIC, [])


def test_a_command_that_does_not_answer_is_ended() -> None:
    assert refused(python("import time; time.sleep(60)", timeout_s=0.3)).endswith("no answer in 0.3 s")


def test_a_command_that_does_not_end_is_ended() -> None:
    closed = "import os, time; os.close(0); os.close(1); os.close(2); time.sleep(60)"
    assert refused(python(closed, timeout_s=0.3)).endswith("no answer in 0.3 s")


def test_a_command_that_says_too_much_is_ended() -> None:
    assert refused(python("while True: print('x' * 999)")).endswith("more than 16384 bytes, which no signature has")


def test_a_command_that_reads_nothing_is_heard_all_the_same(key_file: Path) -> None:
    made = leaf().signer.sign(b"x" * 500_000)
    deaf = python(f"import os, sys; os.close(0); sys.stdout.buffer.write({made!r})")
    assert deaf.sign(b"x" * 500_000) == made


@pytest.mark.parametrize("answer", [b"", b"rubbish", b"x" * 64, b"AAAA", b"\xff" * 72])
def test_an_answer_that_is_no_signature_is_told(answer: bytes) -> None:
    words = refused(python(f"import sys; sys.stdout.buffer.write({answer!r})"))
    assert (
        f"its answer ({len(answer)} bytes) is no signature by fleet.pub: another key, or it expects the digest" in words
    )


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    refused(CommandSigner(PUBLIC, ["echo", f"; touch {tmp_path}/made"]))
    assert not (tmp_path / "made").exists()
    assert subprocess.run(["true"], check=True)
