"""What time it is at least, on a device whose clock may be wrong."""

from datetime import UTC, datetime, timedelta

from margo_agent.clock import BUILT, Clock, system_clock

ISSUED = datetime(2027, 3, 1, 12, tzinfo=UTC)
UNSET = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def clock(rtc: datetime = UNSET, *, uptime_s: float = 100.0, boot: str = "one") -> Clock:
    return Clock(rtc=lambda: rtc, boot=lambda: boot, uptime_s=lambda: uptime_s)


def test_10_12_no_time_is_before_the_software_was_built() -> None:
    assert clock().now(None) == BUILT
    assert clock(ISSUED).now(None) == ISSUED


def test_10_12_time_goes_on_from_what_is_known_to_be_past() -> None:
    mark = clock().mark(ISSUED)
    assert clock(uptime_s=3700.0).now(mark) == ISSUED + HOUR


def test_10_12_after_a_restart_it_goes_on_with_the_time_since() -> None:
    mark = clock(uptime_s=9_999.0).mark(ISSUED)
    assert clock(uptime_s=3600.0, boot="two").now(mark) == ISSUED + HOUR


def test_10_12_a_clock_that_is_right_goes_before() -> None:
    mark = clock().mark(ISSUED)
    assert clock(ISSUED + 5 * HOUR).now(mark) == ISSUED + 5 * HOUR


def test_10_12_what_was_known_never_goes_back() -> None:
    before = clock().mark(ISSUED)
    later = clock(uptime_s=3700.0)
    assert later.known(later.mark(ISSUED - HOUR, later.known(before))) == ISSUED + HOUR


def test_this_machine_has_such_clocks() -> None:
    here = system_clock()
    assert here.boot()
    assert here.uptime_s() > 0
    assert here.now(None) >= BUILT
