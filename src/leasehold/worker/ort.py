"""The one door to onnxruntime: its uploader is off before the import, and models come from memory.

Spec: docs/spec/worker.md, W-13.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

os.putenv("ORT_DISABLE_TELEMETRY", "1")  # before the import: it uploads usage by default

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort

from leasehold.core.frames import MemoryFile, Settings
from leasehold.errors import BadModel
from leasehold.worker.engine import content_of

OrtValue = onnxruntime.OrtValue
RunOptions = onnxruntime.RunOptions
ERRORS: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ValueError,
    *(
        error
        for error in vars(_ort).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)  # its own exceptions have no common root


def open_session(model: MemoryFile, weights: Sequence[MemoryFile], settings: Settings) -> Any:
    """A session on processors; `weights` are the files that the model may name as external data.

    A name that is not among them is looked for nowhere else: the worker can open no file by a path.
    Raises BadModel.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 4  # fatal only: its log goes nowhere
    maps = [content_of(file) for file in weights if file.size]
    if maps:
        names = [file.name for file in weights if file.size]
        options.add_external_initializers_from_files_in_memory(names, maps, [len(m) for m in maps])
    try:
        return onnxruntime.InferenceSession(
            bytes_of(model), options, providers=["CPUExecutionProvider"]
        )
    except ERRORS as cause:
        raise BadModel(about=model.name, got=cause) from cause


def bytes_of(file: MemoryFile) -> bytes:
    """All of a file. Raises BadModel for an empty one."""
    if file.size == 0:
        raise BadModel(about=file.name, got="an empty file")
    with content_of(file) as data:
        return bytes(data[:])
