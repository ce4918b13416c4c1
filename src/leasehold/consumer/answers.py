"""What an enclave answers to inference, read from the OpenAI forms that it takes on the wire.

Reads leniently what it does not need and strictly what it does. Refuses to know connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from leasehold.core.encoding import from_json
from leasehold.core.problems import OpenAiProblem
from leasehold.core.units import MIB
from leasehold.errors import BadMessage, EnclaveUnreachable, from_wire

EVENT_BYTES_MAX: Final = 1 * MIB  # a streamed token is ~300 bytes
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message = _Message()
    delta: _Message = _Message()
    finish_reason: str | None = None


class _Completion(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: OpenAiProblem | None = None
    leasehold_code: str | None = None


class _Vector(msgspec.Struct, frozen=True):
    index: int
    embedding: tuple[float, ...]


class _Vectors(msgspec.Struct, frozen=True):
    data: tuple[_Vector, ...]
    usage: _Usage = _Usage()


@dataclass(frozen=True, slots=True)
class Exchange:
    """The exact bytes that were asked and answered, which the receipt of that name is for."""

    receipt: str
    request: bytes
    response: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Generated text. `finish_reason` is `length` where it was cut.

    `code` is the error code that cut it (`insufficient_quota`, `loan_stopped`), None where it simply
    reached its own limit of tokens.
    """

    text: str
    finish_reason: str
    code: str | None
    input_tokens: int
    output_tokens: int
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Vectors:
    """One embedding for each text, in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    input_tokens: int
    exchange: Exchange


def read_answer(exchange: Exchange) -> Answer:
    """The text in a chat completion that did not stream. Raises BadMessage."""
    completion = from_json(exchange.response, _Completion)
    if not completion.choices:
        raise BadMessage(about="completion", expected="one choice")
    choice, usage = completion.choices[0], completion.usage or _Usage()
    return Answer(
        choice.message.content or "",
        choice.finish_reason or "",
        completion.leasehold_code,
        usage.prompt_tokens,
        usage.completion_tokens,
        exchange,
    )


def read_vectors(exchange: Exchange, *, count: int) -> Vectors:
    """The `count` vectors in an embeddings answer. Raises BadMessage."""
    answer = from_json(exchange.response, _Vectors)
    ordered = sorted(answer.data, key=lambda vector: vector.index)
    if [vector.index for vector in ordered] != list(range(count)):
        raise BadMessage(
            about="embeddings", got=len(ordered), expected=f"{count}, one for each text"
        )
    vectors = tuple(vector.embedding for vector in ordered)
    return Vectors(vectors, answer.usage.prompt_tokens, exchange)


@dataclass(slots=True)
class StreamReader:
    """Reads the events of a streamed chat completion, in whatever portions the bytes arrive."""

    receipt: str
    request: bytes
    _raw: bytearray = field(default_factory=bytearray)
    _pending: bytes = b""
    _pieces: list[str] = field(default_factory=list)
    _finish_reason: str = ""
    _code: str | None = None
    _usage: _Usage = field(default_factory=_Usage)
    _complete: bool = False

    def feed(self, data: bytes) -> Iterator[str]:
        """The pieces of text that `data` completes. Raises BadMessage, or the enclave's own refusal."""
        self._raw += data
        *lines, self._pending = (self._pending + data).split(b"\n")
        if len(self._pending) > EVENT_BYTES_MAX:
            raise BadMessage(
                about="event", got=len(self._pending), expected=f"<= {EVENT_BYTES_MAX}"
            )
        for line in lines:
            yield from self._read_line(line.rstrip(b"\r"))

    def finish(self) -> Answer:
        """The whole answer. Raises EnclaveUnreachable where the stream was cut before its end."""
        if not self._complete:
            raise EnclaveUnreachable(about="stream", got="an end without [DONE]: it was cut short")
        return Answer(
            "".join(self._pieces),
            self._finish_reason,
            self._code,
            self._usage.prompt_tokens,
            self._usage.completion_tokens,
            Exchange(self.receipt, self.request, bytes(self._raw)),
        )

    def _read_line(self, line: bytes) -> Iterator[str]:
        if not line.startswith(_DATA):
            return
        data = line.removeprefix(_DATA).strip()
        if data == _DONE:
            self._complete = True
            return
        chunk = from_json(data, _Completion)
        if chunk.error is not None:
            raise from_wire(chunk.error.code, chunk.error.message)
        self._usage = chunk.usage or self._usage
        self._code = chunk.leasehold_code or self._code
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.delta.content:
                self._pieces.append(choice.delta.content)
                yield choice.delta.content
