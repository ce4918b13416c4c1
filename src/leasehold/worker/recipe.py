"""What a folder says of its model beside the weights: configuration, end tokens, chat template.

Spec: docs/spec/engines.md, W-17 and W-18. Nothing in it may name code, files or places: keys that do are
dropped or refused. Refuses to know tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from leasehold.core.frames import CONTEXT_TOKENS_MAX, MemoryFile
from leasehold.errors import BadModel
from leasehold.worker.shards import content

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
TOKENIZER_CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
# Keys that choose code: of the folder, of a hub, of a kernel. `dtype` is what the weights have.
_DROPPED: Final = ("auto_map", "attn_implementation", "experts_implementation", "dtype")
_DROPPED_TOO: Final = ("torch_dtype", "architectures", "model_type", "transformers_version")
ROPES: Final = ("default", "linear", "llama3", "yarn")  # others change with the longest request


@dataclass(frozen=True, slots=True)
class Recipe:
    """`config` are the fields of the model's configuration, `ends` the tokens that end a text, where it says.

    `template` is empty where the model knows no chats; `marks` are special tokens that it may name.
    """

    kind: str
    architectures: tuple[
        str, ...
    ]  # names of classes; the engines that read them have their own lists
    config: Mapping[str, Any]
    context_tokens: int
    ends: frozenset[int] | None
    template: str
    marks: Mapping[str, str]


def read(named: Mapping[str, MemoryFile]) -> Recipe:
    """Read what is there; `config.json` has to be. Raises BadModel."""
    if CONFIG not in named:
        raise BadModel(about="files", got=sorted(named)[:8], expected=CONFIG)
    config = _object(named[CONFIG])
    generation = _object(named[GENERATION]) if GENERATION in named else {}
    words = _object(named[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in named else {}
    kept = {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in (*_DROPPED, *_DROPPED_TOO)
    }
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    return Recipe(
        str(config.get("model_type")),
        tuple(str(one) for one in config.get("architectures") or ()),
        kept,
        _context(config),
        None if ends is None else frozenset(_ids(ends)),
        _template(named, words),
        {
            key: mark
            for key, value in words.items()
            if key.endswith("_token") and (mark := _mark(value))
        },
    )


def check_network(recipe: Recipe, tensors: int) -> None:
    """Raise BadModel for what a network of `transformers` would need more than views of the tensors for.

    Packed weights, positions that change with the longest request, or more layers than the tensors can
    fill: building them could take for ever.
    """
    if "quantization_config" in recipe.config:
        raise BadModel(
            about=CONFIG, got="quantization_config", expected="weights that are not packed"
        )
    _check_rope(recipe.config)
    layers = recipe.config.get("num_hidden_layers")
    if not isinstance(layers, int) or not 0 < layers <= tensors:
        raise BadModel(about="num_hidden_layers", got=layers, expected=f"1 to {tensors}")


def _object(file: MemoryFile) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content(file), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as cause:
        raise BadModel(about=file.name, got=cause) from cause


def _check_rope(config: Mapping[str, Any]) -> None:
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.get(key) or {}
        if not isinstance(rope, dict):
            raise BadModel(about=key, got=type(rope).__name__, expected="an object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ROPES:
            raise BadModel(about=f"{key} in {CONFIG}", got=kind, expected=ROPES)


def _context(config: Mapping[str, Any]) -> int:
    """Positions of the model; no more than a sliding window, inside which attention is whole."""
    most = config.get("max_position_embeddings", 0)
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", True):
        most = min(most, window) if isinstance(most, int) and isinstance(window, int) else window
    if not isinstance(most, int) or not 0 < most <= CONTEXT_TOKENS_MAX:
        raise BadModel(about="max_position_embeddings", got=most, expected="a number of tokens")
    return most


def _ids(said: object) -> list[int]:
    """One id or a list."""
    listed: list[Any] = said if isinstance(said, list) else [said]
    if not all(isinstance(one, int) for one in listed):
        raise BadModel(about="eos_token_id", got=said, expected="token ids")
    return listed


def _template(named: Mapping[str, MemoryFile], words: Mapping[str, Any]) -> str:
    """The chat template: of its own file, else of the tokenizer's configuration, by the name `default`."""
    if TEMPLATE in named:
        return content(named[TEMPLATE]).decode("utf-8", "replace")
    said = words.get("chat_template", "")
    if isinstance(said, list):
        named_ones = {one.get("name"): one.get("template") for one in said if isinstance(one, dict)}
        said = named_ones.get("default", "")
    if not isinstance(said, str):
        raise BadModel(about="chat_template", got=type(said).__name__, expected="text")
    return said


def _mark(value: object) -> str:
    said = value.get("content") if isinstance(value, dict) else value
    return said if isinstance(said, str) else ""
