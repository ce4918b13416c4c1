"""What a worker claims of one request, checked against what was asked of it.

Spec: docs/spec/worker.md, W-8. Refuses to know processes and sockets; a lie raises BadMessage.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from leasehold.core import frames
from leasehold.core.frames import Counted, Done, Embedded, Inferred, Token
from leasehold.core.tensors import Port, check_tensor
from leasehold.errors import BadMessage, LeaseholdError

BACKLOG_FRAMES: Final = 1024  # what a slow reader has not fetched is grouped from here on
FLOAT_BYTES: Final = 4

Answer = Token | Counted | Done | Embedded | Inferred


def size_of(chat: frames.Chat) -> int:
    """Bytes of what was said in a chat, of calls and of the functions it describes."""
    texts = [message.content for message in chat.messages]
    texts += [call.name + call.arguments for message in chat.messages for call in message.calls]
    return sum(len(text.encode()) for text in texts) + len(
        chat.tools.described if chat.tools else ""
    )


def floor(what: frames.Input, longest: int) -> int:
    """W-8: the fewest tokens that the input can be, at `longest` bytes each, and one for each text.

    An empty text is not free: its vector, or its continuation, is as much a way out as any other.
    """
    match what:
        case frames.Chat():
            sizes = [size_of(what)]
        case frames.Text():
            sizes = [len(what.text.encode())]
        case frames.Texts():
            sizes = [len(text.encode()) for text in what.texts]
        case frames.Tokens():
            return len(what.ids)
    return sum(max(1, -(-size // longest)) for size in sizes)


@dataclass(slots=True)
class Claims:
    """One open request: what it may still get, and what came and was not fetched yet.

    `vectors` and `dims` count what an Embedded must carry, `outputs` what an Inferred must, in at most
    `bytes_max`; `dropped` means nobody reads any more. Of a generation that counts its input first,
    `input_max` is what may begin without asking again, and 0 once it is counted.
    """

    kind: type[Counted | Done | Embedded | Inferred]  # the answer that ends it
    longest: int
    input_floor: int = 0
    input_max: int = 0
    context: int = 0
    tokens_max: int = 0
    probs_max: int = 0  # of each token
    vectors: int = 0
    dims: int = 0
    outputs: tuple[Port, ...] = ()
    bytes_max: int = 0
    tokens: int = 0
    text_bytes: int = 0
    probs: int = 0
    dropped: bool = False
    ended: bool = False  # the last frame has come
    failure: LeaseholdError | None = None
    arrived: deque[Answer] = field(default_factory=deque)
    waiting: asyncio.Future[None] | None = None  # the reader's, while there is nothing for him
    waiting_since: float | None = None  # of the loop's time; None while nobody waits

    def check(self, frame: Answer) -> None:
        """W-8: raise BadMessage unless the frame fits what was asked."""
        if self.input_max and not (self.dropped and isinstance(frame, Done)):
            _agree("kind of answer", type(frame) is Counted, type(frame), Counted)
            return
        if isinstance(frame, Token):
            self.tokens, self.text_bytes = self.tokens + frame.count, self.text_bytes + frame.size
            at_most = self.tokens_max if self.kind is Done else 0
            room = self.tokens * self.longest
            if frame.probs or self.tokens > at_most or self.text_bytes > room:
                self.probs += len(frame.probs)
                widest = max((len(row) for row in frame.probs), default=0)
                _agree("probabilities", widest <= self.probs_max, widest, self.probs_max)
                _agree("probabilities", self.probs <= self.tokens, self.probs, self.tokens)
                _agree("tokens", self.tokens <= at_most, self.tokens, at_most)
                _agree("bytes of text", self.text_bytes <= room, self.text_bytes, room)
            return
        match frame:
            case Done():
                got, expected = frame.output_tokens, self.tokens
                _agree("output tokens", got == expected, got, expected)
            case Embedded():
                got, expected = len(frame.vectors), self.vectors * self.dims * FLOAT_BYTES
                _agree("vector bytes", (got, frame.dims) == (expected, self.dims), got, expected)
            case Inferred():
                size = sum(len(tensor.data) for tensor in frame.outputs)
                _agree("bytes of outputs", size <= self.bytes_max, size, self.bytes_max)
                names, wanted = (
                    [one.name for one in some] for some in (frame.outputs, self.outputs)
                )
                _agree("outputs", names == wanted, names, wanted)
                for tensor, port in zip(frame.outputs, self.outputs, strict=True):
                    check_tensor(tensor, port, BadMessage)
        _agree("kind of answer", type(frame) is self.kind, type(frame), self.kind)

    def take(self, frame: Answer) -> bool:
        """Check a frame and keep it for the reader, in groups once the reader lags behind (W-7).

        Tells whether it is the last one.
        """
        self.check(frame)
        if type(frame) is not Token:
            self.ended = True
            if self.input_max and isinstance(frame, Counted):
                self.ended, self.input_max = frame.tokens > self.input_max, 0
                self.tokens_max = min(self.tokens_max, self.context - frame.tokens)
            frame = self._floored(frame)
        if not self.dropped:
            if len(self.arrived) < BACKLOG_FRAMES or not self._grouped(frame):
                self.arrived.append(frame)
            self._wake()
        return self.ended

    @property
    def over(self) -> bool:
        """Whether all of it was fetched."""
        return self.ended and not self.arrived

    def _grouped(self, frame: Answer) -> bool:
        last = self.arrived[-1]
        if isinstance(last, Token) and isinstance(frame, Token):
            count = last.count + frame.count
            if count <= frames.GROUP_TOKENS_MAX:
                text, calls = last.text + frame.text, last.calls + frame.calls
                self.arrived[-1] = Token(frame.id, text, count, calls, last.probs + frame.probs)
                return True
        return False

    def drop(self) -> None:
        """Nobody reads any more; what still comes is checked and forgotten."""
        self.dropped = True
        self.arrived.clear()

    def fail(self, failure: LeaseholdError) -> None:
        """End it; the reader gets what came before, then the failure."""
        self.failure = failure
        self._wake()

    def _wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    async def some(self) -> tuple[Answer, ...]:
        """All that came and was not fetched, as soon as there is any. Raises the failure."""
        while not self.arrived:
            if self.failure is not None:
                raise self.failure
            loop = asyncio.get_running_loop()
            self.waiting, self.waiting_since = loop.create_future(), loop.time()
            try:
                await self.waiting
            finally:
                self.waiting = self.waiting_since = None
        some = tuple(self.arrived)
        self.arrived.clear()
        return some

    def _floored(self, frame: Answer) -> Answer:
        match frame:
            case Token() | Inferred():
                return frame
            case Counted():
                return replace(frame, tokens=max(frame.tokens, self.input_floor))
            case Done() | Embedded():
                return replace(frame, input_tokens=max(frame.input_tokens, self.input_floor))


def _agree(about: str, holds: bool, got: object, expected: object) -> None:
    if not holds:
        raise BadMessage(about=about, got=got, expected=expected)
