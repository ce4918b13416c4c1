"""An engine that computes nothing: words are tokens, answers and vectors follow from the input.

It passes the engines' conformance tests, and so may stand for one in any test.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from leasehold.core import frames
from leasehold.core.frames import Capability, Done, Embedded, Loaded, MemoryFile, Reason, Settings
from leasehold.errors import InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker.engine import Emit

DIMS: Final = 8
LONGEST_TOKEN_BYTES: Final = 64
END: Final = "<end>"  # a prompt that contains this word is answered by its words before it


class FakeEngine:
    """Echoes the words of the prompt, round and round, until `max_tokens` or a stop string.

    A prompt with the word `<end>` is echoed once, up to it. Each word with the space before it is
    one token; a word of more than 64 bytes is several. Nothing is random.
    """

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self.settings = Settings()
        self.files: tuple[MemoryFile, ...] = ()

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Takes any files, reads none."""
        self.files, self.settings = tuple(files), settings
        return Loaded(
            (Capability.CHAT, Capability.TEXT, Capability.EMBED),
            settings.context_tokens,
            LONGEST_TOKEN_BYTES,
            DIMS,
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
        """Echo. Raises InputTooLong, UnsupportedParameter for a JSON schema."""
        if request.sampling.json_schema:
            raise UnsupportedParameter(about="json_schema")
        input_tokens, limit = self.count(request.prompt), self.settings.context_tokens
        if input_tokens >= limit:
            raise InputTooLong(got=input_tokens, expected=limit - 1)
        most = min(request.max_tokens, limit - input_tokens)
        made, text = 0, ""
        reason = Reason.STOP
        if not emit("", 0):
            return Done(request.id, Reason.CANCELLED, input_tokens, 0)
        for token in _echo(_text(request.prompt)):
            if made == most:
                reason = Reason.LENGTH
                break
            made += 1
            before, text = text, text + token
            cut = min((text.find(s) for s in request.sampling.stop if s in text), default=-1)
            going = emit(text[len(before) : None if cut < 0 else max(cut, len(before))], 1)
            if cut >= 0:
                break
            if not going:
                reason = Reason.CANCELLED
                break
        return Done(request.id, reason, input_tokens, made)

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
