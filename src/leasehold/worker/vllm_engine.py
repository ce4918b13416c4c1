"""Language models as folders of safetensors on a GPU, by vLLM's engine in this process.

Spec: docs/spec/engines.md, W-23 and W-24. vLLM gets tokens and gives tokens; text, templates and weights
are read by our own code. Its servers, processes, statistics and its hub are not used: the asynchronous
engine always starts a process and talks to it through sockets, so the other one is stepped by a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Any, ClassVar, Final

import vllm.envs
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from leasehold.core import frames
from leasehold.core.frames import Done, Embedded, Generate, Loaded, MemoryFile, Reason, Settings
from leasehold.errors import BadModel, UnsupportedParameter, WorkerFailed
from leasehold.worker import recipe, shards, vllm_loader
from leasehold.worker.engine import Emit, step_for_ever
from leasehold.worker.recipe import Recipe
from leasehold.worker.words import Broke, Made, News, Words

# Beside the governor's environment, for a process that it did not start.
vllm.envs.VLLM_NO_USAGE_STATS = True
vllm.envs.VLLM_DO_NOT_TRACK = True
vllm.envs.VLLM_ENABLE_V1_MULTIPROCESSING = False

MODEL: Final = "leasehold"  # a name for vLLM; there is no such folder
TOP_P_LEAST: Final = 1e-6  # vLLM has no 0: the likeliest stays
ERRORS: Final = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError)


class VllmEngine:
    """One model; vLLM batches the requests."""

    load_peak_ratio: ClassVar[float] = (
        1.3  # of this machine's memory: the files, and a run of copies
    )
    profile: ClassVar[str] = "gpu"
    needs_process: ClassVar[str] = "its loader takes descriptors, not buffers"

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self._parts: tuple[Words, Steps] | None = None
        self._numbers = count()  # vLLM may still know a request whose owner has gone

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read the folder and start vLLM on it. Raises BadModel."""
        named = {file.name: file for file in files}
        found = recipe.read(named)
        words = Words(found, named, settings)
        recipe.check_network(found, len(shards.read(files)))  # before a GPU knows of them
        try:
            vllm_loader.offer(MODEL, configuration(found))
            chosen = arguments(files, settings, words.context)
            engine = LLMEngine.from_engine_args(chosen, enable_multiprocessing=False)
        except (*ERRORS, ArithmeticError, AssertionError, StrictDataclassError) as cause:
            raise BadModel(about="vLLM", got=cause) from cause
        self._parts = words, Steps(engine)
        return words.loaded()

    def count(self, what: frames.Input) -> int:
        """Tokens after the template. Raises UnsupportedParameter for texts to embed."""
        return len(self._loaded()[0].ids(what))

    def generate(self, request: Generate, emit: Emit) -> Done:
        """Continue the prompt; where nobody wants it any more, vLLM is told to abort."""
        words, steps = self._loaded()
        ids = words.admit(request)
        if not emit("", 0):
            return Done(request.id, Reason.CANCELLED, len(ids), 0)
        likeliest = max(0, request.sampling.probs - 1)
        choices = parameters(request, words, ids)
        asked = Asked(str(next(self._numbers)), ids, choices, likeliest)
        steps.add(asked)
        try:
            return words.follow(request, ids, asked.news.get, emit)
        finally:
            asked.dropped = True

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="embeddings")

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="tensors")

    def _loaded(self) -> tuple[Words, Steps]:
        assert self._parts is not None  # noqa: S101  (set by load)
        return self._parts


@dataclass(slots=True)
class Asked:
    """One request. Its owner takes `news` until the last, or sets `dropped`."""

    id: str
    prompt: Sequence[int]
    choices: Any
    likeliest: int  # of the probabilities of a token, beside its own
    news: SimpleQueue[News] = field(default_factory=SimpleQueue)
    dropped: bool = False


class Steps:
    """Steps vLLM on a thread of its own, while there is work; nothing else touches it."""

    def __init__(self, engine: Any) -> None:
        """Start."""
        self._engine = engine
        self._changed = threading.Condition()
        self._waiting: list[Asked] = []
        self._open: dict[str, Asked] = {}
        step_for_ever(self._round, name="vllm")

    def add(self, asked: Asked) -> None:
        """Begin it with the next step."""
        with self._changed:
            self._waiting.append(asked)
            self._changed.notify()

    def _round(self) -> None:
        with self._changed:
            while not (self._waiting or self._open):
                self._changed.wait()
            fresh, self._waiting = self._waiting, []
        for asked in fresh:
            self._open[asked.id] = asked
        try:
            self._step(fresh)
        except ERRORS as cause:
            self._break(WorkerFailed(about="vLLM", got=cause))

    def _step(self, fresh: Sequence[Asked]) -> None:
        for asked in fresh:
            self._engine.add_request(
                asked.id, {"prompt_token_ids": list(asked.prompt)}, asked.choices
            )
        if gone := [asked.id for asked in self._open.values() if asked.dropped]:
            self._engine.abort_request(gone)
            for one in gone:
                del self._open[one]
        if not self._open:
            return
        for output in self._engine.step():
            if (found := self._open.get(output.request_id)) is not None:
                _tell(found, output)
                if output.finished:
                    del self._open[output.request_id]

    def _break(self, error: WorkerFailed) -> None:
        """All that is open fails; the worker lives on if vLLM can abort it, else it ends."""
        for asked in self._open.values():
            asked.news.put(Broke(error))
        lost, self._open = list(self._open), {}
        self._engine.abort_request(lost)


def _tell(asked: Asked, output: Any) -> None:
    (one,) = output.outputs
    end = len(one.token_ids) - 1
    for at, token in enumerate(one.token_ids):
        probs = _probs(token, one.logprobs, at, asked.likeliest)
        last = output.finished and at == end
        asked.news.put(Made(token, probs, last, last and one.finish_reason == "stop"))
    if output.finished and end < 0:
        asked.news.put(Broke(WorkerFailed(about="vLLM", got="an end without a last token")))


def _probs(token: int, said: Any, at: int, most: int) -> list[tuple[int, float]]:
    """A token's own, and the likeliest by rank."""
    if said is None:
        return []
    row = sorted(said[at].items(), key=lambda item: item[1].rank)
    top = [(one, prob.logprob) for one, prob in row[:most]]
    return [(token, said[at][token].logprob), *top]


def configuration(found: Recipe) -> Any:
    """The configuration as `transformers` has it. Raises BadModel for a kind that it does not know."""
    if found.kind not in CONFIG_MAPPING:
        raise BadModel(about="model_type", got=found.kind, expected="one that transformers knows")
    made = CONFIG_MAPPING[found.kind](**found.config)
    made.architectures = list(found.architectures)
    return made


def arguments(files: Sequence[MemoryFile], settings: Settings, context: int) -> Any:
    """W-24: nothing from a folder or a hub, nothing kept between requests, nothing logged."""
    return EngineArgs(
        model=MODEL,
        load_format=vllm_loader.FORMAT,
        config_format=vllm_loader.FORMAT,
        model_loader_extra_config=vllm_loader.described(files),
        skip_tokenizer_init=True,
        trust_remote_code=False,
        generation_config="vllm",
        enable_prefix_caching=False,  # a cache would tell one user of another
        enforce_eager=True,  # compiled graphs are files
        max_model_len=context,
        max_num_seqs=settings.slots,
        seed=settings.seed,
        disable_log_stats=True,
    )


def parameters(request: Generate, words: Words, ids: Sequence[int]) -> Any:
    """Every choice by name; stop strings are ours to find, as vLLM sees no text."""
    sampling = request.sampling
    return SamplingParams(
        max_tokens=words.most(request, ids),
        temperature=sampling.temperature,
        top_p=max(sampling.top_p, TOP_P_LEAST),
        top_k=sampling.top_k,
        seed=words.seed(request),
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        stop_token_ids=sorted(words.ends),
        logprobs=max(1, sampling.probs - 1) if sampling.probs else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
