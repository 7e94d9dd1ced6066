"""cosign's private key file: read, written, and refused when it asks for more than cosign would."""

import base64
import json
import sys
from typing import Any

import nacl.secret
import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given, settings
from hypothesis import strategies as st

from margo_oci import cosign_key
from margo_oci.errors import FormatError
from margo_oci.keys import FileKey, PublicKey, generate_cosign
from tests.unit.scenes import VECTORS, read_or_refused

OURS = (VECTORS / "cosign_key" / "ours.key").read_bytes()
PASSWORD = b"correct horse"


def fields(data: bytes = OURS) -> dict[str, Any]:
    body = b"".join(data.splitlines()[1:-1])
    value = json.loads(base64.b64decode(body))
    assert isinstance(value, dict)
    return value


def pem(raw: object, kind: str = "SIGSTORE") -> bytes:
    body = base64.b64encode(json.dumps(raw).encode()).decode()
    return (
        f"-----BEGIN ENCRYPTED {kind} PRIVATE KEY-----\n{body}\n-----END ENCRYPTED {kind} PRIVATE KEY-----\n".encode()
    )


def refused(data: bytes, password: bytes = PASSWORD) -> str:
    with pytest.raises(FormatError) as error:
        FileKey.from_pem(data, password, name="k")
    return str(error.value)


def test_what_is_written_opens_with_libsodium_and_is_read_back() -> None:
    private, public = generate_cosign(b"")
    raw = fields(private)
    derived = Scrypt(salt=base64.b64decode(raw["kdf"]["salt"]), length=32, n=2**16, r=8, p=1).derive(b"")
    box = nacl.secret.SecretBox(derived)
    opened = box.decrypt(base64.b64decode(raw["ciphertext"]), base64.b64decode(raw["cipher"]["nonce"]))
    assert opened == cosign_key.open_sealed(private, b"", name="k")
    assert FileKey.from_pem(private, b"", name="k").public.der == PublicKey.from_pem(public, name="k").der


def test_fields_and_lines_are_written_as_cosign_writes_them() -> None:
    theirs = (VECTORS / "cosign_key" / "cosign.key").read_bytes()
    raw = fields(theirs)
    parts = (base64.b64decode(text) for text in (raw["kdf"]["salt"], raw["cipher"]["nonce"], raw["ciphertext"]))
    assert cosign_key.sealed_pem(*parts) == theirs


def test_who_has_no_pynacl_is_told_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    assert refused(OURS) == "a cosign private key file needs PyNaCl: pip install 'margo-oci[cli]'"


def test_the_old_name_is_read_and_other_costs_that_cosign_knows() -> None:
    assert FileKey.from_pem(pem(fields(), "COSIGN"), PASSWORD, name="k")
    cheap = fields() | {"kdf": fields()["kdf"] | {"params": {"N": 2**15, "r": 8, "p": 1}}}
    assert refused(pem(cheap)) == "k: the password is wrong, or the file was changed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kdf": None}, "k: kdf is missing"),
        ({"cipher": []}, "k: cipher is missing"),
        ({"kdf": {"name": "argon2"}}, "k: scrypt and nacl/secretbox are expected"),
        ({"cipher": {"name": "aes"}}, "k: scrypt and nacl/secretbox are expected"),
        ({"ciphertext": None}, "k: base64 is expected"),
        ({"ciphertext": "AAAA"}, "k: the password is wrong, or the file was changed"),
        ({"cipher": {"name": "nacl/secretbox", "nonce": "AAAA"}}, "k: the password is wrong, or the file was changed"),
    ],
)
def test_a_file_that_is_not_just_so_is_refused(change: dict[str, Any], words: str) -> None:
    assert refused(pem(fields() | change)).startswith(words)


@pytest.mark.parametrize("params", [{"N": 2**30, "r": 8, "p": 1}, {"N": 2**16, "r": 8, "p": 2}, {"N": 1}, None, []])
def test_a_file_does_not_decide_how_much_memory_is_used(params: Any) -> None:
    asking = fields() | {"kdf": fields()["kdf"] | {"params": params}}
    assert "not a cost that cosign knows" in refused(pem(asking))


def test_what_is_no_key_inside_is_told() -> None:
    sealed = cosign_key.seal(b"no key", b"")
    assert refused(sealed, b"") == "k: it opens, but what is in it is no PKCS#8 private key"


@given(st.integers(0, len(OURS) - 1), st.sampled_from(b"A-=\n!"))
@settings(deadline=None, max_examples=30)
def test_a_changed_file_never_opens_as_another_key(at: int, letter: int) -> None:
    data = OURS[:at] + bytes([letter]) + OURS[at + 1 :]
    key = read_or_refused(lambda: FileKey.from_pem(data, PASSWORD, name="k"), "k: ")
    assert key is None or key.public.der == FileKey.from_pem(OURS, PASSWORD, name="k").public.der
