"""Trains the tiny model; the same seed and thread count give the same weights on one machine."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from models.llama_gguf import Shape
from models.tiny.corpus import Sample, epoch, long_pairs
from models.tiny.network import Llama
from models.tiny.words import Spelled, spell

THREADS: Final = 2
STEPS: Final = 450
BATCH: Final = 32  # short samples a step, beside one long one
RATE: Final = 4e-3
WARM_UP_STEPS: Final = 30
DECAY: Final = 0.05
NORM_MAX: Final = 1.0
IGNORED: Final = -100  # a target that is not learnt


def short_samples(seed: int) -> Iterator[Sample]:
    """Give epoch after epoch, each of its own seed."""
    for number in itertools.count():
        yield from epoch(seed * 100_000 + number)


def long_samples() -> Iterator[Sample]:
    """Give the long answers in turn, for ever."""
    return itertools.cycle(
        [Sample(None, (), pair.question, pair.answer) for pair in long_pairs()],
    )


def batch(spelled: Sequence[Spelled]) -> tuple[Tensor, Tensor]:
    """Pad to inputs and targets, both int64[batch, time]."""
    longest = max(len(one.ids) for one in spelled) - 1
    inputs = torch.zeros(len(spelled), longest, dtype=torch.int64)
    targets = torch.full((len(spelled), longest), IGNORED, dtype=torch.int64)
    for row, one in enumerate(spelled):
        ids = torch.tensor(one.ids)
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, one.learnt_from - 1 : len(ids) - 1] = ids[one.learnt_from :]
    return inputs, targets


def loss_of(network: Llama, spelled: Sequence[Spelled]) -> Tensor:
    """Give the mean cross-entropy, in nats, of the learnt tokens."""
    inputs, targets = batch(spelled)
    learnt = targets != IGNORED
    return functional.cross_entropy(network.scores(network(inputs)[learnt]), targets[learnt])


def rate_at(step: int) -> float:
    """Give the learning rate of a step: a short rise, then a straight fall to nothing."""
    return RATE * min((step + 1) / WARM_UP_STEPS, (STEPS - step) / (STEPS - WARM_UP_STEPS))


def train(shape: Shape, tokenizer: Tokenizer, seed: int) -> Llama:
    """Give a trained network; prints the loss now and then."""
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    network = Llama(shape)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY
    )
    short, long = short_samples(seed), long_samples()
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step)
        shorts = [spell(tokenizer, sample) for sample in itertools.islice(short, BATCH)]
        short_loss = loss_of(network, shorts)
        long_loss = loss_of(network, [spell(tokenizer, next(long))])
        optimiser.zero_grad()
        (short_loss + long_loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), NORM_MAX)
        optimiser.step()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step}: loss {short_loss:.4f} short, {long_loss:.4f} long", flush=True)
    return network
