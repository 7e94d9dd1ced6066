"""A slow link: a TCP proxy that delays every byte, loses none, and can be cut."""

import asyncio
import fcntl
import selectors
import socket
import struct
import termios
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

CHUNK_BYTES = 256 * 1024
QUEUE_LIMIT = 256
T = TypeVar("T")
Chunk = tuple[float, bytes]  # when it is due, and what; empty at the end


class SlowLink:
    """A way to a server on which every byte takes `delay_s`, in either direction, at any throughput.

    Opening a connection takes a round trip, too: the first byte leaves when that is over. With `most_bytes_s` no more
    than that comes down over all connections together.
    """

    def __init__(self, target_host: str, target_port: int, delay_s: float = 0.020, most_bytes_s: int = 0) -> None:
        self.target = (target_host, target_port)
        self.delay_s = delay_s
        self.most_bytes_s = most_bytes_s
        self._busy_until_s = 0.0
        self.port = 0
        self.connections = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._cut_at_bytes_down: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        # Unlike epoll, select() does not round a delay up to whole milliseconds.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow-link", daemon=True)

    @property
    def host(self) -> str:
        """The near end of the link, as registries are named: 127.0.0.1:PORT."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Cut every connection that is open. New ones get through."""
        self._run(self._abort_all())

    def cut_after(self, bytes_down: int) -> None:
        """Cut every connection once that many more bytes came down over all of them together."""
        self._cut_at_bytes_down = self.bytes_down + bytes_down

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _close(self) -> None:
        self._server.close()
        await self._abort_all()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _abort_all(self) -> None:
        for writer in self._writers:
            if writer.is_closing():
                continue
            # Without lingering, closing resets the connection instead of ending it properly.
            end: socket.socket = writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _all_delivered(self) -> None:
        """Wait until the kernel has delivered what was written: a reset would discard it."""
        for writer in list(self._writers):
            end: socket.socket = writer.get_extra_info("socket")
            while _undelivered(end):  # noqa: ASYNC110 - the kernel does not tell
                await asyncio.sleep(0.001)

    async def _serve(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        """Serve one connection. The kernel has accepted it at once, as if the link had no length."""
        opened = self._loop.time() + 2 * self.delay_s
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        writers = {near_writer}
        try:
            far, far_writer = await asyncio.open_connection(*self.target)
            writers.add(far_writer)
            self._writers |= writers
            await self._carry(near, far_writer, far, near_writer, opened)
        except* (OSError, asyncio.CancelledError):
            pass  # cut, or ended by one side: then it ends for the other, too
        finally:
            for writer in writers:
                writer.transport.abort()
            self._writers -= writers
            self._serving.discard(task)

    async def _carry(
        self,
        near: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        near_writer: asyncio.StreamWriter,
        opened: float,
    ) -> None:
        """Carry both directions. Reading never waits for writing, so delays do not add up."""
        up: asyncio.Queue[Chunk] = asyncio.Queue()
        down: asyncio.Queue[Chunk] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(near, up, opened))
            tasks.create_task(self._receive(far, down, opened - self.delay_s))
            tasks.create_task(self._deliver(up, far_writer, self._count_up))
            tasks.create_task(self._deliver(down, near_writer, self._count_down, most_bytes_s=self.most_bytes_s))

    async def _receive(self, reader: asyncio.StreamReader, under_way: asyncio.Queue[Chunk], opened: float) -> None:
        chunk = b"?"
        while chunk:
            chunk = await reader.read(CHUNK_BYTES)
            while under_way.qsize() > QUEUE_LIMIT:  # noqa: ASYNC110 - a link holds only so much
                await asyncio.sleep(0.001)
            under_way.put_nowait((max(opened, self._loop.time()) + self.delay_s, chunk))

    async def _deliver(
        self,
        under_way: asyncio.Queue[Chunk],
        writer: asyncio.StreamWriter,
        count: Callable[[bytes], bytes],
        most_bytes_s: int = 0,
    ) -> None:
        writer.transport.set_write_buffer_limits(0)
        while True:
            due, chunk = await under_way.get()
            if (wait_s := due - self._loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if not chunk:
                break
            if most_bytes_s:
                now_s = self._loop.time()
                self._busy_until_s = max(self._busy_until_s, now_s) + len(chunk) / most_bytes_s
                await asyncio.sleep(self._busy_until_s - now_s)
            writer.write(count(chunk))
            await writer.drain()
            if self.bytes_down == self._cut_at_bytes_down:
                await self._all_delivered()
                self._cut_at_bytes_down = None
                await self._abort_all()
                raise ConnectionResetError
        writer.write_eof()

    def _count_up(self, chunk: bytes) -> bytes:
        self.bytes_up += len(chunk)
        return chunk

    def _count_down(self, chunk: bytes) -> bytes:
        """Count, and keep only what comes before the cut."""
        if self._cut_at_bytes_down is not None:
            chunk = chunk[: self._cut_at_bytes_down - self.bytes_down]
        self.bytes_down += len(chunk)
        return chunk


def _undelivered(end: socket.socket) -> bool:
    return end.fileno() >= 0 and any(fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(4)))
