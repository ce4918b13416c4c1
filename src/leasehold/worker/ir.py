"""Reads a graph in OpenVINO's format without opening a file: its constants become views of the weights.

OpenVINO's own reader looks for its libraries in a folder each time, and the sandbox has no folders. The
reader that was opened before takes a graph alone; so constants are read here. Hostile until it compiles.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from leasehold.errors import BadModel
from leasehold.worker.vino import ops, ov

LARGE_BYTES: Final = 1 << 16  # constants below stay where they are read
CONSTANTS_MAX: Final = 1 << 16  # a model of 100 layers has about 7,000
_CONSTANT: Final = re.compile(
    r'<layer id="(\d+)" name="([^"]*)" type="Const" version="opset1">\s*'
    r'<data element_type="(\w+)" shape="([\d, ]*)" offset="(\d+)" size="(\d+)"\s*/>'
)
_STATE: Final = re.compile(r'(<data variable_id="([^"]*)"[^>]*variable_shape=")([^"]*)"')
_INPUT: Final = "leasehold_constant_"
_UNPACKING: Final = frozenset({"Convert", "Subtract", "Multiply", "Reshape", "Transpose"})
_BITS: Final = {
    **{"boolean": 8, "u8": 8, "i8": 8, "f8e4m3": 8, "f8e5m2": 8, "u4": 4, "i4": 4, "nf4": 4},
    **{"f16": 16, "bf16": 16, "u16": 16, "i16": 16, "f32": 32, "u32": 32, "i32": 32},
    **{"f64": 64, "u64": 64, "i64": 64},
}


@dataclass(frozen=True, slots=True)
class _Constant:
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


def read(reader: Any, graph: str, weights: npt.NDArray[np.uint8]) -> ov.Model:
    """The model, whose constants are views of `weights`. Raises BadModel, RuntimeError."""
    found: list[_Constant] = []

    def put_input(match: re.Match[str]) -> str:
        shape = tuple(int(size) for size in match[4].split(",") if size.strip())
        constant = _Constant(match[3], shape, int(match[5]), int(match[6]))
        _check(constant, len(weights))
        found.append(constant)
        return (
            f'<layer id="{match[1]}" name="{_INPUT}{len(found) - 1}" type="Parameter" version="opset1">'
            f'<data shape="{match[4]}" element_type="{match[3]}"/>'
        )

    text = _STATE.sub(
        r'\1..."', _CONSTANT.sub(put_input, graph)
    )  # its shape follows from constants
    if len(found) > CONSTANTS_MAX:
        raise BadModel(about="constants", got=len(found), expected=f"<= {CONSTANTS_MAX}")
    model = reader.convert(reader.load(io.BytesIO(text.encode())))
    for input_ in list(model.get_parameters()):
        name = input_.get_friendly_name()
        if name.startswith(_INPUT):
            constant = found[int(name.removeprefix(_INPUT))]
            input_.output(0).replace(_made(constant, weights).output(0))
            model.remove_parameter(input_)
    shapes = {match[2]: match[3] for match in _STATE.finditer(graph)}
    for variable in model.get_variables():
        told = variable.get_info()
        told.data_shape = ov.PartialShape(f"[{shapes[told.variable_id]}]")
        variable.update(told)
    model.validate_nodes_and_infer_types()
    return model


def kept(model: ov.Model, weights: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Where in the file is what OpenVINO goes on reading there: all but large matrices to multiply with."""
    base, spans = weights.ctypes.data, []
    for node in model.get_ops():
        if node.get_type_name() != "Constant":
            continue
        at, size = node.data.ctypes.data - base, node.get_byte_size()
        inside = 0 <= at < len(weights)
        if inside and (size < LARGE_BYTES or not _is_only_multiplied(node)):
            spans.append((at, at + size))
    return spans


def _check(constant: _Constant, size: int) -> None:
    bits = _BITS.get(constant.kind)
    if bits is None:
        raise BadModel(about="type of a constant", got=constant.kind, expected=sorted(_BITS))
    if constant.size != -(-prod(constant.shape) * bits // 8):
        raise BadModel(about="constant", got=f"{constant.size} bytes", expected=constant.shape)
    if constant.start + constant.size > size:
        raise BadModel(about="weights", got=size, expected=f">= {constant.start + constant.size}")


def _made(constant: _Constant, weights: npt.NDArray[np.uint8]) -> ov.Node:
    view = weights[constant.start : constant.start + constant.size]
    kind, shape = getattr(ov.Type, constant.kind), ov.Shape(constant.shape)
    return ops.constant(ov.Tensor(view, shape, kind), shared_memory=True)


def _is_only_multiplied(node: ov.Node) -> bool:
    """Does all of it end in matrix products, by steps that unpack it?"""
    users = [one.get_node() for output in node.outputs() for one in output.get_target_inputs()]
    return all(
        user.get_type_name() == "MatMul"
        or (user.get_type_name() in _UNPACKING and _is_only_multiplied(user))
        for user in users
    )
