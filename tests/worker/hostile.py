"""A worker that lies. `python -I hostile.py MODE --fd N`; each mode is one way to break the rules."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

from leasehold.core import frames
from leasehold.core.frames import Capability, Counted, Done, Embedded, Loaded, Reason, Token

LONGEST = 8
DIMS = 4


class Wire:
    """The worker's end."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self._deframer = frames.Deframer(frames.TO_WORKER)

    def send(self, *sent: frames.ToGovernor) -> None:
        for frame in sent:
            self.socket.sendall(frames.encode(frame))

    def received(self) -> Iterator[frames.ToWorker]:
        while data := self.socket.recv(1 << 16):
            yield from self._deframer.feed(data)


def flood(wire: Wire, request: int) -> None:
    """Valid tokens, without end."""
    data = frames.encode(Token(request, "x")) * 1000
    while True:
        wire.socket.sendall(data)


def crash(_wire: Wire, _request: int) -> None:
    """As a bug in an engine would."""
    os.kill(os.getpid(), signal.SIGSEGV)


def cut(wire: Wire, request: int) -> None:
    """Half a frame, then the end."""
    wire.socket.sendall(frames.encode(Token(request, "x"))[:-1])
    os._exit(0)


def trickle(wire: Wire, request: int) -> None:
    """One token, then nothing, whatever it is told."""
    wire.send(Token(request, "x"))
    signal.pause()


Lie = Callable[[Wire, int], None]
LIES: dict[str, Lie] = {
    "flood": flood,
    "crash": crash,
    "cut": cut,
    "trickle": trickle,
    "hang": lambda _wire, _request: signal.pause(),
    "too-many": lambda wire, request: wire.send(*[Token(request, "x", 16)] * 2),
    "too-fat": lambda wire, request: wire.send(Token(request, "x" * (LONGEST + 1), 1)),
    "wrong-id": lambda wire, request: wire.send(Token(request + 1, "x")),
    "wrong-kind": lambda wire, request: wire.send(Counted(request, 3)),
    "count-and-on": lambda wire, request: wire.send(Counted(request, 9), Token(request, "x")),
    "counted-twice": lambda wire, request: wire.send(Counted(request, 2), Counted(request, 2)),
    "counted-to-the-end": lambda wire, request: wire.send(
        Counted(request, 4095), *[Token(request, "x")] * 2
    ),
    "done-uncounted": lambda wire, request: wire.send(Done(request, Reason.STOP, 0, 0)),
    "token-uncounted": lambda wire, request: wire.send(Token(request, "x")),
    "wrong-sum": lambda wire, request: wire.send(
        Token(request, "x"), Done(request, Reason.STOP, 1, 2)
    ),
    "after-done": lambda wire, request: wire.send(
        Done(request, Reason.STOP, 1, 0), Token(request, "x")
    ),
    "loaded-again": lambda wire, _request: wire.send(LOADED),
    "oversize": lambda wire, _request: wire.socket.sendall(b"\xff\xff\xff\xff"),
    "garbage": lambda wire, _request: wire.socket.sendall(b"\0\0\0\4spam"),
    "short-vectors": lambda wire, request: wire.send(Embedded(request, b"\0" * 8, DIMS, 1)),
    "other-dims": lambda wire, request: wire.send(Embedded(request, b"\0" * 8, 2, 1)),
    "undercount": lambda wire, request: wire.send(Counted(request, 0)),
    "undercount-output": lambda wire, request: wire.send(Done(request, Reason.STOP, 0, 0)),
}
LOADED = Loaded((Capability.TEXT, Capability.EMBED), 4096, LONGEST, DIMS)


def main(mode: str, descriptor: int) -> None:
    """Load whatever comes; then lie about every request."""
    wire = Wire(descriptor)
    for frame in wire.received():
        match frame:
            case frames.Load():
                if mode == "exit-at-load":
                    sys.exit(3)
                if mode == "hang-at-load":
                    signal.pause()
                wire.send(LOADED)
            case frames.Count() | frames.Generate() | frames.Embed():
                LIES[mode](wire, frame.id)
            case frames.Cancel():
                pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]))
