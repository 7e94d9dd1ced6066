"""A layout read by the very same door as a registry: what differs is where the answers come from (format 13.5)."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx2

from margo_oci.access import Access
from margo_oci.layout import Layout
from margo_oci.offering import Offer
from margo_oci.reference import Reference
from margo_oci.registry import Registry


class _Body(httpx2.AsyncByteStream):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


@dataclass
class LayoutTransport(httpx2.AsyncBaseTransport):
    """Answers requests for any registry out of a layout; `missing` are the digests that it was asked for in vain."""

    offer: Offer
    missing: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, layout: Layout) -> "LayoutTransport":
        """Answer out of `layout`."""
        return cls(Offer(layout))

    def registry(self) -> Registry:
        """Return the door for reading; nobody is asked for but this layout, neither mirrors nor proxies."""
        return Registry(lambda _: Access(), transport_for=lambda _: self)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer."""
        target, host = request.url.raw_path.decode(), request.url.netloc.decode()
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = self.offer.answer(target, headers, host=host)
        last = Reference("", "").at(target.rpartition("/")[2])
        if answer.status == httpx2.codes.NOT_FOUND and last.digest:
            self.missing.add(last.digest)
        body = answer.pieces if request.method == "GET" else iter(())
        sent = {**answer.headers, "Content-Length": str(answer.size)}
        return httpx2.Response(answer.status, headers=sent, stream=_Body(body))
