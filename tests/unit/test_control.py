"""What a running agent answers to requests at the device."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from margo_agent.control import LINE_LIMIT_BYTES, Control
from margo_agent.hold import read_hold
from margo_agent.last import keep_last, read_last
from margo_agent.notify import Notifier
from margo_oci.errors import FormatError

NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)


class SimulatedLoop:
    """A loop that notes what it was asked for."""

    def __init__(self) -> None:
        self.busy = False
        self.last: Mapping[str, Any] = {"outcome": "unchanged"}
        self.asked: list[str] = []
        self.fault = ""

    async def wanted(self) -> Mapping[str, Any]:
        """Look."""
        self.asked.append("wanted")
        return {"outcome": "applied", "counter": 2}

    def wake(self) -> None:
        """Look."""
        self.asked.append("wake")

    def check_reload(self) -> None:
        """Check."""
        if self.fault:
            raise FormatError(self.fault)

    def hang_up(self) -> None:
        """Reload."""
        self.asked.append("hang up")


class Asking:
    """Somebody at the device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = SimulatedLoop()
        self.control = Control(self.loop, folder, lambda: NOON, frozenset({0}), lambda _: None)

    def ask(self, request: Any) -> Mapping[str, Any]:
        """Ask; bytes are sent as they are."""
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        return asyncio.run(self.control.answer(line))


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    """Somebody at a device that is idle."""
    return Asking(tmp_path)


def test_who_waits_for_a_look_gets_what_came_of_it(asking: Asking) -> None:
    answer = asking.ask({"do": "look", "wait": True})
    assert answer == {"ok": True, "result": {"outcome": "applied", "counter": 2}}


def test_a_hold_is_a_file_and_wakes_the_loop(asking: Asking) -> None:
    answer = asking.ask({"do": "hold", "for": "4h", "reason": "shift change"})
    assert answer["hold"] == "held since 2026-08-01T12:00:00Z until 2026-08-01T16:00:00Z: shift change"
    assert read_hold(asking.folder, NOON)
    assert asking.ask({"do": "status"})["hold"] == answer["hold"]
    assert asking.ask({"do": "resume"}) == {"ok": True, "held": True}
    assert asking.ask({"do": "resume"}) == {"ok": True, "held": False}
    assert asking.loop.asked == ["wake", "wake", "wake"]


def test_a_configuration_with_faults_is_not_read_again_and_the_answer_says_why(asking: Asking) -> None:
    asking.loop.fault = "agent.yaml:3: scopes: is missing"
    assert asking.ask({"do": "reload"}) == {"ok": False, "message": "agent.yaml:3: scopes: is missing"}
    assert asking.loop.asked == []
    asking.loop.fault = ""
    assert asking.ask({"do": "reload"}) == {"ok": True}
    assert asking.loop.asked == ["hang up"]


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\n",
        b"look\n",
        b"[]",
        b"\xff",
        b"[" * 3000,
        b'{"do": "look", "x": "' + b"x" * LINE_LIMIT_BYTES + b'"}',
        {},
        {"do": "restart"},
        {"do": ["look"]},
        {"do": "hold", "for": 4},
        {"do": "hold", "for": "for ever"},
        {"do": "hold", "for": ""},
        {"do": "hold", "reason": {}},
        {"do": "hold", "for": "9999d999999h999999m999999s"},
    ],
)
def test_a_request_that_cannot_be_read_is_answered_with_why(asking: Asking, request_: Any) -> None:
    answer = asking.ask(request_)
    hopeless = request_ != {"do": "hold", "for": "9999d999999h999999m999999s"}  # long, but there is such a time
    assert answer["ok"] is not hopeless
    assert bool(answer.get("message")) is hopeless


def test_systemd_is_told_by_what_it_put_into_the_environment() -> None:
    watching = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    assert Notifier.of(watching, 7) == Notifier("@x", 10.0)
    assert Notifier.of(watching, 8) == Notifier("@x", None)  # that is another's watchdog
    assert Notifier.of({**watching, "WATCHDOG_USEC": "soon"}, 7) == Notifier("@x", None)
    assert Notifier.of({}, 7) == Notifier("", None)


def test_the_last_report_is_written_when_it_says_something_new_only(tmp_path: Path) -> None:
    away = {"outcome": "unreachable", "message": "nobody answers", "requests": 1}
    keep_last(tmp_path, away, NOON)
    before = (tmp_path / "last.json").stat().st_mtime_ns
    keep_last(tmp_path, {**away, "requests": 7}, NOON.replace(hour=13))
    assert (tmp_path / "last.json").stat().st_mtime_ns == before
    found = read_last(tmp_path)
    assert found
    assert (found.since, found.result["message"]) == ("2026-08-01T12:00:00Z", "nobody answers")
    keep_last(tmp_path, {"outcome": "unchanged", "digest": "x"}, NOON.replace(hour=14))
    found = read_last(tmp_path)
    assert found
    assert (found.since, found.result["outcome"]) == ("2026-08-01T14:00:00Z", "unchanged")


def test_a_damaged_last_report_is_none(tmp_path: Path) -> None:
    (tmp_path / "last.json").write_bytes(b"{")
    assert read_last(tmp_path) is None
    keep_last(tmp_path, {"outcome": "unchanged"}, NOON)
    assert read_last(tmp_path)
