"""ONNX models by onnxruntime: an encoder where a tokenizer.json is beside it, else tensors to tensors.

Spec: docs/spec/worker.md, W-11, W-13 and W-15. Needs no path: all files are given as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

os.putenv("TOKENIZERS_PARALLELISM", "false")

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from leasehold.core import frames
from leasehold.core.frames import (
    LONGEST_TOKEN_BYTES_MAX,
    Capability,
    Done,
    Embedded,
    Loaded,
    MemoryFile,
    Settings,
)
from leasehold.core.tensors import TENSORS_MAX
from leasehold.errors import BadModel, InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker import ort
from leasehold.worker.engine import Emit
from leasehold.worker.graph import Graph

BATCH_TEXTS: Final = 32  # larger batches are not faster on a processor; `go_on` is asked between
MODEL, TOKENIZER, CONFIG = "model.onnx", "tokenizer.json", "config.json"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
POOLED: Final = "sentence_embedding"
_PIECE: Final = "##"  # WordPiece's mark of a word that goes on

Floats = npt.NDArray[np.float32]


class _Config(msgspec.Struct):
    max_position_embeddings: int = 512


class OnnxEngine:
    """One model; as an encoder it embeds in batches of 32 texts, padded to the longest of the batch."""

    # the files, onnxruntime's copy of them, and one that it packs for its kernels
    load_peak_ratio: ClassVar[float] = 3.25
    needs_process: ClassVar[str] = ""

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self._session: Any = None
        self._tokenizer: Any = None
        self._tokens_max = 0
        self._takes_types = False
        self._output = POOLED
        self._graph: Graph | None = None

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read model.onnx with its weights; with a tokenizer.json it is an encoder. Raises BadModel."""
        named = {file.name: file for file in files}
        if MODEL not in named:
            raise BadModel(about="files", got=sorted(named), expected=MODEL)
        weights = [file for file in files if not file.name.endswith((".onnx", ".json", ".txt"))]
        self._session = ort.open_session(named[MODEL], weights, settings)
        if TOKENIZER in named:
            return self._load_encoder(named, settings)
        self._graph = Graph(self._session)
        inputs, outputs = tuple(self._graph.inputs), tuple(self._graph.outputs)
        if max(len(inputs), len(outputs)) > TENSORS_MAX:
            raise BadModel(about="inputs and outputs", expected=f"<= {TENSORS_MAX} each")
        return Loaded((Capability.INFER,), 1, 1, inputs=inputs, outputs=outputs)

    def _load_encoder(self, named: dict[str, MemoryFile], settings: Settings) -> Loaded:
        """config.json may cap the length."""
        config = _read_config(named.get(CONFIG))
        self._tokenizer = _read_tokenizer(named[TOKENIZER])
        trained = (self._tokenizer.truncation or {}).get("max_length", config)
        self._tokens_max = min(settings.context_tokens, config, trained)
        self._tokenizer.no_truncation()  # too long is refused, never cut in silence
        self._tokenizer.no_padding()
        inputs = {value.name for value in self._session.get_inputs()}
        if not {IDS, MASK} <= inputs <= {IDS, MASK, TYPES}:
            raise BadModel(about="inputs of the model", got=sorted(inputs), expected=[IDS, MASK])
        self._takes_types = TYPES in inputs
        outputs = [value.name for value in self._session.get_outputs()]
        self._output = POOLED if POOLED in outputs else outputs[0]
        dims = self._run(self._encode(("a",)), BadModel).shape[1]
        longest = max(len(t.removeprefix(_PIECE).encode()) for t in self._tokenizer.get_vocab())
        longest = min(longest, LONGEST_TOKEN_BYTES_MAX)
        return Loaded((Capability.EMBED,), self._tokens_max, longest, dims)

    def count(self, what: frames.Input) -> int:
        """Tokens with the special ones around each text. Raises UnsupportedParameter."""
        if self._graph is not None or not isinstance(what, frames.Texts):
            raise UnsupportedParameter(about="text")
        return sum(len(encoded.ids) for encoded in self._encode(what.texts))

    def generate(self, request: frames.Generate, emit: Emit) -> Done:  # noqa: ARG002
        """Raises UnsupportedParameter: see the llama engine."""
        raise UnsupportedParameter(about="text generation")

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:
        """Vectors of length one where the model makes such. Raises InputTooLong, WorkerFailed."""
        if self._graph is not None:
            raise UnsupportedParameter(about="embeddings")
        encoded = self._encode(request.input.texts)
        longest = max(len(one.ids) for one in encoded)
        if longest > self._tokens_max:
            raise InputTooLong(got=longest, expected=self._tokens_max)
        by_length = sorted(range(len(encoded)), key=lambda at: len(encoded[at].ids))
        vectors: dict[int, Floats] = {}
        for start in range(0, len(by_length), BATCH_TEXTS):
            if not go_on():
                raise WorkerFailed(about="embed", got="cancelled")
            batch = by_length[start : start + BATCH_TEXTS]
            found = self._run([encoded[at] for at in batch], WorkerFailed)
            vectors |= zip(batch, found, strict=True)
        table = np.stack([vectors[at] for at in range(len(encoded))])
        tokens = sum(len(one.ids) for one in encoded)
        return Embedded(request.id, table.astype("<f4").tobytes(), table.shape[1], tokens)

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:
        """See `Graph.infer`. Raises UnsupportedParameter for an encoder."""
        if self._graph is None:
            raise UnsupportedParameter(about="tensors")
        return self._graph.infer(request, go_on)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        encoded: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        return encoded

    def _run(self, batch: list[Encoding], blame: type[BadModel | WorkerFailed]) -> Floats:
        """float32[batch, dims]. Raises `blame` where the model does not give that."""
        width = max(len(one.ids) for one in batch)
        ids, mask = (np.zeros((len(batch), width), np.int64) for _ in range(2))
        for row, one in enumerate(batch):
            ids[row, : len(one.ids)], mask[row, : len(one.ids)] = one.ids, 1
        feed = {IDS: ids, MASK: mask}
        if self._takes_types:
            feed[TYPES] = np.zeros_like(ids)
        try:
            found = self._session.run([self._output], feed)[0]
        except ort.ERRORS as cause:
            raise blame(about="onnxruntime", got=cause) from cause
        if found.dtype != np.float32 or found.ndim not in (2, 3) or len(found) != len(batch):
            raise blame(about=self._output, got=found.shape, expected="float32[texts, dims]")
        return found if found.ndim == 2 else _mean(found, mask)


def _mean(states: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    """Mean of the states of real tokens, of length one: what sentence encoders do by default."""
    weights = mask[:, :, None].astype(np.float32)
    mean = (states * weights).sum(axis=1) / weights.sum(axis=1)
    scaled: Floats = mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12)
    return scaled


def _read_tokenizer(file: MemoryFile) -> Any:
    data = ort.bytes_of(file)
    try:
        return Tokenizer.from_buffer(data)
    except Exception as cause:  # the package raises Exception itself, and no other
        raise BadModel(about=file.name, got=cause) from cause


def _read_config(file: MemoryFile | None) -> int:
    """The most tokens that the model has positions for; 512 where it does not say."""
    if file is None:
        return _Config().max_position_embeddings
    try:
        return msgspec.json.decode(ort.bytes_of(file), type=_Config).max_position_embeddings
    except msgspec.MsgspecError as cause:
        raise BadModel(about=file.name, got=cause) from cause
