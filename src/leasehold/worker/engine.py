"""The port that every engine implements. Engines run in the worker, or in a test's own process.

Spec: docs/spec/worker.md, W-11. Refuses to know frames' wire form, processes and budgets.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

from leasehold.core.frames import (
    CallPart,
    Done,
    Embed,
    Embedded,
    Generate,
    Infer,
    Inferred,
    Input,
    Loaded,
    MemoryFile,
    Prob,
    Settings,
)

EXIT_STATUS_BUG: Final = 70  # EX_SOFTWARE of sysexits.h


class Emit(Protocol):
    """Takes text and the number of tokens it stands for (0: only asking); answers whether to go on."""

    def __call__(
        self,
        text: str,
        count: int,
        calls: tuple[CallPart, ...] = ...,
        probs: tuple[tuple[Prob, ...], ...] = ...,
        /,
    ) -> bool:
        """`calls` and `probs` as in a `Token` frame."""


class Engine(Protocol):
    """One model, loaded once; every method but `load` may be called by many threads at a time."""

    load_peak_ratio: ClassVar[float]
    """The most memory while it loads, over the size of the model's files: these count as one."""

    needs_process: ClassVar[str]
    """W-29: why it must have a process of its own, as for a listener that it cannot close, or nothing."""

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Load from memory: `fd` is readable, nothing is ever at a path. Raises BadModel."""

    def count(self, what: Input) -> int:
        """Tokens that the input takes, without computing on it. Raises UnsupportedParameter."""

    def generate(self, request: Generate, emit: Emit) -> Done:
        """Make at most `max_tokens` tokens, calling `emit` for each, and between batches of prefill.

        The sum of the emitted counts is the Done's `output_tokens`. After `emit` answered False
        nothing more is emitted and the reason is CANCELLED.
        Raises InputTooLong, BadRequest, UnsupportedParameter, WorkerFailed.
        """

    def embed(self, request: Embed, go_on: Callable[[], bool]) -> Embedded:
        """One vector for each text; where `go_on` says no, between batches, WorkerFailed.

        Raises InputTooLong, UnsupportedParameter, WorkerFailed.
        """

    def infer(self, request: Infer, go_on: Callable[[], bool]) -> Inferred:
        """The outputs that were asked for, of at most `bytes_max`; WorkerFailed where `go_on` says no.

        Raises BadRequest, AnswerTooLarge, UnsupportedParameter, WorkerFailed.
        """


def content_of(file: MemoryFile) -> mmap.mmap | memoryview:
    """All of a file that is not empty, to read only, where it lies."""
    if file.buffer is not None:
        return file.buffer.toreadonly()
    return mmap.mmap(file.fd, file.size, prot=mmap.PROT_READ)


def path_of(descriptor: int) -> str:
    """A path that opens a memory file again, in and out of the sandbox's empty root."""
    path = f"/proc/self/fd/{descriptor}"
    return path if os.access(path, os.F_OK) else f"/{descriptor}"


def step_for_ever(step: Callable[[], None], *, name: str) -> None:
    """Call `step` again and again, on a thread of its own.

    What it raises ends the worker: it is a bug, and every request would wait for ever. The governor
    starts another worker.
    """

    def run() -> None:
        try:
            while True:
                step()
        finally:
            os._exit(EXIT_STATUS_BUG)

    threading.Thread(target=run, name=name, daemon=True).start()
