"""Turns a Llama in GGUF, as this project makes them, into a folder in OpenVINO's format.

Graph: the operations that optimum-intel writes for a Llama, with the cache as state. Matrices are int8
with one float16 scale a row. Command: `python -m models.llama_ir MODEL.gguf FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt
import openvino as ov
from gguf.quants import dequantize
from openvino import opset13 as ops
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from models.llama_gguf import BOS, END, EOS, NORM_EPSILON, ROPE_BASE, SPECIALS, Shape

INT8_MAX: Final = 127
FAR: Final = np.float32(-65504.0)  # what a hidden position adds to its score

Floats = npt.NDArray[np.float32]


def write(source: Path, folder: Path) -> Path:
    """Write the folder: graph, weights, tokenizer and configuration. Returns its path."""
    reader = gguf.GGUFReader(source)
    tensors = {one.name: one for one in reader.tensors}
    shape = _shape(reader, len(tensors["token_embd.weight"].data))
    folder.mkdir(parents=True, exist_ok=True)

    def floats(name: str) -> Floats:
        one = tensors[name]
        found: Floats = dequantize(one.data, one.tensor_type).astype(np.float32)
        return found

    ov.save_model(_Graph(shape, floats).model(), folder / "openvino_model.xml", False)
    _write_tokenizer(reader, folder)
    config = {
        "model_type": "llama",
        "max_position_embeddings": shape.context,
        "vocab_size": shape.vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _shape(reader: gguf.GGUFReader, vocabulary: int) -> Shape:
    def number(key: str) -> int:
        return int(reader.fields[f"llama.{key}"].contents())

    return Shape(
        vocabulary,
        number("embedding_length"),
        number("block_count"),
        number("attention.head_count"),
        number("attention.head_count_kv"),
        number("feed_forward_length"),
        number("context_length"),
    )


class _Graph:
    """Builds the operations; `floats` gives a tensor of the file as float32."""

    def __init__(self, shape: Shape, floats: Any) -> None:
        self._shape, self._floats = shape, floats
        self._ids = ops.parameter([-1, -1], np.int64, name="input_ids")
        self._mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
        self._positions = ops.parameter([-1, -1], np.int64, name="position_ids")
        self._beams = ops.parameter([-1], np.int32, name="beam_idx")
        self._assigns: list[Any] = []
        self._zero = ops.constant(np.int64(0))
        self._one = ops.constant(np.int64(1))

    def model(self) -> ov.Model:
        """The whole of it: input_ids, attention_mask, position_ids, beam_idx to logits."""
        shape = self._shape
        table = self._matrix("token_embd.weight")
        state = ops.gather(table, self._ids, self._zero)
        hidden, turns = self._hidden(), self._turns()
        for layer in range(shape.layers):
            name = f"blk.{layer}."
            normed = self._norm(state, name + "attn_norm.weight")
            state = ops.add(state, self._attention(normed, name, layer, hidden, turns))
            normed = self._norm(state, name + "ffn_norm.weight")
            gate = ops.swish(self._times(normed, name + "ffn_gate.weight"))
            wide = ops.multiply(gate, self._times(normed, name + "ffn_up.weight"))
            state = ops.add(state, self._times(wide, name + "ffn_down.weight"))
        last = self._norm(state, "output_norm.weight")
        logits = ops.result(ops.matmul(last, table, False, True))
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [self._ids, self._mask, self._positions, self._beams]
        for one in inputs:
            one.output(0).get_tensor().set_names({one.get_friendly_name()})
        return ov.Model([logits], self._assigns, inputs, "llama")

    def _matrix(self, name: str) -> Any:
        floats = self._floats(name)
        if name.endswith(("attn_q.weight", "attn_k.weight")):  # GGUF has the pairs side by side
            pairs = floats.reshape(-1, self._shape.head_width // 2, 2, floats.shape[1])
            floats = pairs.swapaxes(1, 2).reshape(floats.shape)
        scale = (np.abs(floats).max(axis=1, keepdims=True) / INT8_MAX).clip(1e-6)
        scale = scale.astype(np.float16)
        packed = np.round(floats / scale).clip(-INT8_MAX, INT8_MAX).astype(np.int8)
        wide = ops.convert(ops.constant(packed), np.float16)
        return ops.convert(ops.multiply(wide, ops.constant(scale)), np.float32)

    def _times(self, state: Any, name: str) -> Any:
        return ops.matmul(state, self._matrix(name), False, True)

    def _norm(self, state: Any, name: str) -> Any:
        square = ops.reduce_mean(
            ops.power(state, np.float32(2.0)), ops.constant([-1]), keep_dims=True
        )
        root = ops.sqrt(ops.add(square, np.float32(NORM_EPSILON)))
        return ops.multiply(
            ops.multiply(state, ops.divide(np.float32(1.0), root)), self._floats(name)
        )

    def _hidden(self) -> Any:
        """float32[batch, 1, new, all]: 0 where a token sees another, else far below."""
        length = ops.gather(ops.shape_of(self._mask), self._one, self._zero)
        every = ops.range(self._zero, length, self._one, "i64")
        seen = ops.less_equal(every, ops.unsqueeze(self._positions, ops.constant([-1])))
        real = ops.unsqueeze(ops.convert(self._mask, np.bool_), self._one)
        mask = ops.select(ops.logical_and(seen, real), np.float32(0), FAR)
        return ops.unsqueeze(mask, self._one)

    def _turns(self) -> tuple[Any, Any]:
        """Cosines and sines: float32[batch, 1, new, head width]."""
        half = self._shape.head_width // 2
        rates = (ROPE_BASE ** (-np.arange(half, dtype=np.float32) / half)).reshape(1, half, 1)
        at = ops.convert(ops.unsqueeze(self._positions, self._one), np.float32)
        count = ops.gather(ops.shape_of(self._ids), ops.constant([0]), self._zero)
        rows = ops.concat([count, ops.constant([1]), ops.constant([1])], 0)
        each = ops.broadcast(ops.constant(rates), rows, broadcast_spec="BIDIRECTIONAL")
        angles = ops.transpose(ops.matmul(each, at, False, False), ops.constant([0, 2, 1]))
        both = ops.concat([angles, angles], -1)
        return ops.unsqueeze(ops.cos(both), self._one), ops.unsqueeze(ops.sin(both), self._one)

    def _heads(self, state: Any, count: int) -> Any:
        split = ops.reshape(state, ops.constant([0, 0, count, self._shape.head_width]), True)
        return ops.transpose(split, ops.constant([0, 2, 1, 3]))

    def _turned(self, heads: Any, turns: tuple[Any, Any]) -> Any:
        half, end = self._shape.head_width // 2, np.iinfo(np.int64).max
        step, axis = ops.constant([1]), ops.constant([3])
        upper = ops.slice(heads, ops.constant([half]), ops.constant([end]), step, axis)
        lower = ops.slice(heads, ops.constant([0]), ops.constant([half]), step, axis)
        other = ops.concat([ops.multiply(upper, np.float32(-1)), lower], -1)
        return ops.add(ops.multiply(heads, turns[0]), ops.multiply(other, turns[1]))

    def _kept(self, new: Any, name: str) -> Any:
        """All so far, repeated for the heads that share it."""
        shape = self._shape
        size = [shape.kv_heads, 0, shape.head_width]
        count = ops.gather(ops.shape_of(self._ids), ops.constant([0]), self._zero)
        empty = ops.broadcast(
            ops.constant(np.float32(0)), ops.concat([count, ops.constant(size)], 0)
        )
        kind = [-1, shape.kv_heads, -1, shape.head_width]
        past = ops.read_value(empty, name, np.float32, ov.PartialShape(kind))
        whole = ops.concat([ops.gather(past, self._beams, self._zero), new], 2)
        self._assigns.append(ops.assign(whole, name))
        shared = shape.heads // shape.kv_heads
        wide = ops.broadcast(
            ops.unsqueeze(whole, ops.constant(2)),
            ops.concat([count, ops.constant([shape.kv_heads, shared, 1, shape.head_width])], 0),
            broadcast_spec="BIDIRECTIONAL",
        )
        return ops.reshape(wide, ops.constant([0, shape.heads, -1, shape.head_width]), True)

    def _attention(self, state: Any, name: str, layer: int, hidden: Any, turns: Any) -> Any:
        shape = self._shape
        query = self._turned(
            self._heads(self._times(state, name + "attn_q.weight"), shape.heads), turns
        )
        new = self._heads(self._times(state, name + "attn_k.weight"), shape.kv_heads)
        key = self._kept(
            self._turned(new, turns), f"past_key_values.{layer}.keypresent.{layer}.key"
        )
        new = self._heads(self._times(state, name + "attn_v.weight"), shape.kv_heads)
        value = self._kept(new, f"past_key_values.{layer}.valuepresent.{layer}.key")
        found = ops.scaled_dot_product_attention(query, key, value, hidden)
        flat = ops.reshape(
            ops.transpose(found, ops.constant([0, 2, 1, 3])),
            ops.constant([0, 0, shape.heads * shape.head_width]),
            True,
        )
        return self._times(flat, name + "attn_output.weight")


def _write_tokenizer(reader: gguf.GGUFReader, folder: Path) -> None:
    tokens: Sequence[str] = reader.fields["tokenizer.ggml.tokens"].contents()
    merges: Sequence[str] = reader.fields["tokenizer.ggml.merges"].contents()
    vocabulary: Mapping[str, int] = {token: at for at, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(dict(vocabulary), pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"chat_template": reader.fields["tokenizer.chat_template"].contents(), "bos_token": BOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    ends = {"eos_token_id": [vocabulary[EOS], vocabulary[END]]}
    (folder / "generation_config.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), Path(sys.argv[2])))
