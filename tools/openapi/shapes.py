"""Answers that the enclave writes without a record of its own, as OpenAI and KServe define them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from leasehold.core.frames import Reason
from leasehold.core.tensors import DataType


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of an answer."""


class Usage(Shape, frozen=True):
    """Tokens, as they were charged."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Prob(Shape, frozen=True):
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]


class ProbRow(Prob, frozen=True):
    """A token of the answer, with its alternatives."""

    top_logprobs: list[Prob]


class Probs(Shape, frozen=True):
    """A row for each token."""

    content: list[ProbRow]
    refusal: None


class Function(Shape, frozen=True):
    """What is called, with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Shape, frozen=True):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: Function


class Message(Shape, frozen=True):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] = []


class Choice(Shape, frozen=True):
    """The one answer of a chat."""

    index: Literal[0]
    message: Message
    logprobs: Probs | None
    finish_reason: Reason


class ChatCompletion(Shape, frozen=True):
    """An answer to a chat. `leasehold_code` says why a budget ended it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    leasehold_code: str | None = None


class TextChoice(Shape, frozen=True):
    """The one continuation of a text."""

    index: Literal[0]
    text: str
    logprobs: None
    finish_reason: Reason


class TextCompletion(Shape, frozen=True):
    """A continuation."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    leasehold_code: str | None = None


class Delta(Shape, frozen=True):
    """A piece of a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] = []


class ChunkChoice(Shape, frozen=True):
    """A piece of the one answer."""

    index: Literal[0]
    logprobs: Probs | None
    finish_reason: Reason | None
    delta: Delta | None = None
    text: str | None = None


class Chunk(Shape, frozen=True):
    """One event of a stream; the last before `[DONE]` has the usage, where it was asked for."""

    id: str
    object: Literal["chat.completion.chunk", "text_completion"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    leasehold_code: str | None = None


class EmbeddingUsage(Shape, frozen=True):
    """Tokens, as they were charged."""

    prompt_tokens: int
    total_tokens: int


class Vector(Shape, frozen=True):
    """A text's vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Shape, frozen=True):
    """A vector for each text."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: EmbeddingUsage


class Model(Shape, frozen=True):
    """The one model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["custodian"]
    leasehold_digest: str


class Models(Shape, frozen=True):
    """What is served."""

    object: Literal["list"]
    data: list[Model]


class Server(Shape, frozen=True):
    """Who answers."""

    name: Literal["leasehold"]
    version: str
    extensions: list[str]


class Live(Shape, frozen=True):
    """It answers."""

    live: bool


class Ready(Shape, frozen=True):
    """It serves, or does not."""

    ready: bool


class ModelReady(Shape, frozen=True):
    """The model is there."""

    name: str
    ready: bool


class Port(Shape, frozen=True):
    """An input or output of the model; -1 is any size."""

    name: str
    datatype: DataType
    shape: list[int]


class Metadata(Shape, frozen=True):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Port]
    outputs: list[Port]


class OutputTensor(Shape, frozen=True):
    """An output: in `data`, or in that many bytes after the JSON."""

    name: str
    shape: list[int]
    datatype: DataType
    data: list[Any] | None = None
    parameters: dict[str, int] | None = None


class Inferred(Shape, frozen=True):
    """The outputs."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None


class InferenceError(Shape, frozen=True):
    """A refusal in KServe's form; the code is one of docs/errors.md."""

    error: str
    leasehold_code: str


class Health(Shape, frozen=True):
    """How the instance is."""

    state: str
    instance: str
    loan: str
    simulated: bool
    log_forked: bool
    coming: Any = None
