"""A hold: what stands in its file, when it ends, and what a damaged one means."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from margo_agent.hold import HOLD_FILE, drop_hold, read_hold, write_hold
from margo_oci.errors import FormatError

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


def test_without_a_file_nothing_holds(tmp_path: Path) -> None:
    assert read_hold(tmp_path, NOON) is None


def test_a_hold_without_an_end_holds_until_it_is_dropped(tmp_path: Path) -> None:
    write_hold(tmp_path, NOON, for_s=None, reason="shift change")
    held = read_hold(tmp_path, NOON + timedelta(days=3650))
    assert held
    assert held.words == "held since 2026-08-01T12:00:00Z: shift change"
    assert drop_hold(tmp_path)
    assert read_hold(tmp_path, NOON) is None
    assert not drop_hold(tmp_path)


def test_a_hold_with_an_end_ends_then(tmp_path: Path) -> None:
    write_hold(tmp_path, NOON, for_s=4 * 3600, reason="")
    held = read_hold(tmp_path, NOON + timedelta(hours=4, seconds=-1))
    assert held
    assert held.words == "held since 2026-08-01T12:00:00Z until 2026-08-01T16:00:00Z"
    assert read_hold(tmp_path, NOON + timedelta(hours=4)) is None


def test_what_was_written_is_read_again_the_same(tmp_path: Path) -> None:
    written = write_hold(tmp_path, NOON, for_s=90, reason="a\nb\x1b[2J")
    assert read_hold(tmp_path, NOON) == written
    assert written.reason == "a b [2J"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b'{"since": 3}',
        b'{"since": "2026-08-01T12:00:00Z", "until": "tomorrow"}',
        b'{"since": "2026-08-01T12:00:00Z", "until": 7}',
        b'{"since": "2026-08-01T12:00:00Z", "reason": ["x"]}',
        b'{"since": "2026-08-01T12:00:00Z", "reason": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_a_damaged_file_counts_as_a_hold_and_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / HOLD_FILE).write_bytes(data)
    held = read_hold(tmp_path, NOON)
    assert held
    assert held.fault
    assert "it counts as a hold: margo-agent resume ends it" in held.words


def test_a_file_that_cannot_be_read_counts_as_a_hold(tmp_path: Path) -> None:
    (tmp_path / HOLD_FILE).mkdir()
    held = read_hold(tmp_path, NOON)
    assert held
    assert "Is a directory" in held.words


def test_a_hold_beyond_all_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="leave the duration out"):
        write_hold(tmp_path, NOON, for_s=1e12, reason="")
    assert read_hold(tmp_path, NOON) is None
