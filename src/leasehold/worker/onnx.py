"""Sentence embeddings by onnxruntime: any ONNX encoder with a tokenizer.json beside it.

Spec: docs/spec/worker.md, W-11 and W-13. Needs no path: model and tokenizer are given as bytes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

os.putenv("ORT_DISABLE_TELEMETRY", "1")  # before the import: it uploads usage by default
os.putenv("TOKENIZERS_PARALLELISM", "false")

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort
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
from leasehold.errors import BadModel, InputTooLong, UnsupportedParameter, WorkerFailed
from leasehold.worker.engine import Emit

BATCH_TEXTS: Final = 32  # larger batches are not faster on a processor; `go_on` is asked between
MODEL, TOKENIZER, CONFIG = "model.onnx", "tokenizer.json", "config.json"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
POOLED: Final = "sentence_embedding"
_PIECE: Final = "##"  # WordPiece's mark of a word that goes on

Floats = npt.NDArray[np.float32]


class _Config(msgspec.Struct):
    max_position_embeddings: int = 512


class OnnxEngine:
    """One encoder; texts are embedded in batches of 32, padded to the longest of the batch."""

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self._session: Any = None
        self._tokenizer: Any = None
        self._tokens_max = 0
        self._takes_types = False
        self._output = POOLED

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read model.onnx and tokenizer.json; config.json may cap the length. Raises BadModel."""
        named = {file.name: file for file in files}
        missing = sorted({MODEL, TOKENIZER} - set(named))
        if missing:
            raise BadModel(about="files", got=sorted(named), expected=missing)
        config = _read_config(named.get(CONFIG))
        self._tokenizer = _read_tokenizer(named[TOKENIZER])
        trained = (self._tokenizer.truncation or {}).get("max_length", config)
        self._tokens_max = min(settings.context_tokens, config, trained)
        self._tokenizer.no_truncation()  # too long is refused, never cut in silence
        self._tokenizer.no_padding()
        self._session = _read_model(named[MODEL], settings)
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
        if not isinstance(what, frames.Texts):
            raise UnsupportedParameter(about="text generation")
        return sum(len(encoded.ids) for encoded in self._encode(what.texts))

    def generate(self, request: frames.Generate, emit: Emit) -> Done:  # noqa: ARG002
        """Raises UnsupportedParameter: see the llama engine."""
        raise UnsupportedParameter(about="text generation")

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:
        """Vectors of length one where the model makes such. Raises InputTooLong, WorkerFailed."""
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
        except _ORT_ERRORS as cause:
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


_ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ValueError,
    *(
        error
        for error in vars(_ort).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)  # its own exceptions have no common root


def _bytes_of(file: MemoryFile) -> bytes:
    if file.size == 0:
        raise BadModel(about=file.name, got="an empty file")
    with mmap.mmap(file.fd, file.size, prot=mmap.PROT_READ) as data:
        return data[:]


def _read_model(file: MemoryFile, settings: Settings) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 4  # fatal only: its log goes nowhere
    try:
        return onnxruntime.InferenceSession(
            _bytes_of(file), options, providers=["CPUExecutionProvider"]
        )
    except _ORT_ERRORS as cause:
        raise BadModel(about=file.name, got=cause) from cause


def _read_tokenizer(file: MemoryFile) -> Any:
    data = _bytes_of(file)
    try:
        return Tokenizer.from_buffer(data)
    except Exception as cause:  # the package raises Exception itself, and no other
        raise BadModel(about=file.name, got=cause) from cause


def _read_config(file: MemoryFile | None) -> int:
    """The most tokens that the model has positions for; 512 where it does not say."""
    if file is None:
        return _Config().max_position_embeddings
    try:
        return msgspec.json.decode(_bytes_of(file), type=_Config).max_position_embeddings
    except msgspec.MsgspecError as cause:
        raise BadModel(about=file.name, got=cause) from cause
