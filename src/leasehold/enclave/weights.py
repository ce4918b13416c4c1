"""Loads a sealed model: ciphertext from anywhere, plaintext to the engine's memory, all or nothing.

Spec: docs/spec/sealed-model.md, S-7, S-11 to S-13, S-19, and why not more: S-14. No source is trusted: one that
fails or lies is dropped, and the next goes on from the same place. Refuses to know what memory a
sink gives.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Final, Protocol, TypeVar

from leasehold.core.sealed import (
    PREAMBLE_BYTES,
    SPAN_BYTES_MAX,
    OpenModel,
    SealedModel,
    Span,
    check_header,
    parse_preamble,
    spans,
)
from leasehold.core.streaming import SEGMENT_BYTES
from leasehold.errors import (
    BadSealedModel,
    BadSignature,
    FileTrouble,
    LeaseholdError,
    ModelUnreachable,
    NoModelYet,
    WrongEngine,
    WrongModel,
)

THREADS_MAX: Final = 4  # two or three saturate memory; more would only hold more buffers
CANCEL_SECONDS_MAX: Final = 2.0
_T = TypeVar("_T")
_SOURCE_FAULTS: Final = (BadSealedModel, BadSignature, WrongModel, ModelUnreachable, FileTrouble)


class ModelSource(Protocol):
    """Somewhere that the sealed file can be read. Blocking, and called from several threads."""

    @property
    def name(self) -> str:
        """What a log calls it: an address or a path."""

    def read_into(self, offset: int, out: memoryview) -> int:
        """Fill `out` with the bytes from `offset` on; tells how long the whole file is.

        Raises ModelUnreachable, FileTrouble, or BadSealedModel where the file ends before.
        """


class FileWriter(Protocol):
    """Memory for one file's plaintext. Called from several threads, each for another part."""

    def write_at(self, offset: int, data: memoryview) -> None:
        """Copy `data` to `offset`. Raises where the memory was shredded meanwhile."""


class Sink(Protocol):
    """Where plaintext goes: memory that the engine maps, never a disk."""

    def file(self, name: str, size: int) -> FileWriter:
        """Make room for one file. `name` is one plain path component, different for every file."""

    def shred(self) -> None:
        """Wipe and release everything. May be called more than once."""


class FileSource:
    """The sealed file on a disk of the host."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.name = str(path)

    def close(self) -> None:
        """Nothing stays open between two reads."""

    def read_into(self, offset: int, out: memoryview) -> int:
        """S-12: copies; a mapping could be changed by the host between check and use."""
        try:
            handle = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while out:
                    got = os.preadv(handle, [out], offset)
                    if not got:
                        raise BadSealedModel(about=self.name, got="its end", expected="more bytes")
                    out, offset = out[got:], offset + got
                return os.fstat(handle).st_size
            finally:
                os.close(handle)
        except OSError as cause:
            raise FileTrouble(about=self.name, got=cause.strerror) from cause


async def load_sealed(
    sources: Sequence[ModelSource],
    *,
    digest: bytes,
    root_public: bytes,
    model_key: bytes,
    engine: str,
    sink: Sink,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_drop: Callable[[str, LeaseholdError], None] = lambda _name, _cause: None,
) -> SealedModel:
    """Fetch and decrypt the model of `digest` into `sink`, from the first source that is honest.

    Progress is told in bytes of plaintext; `on_drop` hears of every source that is given up, and why;
    both are called on this event loop. Raises WrongModelKey, or the last source's error; then, and
    also when it is cancelled, `sink` has been shredded. A read that hangs at a cancellation delays
    it by at most CANCEL_SECONDS_MAX; the shredding then follows when that read returns. Raises
    WrongEngine before a byte of the model is fetched where it was not sealed for `engine` (S-19).
    """
    loop = asyncio.get_running_loop()
    loading = Loading(
        sources=Sources(list(sources), lambda *said: _tell(loop, on_drop, *said)),
        engine=engine,
        sink=sink,
        threads=threads or min(THREADS_MAX, os.cpu_count() or 1),
        on_progress=lambda *said: _tell(loop, on_progress, *said),
    )
    running = loop.run_in_executor(
        None, lambda: loading.run(digest=digest, root_public=root_public, model_key=model_key)
    )
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        loading.stopped.set()
        running.add_done_callback(asyncio.Future.exception)
        await asyncio.wait([running], timeout=CANCEL_SECONDS_MAX)
        raise


def _tell(loop: asyncio.AbstractEventLoop, listener: Callable[..., None], *said: object) -> None:
    loop.call_soon_threadsafe(listener, *said)


@dataclass(slots=True)
class Sources:
    """S-11: what is left to read from; the first one is in use, by all threads."""

    left: list[ModelSource]
    on_drop: Callable[[str, LeaseholdError], None]
    _last: LeaseholdError = field(default_factory=lambda: ModelUnreachable(got="no source at all"))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, action: Callable[[ModelSource], _T]) -> _T:
        """The action's result with the first source that it succeeds with."""
        while True:
            with self._lock:
                if not self.left:
                    raise self._last
                source = self.left[0]
            try:
                return action(source)
            except _SOURCE_FAULTS as cause:
                with self._lock:
                    if source in self.left:
                        self.left.remove(source)
                        self._last = cause
                        self.on_drop(source.name, cause)


@dataclass(slots=True)
class Loading:
    """One load, in threads of its own."""

    sources: Sources
    engine: str
    sink: Sink
    threads: int
    on_progress: Callable[[int, int], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    _done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, *, digest: bytes, root_public: bytes, model_key: bytes) -> SealedModel:
        """S-13: the whole model is in the sink, or nothing is."""
        try:
            model = self.sources.use(lambda source: _read_header(source, digest, root_public))
            if (sealed_for := model.header.engine) != self.engine:  # S-19
                raise WrongEngine(about=model.header.name, got=sealed_for, expected=self.engine)
            opened = OpenModel(model, model_key)
            writers = [self.sink.file(file.name, file.size) for file in model.header.files]
            todo = spans(model)
            with ThreadPoolExecutor(self.threads, "weights") as pool:
                work = [pool.submit(self._work, opened, todo, writers) for _ in range(self.threads)]
            failures = [cause for one in work if (cause := one.exception()) is not None]
            for cause in sorted(failures, key=lambda cause: isinstance(cause, NoModelYet)):
                raise cause  # the one that stopped the others comes first
        except BaseException:
            self.sink.shred()
            raise
        return model

    def _work(self, opened: OpenModel, todo: Iterator[Span], writers: list[FileWriter]) -> None:
        buffer = memoryview(mmap(-1, SPAN_BYTES_MAX))  # the allocator would keep it
        scratch = memoryview(bytearray(SEGMENT_BYTES))
        try:
            while (span := self._next(todo)) is not None:
                load = partial(self._load, opened, span, writers[span.file], buffer, scratch)
                size = self.sources.use(load)
                with self._lock:
                    self._done += size
                    self.on_progress(self._done, opened.model.plain_bytes)
        except BaseException:
            self.stopped.set()
            raise
        finally:
            scratch[:] = bytes(SEGMENT_BYTES)

    def _next(self, todo: Iterator[Span]) -> Span | None:
        self._check_running()
        with self._lock:
            return next(todo, None)

    def _check_running(self) -> None:
        if self.stopped.is_set():
            raise NoModelYet(about="loading", got="stopped")

    def _load(
        self,
        opened: OpenModel,
        span: Span,
        writer: FileWriter,
        buffer: memoryview,
        scratch: memoryview,
        source: ModelSource,
    ) -> int:
        """S-7: fetch one span, and write what is authentic in it; tells its plaintext's size."""
        data, size = buffer[: span.length], 0
        _check_total(source.read_into(span.offset, data), opened.model)
        for offset, plain in opened.open_span(span, data, scratch):
            self._check_running()
            writer.write_at(offset, plain)
            size += len(plain)
        return size


def _read_header(source: ModelSource, digest: bytes, root_public: bytes) -> SealedModel:
    preamble = memoryview(bytearray(PREAMBLE_BYTES))
    source.read_into(0, preamble)
    data = memoryview(bytearray(parse_preamble(bytes(preamble))))
    total = source.read_into(PREAMBLE_BYTES, data)
    model = check_header(bytes(data), root_public=root_public, digest=digest)
    _check_total(total, model)
    return model


def _check_total(total: int, model: SealedModel) -> None:
    if total != model.sealed_bytes:
        raise BadSealedModel(about="length", got=total, expected=model.sealed_bytes)
