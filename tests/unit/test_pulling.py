"""How long a pull is waited for, and how its lines are read beside."""

from collections.abc import Generator

import pytest

from margo_agent.pulling import Line, Patience, read_beside

FIRST: Line = {"id": "a", "status": "Downloading", "progressDetail": {"current": 1}}
SECOND: Line = {"id": "a", "status": "Downloading", "progressDetail": {"current": 2}}


def test_5_4_what_is_new_is_progress() -> None:
    patience = Patience(0.0, stall_s=10, limit_s=100)
    assert patience.hear(FIRST, 9) == ""
    assert patience.hear(SECOND, 18) == ""
    assert patience.hear({}, 27) == ""


def test_5_4_what_the_engine_repeats_is_none_nor_is_silence() -> None:
    patience = Patience(0.0, stall_s=10, limit_s=100)
    assert patience.hear(FIRST, 1) == ""
    assert patience.hear(FIRST, 6) == ""
    assert patience.hear({}, 11) == ""
    assert patience.hear(FIRST, 11.1) == "nothing came for 10 s"


def test_5_4_a_drip_is_given_up_all_the_same() -> None:
    patience = Patience(0.0, stall_s=10, limit_s=100)
    for now_s in range(0, 100, 5):
        assert patience.hear({"id": "a", "progressDetail": {"current": now_s}}, now_s) == ""
    assert patience.hear({}, 100.1) == "not done after 100 s"


def test_what_is_read_beside_comes_as_it_was_and_so_does_its_error() -> None:
    def lines() -> Generator[Line, None, None]:
        yield FIRST
        yield SECOND
        raise ValueError("broken")

    found: list[Line] = []
    with pytest.raises(ValueError, match="broken"):
        found.extend(read_beside(lines))
    assert [line for line in found if line] == [FIRST, SECOND]
