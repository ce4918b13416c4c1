"""vLLM's plugin: weights and configuration out of memory, by the formats of the name `leasehold`.

Spec: docs/spec/engines.md, W-23. vLLM imports this in each of its processes (`vllm.general_plugins`). What it
passes on to them is numbers of inherited descriptors: no key, no path, no byte of a model. Interface: vLLM
0.33, as tests/worker/vllm_interface.json records it.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.transformers_utils.config import register_config_parser
from vllm.transformers_utils.config_parser_base import ConfigParserBase

from leasehold.core.frames import MemoryFile
from leasehold.core.units import MIB
from leasehold.errors import BadModel
from leasehold.worker import shards
from leasehold.worker.shards import Stored

FORMAT: Final = "leasehold"
FILES: Final = "files"
COPY_BYTES_MAX: Final = (
    256 * MIB
)  # to a device at once; each copy through a bounce buffer costs its start
_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CONFIGURATIONS: Final[
    dict[str, Any]
] = {}  # of this process, by the name that the engine gave its model


def described(files: Sequence[MemoryFile]) -> dict[str, Any]:
    """What `model_loader_extra_config` is to be: of each file its name, size and descriptor."""
    return {FILES: [[file.name, file.size, file.fd] for file in files]}


def offer(model: str, configuration: Any) -> None:
    """Keep a configuration of `transformers` for the parser, by the model's name."""
    _CONFIGURATIONS[model] = configuration


class LeaseholdLoader(BaseModelLoader):  # type: ignore[misc]  # of a package that is not here
    """Weights from safetensors in memory files, in few large copies."""

    def __init__(self, load_config: Any) -> None:
        """Raises BadModel where the extra configuration names no files."""
        super().__init__(load_config)
        said = load_config.model_loader_extra_config
        try:
            self._files = [
                MemoryFile(str(name), int(size), int(fd)) for name, size, fd in said[FILES]
            ]
        except (TypeError, KeyError, ValueError) as cause:
            raise BadModel(about="model_loader_extra_config", got=cause) from cause

    def download_model(self, model_config: Any) -> None:
        """There is nothing to download."""

    def load_weights(self, model: Any, model_config: Any) -> None:  # noqa: ARG002
        """Give each tensor to the model, which takes what its rank needs. Raises BadModel."""
        wanted = {name for name, _ in model.named_parameters()}
        device = next(model.parameters()).device
        taken = model.load_weights(tensors(shards.read(self._files), device))
        if taken is not None and (missing := sorted(wanted - set(taken))):
            raise BadModel(about="tensors", got=f"nothing for {missing[0]}", expected="all of them")


class LeaseholdConfigParser(ConfigParserBase):  # type: ignore[misc]  # likewise
    """The configuration that the engine read from a memory file: there is no folder to read it from."""

    def parse(
        self,
        model: Any,
        trust_remote_code: bool,
        revision: str | None = None,  # noqa: ARG002
        code_revision: str | None = None,  # noqa: ARG002
        **_: Any,
    ) -> tuple[dict[str, Any], Any]:
        """Raises BadModel for a model that was not offered, or with code from elsewhere."""
        if trust_remote_code or str(model) not in _CONFIGURATIONS:
            raise BadModel(about="model", got=model, expected="one that was offered, without code")
        found = _CONFIGURATIONS[str(model)]
        return found.to_dict(), found


def register() -> None:
    """Called by vLLM in every process, maybe more than once."""
    register_model_loader(FORMAT)(LeaseholdLoader)
    register_config_parser(FORMAT)(LeaseholdConfigParser)


def tensors(stored: Mapping[str, Stored], device: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor by name, on the device; those of one run came there by one copy."""
    places = sorted(stored.items(), key=lambda item: (item[1].file.name, item[1].start))
    maps: dict[str, mmap.mmap] = {}
    for run in runs(places):
        file = run[0][1].file
        if file.name not in maps:
            maps[file.name] = mmap.mmap(file.fd, file.size, prot=mmap.PROT_READ)
        first, last = run[0][1], run[-1][1]
        size = last.start + last.size - first.start
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read only: that is what is wanted
            span = torch.frombuffer(
                maps[file.name], dtype=torch.uint8, count=size, offset=first.start
            ).to(device)
        for name, one in run:
            begin = one.start - first.start
            yield name, span[begin : begin + one.size].view(_DTYPES[one.dtype]).view(one.shape)


def runs(places: Sequence[tuple[str, Stored]]) -> Iterator[list[tuple[str, Stored]]]:
    """Neighbours in one file and of one dtype: at most 256 MiB together, or one that is larger alone."""
    run: list[tuple[str, Stored]] = []
    for name, one in places:
        if run and not _goes_with(run[0][1], one):
            yield run
            run = []
        run.append((name, one))
    if run:
        yield run


def _goes_with(first: Stored, one: Stored) -> bool:
    same = (one.file.name, one.dtype) == (first.file.name, first.dtype)
    return same and one.start + one.size - first.start <= COPY_BYTES_MAX
