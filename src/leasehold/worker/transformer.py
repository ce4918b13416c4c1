"""Language models as folders of safetensors, by torch and the networks of `transformers`.

Spec: docs/spec/engines.md, W-17 to W-19. For models that no GGUF exists of, and for machines where
torch is measured in anyway; on processors llama.cpp is faster and smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from leasehold.core import frames
from leasehold.core.frames import Done, Embedded, Generate, Loaded, MemoryFile, Settings
from leasehold.errors import UnsupportedParameter
from leasehold.worker import pytorch, recipe, shards
from leasehold.worker.batch import Batch
from leasehold.worker.engine import Emit
from leasehold.worker.words import Words


class TransformersEngine:
    """One model; `slots` requests share each pass through the network."""

    load_peak_ratio: ClassVar[float] = (
        1.05  # the files are mapped; norms of another dtype are copied
    )
    needs_process: ClassVar[str] = ""

    def __init__(self) -> None:
        """An engine with nothing loaded."""
        self._parts: tuple[Words, Batch] | None = None

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read config.json, tokenizer.json and the safetensors files. Raises BadModel."""
        named = {file.name: file for file in files}
        found = recipe.read(named)
        words = Words(found, named, settings, constrains=True)
        network = pytorch.open_network(
            found,
            shards.read(files),
            slots=settings.slots,
            context=words.context,
            threads=settings.threads,
        )
        self._parts = words, Batch(network, settings.slots)
        return words.loaded()

    def count(self, what: frames.Input) -> int:
        """Tokens after the template. Raises UnsupportedParameter for texts to embed."""
        return len(self._loaded()[0].ids(what))

    def generate(self, request: Generate, emit: Emit) -> Done:
        """Continue the prompt; see `Engine.generate`."""
        words, batch = self._loaded()
        return batch.answer(words, request, emit)

    def embed(self, request: frames.Embed, go_on: Callable[[], bool]) -> Embedded:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="embeddings")

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:  # noqa: ARG002
        """Raises UnsupportedParameter: see the ONNX engine."""
        raise UnsupportedParameter(about="tensors")

    def _loaded(self) -> tuple[Words, Batch]:
        assert self._parts is not None  # noqa: S101  (set by load)
        return self._parts
