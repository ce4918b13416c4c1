"""A language model in OpenVINO's format, from memory, with its cache in pages.

Spec: docs/spec/engines.md, W-21 and W-22. Attention is rewritten to OpenVINO's PagedAttention, so
that sequences of different lengths run in one batch. Refuses to know text, requests and sampling.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Final

import numpy as np

from leasehold.core.frames import MemoryFile, Settings
from leasehold.errors import BadModel, WorkerFailed
from leasehold.worker import ir
from leasehold.worker.engine import content_of
from leasehold.worker.step import Floats, Part
from leasehold.worker.vino import Runtime, ops, ov, to_pages

BLOCK_TOKENS: Final = 32  # of OpenVINO's processor plugin: tokens in one page of the cache
STEP_TOKENS: Final = 128  # of prompts in one step: after these it is asked whether to go on
WARM_UP_TOKENS: Final = (
    1,
    8,
    32,
)  # few and many are packed apart; without AVX-512 also narrow ones
TAIL_STEPS: Final = 8  # operations between the last matrix and the logits
_MAP_FIXED: Final = 0x10
ROWS: Final = "leasehold_rows"  # the input that says of which tokens logits are wanted


class PagedModel:
    """One model; `run` is for one thread at a time."""

    def __init__(
        self, runtime: Runtime, graph: MemoryFile, weights: MemoryFile, settings: Settings
    ) -> None:
        """Read, compile, run once and let go of what was copied. Raises BadModel."""
        self.prompt_tokens, self.prompts = STEP_TOKENS, settings.slots
        self._weights = _Mapped(weights)
        self._pages = -(-(settings.context_tokens + 1) // BLOCK_TOKENS)
        self._cache: list[ov.Tensor] = []
        threads = settings.threads or len(os.sched_getaffinity(0))
        try:
            model = ir.read(runtime.reader, _text(graph), self._weights.data)
            self._weights.keep(ir.kept(model, self._weights.data))
            to_pages(model)
            _choose_rows(model)
            compiled = runtime.core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "ENABLE_CPU_PINNING": False,  # the machine is not ours alone
                },
            )
            self._request = compiled.create_infer_request()
            self._names = {one.any_name for one in compiled.inputs}
            for one in compiled.inputs:
                if "_cache." in one.any_name:
                    shape = [self._pages * settings.slots, *list(one.partial_shape)[1:]]
                    sizes = [size if isinstance(size, int) else size.get_length() for size in shape]
                    tensor = ov.Tensor(one.element_type, ov.Shape(sizes))
                    self._request.set_tensor(one.any_name, tensor)
                    self._cache.append(tensor)
            del model, compiled
            for size in WARM_UP_TOKENS:  # matrices are packed when they are first used like that
                self.run([Part(0, 0, [0] * min(size, settings.context_tokens))])
        except (RuntimeError, TypeError, ValueError, WorkerFailed) as cause:
            raise BadModel(about="OpenVINO", got=cause) from cause
        self._weights.let_go()

    def wipe(self, slot: int, tokens: int) -> None:
        """W-22: zeros where `tokens` of that slot were."""
        first, pages = slot * self._pages, -(-tokens // BLOCK_TOKENS)
        for tensor in self._cache:
            tensor.data[first : first + pages] = 0

    @property
    def vocabulary(self) -> int:
        """Logits that it gives for a token."""
        return int(self._request.get_output_tensor(0).shape[-1])

    def run(self, parts: Sequence[Part]) -> Floats:
        """float32[parts, vocabulary]: the logits after the last token of each. Raises WorkerFailed."""
        sizes = np.array([len(part.tokens) for part in parts], np.int32)
        past = np.array([part.past for part in parts], np.int32)
        ends = np.cumsum(sizes, dtype=np.int32)
        pages = -(-(past + sizes) // BLOCK_TOKENS)
        spans = zip(parts, pages, strict=True)
        inputs = {
            "input_ids": np.concatenate([np.asarray(part.tokens, np.int64) for part in parts]),
            "position_ids": np.concatenate(
                [np.arange(part.past, part.past + len(part.tokens)) for part in parts]
            ),
            "past_lens": past,
            "subsequence_begins": np.concatenate([np.zeros(1, np.int32), ends]),
            "block_indices": np.concatenate(
                [np.arange(n, dtype=np.int32) + part.slot * self._pages for part, n in spans]
            ),
            "block_indices_begins": np.concatenate(
                [np.zeros(1, np.int32), np.cumsum(pages, dtype=np.int32)]
            ),
            "max_context_len": np.array((past + sizes).max(), np.int32),
            ROWS: ends.astype(np.int64) - 1,
        }
        try:
            for name, value in inputs.items():
                if name in self._names:
                    self._request.set_tensor(name, ov.Tensor(value))
            self._request.infer()
        except (RuntimeError, TypeError) as cause:
            raise WorkerFailed(about="OpenVINO", got=cause) from cause
        found: Floats = self._request.get_output_tensor(0).data.astype(np.float32, copy=True)
        return found.reshape(len(parts), -1)


def _choose_rows(model: ov.Model) -> None:
    """Put a choice of rows before the last matrix: logits of a whole prompt would be a gigabyte."""
    result = next((one for one in model.outputs if "logits" in one.names), model.outputs[0])
    node = result.get_node()
    for _ in range(TAIL_STEPS):
        if node.get_type_name() == "MatMul":
            rows = ops.parameter([-1], np.int64, name=ROWS)
            rows.output(0).get_tensor().set_names({ROWS})
            chosen = ops.gather(node.input_value(0), rows, ops.constant(np.int64(0)))
            node.input(0).replace_source_output(chosen.output(0))
            model.add_parameters([rows])
            model.validate_nodes_and_infer_types()
            return
        node = node.input_value(0).get_node()
    raise BadModel(about="logits", expected="a matrix product, and little after it")


def _text(file: MemoryFile) -> str:
    if file.size == 0:
        raise BadModel(about=file.name, got="an empty file")
    try:
        with content_of(file) as data:
            return bytes(data[:]).decode()
    except UnicodeDecodeError as cause:
        raise BadModel(about=file.name, got=cause) from cause


class _Mapped:
    """A file of weights as uint8[size]; what is kept of it can outlive the file's pages."""

    def __init__(self, file: MemoryFile) -> None:
        """Raises BadModel for an empty file."""
        if file.size == 0:
            raise BadModel(about=file.name, got="an empty file")
        flags, access = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        self._map = file.buffer or mmap.mmap(file.fd, file.size, flags=flags, prot=access)
        self.data = np.frombuffer(self._map, np.uint8)
        self._spans: list[tuple[int, int]] = []

    def keep(self, spans: Sequence[tuple[int, int]]) -> None:
        """These bytes, from and to, are still read after `let_go`."""
        for start, end in sorted(spans):
            first, last = start // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
            if self._spans and first <= self._spans[-1][1]:
                first, last = self._spans[-1][0], max(last, self._spans[-1][1])
                self._spans.pop()
            self._spans.append((first, last))

    def let_go(self) -> None:
        """Put what is kept into memory of this process, at the same addresses. Nobody may read now.

        The file's pages can then be given back by whoever owns it. Raises BadModel.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        base = self.data.ctypes.data
        access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        for first, last in self._spans:
            start = first * mmap.PAGESIZE
            size = min(last * mmap.PAGESIZE, len(self.data)) - start
            bytes_ = bytes(self.data[start : start + size])
            at = ctypes.c_void_p(base + start)
            got = libc.mmap(
                at, ctypes.c_size_t(size), access, flags | _MAP_FIXED, -1, ctypes.c_long(0)
            )
            if got != base + start:
                raise BadModel(about="memory", got=os.strerror(ctypes.get_errno()))
            self.data[start : start + size] = np.frombuffer(bytes_, np.uint8)
