"""The one door to torch and transformers: a network over tensors that lie in memory files.

Spec: docs/spec/engines.md, W-17 and W-19. The network is built without memory and given views of the
mapped files, so that weights are in memory once. Everything is imported, and run once, before the sandbox
closes: nothing can be imported after. Refuses to know text, requests and who asks.
"""

from __future__ import annotations

import mmap
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from math import prod
from typing import Any, Final

import huggingface_hub.constants
import huggingface_hub.errors
import torch
from transformers.models.granite.modeling_granite import GraniteForCausalLM
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.olmo2.modeling_olmo2 import Olmo2ForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM
from transformers.models.smollm3.modeling_smollm3 import SmolLM3ForCausalLM

from leasehold.errors import BadModel, WorkerFailed
from leasehold.worker.engine import content_of
from leasehold.worker.recipe import Recipe, check_network
from leasehold.worker.shards import Stored
from leasehold.worker.step import Floats, Part

# The governor's environment says so before the import; where there is none, this does.
huggingface_hub.constants.HF_HUB_OFFLINE = True
huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True

# No name in a model's files chooses code: what is not here is refused.
KINDS: Final[Mapping[str, Any]] = {
    "granite": GraniteForCausalLM,
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "olmo2": Olmo2ForCausalLM,
    "phi3": Phi3ForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "smollm3": SmolLM3ForCausalLM,
}
ERRORS: Final = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_RECOMPUTED: Final = "rotary_emb.inv_freq"  # old files store what follows from the configuration
_OTHER_DTYPE_SHARE: Final = 32  # at most one byte of so many may be of another dtype, and is copied

# Tokens of a prompt in one pass: between two passes a request may be cancelled, and others speak.
PIECES_TOKENS: Final = (64, 32, 16, 8)
PIECE_SECONDS: Final = 0.25

Logits = Any
"""float32[vocabulary], as torch has it."""


def open_network(
    recipe: Recipe, tensors: Mapping[str, Stored], *, slots: int, context: int, threads: int
) -> Network:
    """Build the network over the files and run it once. Raises BadModel."""
    if recipe.kind not in KINDS:
        raise BadModel(about="model_type", got=recipe.kind, expected=sorted(KINDS))
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    try:
        model = _build(recipe, tensors)
        network = Network(model, slots, context)
        network.rehearse()  # every weight is touched: what is wrong shows now
    except (*ERRORS, AssertionError, huggingface_hub.errors.StrictDataclassError) as cause:
        raise BadModel(about=f"{recipe.kind} by transformers", got=cause) from cause
    return network


def _build(recipe: Recipe, tensors: Mapping[str, Stored]) -> Any:
    """W-17: the network of that configuration, its parameters views of the files."""
    kind = KINDS[recipe.kind]
    check_network(recipe, len(tensors))
    config = kind.config_class(**recipe.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = kind(config)
    wanted = {name: tuple(value.shape) for name, value in model.named_parameters()}
    extra = {name for name in tensors if name not in wanted and not name.endswith(_RECOMPUTED)}
    tied = set(kind._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - tensors.keys() - tied):
        raise BadModel(about="tensors", got=f"none named {missing[0]}", expected=len(wanted))
    if extra - tied:
        raise BadModel(about="tensors", got=sorted(extra - tied)[:4], expected="no others")
    for name, shape in wanted.items():
        if name in tensors and tensors[name].shape != shape:
            raise BadModel(about=f"shape of {name}", got=tensors[name].shape, expected=shape)
    used = {name: tensors[name] for name in wanted if name in tensors}
    model.load_state_dict(_views(used), strict=False, assign=True)
    model.tie_weights()
    _compute_rotations(model, config)
    return model.requires_grad_(False).eval()


def _views(tensors: Mapping[str, Stored]) -> dict[str, Any]:
    """Tensors over the mapped files; where a few are of another dtype than the rest, their copies."""
    maps = {one.file.name: one.file for one in tensors.values()}
    mapped = {name: content_of(file) for name, file in maps.items()}
    sizes: dict[str, int] = {}
    for one in tensors.values():
        sizes[one.dtype] = sizes.get(one.dtype, 0) + one.size
    main = max(sizes, key=lambda dtype: sizes[dtype])
    others = sum(sizes.values()) - sizes[main]
    if others * _OTHER_DTYPE_SHARE > sizes[main]:
        raise BadModel(about="dtypes", got=sizes, expected="one, but for norms")
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read only: that is what is wanted
        for name, one in tensors.items():
            count = prod(one.shape)
            flat = torch.frombuffer(
                mapped[one.file.name], dtype=_DTYPES[one.dtype], count=count, offset=one.start
            )
            found[name] = flat.view(one.shape).to(_DTYPES[main])
    return found


def _compute_rotations(model: Any, config: Any) -> None:
    """Buffers that are not stored, made again with memory. Raises BadModel where others are left."""
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            module._buffers.update(type(module)(config)._buffers)
    left = [
        name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta
    ]
    if left:
        raise BadModel(about="tensors", got=f"nothing for {left[0]}", expected="all of them")


class Network:
    """A language model with a place for the keys and values of each slot.

    One thread at a time. Positions count from the beginning of a slot's text.
    """

    def __init__(self, model: Any, slots: int, context: int) -> None:
        """Of `slots` texts of at most `context` tokens."""
        self._model = model
        self._store = _Store(slots, context)
        self.prompt_tokens, self.prompts = PIECES_TOKENS[0], 1

    def rehearse(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Read a few tokens twice, and choose how many make a piece that does not take long here."""
        few = min(PIECES_TOKENS[-1], self._store.context)
        for _ in range(2):  # the first one waits for memory
            start = clock()
            self.prefill(0, [0] * few, 0)
            each = (clock() - start) / few
        self.wipe(0, few)
        fit = (one for one in PIECES_TOKENS if one * each <= PIECE_SECONDS)
        self.prompt_tokens = next(fit, PIECES_TOKENS[-1])

    def run(self, parts: Sequence[Part]) -> Iterator[Floats]:
        """One pass for all single tokens, then one for each piece of a prompt; see `step.Model`."""
        single = list(takewhile(lambda part: len(part.tokens) == 1, parts))
        last = {part.slot: (part.tokens[0], part.past) for part in single}
        try:
            if last:
                found = self.decode(last)
                yield from (found[part.slot].numpy() for part in single)
            for part in parts[len(single) :]:
                yield self.prefill(part.slot, part.tokens, part.past).numpy()
        except ERRORS as cause:
            raise WorkerFailed(about="torch", got=cause) from cause

    def prefill(self, slot: int, ids: Sequence[int], start: int) -> Logits:
        """Read tokens into a slot from position `start` on; gives what may come after the last."""
        end = start + len(ids)
        at = torch.arange(start, end)
        mask = (torch.arange(end) <= at[:, None])[None, None]
        self._store.look_at(slot, slot + 1, at[None], end)
        return self._run(torch.tensor([list(ids)]), at[None], mask)[0]

    def decode(self, last: Mapping[int, tuple[int, int]]) -> dict[int, Logits]:
        """One forward pass for all: the last token and its position of each slot, to what may follow.

        Slots between them that take no part compute in vain; their keys go to a place nobody reads.
        """
        lowest, highest = min(last), max(last) + 1
        rows = range(lowest, highest)
        nowhere = self._store.context
        ids = torch.tensor([[last[row][0] if row in last else 0] for row in rows])
        places = torch.tensor([[last[row][1] if row in last else nowhere] for row in rows])
        seen = max(position for _, position in last.values()) + 1
        mask = (torch.arange(seen) <= places)[:, None, None]
        self._store.look_at(lowest, highest, places, seen)
        found = self._run(ids, places.clamp(max=nowhere - 1), mask)
        return {slot: found[slot - lowest] for slot in last}

    def wipe(self, slot: int, used: int) -> None:
        """Forget what was said in a slot."""
        self._store.wipe(slot, used)

    def _run(self, ids: Any, positions: Any, mask: Any) -> Any:
        with torch.inference_mode():
            found = self._model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                cache=self._store,
                use_cache=True,
                logits_to_keep=1,
            )
        return found.logits[:, -1].float()


class _Store:
    """Keys and values of all slots and layers; what transformers takes for its cache.

    float[slots, heads, context + 1, width] for each layer, without memory until it is written.
    """

    def __init__(self, slots: int, context: int) -> None:
        self._slots, self.context = slots, context
        self._layers: dict[int, tuple[Any, Any]] = {}
        self._rows = slice(0, 1)
        self._places: Any = None
        self._seen = 0

    def look_at(self, lowest: int, highest: int, places: Any, seen: int) -> None:
        """What the next pass is of: rows of slots, int64[rows, tokens] of places, and how far to see."""
        self._rows, self._places, self._seen = slice(lowest, highest), places, seen

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Called by each layer with float[rows, heads, tokens, width]; gives all that it may look at."""
        if layer not in self._layers:
            self._layers[layer] = (self._room(keys), self._room(values))
        held = tuple(one[self._rows] for one in self._layers[layer])
        for into, fresh in zip(held, (keys, values), strict=True):
            rows = torch.arange(len(into))[:, None]
            into[rows, :, self._places] = fresh.transpose(1, 2)
        return held[0][:, :, : self._seen], held[1][:, :, : self._seen]

    def wipe(self, slot: int, used: int) -> None:
        """Zeros: what was infinite there would spoil the next text, and says what was said."""
        for both in self._layers.values():
            for one in both:
                one[slot, :, :used] = 0

    def _room(self, like: Any) -> Any:
        shape = (self._slots, like.shape[1], self.context + 1, like.shape[3])
        pages = mmap.mmap(-1, prod(shape) * like.element_size())
        with torch.inference_mode(mode=False):  # else nothing but a pass could wipe it
            return torch.frombuffer(pages, dtype=like.dtype).view(shape)


def _rehearse() -> None:
    """Run a network of nothing: torch imports parts of itself at the first use, which comes too late."""
    torch.set_num_threads(1)  # threads that libraries start now would escape the sandbox
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    for kind in KINDS.values():
        network = Network(kind(kind.config_class(**sizes, **heads, **ends)).eval(), 2, 8)
        network.prefill(0, [1, 2], 0)
        list(network.run([Part(0, 2, (1,)), Part(1, 0, (1,)), Part(1, 1, (1, 2))]))
        network.wipe(0, 2)


_rehearse()
