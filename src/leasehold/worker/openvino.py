"""Language models in OpenVINO's format, in one batch for all requests.

Spec: docs/spec/engines.md, W-21 and W-22. A folder as optimum-intel writes it: openvino_model.xml and
.bin, tokenizer.json, and its configuration. Needs no path: all of it is read from memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, ClassVar, Final

os.putenv("TOKENIZERS_PARALLELISM", "false")

import msgspec
from tokenizers import Tokenizer

from leasehold.core import frames
from leasehold.core.frames import Capability, Done, Embedded, Loaded, MemoryFile, Reason, Settings
from leasehold.errors import (
    BadModel,
    BadRequest,
    InputTooLong,
    LeaseholdError,
    UnsupportedParameter,
)
from leasehold.worker import pieces
from leasehold.worker.batch import Batch, Job
from leasehold.worker.constraint import Grammars, Tokens
from leasehold.worker.engine import Emit
from leasehold.worker.paged import PagedModel
from leasehold.worker.sampler import Sampler
from leasehold.worker.template import Template
from leasehold.worker.vino import Runtime

GRAPH, WEIGHTS, TOKENIZER = "openvino_model.xml", "openvino_model.bin", "tokenizer.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER_CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
CONFIG_BYTES_MAX: Final = 64 << 20  # the largest published tokenizer.json has 34 MB


class _Config(msgspec.Struct):
    max_position_embeddings: int = 2048
    eos_token_id: int | list[int] | None = None


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | None = None
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None


class OpenVinoEngine:
    """One model; all requests under way share each step, whatever their lengths."""

    # The files, and matrices as OpenVINO packs them: for many tokens at a time and, where they are narrow
    # and the processor has no AVX-512, again for a few.
    load_peak_ratio: ClassVar[float] = 3.1

    def __init__(self) -> None:
        """An engine with nothing loaded; its libraries are open from here on."""
        self._runtime = Runtime()
        self._tokenizer: Any = None
        self._template: Template | None = None
        self._batch: Batch | None = None
        self._grammars: Grammars | None = None
        self._table: list[bytes] = []
        self._ends: frozenset[int] = frozenset()
        self._context = self._seed = 0

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read the folder. Raises BadModel."""
        named = {file.name: file for file in files}
        if missing := {GRAPH, WEIGHTS, TOKENIZER} - set(named):
            raise BadModel(about="files", got=sorted(named), expected=sorted(missing))
        config = _read(named.get(CONFIG), _Config)
        generation = _read(named.get(GENERATION), _Config)
        words = _read(named.get(TOKENIZER_CONFIG), _TokenizerConfig)
        self._context = min(settings.context_tokens, config.max_position_embeddings)
        self._seed = settings.seed
        described = _bytes(named[TOKENIZER]).decode("utf-8", "replace")
        try:
            self._tokenizer = Tokenizer.from_str(described)
        except Exception as cause:  # the package raises Exception itself, and no other
            raise BadModel(about=TOKENIZER, got=cause) from cause
        self._tokenizer.no_truncation()  # too long is refused, never cut in silence
        self._tokenizer.no_padding()
        limits = msgspec.structs.replace(settings, context_tokens=self._context)
        model = PagedModel(self._runtime, named[GRAPH], named[WEIGHTS], limits)
        self._table = pieces.pieces(described, model.vocabulary)
        self._ends = self._find_ends(config, generation, words)
        self._grammars = self._make_grammars()
        self._batch = Batch(model, settings.slots)
        can = [Capability.TEXT, Capability.SCHEMA, Capability.PROBS]
        source = words.chat_template
        if TEMPLATE in named:
            source = _bytes(named[TEMPLATE]).decode("utf-8", "replace")
        if source:
            known = {"bos_token": words.bos_token, "eos_token": words.eos_token}
            self._template = Template(source, {k: _word(v) for k, v in known.items()})
            can.append(Capability.CHAT)
        longest = pieces.longest(self._table)
        return Loaded(tuple(can), self._context, longest, has_copied=True)

    def count(self, what: frames.Input) -> int:
        """Tokens of the prompt. Raises UnsupportedParameter for texts to embed."""
        return len(self._ids(what))

    def generate(self, request: frames.Generate, emit: Emit) -> Done:
        """Continue the prompt; see `Engine.generate`."""
        ids = self._ids(request.prompt)
        if len(ids) >= self._context:
            raise InputTooLong(got=len(ids), expected=self._context)
        sampling = request.sampling
        seed = (self._seed + request.id) % (1 << 32) if sampling.seed is None else sampling.seed
        assert self._batch is not None  # noqa: S101  (set by load)
        assert self._grammars is not None  # noqa: S101
        job = Job(
            prompt=ids,
            most=min(request.max_tokens, self._context - len(ids)),
            sampler=Sampler(sampling, seed),
            ends=self._ends,
            constraint=self._grammars.start(sampling.json_schema, sampling.grammar),
            probs=sampling.probs,
        )
        told, reason = 0, Reason.CANCELLED
        if emit("", 0):
            with closing(self._batch.run(job)) as events:
                told, reason = self._tell(events, pieces.Text(sampling.stop), emit)
        return Done(request.id, reason, len(ids), told)

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="embeddings")

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="tensors")

    def _tell(self, events: Any, text: pieces.Text, emit: Emit) -> tuple[int, Reason]:
        """Emit what the events say; the tokens emitted, and why it ended. Raises WorkerFailed."""
        told = 0
        for event in events:
            if isinstance(event, LeaseholdError):
                raise event
            if event is None:
                if not emit("", 0):
                    break
                continue
            clear = text.feed(self._table[event.token], last=event.reason is not None)
            told += 1
            rows = tuple(
                frames.Prob(self._table[token], logarithm) for token, logarithm in event.probs
            )
            going = emit(clear, 1, (), (rows,)) if rows else emit(clear, 1)
            if event.reason or text.ended:
                return told, Reason.STOP if text.ended else event.reason
            if not going:
                break
        return told, Reason.CANCELLED

    def _ids(self, what: frames.Input) -> Sequence[int]:
        """Raises BadRequest, UnsupportedParameter."""
        match what:
            case frames.Chat():
                if self._template is None:
                    raise UnsupportedParameter(about="chat")
                if what.tools is not None:
                    raise UnsupportedParameter(about="tools")
                return self._encode(self._template.render(what), whole=False)
            case frames.Text():
                return self._encode(what.text, whole=True)
            case frames.Tokens():
                if max(what.ids) >= len(self._table):
                    raise BadRequest(
                        about="token", got=max(what.ids), expected=f"< {len(self._table)}"
                    )
                return what.ids
            case frames.Texts():
                raise UnsupportedParameter(about="embeddings")

    def _encode(self, text: str, *, whole: bool) -> Sequence[int]:
        """Token ids; with what begins a text where `whole`, which a template writes itself."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=whole).ids
        if not ids:
            raise BadRequest(about="prompt", got="no token", expected="one at least")
        return ids

    def _find_ends(
        self, config: _Config, generation: _Config, words: _TokenizerConfig
    ) -> frozenset[int]:
        for told in (generation.eos_token_id, config.eos_token_id):
            if told is not None:
                return frozenset(told if isinstance(told, list) else [told])
        found = self._tokenizer.token_to_id(_word(words.eos_token))
        if found is None:
            raise BadModel(about="eos_token_id", expected=f"in {GENERATION} or {CONFIG}")
        return frozenset([found])

    def _make_grammars(self) -> Grammars:
        added = self._tokenizer.get_added_tokens_decoder()
        specials = [at for at, one in added.items() if one.special and at < len(self._table)]

        def encode(text: str) -> Sequence[int]:
            found: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
            return found

        return Grammars(Tokens(self._table, specials, min(self._ends, default=0), encode))


def _word(told: str | dict[str, Any] | None) -> str:
    return str(told.get("content", "")) if isinstance(told, dict) else told or ""


def _bytes(file: MemoryFile) -> bytes:
    if not 0 < file.size <= CONFIG_BYTES_MAX:
        raise BadModel(about=file.name, got=file.size, expected=f"1 to {CONFIG_BYTES_MAX} bytes")
    return os.pread(file.fd, file.size, 0)


def _read(file: MemoryFile | None, kind: Any) -> Any:
    if file is None:
        return kind()
    try:
        return msgspec.json.decode(_bytes(file), type=kind)
    except msgspec.MsgspecError as cause:
        raise BadModel(about=file.name, got=cause) from cause
