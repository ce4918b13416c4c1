"""Writes a Llama with random weights as GGUF, for tests of loaders and of memory.

It speaks nonsense, one byte a token. A megabyte takes milliseconds, half a gigabyte seconds.
Command: `python -m models.random_gguf PATH MEGABYTES`.
"""

import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from models.llama_gguf import BLOCK, CHAT_TEMPLATE, SPECIALS, Shape, Vocabulary, pad_to_block, write

MEGABYTE: Final = 1_000_000
BYTES_PER_WEIGHT: Final = 34 / BLOCK  # q8_0: 32 int8 and one float16 scale
CONTEXT: Final = 1024
INT8_DEVIATION: Final = 74.0  # of a uniform int8
WIDTHS: Final = (64, 128, 256, 512, 1024, 2048)
LAYERS_WANTED: Final = 4  # the widest model that still has so many layers is taken


def byte_vocabulary() -> Vocabulary:
    """Give a vocabulary of the 256 bytes, in GPT-2's spelling, and the special tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    return Vocabulary(pad_to_block([*SPECIALS, *letters, "th"]), ["t h"])


def shape_of(size_bytes: int, vocabulary: int) -> Shape:
    """Choose the Llama whose file comes nearest to the size; it has at least one layer."""
    for width in reversed(WIDTHS):
        one = Shape(vocabulary, width, 1, width // 32, max(1, width // 64), 3 * width, CONTEXT)
        sizes = [rows * columns * BYTES_PER_WEIGHT for rows, columns in one.matrices().values()]
        layers = round((size_bytes - sizes[0]) / sum(sizes[1:]))
        if layers >= LAYERS_WANTED or width == WIDTHS[0]:
            return Shape(
                vocabulary, width, max(1, layers), one.heads, one.kv_heads, one.hidden, CONTEXT
            )
    raise AssertionError("the narrowest width always returns")


def random_matrix(random: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Give uint8[rows, columns / 32 * 34] of q8_0: random weights of deviation 1/sqrt(columns)."""
    blocks = rows * columns // BLOCK
    packed = np.empty((blocks, BLOCK + 2), np.uint8)
    scale = np.array([1 / (INT8_DEVIATION * columns**0.5)], np.float16)
    packed[:, :2] = scale.view(np.uint8)
    packed[:, 2:] = np.frombuffer(random.bytes(blocks * BLOCK), np.uint8).reshape(blocks, BLOCK)
    return packed.reshape(rows, -1)


def random_gguf(
    path: Path, *, size_bytes: int = MEGABYTE, seed: int = 0, template: str = CHAT_TEMPLATE
) -> Path:
    """Write a file of about that size and return its path. One seed, one file, byte for byte."""
    vocabulary = byte_vocabulary()
    shape = shape_of(size_bytes, len(vocabulary.tokens))
    random = np.random.default_rng(seed)
    tensors: dict[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]] = {
        name: random_matrix(random, *size) for name, size in shape.matrices().items()
    }
    tensors |= {name: np.ones(shape.width, np.float32) for name in shape.norms()}
    write(path, f"random-{seed}", shape, vocabulary, tensors, template)
    return path


if __name__ == "__main__":
    made = random_gguf(Path(sys.argv[1]), size_bytes=round(float(sys.argv[2]) * MEGABYTE))
    print(f"{made}: {made.stat().st_size} bytes")
