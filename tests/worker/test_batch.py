"""W-19 and W-22: many answers on one model, a step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np
import pytest

from leasehold.core.frames import Sampling
from leasehold.errors import WorkerFailed
from leasehold.worker.batch import Batch, Job
from leasehold.worker.sampler import Sampler
from leasehold.worker.step import Floats, Part
from leasehold.worker.words import Broke, Made, News, Read

GREEDY = Sampling(temperature=0.0)
VOCABULARY = 1000


class Counting:
    """A model whose next token is one more than the last."""

    def __init__(self, prompt_tokens: int = 128, prompts: int = 8) -> None:
        self.prompt_tokens, self.prompts = prompt_tokens, prompts
        self.steps: list[list[tuple[int, int, int]]] = []
        self.wiped: list[tuple[int, int]] = []

    def run(self, parts: Sequence[Part]) -> Iterator[Floats]:
        self.steps.append([(part.slot, part.past, len(part.tokens)) for part in parts])
        for part in parts:
            yield self.row(part.tokens[-1])

    def row(self, token: int) -> Floats:
        """What may come after it."""
        found = np.zeros(VOCABULARY, np.float32)
        found[(token + 1) % VOCABULARY] = 9.0
        return found

    def wipe(self, slot: int, tokens: int) -> None:
        self.wiped.append((slot, tokens))


def job(prompt: Sequence[int], most: int, ends: frozenset[int] = frozenset()) -> Job:
    return Job(prompt, most, ends, Sampler(GREEDY, 0))


def all_news(asked: Job) -> list[News]:
    """Until the last."""
    found: list[News] = []
    while True:
        found.append(asked.news.get())
        match found[-1]:
            case Broke() | Made(last=True):
                return found


def tokens(news: Sequence[News]) -> list[int | None]:
    return [one.token if isinstance(one, Made) else None for one in news]


def run(batch: Batch, *asked: Job) -> list[list[int | None]]:
    """All at once, the first first."""
    for one in asked:
        batch.add(one)
    return [tokens(all_news(one)) for one in asked]


def test_a_long_prompt_comes_in_pieces_and_its_slot_is_wiped() -> None:
    model = Counting()
    batch = Batch(model, 1)
    assert run(batch, job([1] * 300, 2), job([5], 1)) == [[None, None, 2, 3], [6]]
    assert [step[0][1:] for step in model.steps[:4]] == [(0, 128), (128, 128), (256, 44), (300, 1)]
    assert model.wiped[0] == (0, 301)  # before the slot's next one begins


def test_an_end_token_ends_it_and_so_does_the_last_that_was_wanted() -> None:
    batch = Batch(Counting(), 1)
    ended, enough = job([1], 9, frozenset([4])), job([1], 3)
    for one in (ended, enough):
        batch.add(one)
    last = [all_news(one)[-1] for one in (ended, enough)]
    assert last == [Made(4, (), last=True, stopped=True), Made(4, (), last=True, stopped=False)]


class Held(Counting):
    """Its first step takes until it is let go."""

    def __init__(self, prompt_tokens: int, prompts: int) -> None:
        super().__init__(prompt_tokens, prompts)
        self.began, self.may = Event(), Event()

    def run(self, parts: Sequence[Part]) -> Iterator[Floats]:
        self.began.set()
        self.may.wait()
        return super().run(parts)


@pytest.mark.parametrize(
    ("piece", "prompts", "steps"),
    [
        (4, 1, [[1], [4], [4], [4], [4], [2], [1, 1]]),  # of one prompt in each step
        (6, 8, [[1], [6], [6], [4, 2], [1, 1]]),  # the second fills what the first leaves
    ],
)
def test_prompts_take_turns_beside_those_who_write(
    piece: int, prompts: int, steps: list[list[int]]
) -> None:
    model = Held(piece, prompts)
    batch = Batch(model, 3)
    asked = [job([1], 1), job([1] * 10, 9), job([1] * 9, 1)]
    batch.add(asked[0])
    model.began.wait()  # what is added now begins with the second step
    for one in asked[1:]:
        batch.add(one)
    model.may.set()
    assert [tokens(all_news(one))[-1] for one in asked] == [2, 10, 2]
    assert [[count for *_, count in step] for step in model.steps[: len(steps)]] == steps


def test_who_stops_asking_ends_the_job() -> None:
    asked = job([1] * 1000, 9)

    class Patient(Counting):
        """Its second step takes until nobody asks any more."""

        def run(self, parts: Sequence[Part]) -> Iterator[Floats]:
            while len(self.steps) == 1 and not asked.dropped:
                pass
            return super().run(parts)

    model = Patient()
    batch = Batch(model, 1)
    batch.add(asked)
    assert asked.news.get() == Read()
    asked.dropped = True
    assert run(batch, job([5], 3)) == [[6, 7, 8]]
    assert [step[0][2] for step in model.steps] == [128, 128, 1, 1, 1]
    assert model.wiped[0] == (0, 256)


def test_logits_that_are_no_numbers_fail_one_answer_and_no_other() -> None:
    class Broken(Counting):
        def row(self, token: int) -> Floats:
            return np.full(VOCABULARY, np.nan, np.float32) if token == 7 else super().row(token)

    batch = Batch(Broken(), 2)
    bad, good = job([5], 9), job([50], 9)
    for one in (bad, good):
        batch.add(one)
    *made, broke = all_news(bad)
    assert tokens(made) == [6, 7]
    assert isinstance(broke, Broke)
    assert broke.error.about == "logits"
    assert tokens(all_news(good)) == list(range(51, 60))
    assert run(batch, job([1], 1)) == [[2]]


def test_a_step_that_fails_ends_all_that_is_under_way_and_the_next_are_served() -> None:
    class Failing(Counting):
        def run(self, parts: Sequence[Part]) -> Iterator[Floats]:
            for at, row in enumerate(super().run(parts)):
                if at == 1:
                    raise WorkerFailed(about="the second row")
                yield row

    batch = Batch(Failing(), 2)
    asked = [job([5], 1 << 20), job([50], 1 << 20)]
    for one in asked:
        batch.add(one)
    for one in asked:
        last = all_news(one)[-1]
        assert isinstance(last, Broke)
        assert last.error.about == "the second row"
    assert run(batch, job([1], 2)) == [[2, 3]]
