"""Passes in processes of their own: what one imports and allocates ends with it."""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from margo_agent.config import AgentConfig


class Passes:
    """Runs passes in processes of their own, one at a time."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.process: asyncio.subprocess.Process | None = None

    async def once(self, manifest: bytes | None) -> Mapping[str, Any]:
        """Run `once`, with the manifest that was just received if there is one."""
        return await self._run(["once", *(["--offered", "-"] if manifest else [])], manifest)

    async def restore(self) -> Mapping[str, Any]:
        """Run `restore`."""
        return await self._run(["restore"], None)

    def interrupt(self) -> None:
        """Ask the pass under way to end after its step."""
        if self.process and self.process.returncode is None:
            self.process.terminate()

    async def _run(self, command: list[str], stdin: bytes | None) -> Mapping[str, Any]:
        self.process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "margo_agent", *command, "--config", str(self.config.file), "-o", "json"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the loop, which passes it on
        )
        out, err = await self.process.communicate(stdin)
        try:
            result: Mapping[str, Any] = json.loads(out)
        except ValueError:
            words = err.decode(errors="replace").strip()[-500:] or f"the pass ended with {self.process.returncode}"
            return {"outcome": "failed", "message": words.removeprefix("error: "), "digest": ""}
        return result
