"""Chooses tokens from logits, as OpenAI's parameters say. The same seed and logits, the same tokens.

Spec: docs/spec/engines.md, W-19 and W-22. Refuses to know where logits come from. Logits are
float32[vocabulary].
"""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, Generator  # numpy would import it when there are no files

from leasehold.core.frames import Sampling
from leasehold.errors import WorkerFailed
from leasehold.worker.step import Floats

LIKELY: Final = 1024  # tokens that are looked at first for `top_p`
BLOCK: Final = 512  # of shares that are summed before one is found among them
LIKELY_GROWTH: Final = 8  # so many times more where these are too few

Mask = npt.NDArray[np.bool_]
Rows = tuple[tuple[int, float], ...]


class Rule(Protocol):
    """What an answer is held to: see `constraint.Constraint`."""

    @property
    def ended(self) -> bool:
        """Can nothing more come?"""

    def allowed(self, vocabulary: int) -> Mask:
        """bool[vocabulary]: which tokens may come next."""

    def take(self, token: int) -> None:
        """This token has come."""


class Sampler:
    """Chooses the tokens of one answer, one after the other.

    `ended` where the rule lets nothing come after the last one.
    """

    def __init__(self, sampling: Sampling, seed: int, rule: Rule | None = None) -> None:
        """Every draw follows from the seed."""
        self.ended = False
        self._sampling, self._rule = sampling, rule
        self._random = Generator(PCG64(seed))
        self._counts: dict[int, int] = {}
        self._mask: Mask | None = None

    def choose(self, logits: Floats) -> tuple[int, Rows]:
        """The next token; where probabilities were asked for, its own and the likeliest, as logarithms.

        Raises WorkerFailed for logits that are no numbers.
        """
        scores = self._punished(logits)
        if self._rule is not None:
            if self._mask is None:
                self._mask = self._rule.allowed(len(logits))
            scores = np.where(self._mask, scores, np.float32(-np.inf))
        token = self._draw(scores)
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._rule is not None:
            self._rule.take(token)
            self._mask = self._rule.allowed(len(logits))
            self.ended = self._rule.ended or not self._mask.any()
        return token, likeliest(logits, token, self._sampling.probs)

    def _punished(self, logits: Floats) -> Floats:
        """OpenAI's rule: once for having come at all, and once for each time."""
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
        best = int(scores.argmax())  # of what is no number first
        if not np.isfinite(scores[best]):
            raise WorkerFailed(about="logits", got=float(scores[best]), expected="finite numbers")
        if sampling.temperature == 0 or sampling.top_k == 1:
            return best
        ids: npt.NDArray[Any] | None = None
        if 0 < sampling.top_k < len(scores):
            ids = np.argpartition(scores, -sampling.top_k)[-sampling.top_k :]
            scores = scores[ids]
        shares = scores - scores[best] if ids is None else scores - scores.max()
        shares /= np.float32(
            sampling.temperature
        )  # in place: a vocabulary's pages cost more than sums
        np.exp(shares, out=shares)
        if sampling.top_p < 1:
            kept = _nucleus(shares, sampling.top_p)
            ids, shares = kept if ids is None else ids[kept], shares[kept]
        at = _point(shares, self._random.random())
        return at if ids is None else int(ids[at])


def likeliest(logits: Floats, token: int, count: int) -> Rows:
    """A token and its logarithm, and the likeliest ones with theirs: `count` together."""
    if not count:
        return ()
    some = min(count, len(logits))
    top = np.argpartition(logits, -some)[-some:]
    top = top[np.argsort(-logits[top], kind="stable")][: count - 1]
    whole = logarithm_of_sum(logits)
    return tuple((int(at), float(logits[at]) - whole) for at in (token, *top))


def _point(shares: Floats, where: float) -> int:
    """Whose share lies at `where`, 0 to 1, of all of them one after the other; never one of 0."""
    starts = np.arange(0, len(shares), BLOCK)
    sums = np.cumsum(np.add.reduceat(shares, starts, dtype=np.float64))
    wanted = where * sums[-1]
    block = min(int(np.searchsorted(sums, wanted, side="right")), len(sums) - 1)
    start, before = block * BLOCK, sums[block - 1] if block else 0.0
    inside = before + np.cumsum(shares[start : start + BLOCK], dtype=np.float64)
    at = min(start + int(np.searchsorted(inside, wanted, side="right")), len(shares) - 1)
    return at if shares[at] > 0 else int(shares.argmax())  # sums are rounded


def logarithm_of_sum(logits: Floats) -> float:
    """What a token's logit has above the natural logarithm of its probability."""
    most = logits.max()
    return float(most) + math.log(np.exp(logits - most).sum())


def _nucleus(shares: Floats, most: float) -> npt.NDArray[Any]:
    """The likeliest tokens, as few as have `most` of all shares together."""
    most *= float(shares.sum(dtype=np.float64))
    ids, count = np.arange(len(shares)), LIKELY
    while count < len(shares):
        some = np.argpartition(shares, -count)[-count:]
        if shares[some].sum() >= most:
            ids = some
            break
        count *= LIKELY_GROWTH
    order = ids[np.argsort(-shares[ids], kind="stable")]
    sums = np.cumsum(shares[order], dtype=np.float64)
    return order[: int(np.searchsorted(sums, most)) + 1]
