"""OpenAI's answers: whole, as events of a stream, and as refusals. Pure.

Spec: docs/spec/openai.md. Source: OpenAI API reference, read 2026-11. Refuses to know budgets and engines.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from leasehold.core.encoding import to_json
from leasehold.core.frames import CallPart, Prob, Token
from leasehold.core.problems import OpenAiError, OpenAiProblem
from leasehold.core.units import Instant
from leasehold.enclave.openai import Counts, Embedding
from leasehold.errors import LeaseholdError, Malformed

DONE: Final = b"data: [DONE]\n\n"
_PLACE: Final = "\0"  # in no id and in no model's name
LOGPROB_MIN: Final = -9999.0  # what OpenAI says for "never"


@dataclass(slots=True)
class Frame:
    """What all parts of one answer share: its id, the time in whole seconds and the model's name."""

    kind: Literal["chat", "text"]
    id: str
    created: int
    model: str
    _around: tuple[bytes, ...] = ()  # what is the same in every event around its text

    def whole(
        self, pieces: Sequence[Token], reason: str, counts: Counts, code: str | None
    ) -> bytes:
        """The body of an answer that is not streamed."""
        text = "".join(piece.text for piece in pieces)
        content: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            content = {"message": {"role": "assistant", "content": text}}
            if calls := self._whole_calls(pieces):
                content["message"] |= {"content": text or None, "tool_calls": calls}
        body = self._head(streamed=False)
        probs = [row for piece in pieces for row in piece.probs]
        body["choices"] = [_choice(content, reason, probs)]
        body["usage"] = counts.as_usage()
        if code is not None:
            body["leasehold_code"] = code
        return to_json(body)

    def opening(self) -> bytes:
        """The first event of a chat stream, which names the role."""
        return self._event([_choice({"delta": {"role": "assistant", "content": ""}}, None)])

    def piece(self, token: Token) -> bytes:
        """One event of a stream."""
        if token.calls or token.probs:
            return self._piece(token)
        if not self._around:
            self._around = tuple(self._piece(Token(1, _PLACE)).split(to_json(_PLACE)))
        before, after = self._around
        return before + to_json(token.text) + after

    def _piece(self, token: Token) -> bytes:
        if self.kind == "text":
            return self._event([_choice({"text": token.text}, None)])
        delta: dict[str, Any] = {}
        if token.text or not token.calls:
            delta["content"] = token.text
        if token.calls:
            delta["tool_calls"] = [{"index": p.index, **self._call(p)} for p in token.calls]
        return self._event([_choice({"delta": delta}, None, token.probs)])

    def closing(self, reason: str, code: str | None) -> bytes:
        """The last event with a choice; `code` tells why a budget ended the answer."""
        content: dict[str, Any] = {"delta": {}} if self.kind == "chat" else {"text": ""}
        extra = {} if code is None else {"leasehold_code": code}
        return self._event([_choice(content, reason)], **extra)

    def usage(self, counts: Counts) -> bytes:
        """The event that `stream_options.include_usage` asks for."""
        return self._event([], usage=counts.as_usage())

    def _whole_calls(self, pieces: Sequence[Token]) -> list[dict[str, Any]]:
        calls: dict[int, CallPart] = {}
        for part in (part for piece in pieces for part in piece.calls):
            old = calls.get(part.index, CallPart(part.index, "", ""))
            arguments = old.arguments + part.arguments
            calls[part.index] = CallPart(part.index, old.name + part.name, arguments)
        return [self._call(part) for part in calls.values()]

    def _call(self, part: CallPart) -> dict[str, Any]:
        """A call, or the next piece of its arguments."""
        function = {"arguments": part.arguments}
        if not part.name:
            return {"function": function}
        name = f"call_{self.id.rpartition('-')[2]}_{part.index}"
        return {"id": name, "type": "function", "function": {"name": part.name} | function}

    def _event(self, choices: list[dict[str, Any]], **extra: object) -> bytes:
        body = self._head(streamed=True) | {"choices": choices} | extra
        return b"data: " + to_json(body) + b"\n\n"

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        name = "text_completion"
        if self.kind == "chat":
            name = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}


def _choice(
    content: dict[str, Any], reason: str | None, probs: Sequence[Sequence[Prob]] = ()
) -> dict[str, Any]:
    rows = [{**_prob(own), "top_logprobs": [_prob(one) for one in top]} for own, *top in probs]
    logprobs = {"content": rows, "refusal": None} if rows else None
    return {"index": 0, **content, "logprobs": logprobs, "finish_reason": reason}


def _prob(one: Prob) -> dict[str, Any]:
    """G-4: rounded, so that a number carries no more than what it says."""
    return {
        "token": one.token.decode(errors="replace"),
        "logprob": round(max(LOGPROB_MIN, one.logprob), 4),
        "bytes": list(one.token),
    }


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
