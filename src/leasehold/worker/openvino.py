"""Language models in OpenVINO's format, in one batch for all requests.

Spec: docs/spec/engines.md, W-21 and W-22. A folder as optimum-intel writes it: openvino_model.xml and
.bin, tokenizer.json, and its configuration. Needs no path: all of it is read from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from msgspec.structs import replace

from leasehold.core import frames
from leasehold.core.frames import Done, Embedded, Loaded, MemoryFile, Settings
from leasehold.errors import BadModel, UnsupportedParameter
from leasehold.worker import recipe
from leasehold.worker.batch import Batch
from leasehold.worker.engine import Emit
from leasehold.worker.paged import PagedModel
from leasehold.worker.vino import Runtime
from leasehold.worker.words import Words

GRAPH, WEIGHTS = "openvino_model.xml", "openvino_model.bin"


class OpenVinoEngine:
    """One model; all requests under way share each step, whatever their lengths."""

    # The files, and matrices as OpenVINO packs them: for many tokens at a time and, where they are narrow
    # and the processor has no AVX-512, again for a few.
    load_peak_ratio: ClassVar[float] = 3.1
    needs_process: ClassVar[str] = ""

    def __init__(self) -> None:
        """An engine with nothing loaded; its libraries are open from here on."""
        self._runtime = Runtime()
        self._parts: tuple[Words, Batch] | None = None

    def load(self, files: Sequence[MemoryFile], settings: Settings) -> Loaded:
        """Read the folder. Raises BadModel."""
        named = {file.name: file for file in files}
        if missing := {GRAPH, WEIGHTS} - set(named):
            raise BadModel(about="files", got=sorted(named), expected=sorted(missing))
        words = Words(recipe.read(named), named, settings, constrains=True)
        limits = replace(settings, context_tokens=words.context)
        model = PagedModel(self._runtime, named[GRAPH], named[WEIGHTS], limits)
        words.check_vocabulary(model.vocabulary)
        self._parts = words, Batch(model, settings.slots)
        return words.loaded(has_copied=True)

    def count(self, what: frames.Input) -> int:
        """Tokens of the prompt. Raises UnsupportedParameter for texts to embed."""
        return len(self._loaded()[0].ids(what))

    def generate(self, request: frames.Generate, emit: Emit) -> Done:
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
