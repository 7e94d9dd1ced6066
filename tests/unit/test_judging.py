"""Judges out of a policy's sources, and roots out of their files."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from margo_oci.errors import FormatError, TrustError
from margo_oci.identity import Identity
from margo_oci.judging import load_judge, read_root
from margo_oci.keys import generate
from margo_oci.trustconfig import Sources
from tests.unit.trusted import root

NAME = "registry.example/fleet/edge-17"


def noon() -> datetime:
    return datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    file = tmp_path / "fleet.pub"
    file.write_bytes(generate(None)[1])
    return file


def test_a_judge_goes_by_the_keys_and_scopes_it_was_given(public: Path) -> None:
    judge = load_judge(Sources(keys=[public]), NAME, noon, scopes=["edge-17"])
    assert [one.name for one in judge.policy.keys] == ["fleet.pub"]
    assert (judge.policy.scopes, judge.vouch, judge.now()) == (["edge-17"], None, noon())


def test_only_who_trusts_identities_has_them_vouched_for(public: Path) -> None:
    pytest.importorskip("sigstore")
    identities = [Identity("ci@example.org", "https://issuer.example")]
    assert load_judge(Sources(keys=[public], identities=identities), NAME, noon).vouch


def test_who_trusts_keys_alone_holds_no_checker_of_identities(public: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from margo_oci.judging import load_judge;"
        "from margo_oci.trustconfig import Sources;"
        f"load_judge(Sources(keys=[Path(sys.argv[1])]), {NAME!r}, lambda: None);"
        "print(sorted({'margo_oci.keyless', 'sigstore', 'cryptography.x509'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, public], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_root_is_read_from_its_file(tmp_path: Path) -> None:
    given = root()
    (tmp_path / "root.json").write_bytes(given.data)
    assert read_root(tmp_path / "root.json") == given


def test_a_file_that_is_no_root_is_named(tmp_path: Path) -> None:
    file = tmp_path / "root.json"
    with pytest.raises(FormatError, match=r"root\.json: No such file or directory"):
        read_root(file)
    file.write_bytes(b"{}")
    with pytest.raises(TrustError, match=r"root\.json: root") as refused:
        read_root(file)
    assert refused.value.reason == "malformed"
