"""Errors in words: one grammar, and the page that lists them says what the code says."""

import ast
import errno
import re

import pytest

from margo_agent.address import EngineUnavailable, find_engine
from margo_agent.engine import _words, unavailable
from margo_agent.reasons import REASONS
from margo_oci.access import remedied
from margo_oci.errors import DISK_FAULTS, disk_words, explain, worded
from tests.unit.scenes import ROOT
from tests.unit.test_rooms import TREES

PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text()
GRAMMAR = re.compile(r'while [a-z].+?, [a-z]+( for ".+?")?: [a-z-]+( [a-z-]+)?: .+?; .+')


def rows(heading: str) -> list[list[str]]:
    """The cells of a table of the page, its head left out."""
    _, _, after = PAGE.partition(f"## {heading}\n")
    lines = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def kinds() -> dict[str, str]:
    """Every kind of error of ours that others see, with its exit code, as the code has it."""
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    codes = {"MargoError": "1"}
    for _ in range(5):  # one may stand before what it builds on
        for one in classes:
            bases = [base.id for base in one.bases if isinstance(base, ast.Name) and base.id in codes]
            if bases:
                own = [ast.unparse(line.value) for line in one.body if isinstance(line, ast.Assign)
                       if ast.unparse(line.targets[0]) == "exit_code"]  # fmt: skip
                codes[one.name] = own[0] if own else codes[bases[0]]
    return {name: code for name, code in codes.items() if not name.startswith("_")}


@pytest.mark.parametrize("number", DISK_FAULTS)
def test_what_a_disk_answers_follows_the_grammar(number: int) -> None:
    assert GRAMMAR.fullmatch(disk_words(OSError(number, "x"), "stateDir"))
    assert explain(OSError(number, "x", "/var/lib/x"))[0] == 2


def test_a_full_disk_is_nobodys_fault_and_says_what_to_do() -> None:
    assert explain(OSError(errno.ENOSPC, "No space left on device")) == (
        2,
        "while reading or writing, disk: full: No space left on device; free some room (df -h, df -i)",
    )


def test_a_name_that_an_encoding_lacks_is_nobodys_fault_either() -> None:
    with pytest.raises(UnicodeEncodeError) as raised:
        "ü.txt".encode("ascii")
    assert explain(raised.value) == (2, "'\\xfc.txt' cannot be written in the encoding ascii: set LC_ALL=C.UTF-8")


def test_an_element_is_named_where_there_is_one() -> None:
    words = worded("asking to connect", "engine", "unavailable", "No such file", "start it", element="unix:///x")
    assert words == 'while asking to connect, engine for "unix:///x": unavailable: No such file; start it'
    assert GRAMMAR.fullmatch(words)


def test_an_engine_that_does_not_answer_says_the_systems_own_word_and_what_to_do() -> None:
    wrapped = RuntimeError("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))")
    wrapped.__cause__ = FileNotFoundError(2, "No such file or directory")
    assert _words(wrapped) == "No such file or directory"
    words = unavailable("unix:///x", "connect", _words(wrapped))
    assert GRAMMAR.fullmatch(words), words


def test_where_no_engine_is_the_message_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(EngineUnavailable) as missing:
        find_engine("", {})
    assert GRAMMAR.fullmatch(str(missing.value))


def test_a_certificate_by_an_unknown_authority_leads_to_the_file_that_names_it() -> None:
    assert "(caFile) names the CA" in remedied("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


def test_a_network_that_is_not_there_leads_to_what_may_be_wrong() -> None:
    assert remedied("Connection refused") == "Connection refused: nothing listens there: are host and port right?"
    assert "https_proxy" in remedied("[Errno -3] Temporary failure in name resolution")


def test_the_page_lists_every_kind_of_error_with_its_exit_code() -> None:
    page = {(name.strip("`"), code) for name, code, *_ in rows("Kinds and exit codes")}
    public = set(kinds().items())
    assert page == public


def test_the_page_lists_every_reason_with_its_rule_and_next_step() -> None:
    page = {reason.strip("`"): (rule, todo) for reason, rule, todo in rows("Reasons of a refusal")}
    assert page == {name: (one.rule, one.todo) for name, one in REASONS.items()}


def test_the_page_lists_every_category_of_a_disk() -> None:
    page = {category.strip("`"): todo for category, todo in rows("Disk")}
    assert set(page) == {category for category, _ in DISK_FAULTS.values()}


def test_the_page_lists_every_check_of_doctor() -> None:
    folder = ROOT / "agent" / "margo_agent" / "doctor"
    names = {
        node.args[0].value
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Check" and isinstance(node.args[0], ast.Constant)
    }
    assert {name.strip("`") for cell, *_ in rows("Checks of doctor") for name in cell.split(", ")} == {
        *names, "state dir", "hold", "window", "lock",
    }  # fmt: skip
