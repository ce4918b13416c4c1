"""Runs many answers on one model, a step at a time: a token for each that is being written, and pieces
of prompts beside them.

Spec: docs/spec/engines.md, W-19 and W-22. Refuses to know what a model is made of, and what text is:
tokens in, tokens out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from leasehold.core.frames import Done, Generate, Reason
from leasehold.errors import LeaseholdError
from leasehold.worker.engine import Emit, step_for_ever
from leasehold.worker.sampler import Sampler
from leasehold.worker.step import Floats, Model, Part
from leasehold.worker.words import Broke, Made, News, Read, Words


@dataclass(slots=True, eq=False)
class Job:
    """One answer. Its owner takes `news` until the last, or sets `dropped`."""

    prompt: Sequence[int]
    most: int  # tokens to make
    ends: frozenset[int]
    sampler: Sampler
    news: SimpleQueue[News] = field(default_factory=SimpleQueue)
    dropped: bool = False
    slot: int = -1
    past: int = 0  # tokens in the slot's cache
    made: int = 0
    last: int = -1
    writes: bool = False  # all of the prompt has been read

    def part(self, room: int) -> Part:
        """What to compute next: the token that was made last, or at most `room` of the prompt."""
        fresh = (self.last,) if self.writes else self.prompt[self.past : self.past + room]
        return Part(self.slot, self.past, fresh)

    def take(self, logits: Floats, count: int) -> Read | Made:
        """`count` tokens were computed, with these logits after the last. Raises WorkerFailed."""
        self.past += count
        if self.past < len(self.prompt):
            return Read()
        self.last, probs = self.sampler.choose(logits)
        self.made += 1
        stopped = self.last in self.ends or self.sampler.ended
        return Made(self.last, probs, stopped or self.made >= self.most, stopped)


class Batch:
    """The answers under way, at most `slots`, and the thread that runs their steps."""

    def __init__(self, model: Model, slots: int) -> None:
        """Start with nothing to do."""
        self._model = model
        self._free = list(range(slots))
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._reading: list[Job] = []
        self._writing: list[Job] = []
        step_for_ever(self._round, name="steps")

    def answer(self, words: Words, request: Generate, emit: Emit) -> Done:
        """Continue the prompt; `emit` is called by the thread of the caller. See `Engine.generate`."""
        ids = words.admit(request)
        sampler = Sampler(request.sampling, words.seed(request), words.constraint(request))
        if not emit("", 0):
            return Done(request.id, Reason.CANCELLED, len(ids), 0)
        job = Job(ids, words.most(request, ids), words.ends, sampler)
        self.add(job)
        try:
            return words.follow(request, ids, job.news.get, emit)
        finally:
            job.dropped = True

    def add(self, job: Job) -> None:
        """Begin it as soon as a slot is free."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def _round(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._under_way())
            while self._free and self._waiting:
                job = self._waiting.popleft()
                job.slot = min(self._free)  # slots between two that write may compute in vain
                self._free.remove(job.slot)
                self._reading.append(job)
        for job in self._under_way():
            if job.dropped:
                self._release(job)
        if self._under_way():
            self._step()

    def _under_way(self) -> list[Job]:
        return [*self._writing, *self._reading]

    def _step(self) -> None:
        room, asked = self._model.prompt_tokens, [(job, job.part(1)) for job in self._writing]
        for job in self._reading[: self._model.prompts]:
            if room > 0:
                asked.append((job, job.part(room)))
                room -= len(asked[-1][1].tokens)
        try:
            rows = self._model.run([part for _, part in asked])
            for (job, part), row in zip(asked, rows, strict=True):
                self._take(job, row, len(part.tokens))
        except LeaseholdError as refusal:
            for job in self._under_way():
                self._tell(job, Broke(refusal))

    def _take(self, job: Job, logits: Floats, count: int) -> None:
        try:
            self._tell(job, job.take(logits, count))
        except LeaseholdError as refusal:  # of this one's logits; its neighbours go on
            self._tell(job, Broke(refusal))

    def _tell(self, job: Job, news: News) -> None:
        job.news.put(news)
        if isinstance(news, Broke) or (isinstance(news, Made) and news.last):
            self._release(job)
        elif not job.writes:  # the prompts in turn
            self._reading.remove(job)
            (self._writing if job.made else self._reading).append(job)
            job.writes = job.made > 0

    def _release(self, job: Job) -> None:
        self._model.wipe(job.slot, job.past)
        self._free.append(job.slot)
        (self._writing if job.writes else self._reading).remove(job)
