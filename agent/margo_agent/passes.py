"""Passes in processes of their own: what one imports and allocates ends with it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from margo_agent.events import Due
from margo_oci.errors import said, worded

REPORT_LIMIT_S = 300.0
PASS_LIMIT_S = 12 * 3600.0  # many large images over a slow link; what was pulled by then is there for the next pass
TAKE_LIMIT_S = 2 * 3600.0  # a stick is here: nobody waits for a network
GRACE_S = 600.0  # a step of Compose that cannot be interrupted
STOPPED = "stopped on request: the next pass goes on from here"  # before it had read what to do
# -P, and / as working directory: nothing that lies about where the agent was started is imported.
AGENT = (sys.executable, "-P", "-m", "margo_agent")


@dataclass(kw_only=True)
class Passes:
    """Runs passes in processes of their own, one at a time; `config_file` is an absolute path."""

    config_file: Path
    program: Sequence[str] = AGENT
    limit_s: float = PASS_LIMIT_S
    take_limit_s: float = TAKE_LIMIT_S
    grace_s: float = GRACE_S
    ended: bool = False  # nothing more is begun
    process: asyncio.subprocess.Process | None = None

    async def once(self, manifest: bytes | None) -> Mapping[str, Any]:
        """Run `once`, with the manifest that was just received if there is one."""
        return await self._run(["once", *(["--offered", "-"] if manifest else [])], manifest)

    async def take(self, bundle: Path) -> Mapping[str, Any]:
        """Run `import` for a bundle that was found, unless it is no newer than what was accepted."""
        return await self._run(["import", "--newer", str(bundle)], None, self.take_limit_s)

    async def restore(self) -> Mapping[str, Any]:
        """Run `restore`."""
        return await self._run(["restore"], None)

    async def correct(self, due: Due) -> Mapping[str, Any]:
        """Run `correct` for what is due."""
        stopped = [word for one in sorted(due.stopped) for word in ("--stopped", one)]
        return await self._run(["correct", *stopped, *sorted(due.deployments)], None)

    async def clean(self) -> Mapping[str, Any]:
        """Run `gc`."""
        return await self._run(["gc"], None)

    async def report(self) -> Mapping[str, Any]:
        """Run `report`."""
        return await self._run(["report"], None)

    def interrupt(self) -> None:
        """Ask the pass under way to end as soon as it can; no other one is begun."""
        self.ended = True
        self._ask_to_end()

    def _ask_to_end(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.terminate()

    async def _run(self, command: list[str], stdin: bytes | None, limit_s: float | None = None) -> Mapping[str, Any]:
        if self.ended:
            return _failed("stopped on request: the next start goes on from here")
        try:
            process = self.process = await self._begun(command)
        except OSError as error:  # no memory for it, or no process: the loop goes on, and tries again
            return _failed(worded(f"starting {command[0]}", "agent", "not started", said(error), "free some memory"))
        if self.ended:  # meanwhile
            self._ask_to_end()
        return await self._ending(process, stdin, self.limit_s if limit_s is None else limit_s)

    async def _begun(self, command: list[str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *[*self.program, *command, "--config", str(self.config_file), "-o", "json"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # a Ctrl-C at the terminal is for the loop, which passes it on
        )

    async def _ending(
        self, process: asyncio.subprocess.Process, stdin: bytes | None, limit_s: float
    ) -> Mapping[str, Any]:
        talking = asyncio.ensure_future(process.communicate(stdin))
        in_time = await _within(talking, limit_s)
        if not in_time:
            self._ask_to_end()
            if not await _within(talking, self.grace_s):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # Compose too, which it started
        out, err = await talking
        result = _result(out, err, process.returncode)
        if in_time:
            return result
        return {**result, "outcome": "failed", "message": f"the pass was ended: not done after {limit_s:.0f} s"}


async def _within(talking: "asyncio.Future[tuple[bytes, bytes]]", limit_s: float) -> bool:
    done, _ = await asyncio.wait({talking}, timeout=limit_s)
    return bool(done)


def _result(out: bytes, err: bytes, code: int | None) -> Mapping[str, Any]:
    try:
        result: Mapping[str, Any] = json.loads(out)
    except ValueError:
        ended = STOPPED if code == -signal.SIGTERM else f"the pass ended with {code}"
        words = err.decode(errors="replace").strip()[-500:] or ended
        return _failed(words.removeprefix("error: "))
    return result


def _failed(message: str) -> Mapping[str, Any]:
    return {"outcome": "failed", "message": message, "digest": ""}
