"""Tokens chosen from logits: shares, penalties, probabilities, rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from leasehold.core.frames import Sampling
from leasehold.errors import WorkerFailed
from leasehold.worker.sampler import LIKELY, Sampler, likeliest

GREEDY = Sampling(temperature=0.0)


def drawn(sampler: Sampler, logits: npt.NDArray[np.float32], times: int) -> list[int]:
    return [sampler.choose(logits)[0] for _ in range(times)]


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(top_k=2), {0, 1}),
        (Sampling(top_p=0.45), {0}),
        (Sampling(top_p=0.9), {0, 1, 2}),
        (Sampling(top_k=3, top_p=0.4), {0}),
        (GREEDY, {0}),
        (Sampling(), {0, 1, 2, 3}),
    ],
)
def test_only_the_likeliest_are_drawn(sampling: Sampling, allowed: set[int]) -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert set(drawn(Sampler(sampling, 1), logits, 400)) == allowed


def test_shares_are_those_of_the_softmax_at_the_temperature() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    counts = np.bincount(drawn(Sampler(Sampling(temperature=2.0), 4), logits, 4000), minlength=3)
    shares = np.exp(logits / 2) / np.exp(logits / 2).sum()
    assert np.abs(counts / 4000 - shares).max() < 0.03
    assert np.isclose(sum(np.exp(log) for _, log in likeliest(logits, 0, 4)[1:]), 1)


@pytest.mark.parametrize("size", [LIKELY // 2, 4 * LIKELY, 20 * LIKELY])
@pytest.mark.parametrize("sharp", [0.0, 0.01, 8.0])
def test_a_nucleus_is_the_smallest_whatever_is_looked_at_first(size: int, sharp: float) -> None:
    logits = (sharp * np.random.default_rng(2).standard_normal(size)).astype(np.float32)
    shares = np.sort(np.exp(logits.astype(np.float64)))[::-1]
    sums = np.cumsum(shares) / shares.sum()
    least = logits[np.argsort(-logits)[: np.searchsorted(sums, 0.9) + 2]].min()
    found = drawn(Sampler(Sampling(top_p=0.9), 5), logits, 50)
    assert logits[found].min() >= least


def test_one_seed_draws_one_row_of_tokens() -> None:
    logits = np.zeros(50, np.float32)
    assert drawn(Sampler(Sampling(), 3), logits, 20) == drawn(Sampler(Sampling(), 3), logits, 20)
    assert drawn(Sampler(Sampling(), 3), logits, 20) != drawn(Sampler(Sampling(), 4), logits, 20)


def test_what_was_said_is_punished() -> None:
    logits = np.array([3.0, 2.5, 0.0], np.float32)
    once = Sampler(Sampling(temperature=0.0, presence_penalty=1.0), 0)
    assert drawn(once, logits, 4) == [0, 1, 0, 0]
    often = Sampler(Sampling(temperature=0.0, frequency_penalty=1.0), 0)
    assert drawn(often, logits, 4) == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("probs", "expected"), [(0, []), (1, [2]), (3, [2, 0, 2]), (9, [2, 0, 2, 1])]
)
def test_probabilities_are_those_of_the_network(probs: int, expected: list[int]) -> None:
    """Its own first, then the likeliest, before temperature and penalties."""
    logits = np.log(np.array([0.6, 0.1, 0.3], np.float32))
    sampler = Sampler(Sampling(temperature=0.0, presence_penalty=2.0, probs=probs), 0)
    sampler.choose(logits)
    token, rows = sampler.choose(logits)
    assert token == 2
    assert [at for at, _ in rows] == expected
    assert np.allclose([np.exp(log) for _, log in rows], [[0.6, 0.1, 0.3][at] for at in expected])


class Listed:
    """A rule that lets one token come at a time."""

    def __init__(self, *tokens: int, ends: bool) -> None:
        self._left, self._ends = list(tokens), ends

    @property
    def ended(self) -> bool:
        return self._ends and not self._left

    def allowed(self, vocabulary: int) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(vocabulary), self._left[:1])

    def take(self, token: int) -> None:
        assert token == self._left.pop(0)


@pytest.mark.parametrize("ends", [True, False])  # it says so, or lets nothing come
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_p=0.5), Sampling(top_k=2)])
def test_only_what_a_rule_allows_comes_until_it_lets_nothing_come(
    sampling: Sampling, ends: bool
) -> None:
    sampler = Sampler(sampling, 1, Listed(2, 1, ends=ends))
    found = []
    while not sampler.ended:
        found.append(sampler.choose(np.array([3.0, 2.5, 0.0], np.float32))[0])
    assert found == [2, 1]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling()])
def test_logits_that_are_no_numbers_are_no_tokens(sampling: Sampling, wrong: float) -> None:
    with pytest.raises(WorkerFailed) as refusal:
        Sampler(sampling, 1).choose(np.array([1.0, wrong, 0.0], np.float32))
    assert refusal.value.about == "logits"
