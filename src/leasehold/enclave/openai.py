"""OpenAI's wire shapes: what is read, what is refused by name, and how answers look. Pure.

Source: OpenAI API reference (chat, completions, embeddings, models, errors), read 2026-11.
Refuses to know budgets and engines.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from leasehold.core import frames
from leasehold.core.encoding import to_json
from leasehold.core.problems import OpenAiError, OpenAiProblem
from leasehold.core.units import Instant
from leasehold.errors import BadRequest, LeaseholdError, Malformed, UnsupportedParameter

DEFAULT_MAX_TOKENS: Final = 256  # where a request names none; OpenAI's own is "until the end"
DONE: Final = b"data: [DONE]\n\n"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: frames.Role
    content: str | list[_Part]
    name: str | None = None


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: Annotated[str, Meta(min_length=1, max_length=255)]
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = 1
    max_tokens: Annotated[int, Meta(ge=1, le=frames.CONTEXT_TOKENS_MAX)] | None = None
    temperature: frames.Temperature | None = None
    top_p: frames.Share | None = None
    seed: frames.Seed | None = None
    stop: frames.Stop | Annotated[list[frames.Stop], Meta(max_length=16)] | None = None
    frequency_penalty: frames.Penalty | None = None
    presence_penalty: frames.Penalty | None = None
    user: str | UnsetType = UNSET  # read and forgotten: who asks is told by the key


class _ChatRequest(_Common, frozen=True, kw_only=True):
    messages: Annotated[list[_Turn], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=frames.CONTEXT_TOKENS_MAX)] | None = None


class _TextRequest(_Common, frozen=True, kw_only=True):
    prompt: str | Annotated[list[str | int], Meta(min_length=1, max_length=1 << 20)]


class _EmbeddingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, Meta(min_length=1, max_length=255)]
    input: str | Annotated[list[str], Meta(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Generation:
    """A validated request for text. `body_bytes` bounds its tokens from below."""

    kind: Literal["chat", "text"]
    model: str
    prompt: frames.Prompt
    prompt_bytes: int
    max_tokens: int
    sampling: frames.Sampling
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Embedding:
    """A validated request for vectors, one for each text."""

    model: str
    texts: tuple[str, ...]
    as_base64: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens in and out, as they are charged."""

    input_tokens: int
    output_tokens: int

    def as_usage(self) -> dict[str, int]:
        """OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }


def parse_chat(body: bytes) -> Generation:
    """`POST /v1/chat/completions`. Raises BadRequest or UnsupportedParameter, which name the field."""
    request = decode(body, _ChatRequest)
    turns = tuple(frames.Message(turn.role, _text(turn.content)) for turn in request.messages)
    size = sum(len(turn.content.encode()) for turn in turns)
    limit = request.max_completion_tokens or request.max_tokens
    return _generation("chat", request, frames.Chat(turns), size, limit)


def parse_text(body: bytes) -> Generation:
    """`POST /v1/completions`. Raises BadRequest or UnsupportedParameter, which name the field."""
    request = decode(body, _TextRequest)
    match request.prompt:
        case str(text) | [str(text)]:
            return _generation(
                "text", request, frames.Text(text), len(text.encode()), request.max_tokens
            )
        case list(items):
            ids = tuple(item for item in items if isinstance(item, int) and 0 <= item < 1 << 31)
            if len(ids) != len(items):
                raise BadRequest(about="prompt", expected="one text, or token ids")
            return _generation("text", request, frames.Tokens(ids), len(ids), request.max_tokens)
        case other:
            raise BadRequest(about="prompt", got=other, expected="one text, or token ids")


def parse_embedding(body: bytes) -> Embedding:
    """`POST /v1/embeddings`. Raises BadRequest or UnsupportedParameter, which name the field."""
    request = decode(body, _EmbeddingRequest)
    texts = (request.input,) if isinstance(request.input, str) else tuple(request.input)
    return Embedding(request.model, texts, request.encoding_format == "base64")


def decode(body: bytes, kind: type[Any]) -> Any:
    """A request of that kind. Raises BadRequest or UnsupportedParameter, which name the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as cause:
        said = str(cause)
        if "contains unknown field" in said:
            raise UnsupportedParameter(about=said.rpartition("field ")[2]) from cause
        raise BadRequest(about="request body", got=said) from cause
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise BadRequest(about="request body", got=cause, expected="JSON") from cause


def _text(content: str | list[_Part]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _generation(
    kind: Literal["chat", "text"],
    request: _Common,
    prompt: frames.Prompt,
    prompt_bytes: int,
    limit: int | None,
) -> Generation:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    sampling = frames.Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=stops,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
    )
    usage = request.stream_options is not None and request.stream_options.include_usage
    return Generation(
        kind,
        request.model,
        prompt,
        prompt_bytes,
        limit or DEFAULT_MAX_TOKENS,
        sampling,
        bool(request.stream),
        usage,
    )


# Answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """What all parts of one answer share: its id, the time in whole seconds and the model's name."""

    kind: Literal["chat", "text"]
    id: str
    created: int
    model: str

    def whole(self, text: str, reason: str, counts: Counts, code: str | None) -> bytes:
        """The body of an answer that is not streamed."""
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}}
            if self.kind == "chat"
            else {"text": text}
        )
        body = self._head(streamed=False)
        body["choices"] = [_choice(content, reason)]
        body["usage"] = counts.as_usage()
        if code is not None:
            body["leasehold_code"] = code
        return to_json(body)

    def opening(self) -> bytes:
        """The first event of a chat stream, which names the role."""
        return self._event([_choice({"delta": {"role": "assistant", "content": ""}}, None)])

    def piece(self, text: str) -> bytes:
        """One event of a stream."""
        content = {"delta": {"content": text}} if self.kind == "chat" else {"text": text}
        return self._event([_choice(content, None)])

    def closing(self, reason: str, code: str | None) -> bytes:
        """The last event with a choice; `code` tells why a budget ended the answer."""
        content: dict[str, Any] = {"delta": {}} if self.kind == "chat" else {"text": ""}
        extra = {} if code is None else {"leasehold_code": code}
        return self._event([_choice(content, reason)], **extra)

    def usage(self, counts: Counts) -> bytes:
        """The event that `stream_options.include_usage` asks for."""
        return self._event([], usage=counts.as_usage())

    def _event(self, choices: list[dict[str, Any]], **extra: object) -> bytes:
        body = self._head(streamed=True) | {"choices": choices} | extra
        return b"data: " + to_json(body) + b"\n\n"

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        name = "text_completion"
        if self.kind == "chat":
            name = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}


def _choice(content: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": reason}


def embeddings_body(
    request: Embedding, vectors: bytes, dims: int, input_tokens: int, model: str
) -> bytes:
    """The body for vectors given as little-endian float32[len(texts), dims]."""
    size = 4 * dims
    rows = [vectors[start : start + size] for start in range(0, size * len(request.texts), size)]
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(row, request.as_base64)}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return to_json({"object": "list", "data": data, "model": model, "usage": usage})


def _vector(row: bytes, as_base64: bool) -> str | Sequence[float]:
    if as_base64:
        return base64.b64encode(row).decode()
    return struct.unpack(f"<{len(row) // 4}f", row)


def models_body(name: str, created: Instant, digest: str) -> bytes:
    """`GET /v1/models`: the one model."""
    row = {
        "id": name,
        "object": "model",
        "created": created // 1000,
        "owned_by": "custodian",
        "leasehold_digest": digest,
    }
    return to_json({"object": "list", "data": [row]})


_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


def error_body(error: LeaseholdError) -> bytes:
    """A refusal in OpenAI's shape, with our code in it."""
    if error.code == "insufficient_quota":
        kind = "insufficient_quota"
    elif isinstance(error, Malformed):
        kind = "invalid_request_error"
    else:
        kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "requests")
    return to_json(OpenAiError(OpenAiProblem(error.message, kind, error.code)))
