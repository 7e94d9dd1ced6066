"""The folder of a trust policy and its trust stores, as notation lays it out."""

from pathlib import Path

import pytest

from margo_oci.errors import FormatError
from margo_oci.truststore import read_trust_policy, read_trust_stores
from tests.unit.chains import REPOSITORY, certify, document, leaf, root, statement


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy, and the store that it names."""
    (tmp_path / "trustpolicy.json").write_bytes(document(statement()))
    store(tmp_path).mkdir(parents=True)
    (store(tmp_path) / "root.crt").write_bytes(root().pem)
    return tmp_path


def store(folder: Path) -> Path:
    return folder / "truststore" / "x509" / "ca" / "fleet"


def refused(folder: Path) -> str:
    with pytest.raises(FormatError) as error:
        read_trust_stores(folder, ["ca:fleet"])
    return str(error.value)


def test_a_policy_and_its_stores_are_read(folder: Path) -> None:
    alone = certify("alone")
    (store(folder) / "alone.pem").write_bytes(alone.pem)
    (store(folder) / "README").write_text("passed over")
    policy = read_trust_policy(folder)
    found = policy.authorities(REPOSITORY, read_trust_stores(folder, policy.stores))
    assert found.knows("notary.x509", [alone.der])
    assert found.knows("notary.x509", [root().der])


def test_the_newer_name_goes_first(folder: Path) -> None:
    (folder / "trustpolicy.oci.json").write_bytes(document(statement(name="newer")))
    assert read_trust_policy(folder).statements[0].name == "newer"


def test_a_missing_policy_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"neither trustpolicy.oci.json nor trustpolicy.json is there"):
        read_trust_policy(tmp_path)


def test_a_fault_in_the_policy_names_the_file(folder: Path) -> None:
    (folder / "trustpolicy.json").write_text("{}")
    with pytest.raises(FormatError, match=r"/trustpolicy.json: version None"):
        read_trust_policy(folder)


def test_a_store_holds_plain_files_with_authorities(folder: Path) -> None:
    (store(folder) / "leaf.crt").write_bytes(leaf().pem)
    assert "leaf.crt: certificate 'CN=signer P-256" in refused(folder)
    (store(folder) / "leaf.crt").write_bytes(b"rubbish")
    assert "leaf.crt: not a usable X.509 certificate" in refused(folder)
    (store(folder) / "leaf.crt").write_bytes(b"x" * (256 * 1024 + 1))
    assert "leaf.crt: more than 262144 bytes" in refused(folder)
    (store(folder) / "leaf.crt").unlink()
    (store(folder) / "leaf.crt").symlink_to("root.crt")
    assert "leaf.crt is not a plain file" in refused(folder)


def test_a_store_that_is_missing_or_empty_is_told(folder: Path) -> None:
    (store(folder) / "root.crt").unlink()
    assert "trust store ca:fleet: 0 certificates in" in refused(folder)
    store(folder).rmdir()
    assert "is not a folder" in refused(folder)
    store(folder).symlink_to("/")
    assert "is not a folder" in refused(folder)
