"""Chooses tokens from logits, as OpenAI's parameters say. The same seed and logits, the same tokens.

Refuses to know where logits come from. Logits are float32[vocabulary].
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, Generator  # numpy would import it when there are no files

from leasehold.core.frames import Sampling

LIKELY: Final = (
    1024  # tokens that are looked at first for `top_p`; all of them where these are too few
)

Floats = npt.NDArray[np.float32]


class Sampler:
    """Chooses the tokens of one answer, one after the other."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        """Every draw follows from the seed."""
        self._sampling = sampling
        self._random = Generator(PCG64(seed))
        self._counts: dict[int, int] = {}

    def choose(self, logits: Floats, allowed: npt.NDArray[np.bool_] | None = None) -> int:
        """The next token; only one of the `allowed`, where there are such."""
        scores = self._punished(logits)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        token = self._draw(scores)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _punished(self, logits: Floats) -> Floats:
        once, each = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if not self._counts or not (once or each):
            return logits
        ids = np.fromiter(self._counts.keys(), np.int64)
        times = np.fromiter(self._counts.values(), np.float32)
        found = logits.copy()
        found[ids] -= np.float32(once) + np.float32(each) * times
        return found

    def _draw(self, scores: Floats) -> int:
        sampling = self._sampling
        if sampling.temperature == 0 or sampling.top_k == 1:
            return int(scores.argmax())
        ids: npt.NDArray[Any] | None = None
        if 0 < sampling.top_k < len(scores):
            ids = np.argpartition(scores, -sampling.top_k)[-sampling.top_k :]
            scores = scores[ids]
        shares = softmax(scores / sampling.temperature)
        if sampling.top_p < 1:
            kept = _nucleus(shares, sampling.top_p)
            ids, shares = kept if ids is None else ids[kept], shares[kept]
        sums = np.cumsum(shares, dtype=np.float64)
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        at = min(at, len(sums) - 1)
        return at if ids is None else int(ids[at])


def softmax(scores: Floats) -> Floats:
    """Shares that sum to one."""
    shares = np.exp(scores - scores.max())
    found: Floats = shares / shares.sum()
    return found


def logarithms(logits: Floats) -> Floats:
    """Natural logarithms of the probabilities."""
    above = logits - logits.max()
    found: Floats = above - np.log(np.exp(above).sum(dtype=np.float64)).astype(np.float32)
    return found


def _nucleus(shares: Floats, most: float) -> npt.NDArray[Any]:
    """The likeliest tokens, as few as have this share together."""
    if len(shares) > LIKELY:
        ids = np.argpartition(shares, -LIKELY)[-LIKELY:]
        if shares[ids].sum() < most:
            ids = np.arange(len(shares))
    else:
        ids = np.arange(len(shares))
    order = ids[np.argsort(-shares[ids], kind="stable")]
    sums = np.cumsum(shares[order], dtype=np.float64)
    return order[: int(np.searchsorted(sums, most)) + 1]
