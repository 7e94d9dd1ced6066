"""Passes that hang: processes of their own, ended by the loop in the end."""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from margo_agent.passes import Passes

HANGS = "import time; print('begun', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {HANGS}"
ORDERLY = (
    "import signal, sys, time\n"
    'def end(*_): print(\'{"outcome": "failed", "message": "stopped", "counter": 7}\'); sys.exit(5)\n'
    "signal.signal(signal.SIGTERM, end); time.sleep(600)"
)


@pytest.mark.parametrize("code", [HANGS, STUBBORN, ORDERLY])
def test_a_pass_that_hangs_is_ended_and_told_as_failed(code: str) -> None:
    passes = Passes(config_file=Path("/agent.yaml"), program=[sys.executable, "-c", code], limit_s=1, grace_s=1)
    begun_s = time.monotonic()
    result = asyncio.run(passes.once(b"{}"))
    assert (result["outcome"], result["message"]) == ("failed", "the pass was ended: not done after 1 s")
    assert result.get("counter") == (7 if code == ORDERLY else None)
    assert time.monotonic() - begun_s < 10


def test_a_bundle_has_a_time_limit_of_its_own() -> None:
    passes = Passes(
        config_file=Path("/agent.yaml"), program=[sys.executable, "-c", HANGS], limit_s=600, take_limit_s=1, grace_s=1
    )
    assert asyncio.run(passes.take(Path("/site.tar")))["message"] == "the pass was ended: not done after 1 s"


def test_what_a_killed_pass_had_started_goes_with_it(tmp_path: Path) -> None:
    child = f"open({str(tmp_path / 'child')!r}, 'w').write(str(__import__('os').getpid())); {HANGS}"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); {STUBBORN}"
    passes = Passes(config_file=Path("/agent.yaml"), program=[sys.executable, "-c", code], limit_s=2, grace_s=1)
    asyncio.run(passes.restore())
    status = Path(f"/proc/{(tmp_path / 'child').read_text()}/status")
    deadline_s = time.monotonic() + 10
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_stop_that_comes_before_a_pass_begins_is_not_forgotten() -> None:
    passes = Passes(config_file=Path("/agent.yaml"), program=[sys.executable, "-c", HANGS], limit_s=60, grace_s=1)

    async def stop_while_it_begins() -> str:
        beginning = asyncio.ensure_future(passes.restore())
        await asyncio.sleep(0)
        passes.interrupt()
        await beginning
        return str((await passes.restore())["message"])

    begun_s = time.monotonic()
    assert asyncio.run(stop_while_it_begins()).startswith("stopped on request")
    assert time.monotonic() - begun_s < 10


def test_a_pass_that_cannot_be_started_is_told_and_the_loop_goes_on() -> None:
    passes = Passes(config_file=Path("/agent.yaml"), program=["/no/such/python"])
    result = asyncio.run(passes.clean())
    assert result["outcome"] == "failed"
    assert result["message"].startswith("while starting gc, agent: not started: ")


def test_a_pass_that_is_stopped_before_it_listens_says_so() -> None:
    passes = Passes(config_file=Path("/agent.yaml"), program=[sys.executable, "-c", HANGS])

    async def stopped() -> Mapping[str, Any]:
        running = asyncio.ensure_future(passes.once(None))
        while not passes.process:  # noqa: ASYNC110  (nobody says when it is there)
            await asyncio.sleep(0.01)
        passes.interrupt()
        return await running

    assert asyncio.run(stopped())["message"] == "stopped on request: the next pass goes on from here"
