"""OpenAI's requests: what is read, and what is refused by name. Pure.

Spec: docs/spec/openai.md. Source: OpenAI API reference (chat, completions, embeddings), read 2026-11.
Refuses to know budgets and engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from leasehold.core import frames
from leasehold.core.encoding import to_json
from leasehold.core.tariff import Work
from leasehold.core.units import KIB
from leasehold.enclave.claims import size_of
from leasehold.errors import BadRequest, UnsupportedParameter

DEFAULT_MAX_TOKENS: Final = 256  # where a request names none; OpenAI's own is "until the end"
ANY_OBJECT: Final = '{"type":"object"}'

FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class _Called(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: FunctionName
    arguments: str


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1, max_length=255)]
    function: _Called
    type: Literal["function"] = "function"


class _Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: frames.Role
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: Annotated[list[_Call], Meta(max_length=frames.CALLS_MAX)] | None = None
    tool_call_id: str | None = None
    refusal: None = None  # clients send back what they got, nulls included


class _Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class _Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Function


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: FunctionName


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: _Named


class _Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"body": "schema"}):
    name: str
    body: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


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
    grammar: Annotated[str, Meta(max_length=64 * KIB)] = ""


class ChatRequest(_Common, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`. `grammar` is our own: see W-14."""

    messages: Annotated[list[_Turn], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=frames.CONTEXT_TOKENS_MAX)] | None = None
    response_format: _Format | None = None
    tools: Annotated[list[_Tool], Meta(max_length=128)] = []
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=frames.TOP_PROBS_MAX)] | None = None


class TextRequest(_Common, frozen=True, kw_only=True):
    """`POST /v1/completions`: one text, or the token ids of one."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=1 << 20)]


class EmbeddingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/embeddings`."""

    model: Annotated[str, Meta(min_length=1, max_length=255)]
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=2048)]
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

    def output(self, tokens: int) -> Work:
        """So much output, with the probabilities that were asked for."""
        return Work(output_tokens=tokens, logprobs=tokens * self.sampling.probs)


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
    """G-1 to G-3: `POST /v1/chat/completions`. Raises BadRequest, UnsupportedParameter: they name the field."""
    request: ChatRequest = decode(body, ChatRequest)
    chat = frames.Chat(tuple(_message(turn) for turn in request.messages), _tools(request))
    limit = request.max_completion_tokens or request.max_tokens
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest(about="top_logprobs", expected="logprobs: true")
    probs = 1 + (request.top_logprobs or 0) if request.logprobs else 0
    schema = _schema(request.response_format)
    forced = chat.tools is not None and bool(chat.tools.forced)
    if bool(schema) + bool(request.grammar) + forced > 1:
        raise BadRequest(
            about="response_format, grammar and tool_choice", expected="one that holds the output"
        )
    return _generation("chat", request, chat, size_of(chat), limit, schema, probs)


def parse_text(body: bytes) -> Generation:
    """G-5: `POST /v1/completions`. Raises BadRequest or UnsupportedParameter, which name the field."""
    request: TextRequest = decode(body, TextRequest)
    match request.prompt:
        case str(text) | [str(text)]:
            return _generation(
                "text", request, frames.Text(text), len(text.encode()), request.max_tokens
            )
        case [list(items)] | list(items) if all(type(item) is int for item in items):
            ids = tuple(item for item in items if isinstance(item, int) and 0 <= item < 1 << 31)
            if not ids or len(ids) != len(items):
                raise BadRequest(about="prompt", expected="one text, or token ids")
            return _generation("text", request, frames.Tokens(ids), len(ids), request.max_tokens)
    raise UnsupportedParameter(about="several prompts", expected="one text, or token ids")


def parse_embedding(body: bytes) -> Embedding:
    """`POST /v1/embeddings`. Raises BadRequest or UnsupportedParameter, which name the field."""
    request: EmbeddingRequest = decode(body, EmbeddingRequest)
    given = [request.input] if isinstance(request.input, str) else request.input
    texts = tuple(text for text in given if isinstance(text, str))
    if len(texts) < len(given):
        raise UnsupportedParameter(about="input of token ids", expected="texts")
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


def _message(turn: _Turn) -> frames.Message:
    """A turn. Raises BadRequest where what it says is not for its role."""
    calls = tuple(
        frames.Call(call.id, call.function.name, call.function.arguments)
        for call in turn.tool_calls or ()
    )
    if calls and turn.role is not frames.Role.ASSISTANT:
        raise BadRequest(about="tool_calls", got=turn.role, expected=frames.Role.ASSISTANT)
    if turn.tool_call_id is not None and turn.role is not frames.Role.TOOL:
        raise BadRequest(about="tool_call_id", got=turn.role, expected=frames.Role.TOOL)
    if turn.content is None and not calls:
        raise BadRequest(about="content", got="null", expected="text, or tool_calls")
    content = turn.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    return frames.Message(turn.role, text, calls, turn.tool_call_id or "")


def _tools(request: ChatRequest) -> frames.Tools | None:
    """G-3: the functions of a request. Raises BadRequest for a choice that is not among them."""
    choice, names = request.tool_choice, [tool.function.name for tool in request.tools]
    if len(set(names)) < len(names):
        raise BadRequest(about="tools", got=names, expected="different names")
    match choice:
        case None | "auto" | "none":
            forced: tuple[str, ...] = ()
        case "required":
            forced = tuple(names)
        case _Choice(function=_Named(name=name)):
            forced = (name,)
    if choice not in (None, "none") and (not names or not set(forced) <= set(names)):
        raise BadRequest(about="tool_choice", got=forced or choice, expected="one of the tools")
    if not names or choice == "none":
        return None
    described = to_json(request.tools).decode()
    return frames.Tools(described, forced, request.parallel_tool_calls is not False)


def _schema(wanted: _Format | None) -> str:
    """G-2: the JSON schema of a response format, empty for none. Raises BadRequest."""
    if wanted is None or wanted.type == "text":
        return ""
    if wanted.type == "json_object":
        return ANY_OBJECT
    if wanted.json_schema is None:
        raise BadRequest(about="response_format", got=wanted.type, expected="json_schema")
    return to_json(wanted.json_schema.body).decode()


def _generation(
    kind: Literal["chat", "text"],
    request: _Common,
    prompt: frames.Prompt,
    prompt_bytes: int,
    limit: int | None,
    schema: str = "",
    probs: int = 0,
) -> Generation:
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    sampling = frames.Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=stops,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        json_schema=schema,
        grammar=request.grammar,
        probs=probs,
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
