"""The tiny model's tokenizer: trains a byte-level BPE and spells samples as token ids."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from models.llama_gguf import BOS, END, EOS, SPECIALS, Vocabulary, pad_to_block
from models.tiny.corpus import Sample

TOKENS: Final = 704  # a multiple of 32


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn at most 704 tokens from texts: the 256 bytes, the specials, merges."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)  # GPT-2's splitting
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Give the tokenizer in the form that a GGUF file holds."""
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return Vocabulary(pad_to_block([token for token, _ in by_id]), merges)


@dataclass(frozen=True, slots=True)
class Spelled:
    """Token ids of a sample; only those from `learnt_from` on are learnt."""

    ids: list[int]
    learnt_from: int


def spell(tokenizer: Tokenizer, sample: Sample) -> Spelled:
    """Write a sample as the chat template does; plain text ends with end-of-text."""
    if sample.question is None:
        return Spelled(tokenizer.encode(f"{BOS}{sample.answer}{EOS}").ids, 1)
    text = BOS
    if sample.system is not None:
        text += f"<|system|>{sample.system}{END}"
    for turn in sample.earlier:
        text += f"<|user|>{turn.question}{END}<|assistant|>{turn.answer}{END}"
    text += f"<|user|>{sample.question}{END}<|assistant|>"
    asked = tokenizer.encode(text).ids
    return Spelled(asked + tokenizer.encode(sample.answer + END).ids, len(asked))
