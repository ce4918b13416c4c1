"""One HTTP request and its answer, bounded in bytes and in time, with the receipt's view of what was sent.

Refuses to know what any request means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from leasehold.core.messages import RECEIPT_HEADER
from leasehold.enclave.gate import key_hash_of
from leasehold.enclave.work import Run
from leasehold.errors import BadRequest, BodyTooLarge

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
# For a body: 4 MiB over a bad line, and one without end must not hold memory. For each write: a client
# that reads nothing must not hold a ticket and a place.
CLIENT_SECONDS_MAX: Final = 30.0
HANG_UP_SECONDS: Final = 0.05  # until it is looked for: most work is done before
T = TypeVar("T")
Header = tuple[bytes, bytes]
JSON: Final[Header] = (b"content-type", b"application/json")


class Gone(Exception):
    """The client hung up."""


class Exchange:
    """One HTTP request and what was answered to it so far."""

    __slots__ = (
        *("_marks", "_receive", "_send", "_since", "_stuck", "_timer"),
        *("finished", "run", "scope", "started", "variable"),
    )

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, *, marks: Iterable[Header]
    ) -> None:
        self.scope, self._receive, self._send, self._marks = scope, receive, send, marks
        self.started = self.finished = self._stuck = False
        self._since = 0.0  # since when the client has not taken what it was given; 0: it has
        self._timer: asyncio.TimerHandle | None = None
        self.variable = ""  # what the path names, where it names something
        self.run: Run | None = None  # what the answer is charged to, once it is

    def header(self, name: bytes) -> str | None:
        """The first header of that lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return None

    def key_hash(self) -> bytes:
        """The hash of the caller's API key. Raises UnknownKey."""
        return key_hash_of(self.header(b"authorization"))

    async def body(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes. Raises BodyTooLarge, BadRequest where it is late."""
        try:
            return await self._in_time(self._read(limit))
        except TimeoutError:
            expected = f"all of it in {CLIENT_SECONDS_MAX:.0f} s"
            raise BadRequest(about="request body", got="a part", expected=expected) from None

    async def _read(self, limit: int) -> bytes:
        body = bytearray()
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Gone
            body += event.get("body", b"")
            if len(body) > limit:
                raise BodyTooLarge(got=f"more than {limit} bytes", expected=f"<= {limit} bytes")
            if not event.get("more_body", False):
                return bytes(body)

    async def start(self, status: int, *headers: Header) -> None:
        """Send status and headers, and the marks of everything that is said here."""
        self.started = True
        marked = [*headers, *self._marks]
        await self._put({"type": "http.response.start", "status": status, "headers": marked})

    async def write(self, data: bytes) -> None:
        """Send a part of the body and remember it for the receipt."""
        if self.run is not None:
            self.run.sent += data
            self.run.ticket.sent()
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes) -> None:
        """Send the last part; the run's receipt is signed before it leaves."""
        if self.run is not None:
            self.run.sent += data
            self.run.book()
        self.finished = True
        await self._put({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, status: int, body: bytes, *headers: Header, kind: Header = JSON) -> None:
        """Send a whole answer; where something is charged, the receipt's id goes with it."""
        length = (b"content-length", str(len(body)).encode())
        receipt = [] if self.run is None else [receipt_header(self.run)]
        await self.start(status, kind, length, *receipt, *headers)
        await self.finish(body)

    async def until_gone(self) -> None:
        """Return when the client hangs up; the body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _put(self, message: dict[str, Any]) -> None:
        try:
            await self._in_time(self._send(message))
        except TimeoutError:
            raise Gone from None
        finally:
            if self.finished and self._timer is not None:
                self._timer.cancel()

    async def _in_time(self, step: Awaitable[T]) -> T:
        """What the client has to do its part for. One timer watches all: hardly any has to wait."""
        loop, working = asyncio.get_running_loop(), asyncio.current_task()
        self._since = loop.time()
        if self._timer is None and working is not None:
            self._timer = loop.call_later(CLIENT_SECONDS_MAX, self._look, loop, working)
        try:
            return await step
        except asyncio.CancelledError:
            if self._stuck and working is not None and working.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._since = 0.0

    def _look(self, loop: asyncio.AbstractEventLoop, working: asyncio.Task[Any]) -> None:
        self._timer = None
        if self._since and (left := self._since + CLIENT_SECONDS_MAX - loop.time()) > 0:
            self._timer = loop.call_later(left, self._look, loop, working)
        elif self._since:
            self._stuck = working.cancel()


Handler = Callable[[Exchange], Awaitable[None]]


@asynccontextmanager
async def unless_gone(exchange: Exchange) -> AsyncIterator[None]:
    """Cancel the block when the client hangs up; what was made until then is paid. Raises Gone."""
    working, watching = asyncio.current_task(), None
    gone = False

    def look() -> None:
        nonlocal watching
        watching = asyncio.create_task(exchange.until_gone())
        watching.add_done_callback(hang_up)

    def hang_up(watch: asyncio.Task[None]) -> None:
        nonlocal gone
        if working is not None and not watch.cancelled() and not exchange.finished:
            gone = True
            working.cancel()

    soon = asyncio.get_running_loop().call_later(HANG_UP_SECONDS, look)
    try:
        yield
    except asyncio.CancelledError:
        if gone and working is not None and working.uncancel() == 0:
            raise Gone from None
        raise
    finally:
        soon.cancel()
        if watching is not None:
            watching.cancel()


def receipt_header(run: Run) -> tuple[bytes, bytes]:
    """R-4: which receipt the answer will have."""
    return (RECEIPT_HEADER.encode(), run.receipt_id.encode())
