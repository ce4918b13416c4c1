"""Runs the worker, which holds the engine and is believed in nothing.

Spec: docs/spec/worker.md, W-5 to W-10. Refuses to know budgets, keys and what a prompt means.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol, TypeVar, cast

import msgspec

from leasehold.core import frames
from leasehold.core.frames import DEFAULT_SAMPLING, DEFAULT_SETTINGS, Sampling, Settings, Token
from leasehold.core.tensors import Tensor
from leasehold.core.units import MIB
from leasehold.enclave.child import Start, Worker, start_process
from leasehold.enclave.claims import FLOAT_BYTES, Claims, floor
from leasehold.errors import BadMessage, BadRequest, NoModelYet, TooBusy, WorkerFailed, codes

REQUESTS_MAX: Final = 1024  # open at once; four times the largest number of slots
UNSENT_BYTES_MAX: Final = 32 * MIB  # four frames that a worker has not read yet
VECTOR_BYTES_MAX: Final = frames.FRAME_BYTES_MAX - 1024  # the rest is the frame's other fields
LOAD_SECONDS_MAX: Final = 1800.0  # 500 GB from memory
SILENCE_SECONDS_MAX: Final = 600.0  # the longest wait for a slot and a prefill
LOOKS: Final = 8  # in that time
CANCEL_SECONDS_MAX: Final = 60.0  # one batch of prefill on a slow machine
COMMAND: Final = (sys.executable, "-I", "-B", "-m", "leasehold.worker")
_One = TypeVar("_One", frames.Counted, frames.Embedded, frames.Inferred)
Piece = frames.Counted | Token | frames.Done
_REFUSALS: Final = {fault: codes()[fault.value] for fault in frames.Fault}


class InferenceHost(Protocol):
    """Where the engine runs. Tests put an engine into their own process here."""

    @property
    def loaded(self) -> frames.Loaded:
        """What is loaded. Raises NoModelYet."""

    async def prepare(self, engine: str) -> None:
        """End what runs and start this engine afresh, which waits for its model. Raises WorkerFailed."""

    async def load(
        self, engine: str, files: Sequence[frames.MemoryFile], settings: Settings = DEFAULT_SETTINGS
    ) -> frames.Loaded:
        """Start afresh with this model; the files stay the caller's. Raises BadModel, WorkerFailed."""

    async def count(self, what: frames.Input) -> int:
        """Tokens of the input, never fewer than its bytes over the longest token.

        Raises BadRequest, UnsupportedParameter, TooBusy, NoModelYet, WorkerFailed.
        """

    def generate(
        self,
        prompt: frames.Prompt,
        *,
        max_tokens: int,
        sampling: Sampling = DEFAULT_SAMPLING,
        input_max: int = 0,
        whole: bool = False,
    ) -> AsyncGenerator[tuple[Piece, ...], None]:
        """Tokens, at each step all that have come since the last; then one Done.

        With an `input_max` a Counted is first, and the last where it is above that; with `whole` tokens
        may come late. Closing the generator cancels the work. Raises what `count` raises, and InputTooLong.
        """

    async def embed(self, texts: Sequence[str]) -> frames.Embedded:
        """One vector for each text: little-endian float32[len(texts), dims].

        Raises what `count` raises, and InputTooLong.
        """

    async def infer(
        self, inputs: Sequence[Tensor], outputs: Sequence[str], *, bytes_max: int
    ) -> frames.Inferred:
        """The named outputs, of at most `bytes_max` together.

        Raises what `count` raises, and AnswerTooLarge.
        """

    async def kill(self) -> None:
        """End the engine, whatever it is doing, and return when it is gone."""


class _Wire(asyncio.Protocol):
    """The governor's end of one worker's socket."""

    def __init__(
        self,
        take: Callable[[frames.ToGovernor], None],
        end: Callable[[_Wire, WorkerFailed], None],
    ) -> None:
        self._take, self._end = take, end
        self._deframer = frames.Deframer(frames.TO_GOVERNOR)

    def data_received(self, data: bytes) -> None:
        """Deal out every frame; the first lie ends the worker (W-8)."""
        try:
            for frame in self._deframer.feed(data):
                self._take(frame)
        except BadMessage as lie:
            self._end(self, WorkerFailed(about=lie.about, got=lie.got, expected=lie.expected))

    def connection_lost(self, cause: Exception | None) -> None:
        """W-9: the worker died, or closed its end, which is no better."""
        self._end(self, WorkerFailed(about="worker", got=cause or "exit"))


class WorkerHost:
    """An InferenceHost whose engine is at the other end of a socket pair."""

    def __init__(
        self,
        *,
        on_exit: Callable[[WorkerFailed], None] = lambda _: None,
        command: Sequence[str] = COMMAND,
        start: Start | None = None,
        silence_seconds: float = SILENCE_SECONDS_MAX,
        cancel_seconds: float = CANCEL_SECONDS_MAX,
    ) -> None:
        """`on_exit` is called once for each worker that ended without `kill` or `load`.

        A worker is a process of this `command`, or what `start` starts (W-29).
        """
        self._on_exit, self._start = on_exit, start or partial(start_process, command)
        self._silence_seconds, self._cancel_seconds = silence_seconds, cancel_seconds
        self._worker: Worker | None = None
        self._prepared: tuple[str, socket.socket] | None = None
        self._wire: _Wire | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._loading: asyncio.Future[frames.Loaded | frames.LoadFailed] | None = None
        self._loaded: frames.Loaded | None = None
        self._open: dict[int, Claims] = {}
        self._last_id = 0
        self._listening: asyncio.TimerHandle | None = None

    @property
    def loaded(self) -> frames.Loaded:
        """What is loaded. Raises NoModelYet."""
        if self._loaded is None:
            raise NoModelYet
        return self._loaded

    @property
    def process_id(self) -> int | None:
        """The worker's process id, while there is one."""
        return self._worker.process_id if self._worker else None

    @property
    def open_requests(self) -> int:
        """Requests that the worker has not ended yet, cancelled ones included."""
        return len(self._open)

    async def prepare(self, engine: str) -> None:
        """W-5: a fresh worker, which imports the engine while its model is on the way.

        Raises what `start` raises.
        """
        if self._prepared is not None and self._prepared[0] == engine:
            return
        await self.kill()
        ours, theirs = socket.socketpair()
        self._prepared = engine, ours
        try:
            self._worker = await self._start(theirs, engine)
        finally:
            if self._worker is None:
                await self.kill()

    async def load(
        self, engine: str, files: Sequence[frames.MemoryFile], settings: Settings = DEFAULT_SETTINGS
    ) -> frames.Loaded:
        """W-5: a fresh worker gets the files. Raises BadModel, WorkerFailed."""
        order = frames.Load(tuple(frames.FileInfo(f.name, f.size) for f in files), settings)
        data = _checked(order)
        await self.prepare(engine)
        try:
            await self._order(data, files)
            answer = await self._ready()
            if isinstance(answer, frames.LoadFailed):
                size = sum(file.size for file in files)
                raise _REFUSALS[answer.fault](about=engine, got=f"{size} bytes")
            if self._wire is None:  # it died between its answer and this line
                raise WorkerFailed(about="worker", got="exit")
            self._loaded = answer
        except OSError as cause:
            raise WorkerFailed(about="start", got=cause) from cause
        finally:
            if self._loaded is None:
                await self.kill()
        return answer

    async def count(self, what: frames.Input) -> int:
        """Tokens of the input, at least its floor."""
        return (await self._one(frames.Count(self._next_id(), what), frames.Counted)).tokens

    async def generate(
        self,
        prompt: frames.Prompt,
        *,
        max_tokens: int,
        sampling: Sampling = DEFAULT_SAMPLING,
        input_max: int = 0,
        whole: bool = False,
    ) -> AsyncGenerator[tuple[Piece, ...], None]:
        """See `InferenceHost`; its kinds of frames are what `Claims.check` lets pass."""
        asked = frames.Generate(self._next_id(), prompt, max_tokens, sampling, input_max, whole)
        with self._asking(asked, frames.Done) as claims:
            while not claims.over:
                yield cast("tuple[Piece, ...]", await claims.some())

    async def embed(self, texts: Sequence[str]) -> frames.Embedded:
        """One vector for each text: little-endian float32[len(texts), dims]."""
        check_vectors(self.loaded, len(texts))
        ask = frames.Embed(self._next_id(), frames.Texts(tuple(texts)))
        return await self._one(ask, frames.Embedded)

    async def infer(
        self, inputs: Sequence[Tensor], outputs: Sequence[str], *, bytes_max: int
    ) -> frames.Inferred:
        """I-5: the named outputs, which the model must declare."""
        ask = frames.Infer(self._next_id(), tuple(inputs), tuple(outputs), bytes_max)
        return await self._one(ask, frames.Inferred)

    async def _one(self, ask: frames.Count | frames.Embed | frames.Infer, kind: type[_One]) -> _One:
        with self._asking(ask, kind) as claims:
            (answer,) = await claims.some()
        assert isinstance(answer, kind)  # noqa: S101  (Claims.check)
        return answer

    async def kill(self) -> None:
        """W-9: end the worker. Open requests fail with WorkerFailed."""
        self._detach(WorkerFailed(about="worker", got="killed"))
        if (worker := self._worker) is not None:
            await worker.wait()
            self._worker = None

    async def _order(self, order: bytes, files: Sequence[frames.MemoryFile]) -> None:
        if self._prepared is None or self._worker is None:  # killed meanwhile
            raise WorkerFailed(about="worker", got="killed")
        ours = self._prepared[1]
        self._worker.order(ours, order, files)
        self._prepared = None
        self._wire = wire = _Wire(self._take, self._end)
        loop = asyncio.get_running_loop()
        self._loading = loop.create_future()
        self._transport, _ = await loop.create_unix_connection(lambda: wire, sock=ours)
        self._listen()

    async def _ready(self) -> frames.Loaded | frames.LoadFailed:
        assert self._loading is not None  # noqa: S101  (made by _start)
        try:
            async with asyncio.timeout(LOAD_SECONDS_MAX):
                return await self._loading
        except TimeoutError as cause:
            raise WorkerFailed(about="load", expected=f"<= {LOAD_SECONDS_MAX} s") from cause
        finally:
            self._loading = None

    @contextmanager
    def _asking(
        self,
        frame: frames.Count | frames.Generate | frames.Embed | frames.Infer,
        kind: type[frames.Counted | frames.Done | frames.Embedded | frames.Inferred],
    ) -> Iterator[Claims]:
        """Send a request; whichever way the caller leaves, nothing of it goes on for long (W-7)."""
        loaded, transport = self.loaded, self._transport
        data = _checked(frame)
        assert transport is not None  # noqa: S101  (what is loaded has one)
        unsent = transport.get_write_buffer_size()
        if len(self._open) >= REQUESTS_MAX or unsent > UNSENT_BYTES_MAX:
            raise TooBusy(about="worker", got=len(self._open), expected=f"< {REQUESTS_MAX}")
        claims = Claims(kind, loaded.longest_token_bytes)
        match frame:
            case frames.Generate():
                claims.input_floor = floor(frame.prompt, claims.longest)
                claims.input_max, claims.context = frame.input_max, loaded.context_tokens
                claims.tokens_max, claims.probs_max = frame.max_tokens, frame.sampling.probs
            case frames.Embed() | frames.Count():
                claims.input_floor = floor(frame.input, claims.longest)
                if isinstance(frame, frames.Embed):
                    claims.vectors, claims.dims = len(frame.input.texts), loaded.embedding_dims
            case frames.Infer():
                ports = {port.name: port for port in loaded.outputs}
                claims.outputs = tuple(ports[name] for name in frame.outputs)
                claims.bytes_max = frame.bytes_max
        self._open[frame.id] = claims
        transport.write(data)
        try:
            yield claims
        finally:
            if self._open.get(frame.id) is claims:
                claims.drop()
                transport.write(frames.encode(frames.Cancel(frame.id)))
                loop = asyncio.get_running_loop()
                loop.call_later(self._cancel_seconds, self._overdue, frame.id, claims)

    def _listen(self) -> None:
        """W-9: end a worker that leaves somebody waiting for too long; one look for all, now and then."""
        loop = asyncio.get_running_loop()
        latest = loop.time() - self._silence_seconds
        if any(
            one.waiting_since is not None and one.waiting_since <= latest
            for one in self._open.values()
        ):
            failure = WorkerFailed(about="silence", expected=f"<= {self._silence_seconds} s")
            self._end(self._wire, failure)
        elif self._wire is not None:
            self._listening = loop.call_later(self._silence_seconds / LOOKS, self._listen)

    def _overdue(self, request: int, claims: Claims) -> None:
        if self._open.get(request) is claims:
            self._end(
                self._wire, WorkerFailed(about="cancel", expected=f"<= {self._cancel_seconds} s")
            )

    def _take(self, frame: frames.ToGovernor) -> None:
        if isinstance(frame, (frames.Loaded, frames.LoadFailed)):
            if self._loading is None or self._loading.done():
                raise BadMessage(about="frame", got=type(frame).__name__)
            self._loading.set_result(frame)
            return
        claims = self._open.get(frame.id)
        if claims is None:
            raise BadMessage(about="request id", got=frame.id)
        if isinstance(frame, frames.Failed):
            limit = (
                f"<= {self.loaded.context_tokens}" if frame.fault is frames.Fault.TOO_LONG else None
            )
            claims.fail(_REFUSALS[frame.fault](expected=limit))
            del self._open[frame.id]
        elif claims.take(frame):
            del self._open[frame.id]

    def _end(self, wire: _Wire | None, failure: WorkerFailed) -> None:
        """W-9: that worker is done with; tell whoever waits for it, and the owner."""
        if wire is None or wire is not self._wire:
            return
        self._detach(failure)
        if self._loading is not None and not self._loading.done():
            self._loading.set_exception(failure)
        else:
            self._on_exit(failure)

    def _detach(self, failure: WorkerFailed) -> None:
        self._wire = self._loaded = None
        if self._prepared is not None:
            self._prepared[1].close()
            self._prepared = None
        if self._listening is not None:
            self._listening.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if self._worker is not None:
            self._worker.kill()
        for claims in self._open.values():
            claims.fail(failure)
        self._open.clear()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id


def check_vectors(loaded: frames.Loaded, rows: int) -> None:
    """Raise BadRequest for more vectors than one frame carries; ask before anything is charged."""
    size = rows * loaded.embedding_dims * FLOAT_BYTES
    if size > VECTOR_BYTES_MAX:
        raise BadRequest(about="bytes of vectors", got=size, expected=f"<= {VECTOR_BYTES_MAX}")


def _checked(frame: frames.ToWorker) -> bytes:
    """The encoded frame, once it is known that the worker's decoder takes it. Raises BadRequest."""
    try:
        data = frames.encode(frame)
        frames.TO_WORKER.decode(memoryview(data)[frames.LENGTH_BYTES :])
    except (BadMessage, msgspec.ValidationError, UnicodeEncodeError) as cause:
        raise BadRequest(about=type(frame).__name__, got=cause) from cause
    return data
