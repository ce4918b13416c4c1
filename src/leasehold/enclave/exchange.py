"""One HTTP request and its answer, bounded in bytes and in time, with the receipt's view of what was sent.

Refuses to know what any request means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

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
    """One HTTP request, what was answered to it so far, and the task that answers it.

    As a context it cancels its block when the client hangs up; what was made until then is paid.
    """

    __slots__ = (
        *("_gone", "_inside", "_marks", "_receive", "_send", "_since", "_stuck", "_timer"),
        *("_looked", "_watch", "_working", "finished", "run", "scope", "started", "variable"),
    )

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, *, marks: Iterable[Header]
    ) -> None:
        self.scope, self._receive, self._send, self._marks = scope, receive, send, marks
        self.started = self.finished = self._stuck = False
        self._looked = self._inside = self._gone = False
        self._since = 0.0  # since when the client has not done its part; 0: it has
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._working = cast("asyncio.Task[Any]", asyncio.current_task())
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

    async def _put(self, message: dict[str, Any]) -> None:
        try:
            await self._in_time(self._send(message))
        except TimeoutError:
            raise Gone from None
        finally:
            if self.finished and self._timer is not None:
                self._timer.cancel()

    async def _in_time(self, step: Awaitable[T]) -> T:
        """What the client has to do its part for."""
        self._since = asyncio.get_running_loop().time()
        if self._timer is None:
            self._look_in(CLIENT_SECONDS_MAX if self._looked else HANG_UP_SECONDS)
        try:
            return await step
        except asyncio.CancelledError:
            if self._stuck and self._working.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._since = 0.0

    def _look_in(self, seconds: float) -> None:
        """One timer watches all: hardly any exchange takes so long that it must be looked after."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer, self._looked = None, True
        if self._inside and self._watch is None:
            self._watch = asyncio.create_task(self._until_gone())
            self._watch.add_done_callback(self._hang_up)
        if self._since:
            left = self._since + CLIENT_SECONDS_MAX - asyncio.get_running_loop().time()
            if left > 0:
                self._look_in(left)
            else:
                self._stuck = self._working.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _hang_up(self, watch: asyncio.Task[None]) -> None:
        if self._inside and not watch.cancelled() and not self.finished:
            self._gone = self._working.cancel()

    async def __aenter__(self) -> None:
        """The body must have been read."""
        self._inside = True
        if self._looked:
            self._look_in(HANG_UP_SECONDS)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises Gone."""
        self._inside = False
        if self._watch is not None:
            self._watch.cancel()
        if kind is asyncio.CancelledError and self._gone and self._working.uncancel() == 0:
            raise Gone from None


Handler = Callable[[Exchange], Awaitable[None]]


def receipt_header(run: Run) -> tuple[bytes, bytes]:
    """R-4: which receipt the answer will have."""
    return (RECEIPT_HEADER.encode(), run.receipt_id.encode())
