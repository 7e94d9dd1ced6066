"""The event stream: read as it comes, whatever comes, and reconnected."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import httpx2
import pytest

from margo_agent.address import EngineUnavailable
from margo_agent.events import FLOOR_S, LINE_LIMIT_BYTES
from margo_agent.watching import AGAIN_LIMIT_S, AGAIN_S, Watch, lines
from tests.unit.scenes import ID

DIE = json.dumps({
    "Type": "container", "Action": "die",
    "Actor": {"ID": "c1", "Attributes": {"org.margo.device": "edge-17", "org.margo.deployment": ID}},
}).encode() + b"\n"  # fmt: skip


class Stream(httpx2.AsyncByteStream):
    """A body in pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


class Enough(Exception):  # noqa: N818
    """The test saw enough."""


class Listening:
    """A watch at engines that answer one after the other; None is one that is away."""

    def __init__(self, *answers: Sequence[bytes] | int | None) -> None:
        self.answers = list(answers)
        self.asked: list[httpx2.Request] = []
        self.pauses: list[float] = []
        self.said: list[str] = []
        self.now_s = 1000.0
        self.watch = Watch(
            address=lambda: "unix:///run/engine.sock",
            device="edge-17",
            names=dict,
            monotonic_s=lambda: self.now_s,
            sleep=self.sleep,
            transport_for=lambda _: httpx2.MockTransport(self.answer),
            say=self.said.append,
        )

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if answer is None:
            raise httpx2.ConnectError("connection refused")
        return httpx2.Response(answer) if isinstance(answer, int) else httpx2.Response(200, stream=Stream(answer))

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now_s += pause_s
        if not self.answers:
            raise Enough

    def listen(self) -> None:
        with pytest.raises(Enough):
            asyncio.run(self.watch.listen())


def test_what_the_engine_says_is_heard_and_a_connect_wants_one_look_at_everything() -> None:
    listening = Listening([DIE[:20], DIE[20:] + b"\n" + DIE])
    listening.listen()
    assert set(listening.watch.marks.marks) == {"", ID}
    filters = json.loads(listening.asked[0].url.params["filters"])
    assert filters["type"] == ["container", "network", "image"]
    assert not [action for action in filters["event"] if action.startswith("exec")]


def test_an_engine_that_is_away_is_asked_ever_more_rarely() -> None:
    listening = Listening(*[None] * 9)
    listening.listen()
    assert listening.pauses[:4] == [2 * AGAIN_S, 4 * AGAIN_S, 8 * AGAIN_S, 16 * AGAIN_S]
    assert listening.pauses[-1] == AGAIN_LIMIT_S
    assert listening.said == [
        "engine events: connection refused: what is changed by hand is not noticed until it can be heard"
    ]
    assert listening.watch.marks.marks == {}


def test_an_engine_that_cannot_do_events_is_no_end_of_listening() -> None:
    listening = Listening(404, [DIE])
    listening.listen()
    assert set(listening.watch.marks.marks) == {"", ID}


def test_an_address_that_is_no_socket_is_said() -> None:
    listening = Listening(None)
    listening.watch.address = lambda: "ssh://engine"
    listening.watch.transport_for = None
    listening.answers.clear()
    listening.listen()
    assert "unix:// and tcp:// only" in listening.watch.fault


def test_garbage_in_the_stream_is_left_out() -> None:
    listening = Listening([b"\xff\xfe{\n[1]\n", b"x" * (3 * LINE_LIMIT_BYTES), b"\n" + DIE])
    listening.listen()
    assert ID in listening.watch.marks.marks


def test_a_line_without_end_takes_no_memory() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 10000
        yield b"\nshort\n"

    async def read() -> list[bytes]:
        return [line async for line in lines(endless())]

    assert asyncio.run(read()) == [b"short"]


def test_what_is_due_is_returned_when_it_is_due() -> None:
    listening = Listening([DIE])
    listening.listen()
    listening.now_s += 10

    async def due() -> set[str]:
        return set((await listening.watch.due()).deployments)

    assert asyncio.run(due()) == set()
    assert listening.watch.marks.marks == {}


@pytest.mark.parametrize(
    ("result", "again"),
    [
        ({"outcome": "failed"}, True),
        ({"outcome": "unchanged", "held": True}, True),
        ({"outcome": "applied", "deployments": [{"id": ID, "drift": ["x"]}]}, False),
    ],
)
def test_a_look_that_failed_or_was_held_is_repeated_but_not_at_once(result: dict[str, object], again: bool) -> None:
    listening = Listening([DIE])
    listening.listen()
    listening.now_s += 10
    marks = listening.watch.marks
    listening.watch.looked(marks.take(listening.now_s), result)
    assert bool(marks.marks) is again
    assert marks.due_in_s(listening.now_s) == (FLOOR_S if again else None)
    assert set(marks.floors) == {"", ID}


def test_an_engine_that_is_nowhere_is_looked_for_again() -> None:
    def nowhere() -> str:
        raise EngineUnavailable("no container engine")

    listening = Listening(None)
    listening.answers.clear()
    listening.watch.address = nowhere
    listening.listen()
    assert (listening.watch.fault, listening.watch.marks.marks) == ("no container engine", {})
