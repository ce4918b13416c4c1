"""Turns a Llama in GGUF into a folder as the Hugging Face hub has them: safetensors, tokenizer, configuration.

Layouts: the safetensors format; names and order of weights as `transformers` has them. GGUF files turn
neighbouring pairs by the position, transformers the two halves of a head: rows of q and k are reordered.
Command: `python -m models.llama_folder FILE FOLDER [F32|F16|BF16]`.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from models.llama_gguf import BOS, END, EOS, PAD, SPECIALS

Floats = npt.NDArray[np.float32]
INDEX: Final = "model.safetensors.index.json"
_NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def folder_of(gguf: Path, dtype: str = "F32", shards: int = 1) -> dict[str, bytes]:
    """Give the files of the folder by name; with more than one shard there is an index."""
    reader = GGUFReader(gguf)
    tensors = {
        _name(one.name): _weights(one, reader)
        for one in sorted(reader.tensors, key=lambda t: t.name)
    }
    tokens = _field(reader, "tokenizer.ggml.tokens")
    config = _config(reader, len(tokens), dtype)
    marks = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
    ends = [tokens.index(EOS), tokens.index(END)]
    marks["chat_template"] = _field(reader, "tokenizer.chat_template")
    return {
        "config.json": _json(config),
        "generation_config.json": _json({"eos_token_id": ends}),
        "tokenizer.json": _tokenizer(tokens, _field(reader, "tokenizer.ggml.merges")),
        "tokenizer_config.json": _json(marks),
        **_files(tensors, dtype, shards),
    }


def safetensors(tensors: Mapping[str, Floats], dtype: str) -> bytes:
    """Write one file: u64 length, JSON header, data."""
    parts, header, end = [], {}, 0
    for name, tensor in tensors.items():
        parts.append(_packed(tensor, dtype))
        begin, end = end, end + len(parts[-1])
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _files(tensors: Mapping[str, Floats], dtype: str, shards: int) -> dict[str, bytes]:
    if shards == 1:
        return {"model.safetensors": safetensors(tensors, dtype)}
    found, places = {}, {}
    for at in range(shards):
        file = f"model-{at + 1:05d}-of-{shards:05d}.safetensors"
        own = {name: tensors[name] for name in list(tensors)[at::shards]}
        found[file] = safetensors(own, dtype)
        places |= dict.fromkeys(own, file)
    size = sum(len(data) for data in found.values())
    return found | {INDEX: _json({"metadata": {"total_size": size}, "weight_map": places})}


def _packed(tensor: Floats, dtype: str) -> bytes:
    if dtype == "BF16":  # rounded to the nearest; ties away from zero will do
        return ((tensor.view(np.uint32) + 0x8000) >> 16).astype("<u2").tobytes()
    return tensor.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def _weights(tensor: Any, reader: GGUFReader) -> Floats:
    found: Floats = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type))
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}
    for part, key in heads.items():
        if f".{part}." in tensor.name:
            count = _field(reader, f"llama.attention.{key}")
            pairs = found.reshape(count, -1, 2, found.shape[1]).swapaxes(1, 2)
            return np.ascontiguousarray(pairs.reshape(found.shape))
    return found


def _name(name: str) -> str:
    layer, _, part = name.removesuffix(".weight").rpartition(".")
    place = re.sub(r"blk\.(\d+)", r"model.layers.\1.", layer)
    return f"{place}{_NAMES[part]}.weight"


def _config(reader: GGUFReader, tokens: int, dtype: str) -> dict[str, Any]:
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": _field(reader, "llama.embedding_length"),
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_attention_heads": _field(reader, "llama.attention.head_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "rms_norm_eps": float(_field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_parameters": {
            "rope_theta": float(_field(reader, "llama.rope.freq_base")),
            "rope_type": "default",
        },
        "tie_word_embeddings": True,
        "vocab_size": tokens,
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "dtype": names[dtype],
    }


def _tokenizer(tokens: list[str], merges: list[str]) -> bytes:
    vocabulary = {token: at for at, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (one.partition(" ") for one in merges)]
    tokenizer = Tokenizer(BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(one, special=True) for one in SPECIALS])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return tokenizer.to_str().encode()


def _field(reader: GGUFReader, key: str) -> Any:
    found = reader.get_field(key)
    if found is None:
        raise KeyError(key)
    return found.contents()


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n"


if __name__ == "__main__":
    for title, data in folder_of(Path(sys.argv[1]), *sys.argv[3:4]).items():
        Path(sys.argv[2], title).write_bytes(data)
