"""Language models as folders of safetensors, by torch and the networks of `transformers`.

Spec: docs/spec/engines.md, W-17 to W-19. For models that no GGUF exists of, and for machines where
torch is measured in anyway; on processors llama.cpp is faster and smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from leasehold.core import frames
from leasehold.core.frames import (
    Capability,
    Done,
    Embedded,
    Generate,
    Loaded,
    MemoryFile,
    Prob,
    Reason,
    Settings,
)
from leasehold.errors import BadModel, BadRequest, InputTooLong, UnsupportedParameter
from leasehold.worker import pytorch, recipe, shards
from leasehold.worker.batches import Batches, Broke, Made, Read, Writing
from leasehold.worker.engine import Emit
from leasehold.worker.pytorch import Sampler
from leasehold.worker.spelling import Cut, Speech, Spelling
from leasehold.worker.template import Template

LOAD_PEAK_RATIO: Final = 1.3


class TransformersEngine:
    """One model; `slots` requests share each pass through the network."""

    load_peak_ratio: ClassVar[float] = LOAD_PEAK_RATIO

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self._settings = Settings()
        self._context = 0
        self._ends: frozenset[int] = frozenset()
        self._vocabulary = 0
        self._spelling: Spelling | None = None
        self._template: Template | None = None
        self._batches: Batches | None = None

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read config.json, tokenizer.json and the safetensors files. Raises BadModel."""
        named = {file.name: file for file in files}
        if recipe.TOKENIZER not in named:
            raise BadModel(about="files", got=sorted(named)[:8], expected=recipe.TOKENIZER)
        found = recipe.read(named)
        spelling = Spelling(named[recipe.TOKENIZER])
        self._template = Template(found.template, found.marks) if found.template else None
        self._context = min(settings.context_tokens, found.context_tokens)
        network = pytorch.open_network(
            found,
            shards.read(files),
            slots=settings.slots,
            context=self._context,
            threads=settings.threads,
        )
        if spelling.size > network.vocabulary:
            raise BadModel(about="tokens", got=spelling.size, expected=network.vocabulary)
        self._settings, self._spelling, self._ends = settings, spelling, found.ends
        self._vocabulary = network.vocabulary
        self._batches = Batches(network, settings.slots)
        can = [Capability.TEXT, Capability.PROBS]
        if self._template is not None:
            can.append(Capability.CHAT)
        return Loaded(tuple(can), self._context, spelling.longest_token_bytes)

    def count(self, what: frames.Input) -> int:
        """Tokens after the template. Raises UnsupportedParameter for texts to embed."""
        if isinstance(what, frames.Texts):
            raise UnsupportedParameter(about="embeddings")
        return len(self._ids(what))

    def generate(self, request: Generate, emit: Emit) -> Done:
        """Continue the prompt; `emit` is called by the thread of the caller. See `Engine.generate`."""
        sampling = request.sampling
        if sampling.json_schema or sampling.grammar:
            raise UnsupportedParameter(about="json_schema and grammar")
        if isinstance(request.prompt, frames.Chat) and request.prompt.tools is not None:
            raise UnsupportedParameter(about="tools")
        ids = self._ids(request.prompt)
        if len(ids) >= self._context:
            raise InputTooLong(got=len(ids), expected=self._context - 1)
        if not ids or max(ids) >= self._vocabulary:
            known = f"one token or more, below {self._vocabulary}"
            raise BadRequest(about="prompt", got=max(ids, default=None), expected=known)
        if not emit("", 0):
            return Done(request.id, Reason.CANCELLED, len(ids), 0)
        seed = sampling.seed
        if seed is None:
            seed = (self._settings.seed + request.id) % (1 << 32)
        most = min(request.max_tokens, self._context - len(ids))
        writing = Writing(ids, most, self._ends, Sampler(sampling, seed))
        assert self._batches is not None  # noqa: S101  (set by load)
        self._batches.add(writing)
        try:
            return self._follow(request, writing, emit)
        finally:
            writing.dropped = True

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="embeddings")

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="tensors")

    def _follow(self, request: Generate, writing: Writing, emit: Emit) -> Done:
        """Emit what is made until it ends. Raises WorkerFailed."""
        speech, cut = Speech(self._words(), writing.prompt), Cut(request.sampling.stop)
        asked, made = len(writing.prompt), 0
        while True:
            match writing.news.get():
                case Broke(error):
                    raise error
                case Read():
                    if not emit("", 0):
                        return Done(request.id, Reason.CANCELLED, asked, made)
                case Made(token, probs, last):
                    made += 1
                    text = cut.take(speech.take(token))
                    if last and not cut.found:
                        text += cut.take(speech.finish())
                        text += "" if cut.found else cut.finish()
                    row = tuple(Prob(self._words().own_bytes(one), log) for one, log in probs)
                    go_on = emit(text, 1, (), (row,)) if row else emit(text, 1)
                    if cut.found or (last and token in self._ends):
                        return Done(request.id, Reason.STOP, asked, made)
                    if last:
                        return Done(request.id, Reason.LENGTH, asked, made)
                    if not go_on:
                        return Done(request.id, Reason.CANCELLED, asked, made)

    def _ids(self, prompt: frames.Prompt) -> list[int]:
        match prompt:
            case frames.Chat():
                if self._template is None:
                    raise UnsupportedParameter(
                        about="messages", expected="a model with a chat template"
                    )
                return self._words().tokens(self._template.render(prompt), bare=True)
            case frames.Text():
                return self._words().tokens(prompt.text, bare=False)
            case frames.Tokens():
                return list(prompt.ids)

    def _words(self) -> Spelling:
        assert self._spelling is not None  # noqa: S101  (set by load)
        return self._spelling
