"""Random models: an engine loads them, and a seed names exactly one."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from models.llama_gguf import Shape, Vocabulary, pad_to_block, write
from models.random_gguf import byte_vocabulary, random_gguf
from models.tiny.examine import chat, load


def test_engine_loads_it_and_generates(tmp_path: Path, listener: Path) -> None:
    engine = load(random_gguf(tmp_path / "random.gguf"), listener)
    answer = chat(engine, [{"role": "user", "content": "a"}], tokens_max=8)
    assert answer["usage"]["completion_tokens"] in range(1, 9)


@pytest.mark.parametrize("size_bytes", [200_000, 1_000_000, 8_000_000])
def test_size_is_about_what_was_asked(tmp_path: Path, size_bytes: int) -> None:
    made = random_gguf(tmp_path / "random.gguf", size_bytes=size_bytes)
    assert made.stat().st_size == pytest.approx(size_bytes, rel=0.25)


def test_one_seed_gives_one_file(tmp_path: Path) -> None:
    first, same, other = (
        random_gguf(tmp_path / name, seed=seed).read_bytes()
        for name, seed in (("first", 1), ("same", 1), ("other", 2))
    )
    assert first == same
    assert first != other


def test_vocabulary_has_every_byte_once() -> None:
    tokens = byte_vocabulary().tokens
    assert len(set(tokens)) == len(tokens) == 288
    assert len([token for token in tokens if len(token) == 1]) == 256


def test_writer_refuses_tensors_that_are_not_the_shapes(tmp_path: Path) -> None:
    shape = Shape(32, 64, 1, 2, 1, 64, 128)
    words = Vocabulary(pad_to_block(["a"]), [])
    with pytest.raises(ValueError, match="tensors missing or unknown"):
        write(tmp_path / "none.gguf", "none", shape, words, {})


def test_writer_refuses_a_token_list_of_another_length(tmp_path: Path) -> None:
    shape = Shape(64, 64, 1, 2, 1, 64, 128)
    words = Vocabulary(pad_to_block(["a"]), [])
    tensors: dict[str, npt.NDArray[np.float32]] = {
        name: np.zeros(size, np.float32) for name, size in shape.matrices().items()
    }
    tensors |= {name: np.ones(shape.width, np.float32) for name in shape.norms()}
    with pytest.raises(ValueError, match="32 tokens, 64 expected"):
        write(tmp_path / "none.gguf", "none", shape, words, tensors)
