"""A host whose engine runs in the test's own process, without threads, on the loop's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from msgspec.structs import replace

from leasehold.core import frames
from leasehold.core.frames import Embedded, Loaded, Token
from leasehold.core.tensors import Tensor
from leasehold.enclave.claims import floor
from leasehold.enclave.host import Piece
from leasehold.errors import NoModelYet, WorkerFailed
from leasehold.testing.engine import FakeEngine
from leasehold.worker.engine import Engine


class InProcessHost:
    """An InferenceHost that takes `token_seconds` of loop time for each token, and none otherwise.

    `crash` is what the world uses to let a worker die; `alive` and `generating` are to look at.
    """

    def __init__(
        self,
        engine: Callable[[], Engine] = FakeEngine,
        *,
        token_seconds: float = 0.0,
        on_exit: Callable[[WorkerFailed], None] = lambda _: None,
    ) -> None:
        """Make an `engine` at each load. `on_exit` is called at a crash."""
        self._make, self._token_seconds, self._on_exit = engine, token_seconds, on_exit
        self._engine: Engine | None = None
        self._loaded: Loaded | None = None
        self._last_id = 0
        self.generating = 0
        self._awake = asyncio.Event()
        self._awake.set()

    @property
    def alive(self) -> bool:
        """Is an engine loaded?"""
        return self._engine is not None

    @property
    def loaded(self) -> Loaded:
        """What is loaded. Raises NoModelYet."""
        if self._loaded is None:
            raise NoModelYet
        return self._loaded

    async def prepare(self, engine: str) -> None:  # noqa: ARG002  (the test chose one)
        """End the engine that runs."""
        await self.kill()

    async def load(
        self,
        engine: str,  # noqa: ARG002  (the test chose one)
        files: Sequence[frames.MemoryFile],
        settings: frames.Settings = frames.DEFAULT_SETTINGS,
    ) -> Loaded:
        """Load with the engine that the test chose. Raises what the engine raises."""
        await self.kill()
        made = self._make()
        self._loaded = replace(made.load(files, settings), absent=("process", "sandbox"))
        self._engine = made
        return self._loaded

    async def count(self, what: frames.Input) -> int:
        """Tokens of the input, at least its floor."""
        return max(self._running().count(what), floor(what, self.loaded.longest_token_bytes))

    async def generate(
        self,
        prompt: frames.Prompt,
        *,
        max_tokens: int,
        sampling: frames.Sampling = frames.DEFAULT_SAMPLING,
        input_max: int = 0,
        whole: bool = False,
    ) -> AsyncGenerator[tuple[Piece, ...], None]:
        """Tokens, each after its time; then Done. Raises WorkerFailed where the engine has gone."""
        engine = self._running()
        self._last_id += 1
        if input_max:
            counted = frames.Counted(self._last_id, await self.count(prompt))
            yield (counted,)
            if counted.tokens > input_max:
                return
            self._check(engine)
        request = frames.Generate(self._last_id, prompt, max_tokens, sampling, 0, whole)
        pieces: list[Token] = []

        def emit(
            text: str,
            count: int,
            calls: tuple[frames.CallPart, ...] = (),
            probs: tuple[tuple[frames.Prob, ...], ...] = (),
            /,
        ) -> bool:
            if count:
                pieces.append(Token(request.id, text, count, calls, probs))
            return True

        done = engine.generate(request, emit)
        least = floor(prompt, self.loaded.longest_token_bytes)
        self.generating += 1
        try:
            for piece in pieces:
                await asyncio.sleep(self._token_seconds * piece.count)
                await self._awake.wait()
                self._check(engine)
                yield (piece,)
            yield (replace(done, input_tokens=max(done.input_tokens, least)),)
        finally:
            self.generating -= 1

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """One vector for each text."""
        self._last_id += 1
        request = frames.Embed(self._last_id, frames.Texts(tuple(texts)))
        answer = self._running().embed(request, lambda: True)
        least = floor(request.input, self.loaded.longest_token_bytes)
        return replace(answer, input_tokens=max(answer.input_tokens, least))

    async def infer(
        self, inputs: Sequence[Tensor], outputs: Sequence[str], *, bytes_max: int
    ) -> frames.Inferred:
        """The named outputs."""
        self._last_id += 1
        request = frames.Infer(self._last_id, tuple(inputs), tuple(outputs), bytes_max)
        return self._running().infer(request, lambda: True)

    async def kill(self) -> None:
        """Forget the engine; open generations end with WorkerFailed at their next token."""
        self._engine = self._loaded = None

    def pause(self) -> None:
        """Stand still in the middle of whatever is generated, until `resume`."""
        self._awake.clear()

    def resume(self) -> None:
        """Go on."""
        self._awake.set()

    def crash(self) -> None:
        """Die as a worker does: the owner is told, open generations fail."""
        self._engine = self._loaded = None
        self._on_exit(WorkerFailed(about="worker", got="exit"))

    def _running(self) -> Engine:
        if self._engine is None:
            raise NoModelYet
        return self._engine

    def _check(self, engine: Engine) -> None:
        if self._engine is not engine:
            raise WorkerFailed(about="worker", got="exit")
