"""Writes a Llama-architecture model as one GGUF file; knows nothing of where weights come from.

Names of keys and tensors: the GGUF specification and the `gguf` package's constants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import quantize

ROPE_BASE: Final = 10_000.0
NORM_EPSILON: Final = 1e-5
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BOS: Final = "<|bos|>"
EOS: Final = "<|endoftext|>"
END: Final = "<|end|>"  # ends a turn; generation stops at it
PAD: Final = "<|pad|>"
SPECIALS: Final = (BOS, EOS, END, PAD, "<|system|>", "<|user|>", "<|assistant|>")
BLOCK: Final = 32  # weights in one q8_0 block


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama; `context` is in tokens, the rest count what they name."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    context: int

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Give each weight matrix of the file its shape, [rows out, columns in]."""
        kv_width = self.kv_heads * self.head_width
        found = {"token_embd.weight": (self.vocabulary, self.width)}  # also the output matrix
        for layer in range(self.layers):
            found |= {
                f"blk.{layer}.attn_q.weight": (self.width, self.width),
                f"blk.{layer}.attn_k.weight": (kv_width, self.width),
                f"blk.{layer}.attn_v.weight": (kv_width, self.width),
                f"blk.{layer}.attn_output.weight": (self.width, self.width),
                f"blk.{layer}.ffn_gate.weight": (self.hidden, self.width),
                f"blk.{layer}.ffn_up.weight": (self.hidden, self.width),
                f"blk.{layer}.ffn_down.weight": (self.width, self.hidden),
            }
        return found

    def norms(self) -> list[str]:
        """Name the vectors of RMS norms, each float32[width]."""
        names = [
            f"blk.{n}.{which}_norm.weight" for n in range(self.layers) for which in ("attn", "ffn")
        ]
        return [*names, "output_norm.weight"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE: `tokens[i]` is the text of token i, `merges` are "left right" by rank."""

    tokens: Sequence[str]
    merges: Sequence[str]

    def types(self) -> list[int]:
        """Give each token its GGUF type: control for the specials, unused for padding."""
        kinds = dict.fromkeys(SPECIALS, gguf.TokenType.CONTROL)
        kinds |= {t: gguf.TokenType.UNUSED for t in self.tokens if t.startswith("<|unused")}
        return [int(kinds.get(token, gguf.TokenType.NORMAL)) for token in self.tokens]


def pad_to_block(tokens: Sequence[str]) -> list[str]:
    """Fill a token list with unused ones up to a multiple of 32, as quantised matrices need."""
    return [*tokens, *(f"<|unused{n}|>" for n in range(-len(tokens) % BLOCK))]


def quantise(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Pack float32[rows, columns] to q8_0: uint8[rows, columns / 32 * 34]."""
    packed: npt.NDArray[np.uint8] = quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    return packed


def write(
    path: Path,
    name: str,
    shape: Shape,
    vocabulary: Vocabulary,
    tensors: Mapping[str, npt.NDArray[Any]],
    template: str = CHAT_TEMPLATE,
) -> None:
    """Write the file. uint8 tensors are taken for q8_0, float32 ones are stored as they are.

    Raises ValueError where the tensors are not those of the shape, or the token list is not as
    long as the embedding.
    """
    expected = {*shape.matrices(), *shape.norms()}
    if set(tensors) != expected:
        raise ValueError(f"tensors missing or unknown: {sorted(expected ^ set(tensors))}")
    if len(vocabulary.tokens) != shape.vocabulary:
        raise ValueError(f"{len(vocabulary.tokens)} tokens, {shape.vocabulary} expected")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(shape.vocabulary)
    add_vocabulary(writer, vocabulary, template)
    for tensor_name, tensor in sorted(tensors.items()):
        packed = gguf.GGMLQuantizationType.Q8_0 if tensor.dtype == np.uint8 else None
        writer.add_tensor(tensor_name, tensor, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, template: str) -> None:
    """Write tokens, merges, special tokens and chat template."""
    tokens = list(vocabulary.tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(vocabulary.types())
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_eot_token_id(tokens.index(END))
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template)
