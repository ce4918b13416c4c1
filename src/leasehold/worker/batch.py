"""Runs many answers on one model, a step at a time: a token for each that is being written, and pieces
of prompts beside them.

Spec: docs/spec/engines.md, W-22. Refuses to know text: tokens in, tokens out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from leasehold.errors import LeaseholdError
from leasehold.worker.constraint import Constraint
from leasehold.worker.engine import step_for_ever
from leasehold.worker.paged import Floats, Part
from leasehold.worker.sampler import Sampler, logarithms
from leasehold.worker.words import Broke, Made, News, Read

STEP_TOKENS: Final = 128  # of all sequences together: prefill is asked after these whether to go on


class Model(Protocol):
    """What a step is run on: see `paged.PagedModel`."""

    def run(self, parts: Sequence[Part]) -> Floats:
        """float32[parts, vocabulary]. Raises WorkerFailed."""

    def wipe(self, slot: int, tokens: int) -> None:
        """Zeros in the slot's cache."""


@dataclass(slots=True, eq=False)
class Job:
    """One answer: its prompt, how its tokens are chosen, and how many there may be."""

    prompt: Sequence[int]
    most: int
    sampler: Sampler
    ends: frozenset[int]
    constraint: Constraint | None = None
    probs: int = 0
    slot: int = 0
    past: int = 0
    made: int = 0
    last: int = -1
    over: bool = False
    news: queue.SimpleQueue[News] = field(default_factory=queue.SimpleQueue)

    def next_tokens(self, room: int) -> Sequence[int]:
        """What to compute next: the last token, or at most `room` of the prompt."""
        if self.last >= 0:
            return (self.last,)
        return self.prompt[self.past : self.past + max(0, room)]

    def take(self, logits: Floats, count: int) -> None:
        """`count` tokens were computed, with these logits after the last."""
        self.past += count
        if self.past < len(self.prompt):
            self.news.put(Read())
            return
        allowed = self.constraint.allowed(len(logits)) if self.constraint else None
        token = self.sampler.choose(logits, allowed)
        if self.constraint:
            self.constraint.take(token)
        self.made, self.last = self.made + 1, token
        stopped = token in self.ends or (self.constraint is not None and self.constraint.ended)
        last = stopped or self.made >= self.most
        self.over = self.over or last
        self.news.put(Made(token, self._told(logits, token), last, stopped))

    def _told(self, logits: Floats, token: int) -> tuple[tuple[int, float], ...]:
        if not self.probs:
            return ()
        found = logarithms(logits)
        top = found.argsort()[::-1][: self.probs - 1]
        return tuple((int(at), float(found[at])) for at in (token, *top))


class Batch:
    """The jobs under way, at most `slots`, and the thread that runs their steps."""

    def __init__(self, model: Model, slots: int) -> None:
        """Start with nothing to do."""
        self._model = model
        self._free = list(range(slots))
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        step_for_ever(self._round, name="steps")

    def run(self, job: Job) -> Generator[News, None, None]:
        """News of the job until its last token or fault; it ends where the caller stops asking."""
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            job.slot = self._free.pop()
            self._jobs.append(job)
            self._changed.notify_all()
        try:
            while True:
                one = job.news.get()
                yield one
                if isinstance(one, Broke) or (isinstance(one, Made) and one.last):
                    return
        finally:
            job.over = True
            with self._changed:
                self._changed.wait_for(lambda: job not in self._jobs)
                self._model.wipe(job.slot, job.past)
                self._free.append(job.slot)
                self._changed.notify_all()

    def _round(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs)
            self._jobs = [job for job in self._jobs if not job.over]
            self._changed.notify_all()
            jobs = list(self._jobs)
        if jobs:
            self._step(jobs)

    def _step(self, jobs: Sequence[Job]) -> None:
        room, parts = STEP_TOKENS, []
        for job in sorted(jobs, key=lambda one: one.last < 0):  # who writes goes first
            tokens = job.next_tokens(room)
            if tokens:
                parts.append((job, Part(job.slot, job.past, tokens)))
                room -= len(tokens)
        try:
            rows = self._model.run([part for _, part in parts])
            for (job, part), row in zip(parts, rows, strict=True):
                job.take(row, len(part.tokens))
        except LeaseholdError as refusal:
            for job in jobs:
                job.over = True
                job.news.put(Broke(refusal))
