"""Any ONNX model as a function from tensors to tensors.

Spec: docs/spec/worker.md, W-15; docs/spec/inference.md. Refuses to know what the tensors mean.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np

from leasehold.core import frames
from leasehold.core.tensors import (
    LENGTH_BYTES,
    TENSOR_BYTES_MAX,
    DataType,
    Port,
    Tensor,
    join,
    split,
)
from leasehold.errors import AnswerTooLarge, BadModel, BadRequest, WorkerFailed
from leasehold.worker import ort

ASK_SECONDS: Final = 0.02  # between two questions whether to go on, while a graph runs
_BFLOAT16: Final = 16  # TensorProto.DataType of ONNX
_TYPES: Final = {
    f"tensor({name})": kind
    for name, kind in zip(
        (
            *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
            *("float16", "float", "double", "bfloat16", "string"),
        ),
        DataType,
        strict=True,
    )
}
_NUMPY: Final = {
    kind: np.dtype(letter).newbyteorder("<")
    for kind, letter in zip(DataType, "?BHIQbhiqefdH", strict=False)
}


class Graph:
    """The inputs and outputs of a session, and calls of it."""

    def __init__(self, session: Any) -> None:
        """Raises BadModel for inputs that are no tensors, and where no output is one."""
        self._session = session
        self.inputs = [_port(value) for value in session.get_inputs()]
        self._has_text = any(port.datatype is DataType.BYTES for port in self.inputs)
        self.outputs = [
            _port(value) for value in session.get_outputs() if self._can_give(value.type)
        ]
        if not self.outputs:
            raise BadModel(about="outputs of the model", expected="a tensor")

    def infer(self, request: frames.Infer, go_on: Callable[[], bool]) -> frames.Inferred:
        """The outputs that were asked for. Stopped in the middle where `go_on` says no.

        Raises BadRequest, AnswerTooLarge, WorkerFailed.
        """
        feed = {tensor.name: _value(tensor) for tensor in request.inputs}
        names = list(request.outputs)
        try:
            with _watched(go_on) as options:
                if self._has_text:  # the package makes no OrtValue of text
                    found = self._session.run(names, feed, options)
                else:
                    found = self._session.run_with_ort_values(names, feed, options)
        except ort.ERRORS as cause:
            raise (BadRequest if go_on() else WorkerFailed)(about="inputs", got=cause) from cause
        kinds = {port.name: port.datatype for port in self.outputs}
        tensors, size = [], 0
        for name, value in zip(names, found, strict=True):
            room = request.bytes_max - size
            tensors.append(_tensor(name, kinds[name], value, room))
            size += len(tensors[-1].data)
        return frames.Inferred(request.id, tuple(tensors))

    def _can_give(self, kind: str) -> bool:
        """Sequences and maps are no tensors; and beside text, bfloat16 is nothing numpy knows."""
        return kind in _TYPES and not (self._has_text and _TYPES[kind] is DataType.BF16)


@contextmanager
def _watched(go_on: Callable[[], bool]) -> Iterator[Any]:
    """Options of a run that ends early where `go_on` says no."""
    options, done = ort.RunOptions(), threading.Event()

    def watch() -> None:
        while not done.wait(ASK_SECONDS):
            if not go_on():
                options.terminate = True
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield options
    finally:
        done.set()


def _port(value: Any) -> Port:
    if value.type not in _TYPES:
        raise BadModel(about=value.name, got=value.type, expected=sorted(_TYPES))
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in value.shape]
    try:
        return msgspec.convert([value.name, _TYPES[value.type].value, shape], Port)
    except msgspec.ValidationError as cause:
        raise BadModel(about=value.name, got=cause) from cause


def _value(tensor: Tensor) -> Any:
    if tensor.datatype is DataType.BYTES:
        elements = split(tensor.data) or []
        try:
            words = [element.decode() for element in elements]
        except UnicodeDecodeError as cause:
            raise BadRequest(about=tensor.name, expected="UTF-8") from cause
        return np.array(words, object).reshape(tensor.shape)
    array = np.frombuffer(tensor.data, _NUMPY[tensor.datatype]).reshape(tensor.shape)
    if tensor.datatype is DataType.BF16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _tensor(name: str, kind: DataType, value: Any, room: int) -> Tensor:
    """The output as bytes, of which there is `room` for so many. Raises AnswerTooLarge."""
    room = min(room, TENSOR_BYTES_MAX)
    if kind is DataType.BYTES:
        array = value if isinstance(value, np.ndarray) else value.numpy()
        _check_room(LENGTH_BYTES * array.size, room)
        data = join([str(one).encode() for one in array.ravel()])
        shape: Sequence[int] = array.shape
    elif isinstance(value, np.ndarray):
        _check_room(value.nbytes, room)
        data, shape = np.ascontiguousarray(value, _NUMPY[kind]).tobytes(), value.shape
    else:
        size, shape = value.tensor_size_in_bytes(), value.shape()
        _check_room(size, room)
        data = ctypes.string_at(value.data_ptr(), size) if size else b""
    _check_room(len(data), room)
    return Tensor(name, kind, tuple(shape), data)


def _check_room(size: int, room: int) -> None:
    if size > room:
        raise AnswerTooLarge(about="bytes of outputs", got=size, expected=f"<= {room}")
