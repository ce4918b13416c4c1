"""Requests side by side: each step decodes for all that speak, then reads a piece of one prompt.

Spec: docs/spec/engines.md, W-19. Refuses to know text: tokens come in, tokens go out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from leasehold.errors import WorkerFailed
from leasehold.worker.engine import step_for_ever
from leasehold.worker.pytorch import ERRORS, Logits, Network
from leasehold.worker.words import Broke, Made, News, Read


class Chooser(Protocol):
    """Picks a token; `ended` where nothing can come after the last one."""

    ended: bool

    def choose(self, logits: Logits) -> tuple[int, list[tuple[int, float]]]:
        """See `pytorch.Sampler`."""


@dataclass(slots=True)
class Writing:
    """One request. Its owner takes `news` until the last, or sets `dropped`."""

    prompt: Sequence[int]
    most: int  # tokens to make
    ends: frozenset[int]
    chooser: Chooser
    news: SimpleQueue[News] = field(default_factory=SimpleQueue)
    dropped: bool = False
    slot: int = -1
    read: int = 0  # tokens of the prompt
    made: int = 0
    last: int = 0

    @property
    def position(self) -> int:
        """Of the token that was made last."""
        return len(self.prompt) + self.made - 1


class Batches:
    """Runs a network on a thread of its own, for as many requests as it has slots."""

    def __init__(self, network: Network, slots: int) -> None:
        """Start."""
        self._network = network
        self._free = list(range(slots))
        self._changed = threading.Condition()
        self._waiting: deque[Writing] = deque()
        self._reading: deque[Writing] = deque()
        self._speaking: dict[int, Writing] = {}
        step_for_ever(self._round, name="batches")

    def add(self, writing: Writing) -> None:
        """Begin it as soon as a slot is free."""
        with self._changed:
            self._waiting.append(writing)
            self._changed.notify()

    def _round(self) -> None:
        with self._changed:
            while not (self._waiting or self._reading or self._speaking):
                self._changed.wait()
            self._admit()
        try:
            self._step()
        except ERRORS as cause:
            self._break(WorkerFailed(about="torch", got=cause))

    def _admit(self) -> None:
        while self._free and self._waiting:
            writing = self._waiting.popleft()
            writing.slot = min(self._free)  # low ones: slots between two that speak compute in vain
            self._free.remove(writing.slot)
            self._reading.append(writing)

    def _step(self) -> None:
        for writing in [one for one in self._all() if one.dropped]:
            self._release(writing)
        if self._speaking:
            last = {slot: (one.last, one.position) for slot, one in self._speaking.items()}
            for slot, logits in self._network.decode(last).items():
                self._tell(self._speaking[slot], logits)
        if self._reading:
            self._read(self._reading.popleft())

    def _read(self, writing: Writing) -> None:
        piece = writing.prompt[writing.read : writing.read + self._network.piece_tokens]
        self._reading.append(writing)
        logits = self._network.prefill(writing.slot, piece, writing.read)
        writing.read += len(piece)
        if writing.read < len(writing.prompt):
            writing.news.put(Read())
            return
        self._reading.remove(writing)
        self._speaking[writing.slot] = writing
        self._tell(writing, logits)

    def _tell(self, writing: Writing, logits: Logits) -> None:
        writing.last, probs = writing.chooser.choose(logits)
        writing.made += 1
        stopped = writing.last in writing.ends or writing.chooser.ended
        last = stopped or writing.made == writing.most
        writing.news.put(Made(writing.last, probs, last, stopped))
        if last:
            self._release(writing)

    def _release(self, writing: Writing) -> None:
        self._network.wipe(writing.slot, writing.read + writing.made)
        self._free.append(writing.slot)
        if self._speaking.pop(writing.slot, None) is None:
            self._reading.remove(writing)

    def _break(self, error: WorkerFailed) -> None:
        for writing in self._all():
            writing.news.put(Broke(error))
            self._release(writing)

    def _all(self) -> list[Writing]:
        return [*self._speaking.values(), *self._reading]
