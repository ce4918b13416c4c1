"""An engine that computes nothing: words are tokens, answers and vectors follow from the input.

It passes the engines' conformance tests, and so may stand for one in any test.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Final

from leasehold.core import frames
from leasehold.core.frames import (
    CallPart,
    Capability,
    Done,
    Embedded,
    Loaded,
    MemoryFile,
    Prob,
    Reason,
    Settings,
)
from leasehold.core.tensors import DataType, Port
from leasehold.errors import AnswerTooLarge, InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker.engine import Emit

DIMS: Final = 8
LONGEST_TOKEN_BYTES: Final = 64
CAPABILITIES: Final = (
    *(Capability.CHAT, Capability.TEXT, Capability.EMBED, Capability.INFER),
    *(Capability.TOOLS, Capability.PROBS),
)
PORTS: Final = (
    Port("numbers", DataType.FP32, (-1, 2)),
    Port("words", DataType.BYTES, (-1,)),
)
END: Final = "<end>"  # a prompt that contains this word is answered by its words before it


class FakeEngine:
    """Echoes the words of the prompt, round and round, until `max_tokens` or a stop string. Where a
    function is forced, calls it with the number of words.

    A prompt with the word `<end>` is echoed once, up to it. Each word with the space before it is
    one token; a word of more than 64 bytes is several. Nothing is random.
    """

    load_peak_ratio: ClassVar[float] = 1.0
    needs_process: ClassVar[str] = ""

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self.settings = Settings()
        self.files: tuple[MemoryFile, ...] = ()

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Takes any files, reads none."""
        self.files, self.settings = tuple(files), settings
        return Loaded(
            CAPABILITIES,
            settings.context_tokens,
            LONGEST_TOKEN_BYTES,
            DIMS,
            inputs=PORTS,
            outputs=PORTS,
        )

    def count(self, what: frames.Input) -> int:
        """One for each word, and none for anything else."""
        match what:
            case frames.Tokens():
                return len(what.ids)
            case frames.Texts():
                return sum(len(tokens_of(text)) for text in what.texts)
            case _:
                return len(tokens_of(_text(what)))

    def generate(self, request: frames.Generate, emit: Emit) -> Done:
        """Echo, or call a function. Raises InputTooLong, UnsupportedParameter for constraints."""
        if request.sampling.json_schema or request.sampling.grammar:
            raise UnsupportedParameter(about="json_schema and grammar")
        input_tokens, limit = self.count(request.prompt), self.settings.context_tokens
        if input_tokens >= limit:
            raise InputTooLong(got=input_tokens, expected=limit - 1)
        most = min(request.max_tokens, limit - input_tokens)
        if not emit("", 0):
            return Done(request.id, Reason.CANCELLED, input_tokens, 0)
        prompt, probs = request.prompt, request.sampling.probs
        if isinstance(prompt, frames.Chat) and prompt.tools is not None and prompt.tools.forced:
            name, arguments = prompt.tools.forced[0], ('{"words":', f"{input_tokens}", "}")
            for part in (CallPart(0, name, ""), *(CallPart(0, "", one) for one in arguments)):
                emit("", 1, (part,))
            return Done(request.id, Reason.TOOL_CALLS, input_tokens, 1 + len(arguments))
        echo = _Stops(_echo(_text(request.prompt)), request.sampling.stop, most)
        for text, count in echo:
            row = (Prob(text.encode(), -0.5), *(Prob(b"other", -1.0) for _ in range(probs - 1)))
            if not (emit(text, count, (), (row,)) if probs else emit(text, count)):
                return Done(request.id, Reason.CANCELLED, input_tokens, echo.made - echo.owed)
        return Done(request.id, echo.reason, input_tokens, echo.made)

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:
        """Hash each text to eight numbers of length one, together."""
        vectors = []
        for text in request.input.texts:
            if not go_on():
                raise WorkerFailed(about="embed", got="cancelled")
            count, limit = len(tokens_of(text)), self.settings.context_tokens
            if count > limit:
                raise InputTooLong(got=count, expected=limit)
            vectors.append(_vector(text))
        return Embedded(request.id, b"".join(vectors), DIMS, self.count(request.input))

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:
        """Echo the tensors of the names asked for."""
        if not go_on():
            raise WorkerFailed(about="infer", got="cancelled")
        given = {tensor.name: tensor for tensor in request.inputs}
        outputs = tuple(given[name] for name in request.outputs)
        if (size := sum(len(tensor.data) for tensor in outputs)) > request.bytes_max:
            raise AnswerTooLarge(got=size, expected=request.bytes_max)
        return frames.Inferred(request.id, outputs)


class _Stops:
    """Cuts a stream of tokens at the first stop string, holding back what could begin one.

    Gives text with the number of tokens it completes; `owed` of the `made` are held back.
    """

    def __init__(self, tokens: Iterator[str], stops: Sequence[str], most: int) -> None:
        self._tokens, self._stops, self._most = tokens, stops, most
        self.made = self.owed = 0
        self.reason = Reason.STOP

    def __iter__(self) -> Iterator[tuple[str, int]]:
        held = ""
        for token in self._tokens:
            if self.made == self._most:
                self.reason = Reason.LENGTH
                break
            self.made, self.owed, held = self.made + 1, self.owed + 1, held + token
            if found := [held.index(stop) for stop in self._stops if stop in held]:
                held = held[: min(found)]
                break
            begins = (at for at in range(len(held)) if self._begins(held[at:]))
            free = next(begins, len(held))
            if free:
                text, held = held[:free], held[free:]
                yield text, self._pay()
        if held or self.owed:
            yield held, self._pay()

    def _begins(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)

    def _pay(self) -> int:
        owed, self.owed = self.owed, 0
        return owed


def tokens_of(text: str) -> list[str]:
    """Words with the space before them, cut so that none has more than 64 bytes."""
    size = LONGEST_TOKEN_BYTES // 4  # characters of four bytes
    words = [" " + word if at else word for at, word in enumerate(text.split())]
    return [word[start : start + size] for word in words for start in range(0, len(word), size)]


def _text(prompt: frames.Input) -> str:
    match prompt:
        case frames.Chat():
            return " ".join(message.content for message in prompt.messages)
        case frames.Text():
            return prompt.text
        case frames.Tokens():
            return " ".join(str(number) for number in prompt.ids)
        case frames.Texts():
            return " ".join(prompt.texts)


def _echo(text: str) -> Iterator[str]:
    before, end, _ = text.partition(END)
    tokens = tokens_of(before) or ["(nothing)"]
    yield from tokens
    while not end:
        yield from (" " + tokens[0], *tokens[1:])


def _vector(text: str) -> bytes:
    numbers = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:DIMS]]
    length = sum(number * number for number in numbers) ** 0.5
    return struct.pack(f"<{DIMS}f", *(number / length for number in numbers))
