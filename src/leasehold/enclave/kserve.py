"""KServe v2's wire shapes: what is read, what is refused by name, and how answers look. Pure.

Spec: docs/spec/inference.md. Source: Open Inference Protocol (REST) and its binary tensor data
extension, read 2026-11. Refuses to know budgets and engines.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from leasehold.core import tensors
from leasehold.core.encoding import to_json
from leasehold.core.frames import Capability, Inferred, Loaded
from leasehold.core.tensors import DataType, Name, Port, Tensor
from leasehold.enclave.openai import decode
from leasehold.errors import BadRequest, LeaseholdError, UnsupportedParameter

VERSION: Final = "1"
EXTENSIONS: Final = ("binary_tensor_data",)
ROWS_MAX: Final = tensors.TENSOR_BYTES_MAX // tensors.ROW_BYTES
JSON_BYTES: Final = b"inference-header-content-length"
_INTEGERS: Final = frozenset("BHIQbhiq")

Parameters = dict[str, bool | int | str | float]
Size = Annotated[int, Meta(ge=0, lt=1 << 32)]


class InputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input: its elements in `data`, or after the JSON in `parameters.binary_data_size` bytes."""

    name: Name
    shape: Annotated[list[Size], Meta(max_length=tensors.DIMENSIONS_MAX)]
    datatype: DataType
    data: list[Any] | None = None
    parameters: Parameters = {}


class OutputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output that is wanted, as bytes after the JSON where `parameters.binary_data` says so."""

    name: Name
    parameters: Parameters = {}


class InferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v2/models/NAME/infer`. Parameters: `binary_data_output` and `leasehold_rows`."""

    inputs: Annotated[list[InputTensor], Meta(max_length=tensors.TENSORS_MAX)]
    outputs: Annotated[list[OutputTensor], Meta(max_length=tensors.TENSORS_MAX)] = []
    id: Annotated[str, Meta(max_length=256)] | None = None
    parameters: Parameters = {}


@dataclass(frozen=True, slots=True)
class Inference:
    """A validated request for tensors. `rows` are charged; each carries ROW_BYTES of output (I-5)."""

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    binary: frozenset[str]
    rows: int

    @property
    def bytes_max(self) -> int:
        """Bytes that the outputs may have together."""
        return min(self.rows * tensors.ROW_BYTES, tensors.TENSOR_BYTES_MAX)


def parse(body: bytes, json_bytes: str | None, loaded: Loaded) -> Inference:
    """I-4: the request held against what the model declares. `json_bytes` is the header.

    Raises BadRequest or UnsupportedParameter, which name the field.
    """
    if Capability.INFER not in loaded.capabilities:
        raise UnsupportedParameter(about="tensors", got=", ".join(loaded.capabilities))
    size = len(body) if json_bytes is None else _length(json_bytes, len(body))
    request: InferRequest = decode(body[:size], InferRequest)
    _only(request.parameters, "binary_data_output", "leasehold_rows")
    inputs = tuple(_inputs(request.inputs, memoryview(body)[size:]))
    ports = {port.name: port for port in loaded.inputs}
    if sorted(given := [one.name for one in inputs]) != sorted(ports):
        raise BadRequest(about="inputs", got=given, expected=list(ports))
    for tensor in inputs:
        tensors.check_tensor(tensor, ports[tensor.name], BadRequest)
    declared = {port.name: port for port in loaded.outputs}
    names = tuple(output.name for output in request.outputs) or tuple(declared)
    if not set(names) <= set(declared) or len(set(names)) < len(names):
        raise BadRequest(about="outputs", got=names, expected=list(declared))
    for output in request.outputs:
        _only(output.parameters, "binary_data")
    always = request.parameters.get("binary_data_output", False)
    asked = {one.name: one.parameters.get("binary_data", always) for one in request.outputs}
    binary = frozenset(name for name in names if asked.get(name, always) is True)
    for name in names:
        if declared[name].datatype is DataType.BF16 and name not in binary:
            raise UnsupportedParameter(about=f"{name}: BF16 in JSON", expected="binary_data")
    batch = max((one.shape[0] for one in inputs if ports[one.name].shape[:1] == (-1,)), default=1)
    rows = _rows(batch, [declared[name] for name in names], request.parameters)
    return Inference(request.id, inputs, names, binary, rows)


def _rows(batch: int, outputs: Sequence[Port], parameters: Parameters) -> int:
    """I-5: the batch, or as many as its outputs need, or as many as were asked for."""
    asked = parameters.get("leasehold_rows", 1)
    if not isinstance(asked, int) or not 1 <= asked <= ROWS_MAX:
        raise BadRequest(about="leasehold_rows", got=asked, expected=f"1 to {ROWS_MAX}")
    size = 0
    for port in outputs:
        shape = [batch if at == 0 and n < 0 else n for at, n in enumerate(port.shape)]
        if min(shape, default=1) >= 0:  # else only the model knows
            size += math.prod(shape) * tensors.ITEM_BYTES.get(port.datatype, tensors.LENGTH_BYTES)
    if size > ROWS_MAX * tensors.ROW_BYTES:
        raise BadRequest(
            about="bytes of outputs", got=size, expected=f"<= {ROWS_MAX * tensors.ROW_BYTES}"
        )
    return max(1, batch, asked, -(-size // tensors.ROW_BYTES))


def _inputs(given: Sequence[InputTensor], binary: memoryview) -> Iterator[Tensor]:
    """I-3: the inputs in order, those in binary cut from what follows the JSON."""
    total = 0
    for one in given:
        _only(one.parameters, "binary_data_size")
        size = one.parameters.get("binary_data_size")
        if (size is None) == (one.data is None):
            raise BadRequest(about=one.name, expected="either data or binary_data_size")
        if size is None:
            data = _packed(one)
        elif not isinstance(size, int) or not 0 <= size <= len(binary):
            raise BadRequest(about="binary_data_size", got=size, expected=f"<= {len(binary)}")
        else:
            data, binary = bytes(binary[:size]), binary[size:]
        total += len(data)
        if total > tensors.TENSOR_BYTES_MAX:
            raise BadRequest(
                about="bytes of inputs", got=total, expected=f"<= {tensors.TENSOR_BYTES_MAX}"
            )
        yield Tensor(one.name, one.datatype, tuple(one.shape), data)
    if binary:
        raise BadRequest(about="binary data", got=f"{len(binary)} bytes more", expected="none")


def _packed(one: InputTensor) -> bytes:
    """The elements of a JSON array, flat or nested, as bytes. Raises BadRequest."""
    flat = _flat(one.data or [])
    letter = tensors.FORMATS.get(one.datatype)
    try:
        if letter is None:
            return tensors.join([text.encode() for text in msgspec.convert(flat, list[str])])
        if one.datatype is DataType.BF16:
            raise UnsupportedParameter(about="BF16 in JSON")
        kind: Any = bool if letter == "?" else int if letter in _INTEGERS else float
        return struct.pack(f"<{len(flat)}{letter}", *msgspec.convert(flat, list[kind]))
    except (msgspec.ValidationError, struct.error, OverflowError, UnicodeEncodeError) as cause:
        raise BadRequest(about=one.name, got=cause, expected=one.datatype) from cause


def _flat(items: list[Any]) -> list[Any]:
    """Nested lists as one; where some are lists and some are not, the conversion refuses them."""
    for _ in range(tensors.DIMENSIONS_MAX):
        if set(map(type, items)) != {list}:
            break
        items = list(chain.from_iterable(items))
    return items


def answer(wanted: Inference, found: Inferred, model: str) -> tuple[bytes, int | None]:
    """The body, and how many bytes of it are JSON where more follows."""
    outputs, tail = [], []
    for tensor in found.outputs:
        row: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape}
        row["datatype"] = tensor.datatype
        if tensor.name in wanted.binary:
            row["parameters"] = {"binary_data_size": len(tensor.data)}
            tail.append(tensor.data)
        else:
            row["data"] = _listed(tensor)
        outputs.append(row)
    head: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": outputs}
    if wanted.id is not None:
        head["id"] = wanted.id
    body = to_json(head)
    return body + b"".join(tail), len(body) if tail else None


def _listed(tensor: Tensor) -> Sequence[Any]:
    letter = tensors.FORMATS.get(tensor.datatype)
    if letter is None:
        return [element.decode(errors="replace") for element in tensors.split(tensor.data) or ()]
    return struct.unpack(
        f"<{len(tensor.data) // tensors.ITEM_BYTES[tensor.datatype]}{letter}", tensor.data
    )


def metadata(model: str, engine: str, loaded: Loaded) -> bytes:
    """`GET /v2/models/NAME`: what the model takes and gives."""
    inputs, outputs = (
        [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in ports]
        for ports in (loaded.inputs, loaded.outputs)
    )
    about = {"name": model, "versions": [VERSION], "platform": f"leasehold_{engine}"}
    return to_json(about | {"inputs": inputs, "outputs": outputs})


def error_body(error: LeaseholdError) -> bytes:
    """I-6: a refusal in the protocol's shape, with our code in it."""
    return to_json({"error": error.message, "leasehold_code": error.code})


def _length(header: str, size: int) -> int:
    if not header.isdecimal() or int(header) > size:
        raise BadRequest(about=JSON_BYTES.decode(), got=header, expected=f"<= {size}")
    return int(header)


def _only(parameters: Parameters, *known: str) -> None:
    for name in parameters:
        if name not in known:
            raise UnsupportedParameter(about=name, expected=known)
