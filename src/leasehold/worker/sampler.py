"""Chooses tokens from logits, as OpenAI's parameters say. The same seed and logits, the same tokens.

Spec: docs/spec/engines.md, W-19 and W-22. Refuses to know where logits come from. Logits are
float32[vocabulary].
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64, Generator  # numpy would import it when there are no files

from leasehold.core.frames import Sampling
from leasehold.errors import WorkerFailed
from leasehold.worker.step import Floats

LIKELY: Final = (
    1024  # tokens that are looked at first for `top_p`; all of them where these are too few
)

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
        shares = softmax(scores / np.float32(sampling.temperature))
        if sampling.top_p < 1:
            kept = _nucleus(shares, sampling.top_p)
            ids, shares = kept if ids is None else ids[kept], shares[kept]
        sums = np.cumsum(shares, dtype=np.float64)
        at = int(np.searchsorted(sums, self._random.random() * sums[-1], side="right"))
        at = min(at, len(sums) - 1)
        return at if ids is None else int(ids[at])


def likeliest(logits: Floats, token: int, count: int) -> Rows:
    """A token and its logarithm, and the likeliest ones with theirs: `count` together."""
    if not count:
        return ()
    found = logarithms(logits)
    top = np.argpartition(found, -count)[-count:] if count < len(found) else np.arange(len(found))
    top = top[np.argsort(-found[top], kind="stable")][: count - 1]
    return tuple((int(at), float(found[at])) for at in (token, *top))


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
