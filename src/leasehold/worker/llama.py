"""Language models in GGUF, by llama.cpp's server core as the package `xllamacpp` embeds it.

Spec: docs/spec/worker.md, W-11 and W-12. The weights stay where they are: the memory file is mapped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import xllamacpp

from leasehold.core import frames
from leasehold.core.frames import Capability, Done, Embedded, Loaded, MemoryFile, Reason, Settings
from leasehold.errors import (
    BadModel,
    BadRequest,
    InputTooLong,
    UnsupportedParameter,
    WorkerFailed,
)
from leasehold.worker import calls, gguf, listener
from leasehold.worker.engine import Emit, path_of
from leasehold.worker.schema import Schemas

BATCH_TOKENS: Final = 64  # prefill asks between batches whether to go on; 512 are 5 % faster
LISTENER_THREADS: Final = 2  # as many as the worker counts with
SUFFIX: Final = ".gguf"


class LlamaEngine:
    """One GGUF file, any number of requests at a time, `slots` of them side by side."""

    load_peak_ratio: ClassVar[float] = 1.02  # the file is mapped, and read where it lies
    needs_process: ClassVar[str] = "llama.cpp opens an HTTP listener that it cannot close"

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self._server: Any = None
        self._settings = Settings()
        self._context = 0
        self._ask: listener.Ask | None = None
        self._schemas = Schemas(self._probe)

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Map the one GGUF file. Raises BadModel."""
        found = [file for file in files if file.name.endswith(SUFFIX)]
        if len(found) != 1:
            raise BadModel(about="GGUF files", got=len(found), expected=1)
        header = gguf.read(found[0].fd)
        self._settings = settings
        self._context = min(settings.context_tokens, header.context_tokens)
        self._ask = listener.Ask(os.urandom(16).hex(), os.urandom(32).hex())
        params = _params(found[0], settings, self._context, self._ask)
        try:
            self._server = xllamacpp.Server(params)
        except (RuntimeError, ValueError, OSError) as cause:
            raise BadModel(about="llama.cpp", got=cause) from cause
        can = [Capability.TEXT, Capability.SCHEMA, Capability.PROBS]
        if header.template:
            can.append(Capability.CHAT)
        if calls.known_to(header.template):
            can.append(Capability.TOOLS)
        return Loaded(tuple(can), self._context, header.longest_token_bytes)

    def count(self, what: frames.Input) -> int:
        """Tokens after the template. Raises UnsupportedParameter for texts to embed."""
        match what:
            case frames.Chat():
                answer = self._post("/v1/chat/completions/input_tokens", _prompt(what))
                return int(answer["input_tokens"])
            case frames.Text():
                body = {"content": what.text, "add_special": True, "parse_special": True}
                return len(self._post("/tokenize", body)["tokens"])
            case frames.Tokens():
                return len(what.ids)
            case frames.Texts():
                raise UnsupportedParameter(about="embeddings")

    def generate(self, request: frames.Generate, emit: Emit) -> Done:
        """Continue the prompt; always streaming, or nothing could be cancelled."""
        body = _prompt(request.prompt) | _choices(request, self._settings.seed)
        if schema := request.sampling.json_schema:
            body["grammar"] = self._schemas.grammar(schema)
        if rules := request.sampling.grammar:
            body["grammar"] = self._schemas.own(rules)
        tools = calls.wanted(request.prompt)
        if tools is not None and tools.forced:
            body["grammar"] = calls.grammar(tools, self._schemas.checked)
        stream = _Stream(calls.Outlet(emit, tools), request.sampling.probs)
        if isinstance(request.prompt, frames.Chat):
            handle = self._server.handle_chat_completions
        else:
            handle = self._server.handle_completions
        _run(handle, body, stream)
        return stream.done(request.id)

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="embeddings")

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="tensors")

    def _probe(self, grammar: str, tokens: int) -> str:
        pieces: list[str] = []
        request = frames.Generate(1, frames.Text(" "), tokens, frames.Sampling(temperature=0.0))

        def emit(text: str, _: int, *__: object) -> bool:
            pieces.append(text)
            return True

        stream = _Stream(calls.Outlet(emit))
        body = _prompt(request.prompt) | _choices(request, 0) | {"grammar": grammar}
        _run(self._server.handle_completions, body, stream)
        stream.done(request.id)
        return "".join(pieces)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self._ask is not None  # noqa: S101  (set by load)
        return self._ask.post(path, body)


def _run(
    handle: Callable[[dict[str, Any], Callable[[dict[str, Any]], bool]], None],
    body: dict[str, Any],
    stream: _Stream,
) -> None:
    try:
        handle(body, stream)
    except (RuntimeError, ValueError) as cause:
        raise WorkerFailed(about="llama.cpp", got=cause) from cause


class _Stream:
    """Takes llama.cpp's chunks, emits their text, and answers True where it is to stop."""

    def __init__(self, outlet: calls.Outlet, probs: int = 0) -> None:
        self._outlet, self._probs = outlet, probs
        self._input_tokens = self._made = 0
        self._reason = Reason.CANCELLED
        self._error: dict[str, Any] | None = None
        self._going = True

    def __call__(self, chunk: dict[str, Any]) -> bool:
        if "error" in chunk:
            self._error = chunk["error"]
            return True
        if progress := chunk.get("prompt_progress"):
            self._input_tokens = int(progress["total"])
        text, last = "", False
        rows: tuple[tuple[frames.Prob, ...], ...] = ()
        for choice in chunk["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            if choice["finish_reason"] is not None:
                last = True
                self._reason = Reason.LENGTH if choice["finish_reason"] == "length" else Reason.STOP
            if self._probs and (logprobs := choice.get("logprobs")):
                rows += tuple(_row(one, self._probs) for one in logprobs["content"])
        made = int(chunk.get("timings", {}).get("predicted_n", 0))
        if usage := chunk.get("usage"):
            self._input_tokens, made = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        if self._going:
            fresh = max(made - self._made, 1 if text else 0)
            self._made += fresh
            self._going = self._outlet.tell(text, fresh, rows, last=last)
        return self._outlet.ended or not self._going

    def done(self, request: int) -> Done:
        """The end of it. Raises InputTooLong, BadRequest, WorkerFailed as llama.cpp said."""
        if self._error is None:
            reason = self._reason if self._going else Reason.CANCELLED
            if self._going and (self._outlet.ended or reason is Reason.STOP):
                reason = self._outlet.reason
            return Done(request, reason, self._input_tokens, self._made - self._outlet.owed)
        match self._error.get("type"):
            case "exceed_context_size_error":
                got, limit = self._error.get("n_prompt_tokens"), self._error.get("n_ctx")
                raise InputTooLong(got=got, expected=limit)
            case "invalid_request_error":
                raise BadRequest(about="prompt", got=self._error.get("message"))
            case other:
                raise WorkerFailed(about="llama.cpp", got=other)


def _row(said: dict[str, Any], probs: int) -> tuple[frames.Prob, ...]:
    """A token's own probability, and the likeliest ones: as many as were asked for together."""
    top = said["top_logprobs"]
    own = next(
        (one for one in top if one["id"] == said["id"]), said
    )  # its bytes, without held ones
    rows = [own, *top][:probs]
    return tuple(frames.Prob(bytes(one["bytes"]), float(one["logprob"])) for one in rows)


def _params(file: MemoryFile, settings: Settings, context: int, ask: listener.Ask) -> Any:
    """W-12: nothing kept between requests, nothing written, and a listener nobody else reaches."""
    params = xllamacpp.CommonParams()
    params.model.path = path_of(file.fd)
    params.n_ctx = context * settings.slots
    params.n_parallel = settings.slots
    params.n_batch = params.n_ubatch = max(BATCH_TOKENS, settings.slots)
    threads = settings.threads or len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames = [ask.hostname]
    params.api_keys = [ask.key]
    params.n_threads_http = LISTENER_THREADS
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.cache_prompt = params.cache_idle_slots = False  # a cache would tell one user of another
    params.cache_ram_mib = params.n_cache_reuse = 0
    params.ctx_shift = params.warmup = params.fit_params = False
    params.force_pure_content_parser = True  # one chunk of text for each token
    params.offline = True
    params.verbosity = -1  # its log has prompts in it
    return params


def _prompt(prompt: frames.Prompt) -> dict[str, Any]:
    match prompt:
        case frames.Chat():
            body: dict[str, Any] = {"messages": [calls.turn(one) for one in prompt.messages]}
            if prompt.tools is not None:  # described in the prompt; read and forced by `calls`
                body |= {"tools": json.loads(prompt.tools.described), "tool_choice": "none"}
            return body
        case frames.Text():
            return {"prompt": prompt.text}
        case frames.Tokens():
            return {"prompt": list(prompt.ids)}


def _choices(request: frames.Generate, seed: int) -> dict[str, Any]:
    """Every sampler by name: llama.cpp's own defaults are not those of OpenAI's interface."""
    sampling = request.sampling
    probs = {"logprobs": True, "top_logprobs": max(1, sampling.probs - 1)}
    return (probs if sampling.probs else {}) | {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "timings_per_token": True,  # the number of tokens behind each chunk
        "cache_prompt": False,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "seed": (seed + request.id) % (1 << 32) if sampling.seed is None else sampling.seed,
        "stop": list(sampling.stop),
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
    }
