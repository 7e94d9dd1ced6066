"""What a registry, or someone on the way to it, can do wrong: each takes the honest answer and gives another."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import httpx2

from tests.simulators.registry import Fault

ENOUGH_BYTES = 64 * 1024 * 1024


def answers(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Answer something else altogether."""
    return lambda _, __: httpx2.Response(status, headers=headers, content=body)


def redirects(to: str, *, status: int = 307) -> Fault:
    """Send the client elsewhere; `{path}` in `to` is the path that was asked for."""
    return lambda request, _: httpx2.Response(
        status, headers={"Location": to.format(path=request.url.raw_path.decode())}
    )


def says(headers: Mapping[str, str]) -> Fault:
    """Say something wrong about the right bytes."""
    return lambda _, honest: _instead(honest, honest.content, headers)


def tampers(body: bytes) -> Fault:
    """Send other bytes under the same headers, the length apart."""
    return lambda _, honest: _instead(honest, body, {"Content-Length": str(len(body))})


def longer(extra: bytes = b"and more") -> Fault:
    """Go on after the end."""
    return lambda _, honest: _streamed(honest, _then(honest.content + extra))


def endless(_: httpx2.Request, honest: httpx2.Response) -> httpx2.Response:
    """Never come to an end."""
    return _streamed(honest, _zeros)


def cut_after(count: int) -> Fault:
    """Send `count` bytes, then break the connection."""
    return lambda _, honest: _streamed(honest, _then(honest.content[:count], httpx2.ReadError("connection reset")))


def ends_after(count: int) -> Fault:
    """Send `count` bytes and call that the whole."""
    return lambda _, honest: _streamed(honest, _then(honest.content[:count]))


def unreachable(request: httpx2.Request, _: httpx2.Response) -> httpx2.Response:
    """Refuse the connection."""
    raise httpx2.ConnectError("connection refused", request=request)


def breaks(error: Exception) -> Fault:
    """Have the connection end in an error of its own."""

    def fault(_: httpx2.Request, __: httpx2.Response) -> httpx2.Response:
        raise error

    return fault


def silent(request: httpx2.Request, _: httpx2.Response) -> httpx2.Response:
    """Take the question and never answer."""
    raise httpx2.ReadTimeout("", request=request)


def then(action: Callable[[], object]) -> Fault:
    """Answer honestly, and let something happen right after."""

    def fault(_: httpx2.Request, honest: httpx2.Response) -> httpx2.Response:
        action()
        return honest

    return fault


def stalls(action: Callable[[], object]) -> Fault:
    """Send a few bytes, let something happen, and then send nothing any more."""

    def fault(_: httpx2.Request, honest: httpx2.Response) -> httpx2.Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield honest.content[:3]
            action()
            await asyncio.Event().wait()

        return _streamed(honest, chunks)

    return fault


def drips(tick: Callable[[], object]) -> Fault:
    """Send byte by byte, and let something happen before each."""

    def fault(_: httpx2.Request, honest: httpx2.Response) -> httpx2.Response:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(len(honest.content)):
                tick()
                yield honest.content[number : number + 1]

        return _streamed(honest, chunks)

    return fault


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, chunks: Callable[[], AsyncIterator[bytes]]) -> None:
        self.chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks()


def _then(data: bytes, error: Exception | None = None) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        yield data
        if error:
            raise error

    return chunks


async def _zeros() -> AsyncIterator[bytes]:
    for _ in range(ENOUGH_BYTES // 65536):
        yield bytes(65536)
    raise AssertionError(f"nobody stopped reading after {ENOUGH_BYTES} bytes")


def _instead(honest: httpx2.Response, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
    merged = httpx2.Headers(honest.headers)
    merged.update(headers)
    return httpx2.Response(honest.status_code, headers=merged, stream=_Stream(_then(body)))


def _streamed(honest: httpx2.Response, chunks: Callable[[], AsyncIterator[bytes]]) -> httpx2.Response:
    return httpx2.Response(honest.status_code, headers=honest.headers, stream=_Stream(chunks))
