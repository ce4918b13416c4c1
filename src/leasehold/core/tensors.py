"""Tensors as they cross every wire: little-endian, row-major, with the element types of KServe v2.

Spec: docs/spec/inference.md, I-2. Source: Open Inference Protocol, tensor data types and binary
tensor data extension, read 2026-11. Refuses to know models and who asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from leasehold.core.units import KIB, MIB
from leasehold.errors import LeaseholdError

TENSORS_MAX: Final = 32
DIMENSIONS_MAX: Final = 16
NAME_CHARS_MAX: Final = 128
TENSOR_BYTES_MAX: Final = 8 * MIB - 64 * KIB  # of all tensors of one frame; the rest are names
ROW_BYTES: Final = 64 * KIB  # of output that one paid row carries (I-5)
LENGTH_BYTES: Final = 4  # before each element of BYTES

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]


class DataType(StrEnum):
    """Element types, by the protocol's names."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"


FORMATS: Final = dict(zip(DataType, "?BHIQbhiqefdH", strict=False))
"""The `struct` letter of each type; BF16 is given as its 16 bits, and BYTES has none."""
ITEM_BYTES: Final = dict(zip(DataType, (1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 2), strict=False))


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array of its fields in order."""


class Port(_Record, frozen=True):
    """An input or output that a model declares; a dimension of -1 may be of any size."""

    name: Name
    datatype: DataType
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=-1, lt=1 << 32)], ...], Meta(max_length=DIMENSIONS_MAX)
    ]


class Tensor(_Record, frozen=True):
    """A named array. `data` are its elements, those of BYTES each after its u32 length."""

    name: Name
    datatype: DataType
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, lt=1 << 32)], ...], Meta(max_length=DIMENSIONS_MAX)
    ]
    data: bytes


def check_tensor(tensor: Tensor, port: Port, blame: Callable[..., LeaseholdError]) -> None:
    """I-2: raise `blame` unless the tensor is of the port's type and shape, and has all its data."""
    if tensor.datatype is not port.datatype:
        got, expected = tensor.datatype, port.datatype
        raise blame(about=f"datatype of {port.name}", got=got, expected=expected)
    fits = len(tensor.shape) == len(port.shape) and all(
        wanted in (-1, size) for size, wanted in zip(tensor.shape, port.shape, strict=True)
    )
    if not fits:
        raise blame(about=f"shape of {port.name}", got=tensor.shape, expected=port.shape)
    size, elements = math.prod(tensor.shape), count(tensor.datatype, tensor.data)
    if elements != size:
        raise blame(about=f"elements of {port.name}", got=elements, expected=size)


def count(datatype: DataType, data: bytes) -> int:
    """Elements in the data, or -1 where it does not end with one."""
    if datatype is DataType.BYTES:
        found = split(data)
        return -1 if found is None else len(found)
    number, rest = divmod(len(data), ITEM_BYTES[datatype])
    return -1 if rest else number


def split(data: bytes) -> list[bytes] | None:
    """The elements of a BYTES tensor, or None where the data does not end with one."""
    found, start = [], 0
    while start < len(data):
        begin = start + LENGTH_BYTES
        end = begin + int.from_bytes(data[start:begin], "little")
        if begin > len(data) or end > len(data):
            return None
        found.append(data[begin:end])
        start = end
    return found


def join(elements: list[bytes]) -> bytes:
    """The data of a BYTES tensor."""
    return b"".join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in elements)
