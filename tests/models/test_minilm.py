"""The converted sentence model: the reference's embeddings, the same bytes each time."""

import hashlib
import json
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from models.minilm.check import (
    COSINE_MIN,
    ReferenceMissed,
    check_against_reference,
    cosines,
    embed,
    reference,
    session,
)
from models.minilm.convert import checkpoint, convert, read_checkpoint, write_folder
from models.minilm.graph import build

WIDTH: Final = 384


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_reproduces_the_reference(minilm: Path) -> None:
    sentences, expected = reference()
    assert len(sentences) == 12
    assert cosines(embed(minilm, sentences), expected).min() >= COSINE_MIN


def test_padding_changes_nothing(minilm: Path) -> None:
    sentences, _ = reference()
    alone = np.concatenate([embed(minilm, [sentence]) for sentence in sentences])
    assert np.abs(alone - embed(minilm, sentences)).max() < 1e-5


def test_embeddings_have_length_one(minilm: Path) -> None:
    sentences, _ = reference()
    assert np.linalg.norm(embed(minilm, sentences), axis=1) == pytest.approx(1.0, abs=1e-5)


def test_kindred_sentences_are_near_and_others_far(minilm: Path) -> None:
    stop, halt, soup = embed(
        minilm,
        ["The owner can stop the model.", "The owner may halt the model.", "The soup is hot."],
    )
    assert stop @ halt > 0.8
    assert stop @ soup < 0.3


def test_inputs_and_outputs_are_as_documented(minilm: Path) -> None:
    loaded = session(minilm)
    assert [(one.name, one.type, one.shape) for one in loaded.get_inputs()] == [
        ("input_ids", "tensor(int64)", ["batch", "sequence"]),
        ("attention_mask", "tensor(int64)", ["batch", "sequence"]),
        ("token_type_ids", "tensor(int64)", ["batch", "sequence"]),
    ]
    assert [(one.name, one.type, one.shape) for one in loaded.get_outputs()] == [
        ("last_hidden_state", "tensor(float)", ["batch", "sequence", WIDTH]),
        ("sentence_embedding", "tensor(float)", ["batch", WIDTH]),
    ]


def test_tokenizer_pads_to_the_longest_and_cuts_at_256(minilm: Path) -> None:
    stored = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    assert stored["truncation"]["max_length"] == 256
    assert stored["padding"]["strategy"] == "BatchLongest"


def test_conversion_gives_the_same_bytes_each_time(minilm: Path, tmp_path: Path) -> None:
    again = convert(tmp_path / "again")
    found = digests(again)
    (again / "model.onnx").unlink()  # 90 MB that pytest would keep
    assert found == digests(minilm)
    assert {"model.onnx", "tokenizer.json", "config.json"} <= set(found)


def test_a_wrong_model_misses_the_reference(tmp_path: Path) -> None:
    source = checkpoint()
    weights, shape = read_checkpoint(source)
    spoilt = "encoder.layer.3.output.dense.weight"
    weights[spoilt] = np.zeros_like(weights[spoilt])
    write_folder(tmp_path, build(weights, shape, "spoilt"), source)
    with pytest.raises(ReferenceMissed, match=r"at least 0\.999 expected"):
        check_against_reference(tmp_path)
    (tmp_path / "model.onnx").unlink()
