"""What the worker says on its way to the governor: what may wait a little leaves together.

Spec: docs/spec/worker.md, W-4. Each write wakes the governor, which has better things to do than to be
woken for every token of a fast engine. A lone token of a slow one leaves at once.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from leasehold.core import frames
from leasehold.core.frames import Token

PACE_SECONDS: Final = 0.004  # between two writes of tokens that somebody reads as they come
WHOLE_SECONDS: Final = 0.25  # where nobody does: as long as work may go on before it is charged
PENDING_MAX: Final = frames.SEVERAL_MAX


Said = frames.Counted | Token | frames.Done | frames.Embedded | frames.Failed | frames.Inferred


class Outbox:
    """Frames in order; a write takes all that there is."""

    def __init__(self, wire: socket.socket, on_lost: Callable[[], object]) -> None:
        """Write to this socket, from the threads that put and from one of its own, until `close`.

        `on_lost` is called where the governor went away; then nothing more is said.
        """
        self._wire, self._on_lost = wire, on_lost
        self._closed = False
        self._changed = threading.Condition()
        self._pending: list[Said] = []
        self._written = 0.0  # when something last left, and when something must
        self._due: float | None = None
        self._wakes: float | None = None  # when the thread looks again by itself
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def put(self, frame: Said, pace: float = 0.0) -> None:
        """Let the frame leave once `pace` seconds have passed since the last write.

        Tokens do not become one frame: where a budget ends, it ends with the last token that it covers.
        """
        with self._changed:
            self._pending.append(frame)
            due = self._written + pace
            if due <= time.monotonic() or len(self._pending) >= PENDING_MAX:
                self._write()
            elif self._due is None or due < self._due:
                self._due = due
                if self._wakes is None or due < self._wakes:
                    self._changed.notify()

    def close(self) -> None:
        """End the thread; nobody puts any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _write(self) -> None:
        data = b"".join([frames.encode(frame) for frame in _together(self._pending)])
        self._pending.clear()
        self._due = None
        try:
            self._wire.sendall(data)
        except OSError:
            self._on_lost()
        self._written = time.monotonic()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                self._wakes = self._due
                left = None if self._due is None else self._due - time.monotonic()
                if left is not None and left <= 0:
                    self._write()
                else:
                    self._changed.wait(left)


def _together(pending: Sequence[Said]) -> list[Said | frames.Several]:
    """W-4: what is small shares a frame; tokens that tell probabilities may be too large to."""
    found: list[Said | frames.Several] = []
    small: list[frames.Counted | Token | frames.Done] = []
    for frame in pending:
        if isinstance(frame, frames.Counted | frames.Done) or (
            isinstance(frame, Token) and not frame.probs
        ):
            small.append(frame)
        else:
            found += [*_shared(small), frame]
            small = []
    return found + _shared(small)


def _shared(small: Sequence[frames.Counted | Token | frames.Done]) -> list[Said | frames.Several]:
    return [frames.Several(tuple(small))] if len(small) > 1 else [*small]


class Telling:
    """The `Emit` of one generation: its tokens in frames, and whether to go on (W-4)."""

    def __init__(self, frame: frames.Generate, outbox: Outbox, go_on: Callable[[], bool]) -> None:
        self._id, self._outbox, self._go_on = frame.id, outbox, go_on
        self._pace = WHOLE_SECONDS if frame.whole else PACE_SECONDS

    def __call__(
        self,
        text: str,
        count: int,
        calls: tuple[frames.CallPart, ...] = (),
        probs: tuple[tuple[frames.Prob, ...], ...] = (),
        /,
    ) -> bool:
        """In frames of 16 at most; what the tokens completed goes with the last."""
        while count > frames.GROUP_TOKENS_MAX:
            self._outbox.put(Token(self._id, "", frames.GROUP_TOKENS_MAX), self._pace)
            count -= frames.GROUP_TOKENS_MAX
        if count:
            self._outbox.put(Token(self._id, text, count, calls, probs), self._pace)
        return self._go_on()
