"""Section 7 of docs/format.md: what comes from outside is bounded. Each rule once; the many ways of breaking it stand
in the tests of content, archives and YAML."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from margo_oci.archive import ENTRY_LIMIT, UNPACKED_LIMIT_BYTES, unpack
from margo_oci.auth import Challenge
from margo_oci.content import Descriptor, Verifier, digest_of, is_digest, parse_json
from margo_oci.cosign import parse_bundle
from margo_oci.credentials import AuthFiles
from margo_oci.errors import FormatError, RegistryError, TrustError
from margo_oci.manifest import Manifest, parse_index
from margo_oci.yamldoc import parse_yaml
from tests.unit.scenes import DIGEST, gzip_of, hostile, member

LAYER = {"mediaType": "a/b", "digest": DIGEST, "size": 1}


@pytest.mark.parametrize(
    "text",
    ["sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha512:" + "a" * 128, "md5:" + "a" * 32,
     "a" * 64, "SHA256:" + "a" * 64, "sha256:" + "a" * 64 + "\n", "", None, 7, b"sha256:"],
)  # fmt: skip
def test_7_1_only_one_kind_of_digest_is_accepted(text: object) -> None:
    assert is_digest(digest_of(b""))
    assert not is_digest(text)


def test_7_2_json_is_one_object_without_traps() -> None:
    for data in (b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":' * 33 + b"1" + b"}" * 33):
        with pytest.raises(FormatError):
            parse_json(data, what="json")


def test_7_2_manifests_bundles_layers_and_indexes_have_limits() -> None:
    with pytest.raises(FormatError, match="m: 4194305 bytes, at most 4194304 are read"):
        Manifest.from_bytes(b" " * (4 * 1024 * 1024 + 1), what="m")
    with pytest.raises(FormatError, match="bundle: 65537 bytes, at most 65536 are read"):
        parse_bundle(b" " * (64 * 1024 + 1))
    raw = {"schemaVersion": 2, "config": LAYER, "layers": [LAYER] * 4097}
    with pytest.raises(FormatError, match="m: layers: 4097 entries, at most 4096 are read"):
        Manifest.from_bytes(json.dumps(raw).encode(), what="m")
    with pytest.raises(FormatError, match="i: manifests: 257 entries, at most 256 are read"):
        parse_index(json.dumps({"manifests": [LAYER] * 257}).encode(), what="i")


def test_7_3_a_blob_is_read_up_to_its_declared_size_and_not_one_byte_further() -> None:
    verifier = Verifier(Descriptor(media_type="a/b", digest=digest_of(b"abcd"), size=3))
    assert verifier.feed(b"abc") == b"abc"
    with pytest.raises(TrustError, match="more than the declared 3 bytes"):
        verifier.feed(b"d")


def test_7_3_the_declared_size_never_allocates() -> None:
    verifier = Verifier(Descriptor(media_type="a/b", digest=digest_of(b"abc"), size=2**62))
    verifier.feed(b"abc")
    with pytest.raises(TrustError, match=f"3 of {2**62} declared bytes"):
        verifier.finish()


def incompressible(size: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(size // 32))


def test_7_4_an_archive_has_limits() -> None:
    assert (ENTRY_LIMIT, UNPACKED_LIMIT_BYTES) == (10_000, 64 * 1024 * 1024)
    with pytest.raises(FormatError, match="more than 10000 entries"):
        unpack(hostile(*(member(str(number), b"") for number in range(10_001))), what="layer")
    with pytest.raises(FormatError, match=f"unpacks to more than {64 * 1024 * 1024} bytes"):
        unpack(gzip_of(incompressible(100_000) + bytes(64 * 1024 * 1024)), what="layer")
    with pytest.raises(FormatError, match="a decompression bomb"):
        unpack(gzip_of(bytes(20_000_000)), what="layer")


@pytest.mark.parametrize(
    "members",
    [
        [member("/a")],
        [member("a/../../b")],
        [member("a\\b")],
        [member("a\tb")],
        [member("a"), member("A")],
        [member("é"), member("e\u0301")],
        [member("a"), member("a/b")],
        [member("a", kind=b"3")],
        [member("a", kind=b"4")],
        [member("a", kind=b"6")],
        [member("a", mode=0o4755)],
        [member("a", mode=0o2755)],
        [member("a", mode=0o1755)],
        [member("a/x"), member("b/y", kind=b"2", link="../a/x")],
        [member("a/x"), member("b/y", kind=b"1", link="a/x")],
        [member("a/x", kind=b"2", link="/etc/passwd")],
    ],
)
def test_7_5_archives_hold_plain_files_and_folders(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with pytest.raises(FormatError, match=r"^layer: "):
        unpack(hostile(*members), what="layer")


def test_7_5_a_link_within_its_top_folder_is_read_as_a_copy() -> None:
    found = unpack(hostile(member("a/x", b"data"), member("a/b/y", kind=b"2", link="../x")), what="layer")
    assert [(one.path, one.data, one.link) for one in found] == [("a/x", b"data", ""), ("a/b/y", b"data", "")]


def test_7_6_yaml_is_one_plain_document() -> None:
    for text in ("a: &x 1\nb: *x", "a: !!str 1", "a: 1\na: 2", "a: 1\n---\nb: 2", "[" * 40 + "]" * 40, "#" * 1048577):
        with pytest.raises(FormatError):
            parse_yaml(text.encode(), what="f")
    with pytest.raises(FormatError, match="not UTF-8"):
        parse_yaml(b"\xff", what="f")
    assert parse_yaml(b"a: yes\nb: 2026-11-21\nc: true\n", what="f").value == {"a": "yes", "b": "2026-11-21", "c": True}


def test_7_8_credentials_go_to_a_token_service_only_over_tls_if_the_registry_has_it() -> None:
    challenge = Challenge.parse('Bearer realm="http://auth.example/token"')
    with pytest.raises(RegistryError, match="names a token service that is not used"):
        challenge.token_url(secure=True)


def test_7_8_credentials_are_kept_by_host_and_port(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text('{"auths":{"registry.example:5000":{"auth":"dTpw"}}}')
    files = AuthFiles((file,))
    assert files.find("registry.example:5000")
    for host in (
        "registry.example",
        "registry.example:5001",
        "registry.example:5000.evil.example",
        "egistry.example:5000",
    ):
        assert files.find(host) is None
