"""Maintenance windows: when applying may begin."""

from datetime import datetime

import pytest

from margo_agent.window import parse_window
from margo_oci.errors import FormatError


def at(text: str) -> datetime:
    """Return a moment; the 2nd of November 2026 is a Monday."""
    return datetime.fromisoformat(f"2026-11-{text}")


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-04:00", ["02T22:00", "02T23:59", "03T03:59", "02T00:00"], ["02T04:00", "02T21:59"]),
        ("08:30-17:00", ["02T08:30", "08T16:59"], ["02T08:29", "02T17:00"]),
        ("Mon-Fri 22:00-04:00", ["02T22:00", "07T03:00"], ["07T22:00", "09T03:00", "02T03:00"]),
        ("Sat,Sun 00:00-24:00", ["07T00:00", "08T23:59"], ["06T23:59", "09T00:00"]),
        ("Fri-Mon 12:00-13:00", ["06T12:00", "08T12:30", "09T12:59"], ["05T12:00", "10T12:00"]),
    ],
)
def test_a_window_is_open_on_its_days_between_its_times(window: str, inside: list[str], outside: list[str]) -> None:
    assert all(parse_window(window).holds(at(moment)) for moment in inside)
    assert not any(parse_window(window).holds(at(moment)) for moment in outside)


@pytest.mark.parametrize(
    ("window", "now", "then"),
    [
        ("22:00-04:00", "02T12:00", "02T22:00"),
        ("22:00-04:00", "02T22:00", "03T22:00"),
        ("Sat 06:00-07:00", "02T12:00", "07T06:00"),
        ("Mon 06:00-07:00", "02T12:00", "09T06:00"),
    ],
)
def test_a_window_says_when_it_opens_next(window: str, now: str, then: str) -> None:
    assert parse_window(window).next(at(now)) == at(then)


@pytest.mark.parametrize(
    "text", ["", "22-04", "25:00-26:00", "22:60-23:00", "10:00-10:00", "Mo 10:00-11:00", "Mon- 10:00-11:00", "Mon"]
)
def test_what_is_no_window_is_told_with_an_example(text: str) -> None:
    with pytest.raises(FormatError, match="as in Mon-Fri 22:00-04:00"):
        parse_window(text)
