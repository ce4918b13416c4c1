"""Builds BERT with mean pooling as an ONNX graph, by hand; a function of the weights alone.

Every operator is a standard one of opset 17. Source of the computation: "BERT" (Devlin et al. 2018)
with post-norm layers and exact GELU, and Sentence-BERT's masked mean pooling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 17
IR_VERSION: Final = 8  # of opset 17's time, so that older runtimes load it too
MASKED: Final = float(np.finfo(np.float32).min)  # added to the scores of padding
COUNT_MIN: Final = 1e-9  # an empty mask must not divide by nothing
NORM_MIN: Final = 1e-12

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes of a BERT encoder."""

    width: int
    layers: int
    heads: int
    norm_epsilon: float


class Builder:
    """Collects nodes and constants, and gives every value a name of its own."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator with one output; returns that output's name."""
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add a constant, once for all uses of its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, value: float) -> str:
        """Add a float32 scalar."""
        return self.constant(f"scalar_{value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Add an int64 vector, for axes and shapes."""
        name = "integers_" + "_".join(map(str, values))
        return self.constant(name, np.array(values, np.int64))

    def weight(self, name: str) -> str:
        """Add a tensor of the checkpoint as it is."""
        return self.constant(name, self.weights[name])

    def linear(self, x: str, name: str) -> str:
        """Multiply x[..., in] by weight[out, in] and add the bias."""
        matrix = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.node("Add", self.node("MatMul", x, matrix), self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str, epsilon: float, output: str = "") -> str:
        """Layer-normalise the last axis."""
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node(
            "LayerNormalization", x, scale, bias, output=output, axis=-1, epsilon=epsilon
        )

    def gelu(self, x: str) -> str:
        """Apply the exact GELU: x * (1 + erf(x / sqrt 2)) / 2."""
        erf = self.node("Erf", self.node("Div", x, self.scalar(2**0.5)))
        return self.node(
            "Mul", self.node("Mul", x, self.scalar(0.5)), self.node("Add", erf, self.scalar(1.0))
        )


def embed(b: Builder, shape: BertShape) -> str:
    """Sum word, position and type embeddings; returns float32[batch, sequence, width]."""
    words = b.node("Gather", b.weight("embeddings.word_embeddings.weight"), "input_ids")
    types = b.node("Gather", b.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    length = b.node("Gather", b.node("Shape", "input_ids"), b.integers(1), axis=0)
    positions = b.node(
        "Slice",
        b.weight("embeddings.position_embeddings.weight"),
        b.integers(0),
        length,
        b.integers(0),
    )
    total = b.node("Add", b.node("Add", words, types), positions)
    return b.norm(total, "embeddings.LayerNorm", shape.norm_epsilon)


def attend(b: Builder, x: str, layer: str, bias: str, shape: BertShape) -> str:
    """Attend from x[batch, sequence, width] to itself; `bias` hides the padding."""

    def heads(which: str, axes: list[int]) -> str:
        split = b.integers(0, 0, shape.heads, shape.width // shape.heads)
        whole = b.linear(x, f"{layer}.attention.self.{which}")
        return b.node("Transpose", b.node("Reshape", whole, split), perm=axes)

    query, key = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1])
    scale = b.scalar((shape.width // shape.heads) ** -0.5)
    scores = b.node("Add", b.node("Mul", b.node("MatMul", query, key), scale), bias)
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), heads("value", [0, 2, 1, 3]))
    joined = b.node("Transpose", mixed, perm=[0, 2, 1, 3])
    return b.node("Reshape", joined, b.integers(0, 0, shape.width))


def encode(b: Builder, x: str, layer: str, bias: str, shape: BertShape, output: str) -> str:
    """Run one encoder layer over x[batch, sequence, width]."""
    mixed = b.linear(attend(b, x, layer, bias, shape), f"{layer}.attention.output.dense")
    x = b.norm(b.node("Add", mixed, x), f"{layer}.attention.output.LayerNorm", shape.norm_epsilon)
    hidden = b.gelu(b.linear(x, f"{layer}.intermediate.dense"))
    added = b.node("Add", b.linear(hidden, f"{layer}.output.dense"), x)
    return b.norm(added, f"{layer}.output.LayerNorm", shape.norm_epsilon, output)


def pool(b: Builder, x: str, mask: str) -> None:
    """Average x over the unmasked positions and scale the result to length 1."""
    column = b.node("Unsqueeze", mask, b.integers(2))
    total = b.node("ReduceSum", b.node("Mul", x, column), b.integers(1), keepdims=0)
    count = b.node("ReduceSum", column, b.integers(1), keepdims=0)
    mean = b.node("Div", total, b.node("Max", count, b.scalar(COUNT_MIN)))
    length = b.node("ReduceL2", mean, axes=[1], keepdims=1)
    b.node("Div", mean, b.node("Max", length, b.scalar(NORM_MIN)), output="sentence_embedding")


def value(name: str, kind: int, *axes: str | int) -> onnx.ValueInfoProto:
    """Declare an input or output of the graph; an axis named by a string may have any length."""
    return helper.make_tensor_value_info(name, kind, list(axes))


def build(weights: Weights, shape: BertShape, name: str) -> onnx.ModelProto:
    """Build the model.

    Inputs `input_ids`, `attention_mask`, `token_type_ids`: int64[batch, sequence]. Outputs
    `last_hidden_state`: float32[batch, sequence, width] and `sentence_embedding`:
    float32[batch, width], of length 1. The longest sequence is that of the position embeddings.
    """
    b = Builder(weights)
    mask = b.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = b.node("Sub", b.scalar(1.0), b.node("Unsqueeze", mask, b.integers(1, 2)))
    bias = b.node("Mul", hidden, b.scalar(MASKED))
    x = embed(b, shape)
    for n in range(shape.layers):
        last = "last_hidden_state" if n == shape.layers - 1 else ""
        x = encode(b, x, f"encoder.layer.{n}", bias, shape, last)
    pool(b, x, mask)
    inputs = [
        value(one, TensorProto.INT64, "batch", "sequence")
        for one in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [
        value("last_hidden_state", TensorProto.FLOAT, "batch", "sequence", shape.width),
        value("sentence_embedding", TensorProto.FLOAT, "batch", shape.width),
    ]
    graph = helper.make_graph(b.nodes, name, inputs, outputs, list(b.constants.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="leasehold"
    )
    onnx.checker.check_model(model, full_check=True)
    return model
