"""Every numbered rule of docs/format.md has a test that carries its number (tests for each stand beside this file)."""

import re
from collections.abc import Iterator

from tests.unit.scenes import ROOT

RULE = re.compile(r"\*\*(\d+)\.(\d+)\*\*")
TEST = re.compile(r"def test_(\d+)_(\d+)_[a-z]")


def rules() -> set[str]:
    """The numbers in the document."""
    return {f"{section}.{number}" for section, number in RULE.findall((ROOT / "docs" / "format.md").read_text())}


def named() -> Iterator[tuple[str, str]]:
    """Every number that a test carries, and the file it stands in."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for section, number in TEST.findall(file.read_text()):
            yield f"{section}.{number}", file.name


def test_the_document_has_rules() -> None:
    assert {"1.1", "3.2", "6.10", "8.6"} <= rules()


def test_every_rule_has_a_test() -> None:
    missing = rules() - {number for number, _ in named()}
    assert sorted(missing) == []


def test_every_test_that_names_a_rule_names_one_that_exists() -> None:
    strays = {(number, file) for number, file in named() if number not in rules()}
    assert sorted(strays) == []
