"""What the agent remembers: read back as it was, and never quietly begun anew."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_agent.record import Accepted, Failure, Installed, Record, RecordFile
from margo_oci.content import canonical_json
from margo_oci.errors import FormatError
from tests.unit.scenes import DIGEST, ID, OTHER_DIGEST, OTHER_ID, SCOPE
from tests.unit.test_content import JSON

INSTALLED = Installed(DIGEST, "hello", ["web"], "2026-11-21T10:00:00+00:00")
FAILURE = Failure(OTHER_DIGEST, "hello", ["web"], "component web: exited with 1")


def record() -> Record:
    return (
        Record()
        .accept(Accepted(7, DIGEST, SCOPE))
        .did_install(ID, INSTALLED)
        .did_fail(OTHER_ID, FAILURE)
    )  # fmt: skip


def test_a_new_device_remembers_nothing(tmp_path: Path) -> None:
    found = RecordFile(tmp_path / "record.json").load()
    assert found == Record()
    assert (found.digest, found.known) == ("", "")


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "state" / "record.json")
    assert file.save(record()) == record()
    assert file.load() == record()
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        "{}",
        "[]",
        '{"format":2}',
        '{"format":1,"accepted":[],"current":"","settled":false,"installed":{},"failed":{}}',
        '{"format":1,"accepted":{"s":{}},"current":"","settled":false,"installed":{},"failed":{}}',
        '{"format":1,"accepted":{"s":{"counter":7,"digest":"x","scope":"s"}},"current":"s","settled":true,"installed":{},"failed":{}}',
        '{"format":1,"accepted":{"s":{"counter":"7","digest":"sha256:' + "1" * 64 + '","scope":"s"}},"current":"s",'
        '"settled":true,"installed":{},"failed":{}}',
        '{"format":1,"accepted":{},"current":"","settled":false,"installed":{"a":{"revision":"x"}},"failed":{}}',
        '{"format":1,"accepted":{},"current":"","settled":false,"installed":{},"failed":{"a":7}}',
        '{"format":1,"accepted":{},"current":["s"],"settled":false,"installed":{},"failed":{}}',
        '{"format":1,"accepted":{},"current":"","settled":"no","installed":{},"failed":{}}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_refused_and_kept(text: str, tmp_path: Path) -> None:
    """Starting over would forget the counters, and they are what keeps old states out."""
    file = RecordFile(tmp_path / "record.json")
    file.path.write_text(text)
    with pytest.raises(FormatError) as refused:
        file.load()
    assert str(refused.value).startswith(f"{file.path}: ")
    assert file.path.read_text() == text


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "record.json")
    file.path.write_text('{"format":2}')
    with pytest.raises(FormatError) as refused:
        file.load()
    assert str(refused.value) == (
        f"{file.path}: not a usable record (format 2): restore it, or provision the device anew"
    )


def test_a_record_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "record.json")
    data = canonical_json({"format": 1, **asdict(record())})
    for length in range(0, len(data), 7):
        file.path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            file.load()


@given(st.sampled_from(["format", "accepted", "current", "settled", "installed", "failed"]), JSON)
def test_any_value_in_a_record_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    file = RecordFile(tmp_path_factory.getbasetemp() / "any-record.json")
    file.path.write_text(json.dumps({"format": 1, **asdict(record()), key: value}))
    try:
        found = file.load()
    except FormatError:
        return
    assert isinstance(found.digest, str)
    assert isinstance(found.known, str)


def test_words_that_no_utf_8_can_hold_do_not_stop_a_record(tmp_path: Path) -> None:
    """File names in archives need not be UTF-8, and they stand in the words of an error."""
    file = RecordFile(tmp_path / "record.json")
    file.save(record().did_fail(ID, Failure(DIGEST, "hello", ["web"], "archive: top/\udcff: not accepted")))
    assert "not accepted" in file.load().failed[ID].error


def test_nothing_is_known_before_all_is_done() -> None:
    accepted = Record().accept(Accepted(7, DIGEST, SCOPE))
    assert (accepted.digest, accepted.known) == (DIGEST, "")
    settled = Record(accepted=accepted.accepted, current=SCOPE, settled=True)
    assert settled.known == DIGEST
    assert settled.accept(Accepted(7, DIGEST, SCOPE)).known == DIGEST
    assert settled.accept(Accepted(8, OTHER_DIGEST, SCOPE)).known == ""


def test_every_scope_has_a_counter_of_its_own() -> None:
    found = Record().accept(Accepted(7, DIGEST, "a")).accept(Accepted(2, OTHER_DIGEST, "b"))
    assert {scope: one.counter for scope, one in found.accepted.items()} == {"a": 7, "b": 2}
    assert found.digest == OTHER_DIGEST


def test_what_comes_up_is_no_failure_any_more() -> None:
    found = Record().did_fail(ID, FAILURE).did_install(ID, INSTALLED)
    assert (found.installed, found.failed) == ({ID: INSTALLED}, {})


def test_what_fails_leaves_what_was_good() -> None:
    found = Record().did_install(ID, INSTALLED).did_fail(ID, FAILURE)
    assert (found.installed, found.failed) == ({ID: INSTALLED}, {ID: FAILURE})


def test_what_is_removed_is_forgotten() -> None:
    found = record().did_fail(ID, FAILURE).did_remove(ID)
    assert (found.installed, list(found.failed)) == ({}, [OTHER_ID])


def test_a_failure_with_no_way_back_leaves_it_unsure_what_runs() -> None:
    settled = Record(installed={ID: INSTALLED}, settled=True)
    found = settled.did_fail(ID, FAILURE, sure=False)
    assert (found.failed, found.unsure, found.settled) == ({ID: FAILURE}, (ID,), False)
    assert found.did_fail(ID, FAILURE, sure=False).unsure == (ID,)
    assert found.did_put_back(ID).unsure == ()
    assert found.did_fail(ID, FAILURE).unsure == ()


def test_a_failure_says_why_and_what_was_done_about_it() -> None:
    assert FAILURE.words == "component web: exited with 1"
    assert replace(FAILURE, since_then="taken down again").words == "component web: exited with 1; taken down again"


def test_the_good_revision_before_is_remembered_as_the_way_back() -> None:
    newer = replace(INSTALLED, revision=OTHER_DIGEST)
    found = Record().did_install(ID, INSTALLED).did_install(ID, newer)
    assert (found.installed, found.previous) == ({ID: newer}, {ID: INSTALLED})
    assert found.did_install(ID, replace(newer, since="later")).previous == {ID: INSTALLED}
    assert found.did_remove(ID).previous == {}


def test_a_record_of_an_agent_that_knew_no_way_back_is_read(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "record.json")
    file.save(record())
    text = json.loads(file.path.read_text())
    del text["previous"]
    file.path.write_text(json.dumps(text))
    assert file.load().previous == {}
