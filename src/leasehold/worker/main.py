"""The worker: takes one model and then requests from the governor, over one inherited socket.

Spec: docs/spec/worker.md, W-1 to W-7. Refuses to know keys, budgets and who asks.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, assert_never

from msgspec.structs import replace

from leasehold.core import frames
from leasehold.core.frames import Done, Failed, Fault, LoadFailed, Reason
from leasehold.core.units import KIB
from leasehold.errors import BadMessage, LeaseholdError, WorkerFailed
from leasehold.net.declared import declared, load
from leasehold.worker import room, sandbox
from leasehold.worker.engine import EXIT_STATUS_BUG, Engine
from leasehold.worker.outbox import PACE_SECONDS, Outbox, Said, Telling
from leasehold.worker.profile import profile_of

ENTRY_POINTS: Final = "leasehold.engines"
READ_BYTES: Final = 256 * KIB  # what one read takes at most; the kernel's buffer is about as large
COUNTING: Final = "count"  # the name of its threads
COUNTING_THREADS: Final = 2  # admission must not wait behind generations

Work = frames.Count | frames.Generate | frames.Embed | frames.Infer


def main(arguments: Sequence[str]) -> int:
    """Serve the socket that `--fd` names until the governor closes it. Gives the exit status."""
    match arguments:
        case ["--fd", number, "--engine", name] if number.isdecimal():
            return serve(int(number), partial(find_engine, name))
        case ["--lock", "--fd", number, "--engine", name] if number.isdecimal():
            return serve(int(number), partial(find_engine, name), locks=True)
        case _:
            raise SystemExit("usage: python -I -m leasehold.worker [--lock] --fd N --engine NAME")


def find_engine(name: str) -> Engine:
    """W-20: import the engine of that name, and no other. Raises WorkerFailed."""
    found = declared(ENTRY_POINTS).get(name, ())
    if len(found) != 1:
        got = f"{name}, declared {len(found)} times"
        raise WorkerFailed(about="engine", got=got, expected="one installed entry point")
    try:
        make: Callable[[], Engine] = load(*found)
    except (ImportError, AttributeError) as cause:
        raise WorkerFailed(about=f"engine {name}", got=cause) from cause
    return make()


def serve(descriptor: int, find: Callable[[], Engine], *, locks: bool = False) -> int:
    """Load what the first frame brings, then answer requests. Gives the exit status.

    Where it `locks`, it refuses a model unless its memory cannot be swapped (W-30).
    """
    wire = socket.socket(fileno=descriptor)
    deframer = frames.Deframer(frames.TO_WORKER)
    try:
        swaps = room.lock_process() if locks else None  # while it has the rights for it
        report = sandbox.isolate()  # before imports: libraries start threads
        engine = find()  # while the model is on its way
        order, files = _receive_order(wire, deframer)
        if swaps is not None:
            raise swaps
        room.check(engine.load_peak_ratio, files, room.free_bytes())
        report += sandbox.confine(
            profile_of(engine)
        )  # after imports: no file can be opened from here on
        loaded = engine.load(files, order.settings)
    except LeaseholdError as refusal:
        wire.sendall(frames.encode(LoadFailed(fault_of(refusal))))
        return 1
    wire.sendall(frames.encode(replace(loaded, layers=report.layers, absent=report.absent)))
    gone = partial(os._exit, 0)
    Service(wire, engine, order.settings.slots, loaded.context_tokens, gone).run(deframer)
    os._exit(0)  # at once, whatever still runs


def _receive_order(
    wire: socket.socket, deframer: frames.Deframer[frames.ToWorker]
) -> tuple[frames.Load, list[frames.MemoryFile]]:
    """W-5: the Load frame and the descriptors that came with it. Raises BadMessage."""
    orders: list[frames.ToWorker] = []
    descriptors: list[int] = []
    while not orders:
        data, received, _, _ = socket.recv_fds(wire, READ_BYTES, frames.FILES_MAX)
        descriptors += received
        if not data:
            raise SystemExit(0)  # the governor went away
        orders = deframer.feed(data)
    order = orders[0]
    if not isinstance(order, frames.Load) or len(orders) > 1:
        raise BadMessage(about="first frame", got=type(order).__name__, expected="Load, alone")
    if len(descriptors) != len(order.files):
        raise BadMessage(about="files", got=len(descriptors), expected=len(order.files))
    pairs = zip(order.files, descriptors, strict=True)
    return order, [frames.MemoryFile(info.name, info.size, fd) for info, fd in pairs]


class Service:
    """Runs requests on threads and writes what they give."""

    def __init__(
        self,
        wire: socket.socket,
        engine: Engine,
        slots: int,
        context: int,
        on_lost: Callable[[], object],
    ) -> None:
        """Serve an engine that has loaded; `on_lost` is called where an answer finds no governor."""
        self._wire, self._engine, self._slots, self._context = wire, engine, slots, context
        self._outbox, self._state = Outbox(wire, on_lost), threading.Lock()
        self._ended = False
        self._working = ThreadPoolExecutor(slots, "work")
        self._counting = ThreadPoolExecutor(COUNTING_THREADS, COUNTING)
        self._waiting: dict[int, Future[None]] = {}
        self._cancelled: set[int] = set()

    def run(self, deframer: frames.Deframer[frames.ToWorker]) -> None:
        """Read until the governor closes its end."""
        while data := self._wire.recv(READ_BYTES):
            for frame in deframer.feed(data):
                self._take(frame)

    def end(self) -> None:
        """Nobody wants anything any more: return when nothing runs. Not for a process, which just leaves."""
        self._ended = True
        for pool in (self._counting, self._working):  # what was counted there goes on here
            pool.shutdown(cancel_futures=True)
        self._outbox.close()

    def _take(self, frame: frames.ToWorker) -> None:
        match frame:
            case frames.Count():
                self._counting.submit(self._work, frame)
            case frames.Generate() | frames.Embed() | frames.Infer():
                counts = isinstance(frame, frames.Generate) and frame.input_max
                with self._state:  # what has a slot at once is counted there
                    first = counts and len(self._waiting) >= self._slots
                    pool = self._counting if first else self._working
                    self._waiting[frame.id] = pool.submit(self._work, frame)
            case frames.Cancel():
                self._cancel(frame.id)
            case frames.Load():
                raise BadMessage(about="frame", got="Load", expected="one Load only")
            case _:
                assert_never(frame)

    def _cancel(self, request: int) -> None:
        with self._state:
            future = self._waiting.get(request)
            if future is None:
                return  # its answer crossed this frame
            if not future.cancel():
                self._cancelled.add(request)
                return
            del self._waiting[request]
        self._outbox.put(Done(request, Reason.CANCELLED, 0, 0))

    def _work(self, frame: Work) -> None:
        answer: Said | None = None
        answered = False
        try:
            answer = self._answer(frame)
            answered = True
        except LeaseholdError as refusal:
            answer = _failed(frame.id, refusal)
            answered = True
        finally:
            if not answered:  # a bug: an executor would hide it, and the request would hang
                os._exit(EXIT_STATUS_BUG)
        if answer is None:
            return
        self._outbox.put(answer)
        with self._state:
            self._waiting.pop(frame.id, None)
            self._cancelled.discard(frame.id)

    def _answer(self, frame: Work) -> Said | None:
        match frame:
            case frames.Count():
                return frames.Counted(frame.id, self._engine.count(frame.input))
            case frames.Embed():
                return self._engine.embed(frame, partial(self._goes_on, frame.id))
            case frames.Infer():
                return self._engine.infer(frame, partial(self._goes_on, frame.id))
            case frames.Generate():
                return self._generate(frame)

    def _generate(self, frame: frames.Generate) -> Said | None:
        """W-2: count where that is asked for; where there was no slot, the work waits for one from here on."""
        if frame.input_max:
            counted = frames.Counted(frame.id, self._engine.count(frame.prompt))
            if counted.tokens > frame.input_max:
                return counted
            self._outbox.put(counted, PACE_SECONDS)
            most = min(frame.max_tokens, max(1, self._context - counted.tokens))
            frame = replace(frame, max_tokens=most, input_max=0)
            if threading.current_thread().name.startswith(COUNTING):
                self._take(frame)
                return None
        telling = Telling(frame, self._outbox, partial(self._goes_on, frame.id))
        return self._engine.generate(frame, telling)

    def _goes_on(self, request: int) -> bool:
        return not self._ended and request not in self._cancelled


def _failed(request: int, refusal: LeaseholdError) -> Failed:
    """W-3: a code and nothing else. Prose could carry a prompt, and numbers a piece of the weights."""
    return Failed(request, fault_of(refusal))


def fault_of(refusal: LeaseholdError) -> Fault:
    """The code of a refusal, if it is one of those that leave the worker."""
    known = {fault.value: fault for fault in Fault}
    return known.get(refusal.code, Fault.ENGINE)
