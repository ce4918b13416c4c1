"""The engine in the governor's own process, for Gramine, where no other process can have it.

Spec: docs/spec/worker.md, W-29. Same socket, same frames, same engines; no sandbox, and a thread that
cannot be killed: where it does not end by itself, this process does. Refuses to know keys and budgets.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

from msgspec.structs import replace

from leasehold.core import frames
from leasehold.core.frames import LoadFailed, MemoryFile
from leasehold.errors import EngineNeedsProcess, LeaseholdError, WorkerFailed
from leasehold.worker import room, sandbox
from leasehold.worker.engine import EXIT_STATUS_BUG, Engine
from leasehold.worker.main import READ_BYTES, Service, fault_of, find_engine

END_SECONDS_MAX: Final = 5.0  # to end what runs: a batch, a graph
HELD_SECONDS_MAX: Final = 600.0  # that an engine may keep every other thread from running
_LOOKS: Final = 8  # in that time
_SILENT: Final = "it does not say whether it has a listener that it cannot close"

End = Callable[[str], object]


async def start(theirs: socket.socket, name: str, end: End | None = None) -> Here:
    """An `enclave.child.Start`. Raises EngineNeedsProcess, WorkerFailed; then nothing was started."""
    try:
        engine = await asyncio.to_thread(find_engine, name)
        check(name, engine)
    except LeaseholdError:
        theirs.close()
        raise
    return Here(theirs, engine, end or end_process)


def check(name: str, engine: Engine) -> None:
    """W-29: raise EngineNeedsProcess unless the engine says that it may run here."""
    if why := getattr(engine, "needs_process", _SILENT):
        raise EngineNeedsProcess(
            about=f"engine {name}", got=why, expected="an engine that needs no process of its own"
        )


def end_process(why: str) -> None:
    """W-29: a thread cannot be killed. The instance's leases are written off, as after any crash."""
    failure = WorkerFailed(about="engine in this process, which ends with it", got=why)
    sys.stderr.write(f"error [{failure.code}]: {failure.message}\n")
    sys.stderr.flush()
    os._exit(EXIT_STATUS_BUG)


class Here:
    """An `enclave.child.Worker` that is a thread."""

    def __init__(self, theirs: socket.socket, engine: Engine, end: End) -> None:
        """Begin, and wait for the order. `end` ends this process."""
        self._wire, self._end = theirs, end
        self._engine: Engine | None = engine
        self._files: SimpleQueue[Sequence[MemoryFile]] = SimpleQueue()
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._look: asyncio.TimerHandle | None = None
        self._alive()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int:
        """This process."""
        return os.getpid()

    def order(self, ours: socket.socket, order: bytes, files: Sequence[MemoryFile]) -> None:
        """The files beside the frame: Gramine passes no descriptors."""
        self._files.put(files)
        ours.sendall(order)

    def kill(self) -> None:
        """Nothing more comes, and nothing more leaves."""
        with suppress(OSError):  # it has ended
            self._wire.shutdown(socket.SHUT_RDWR)

    async def wait(self) -> None:
        """W-29: when nothing of it runs; else this process ends."""
        await asyncio.to_thread(self._thread.join, END_SECONDS_MAX)
        if self._thread.is_alive():
            self._end(f"it did not stop within {END_SECONDS_MAX} s")
        if self._look is not None:
            self._look.cancel()
            self._look = None
            faulthandler.cancel_dump_traceback_later()
            os.close(self._nowhere)

    def _alive(self) -> None:
        """An engine that never gives up Python's lock stops the governor too: then the kernel ends both.

        faulthandler's thread needs no lock. What it would write goes nowhere.
        """
        faulthandler.dump_traceback_later(HELD_SECONDS_MAX, exit=True, file=self._nowhere)
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(HELD_SECONDS_MAX / _LOOKS, self._alive)

    def _run(self) -> None:
        is_done = False
        try:
            with suppress(OSError):  # the governor ended it
                self._serve()
            is_done = True
        finally:
            self._engine = None
            self._wire.close()
            if not is_done:  # before its words reach a log of the host
                self._end("a failure that it did not foresee")

    def _serve(self) -> None:
        wire, engine, deframer = self._wire, self._engine, frames.Deframer(frames.TO_WORKER)
        assert engine is not None  # noqa: S101  (until it has run)
        orders: list[frames.ToWorker] = []
        while not orders:
            if not (data := wire.recv(READ_BYTES)):
                return
            orders = deframer.feed(data)
        (order,), files = orders, self._files.get()
        assert isinstance(order, frames.Load)  # noqa: S101  (from this process)
        try:
            room.check(engine.load_peak_ratio, files, room.free_bytes())
            loaded = engine.load(files, order.settings)
        except LeaseholdError as refusal:
            wire.sendall(frames.encode(LoadFailed(fault_of(refusal))))
            return
        # No layer, and nothing that could be emptied: its own buffers are what it may still read.
        told = replace(loaded, layers=(), absent=sandbox.NAMES, has_copied=False)
        wire.sendall(frames.encode(told))
        service = Service(wire, engine, order.settings.slots, loaded.context_tokens, lambda: None)
        try:
            service.run(deframer)
        finally:
            service.end()
