"""Runs an ONNX folder of the sentence model and holds it against the reference embeddings."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # only before the import does it keep the uploader off
import onnxruntime as ort

REFERENCE: Final = Path(__file__).parent / "reference.json"
COSINE_MIN: Final = 0.999


class ReferenceMissed(Exception):
    """The model's embedding of a sentence is not the reference's."""

    def __init__(self, sentence: str, cosine: float) -> None:
        super().__init__(f"cosine {cosine:.6f}, at least {COSINE_MIN} expected, for {sentence!r}")
        self.sentence = sentence
        self.cosine = cosine


def feed(folder: Path, sentences: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Tokenise sentences to the model's three inputs, each int64[sentences, longest]."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([one.ids for one in encoded], np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
        "token_type_ids": np.array([one.type_ids for one in encoded], np.int64),
    }


def session(folder: Path) -> Any:
    """Load the folder's model on the CPU."""
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def embed(folder: Path, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
    """Give float32[sentences, 384], each row of length 1."""
    found: list[npt.NDArray[np.float32]] = session(folder).run(
        ["sentence_embedding"], feed(folder, sentences)
    )
    return found[0]


def reference() -> tuple[list[str], npt.NDArray[np.float32]]:
    """Read the reference: its sentences, and their embeddings, float32[sentences, 384]."""
    stored = json.loads(REFERENCE.read_text(encoding="utf-8"))["sentences"]
    vectors = np.array([one["embedding"] for one in stored], np.float32)
    return [one["text"] for one in stored], vectors


def cosines(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Give the cosine of each row with the other's same row: float64[rows]."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: npt.NDArray[np.float64] = (a * b).sum(axis=1) / lengths
    return found


def check_against_reference(folder: Path) -> None:
    """Raise ReferenceMissed unless every embedding has a cosine of 0.999 with its reference."""
    sentences, expected = reference()
    for sentence, cosine in zip(
        sentences, cosines(embed(folder, sentences), expected), strict=True
    ):
        if not cosine >= COSINE_MIN:  # a NaN fails too
            raise ReferenceMissed(sentence, float(cosine))
