"""A disk that fails: slow, full, cut off in the middle of a commit, put back as it was an hour ago.

Spec: docs/spec/simulation.md, Z-2. What it holds is what was committed; who dies before a commit leaves
nothing, who dies after it leaves everything and has told nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")


class Moment(Enum):
    """When in a write something happens."""

    BEFORE = 1
    """Nothing was written."""
    AFTER = 2
    """All of it is on disk, and nobody knows."""


def _nobody(_tx: Tx) -> None:
    pass


@dataclass(slots=True)
class Disk:
    """A `Store` over one that never fails. `watch` sees the ledger after every commit.

    `crash` names a moment of the write after `crash_in` others at which `on_crash` is called, and from
    then on whoever waits for a write of that life hears that it failed.
    """

    luck: random.Random
    inside: InlineStore = field(default_factory=InlineStore.open)
    seconds: float = 0.0  # the longest step of a write
    full: bool = False
    lie: float = 0.0  # how often a commit is said to have failed
    crash: Moment | None = None
    crash_in: int = 0
    on_crash: Callable[[], None] = lambda: None
    watch: Callable[[Tx], None] = _nobody
    _life: int = 0

    async def write(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        life = self._life
        await self._step(life, Moment.BEFORE)
        if self.full:
            raise StoreFailed(about="simulated disk", got="full")
        try:
            result = await self.inside.write(act)
        finally:
            self.inside.peek(self.watch)
        await self._step(life, Moment.AFTER)
        if self.lie and self.luck.random() < self.lie:
            raise StoreFailed(about="simulated disk", got="no answer to a commit")
        return result

    async def read(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        life = self._life
        await self._pause()
        self._check(life)
        return await self.inside.read(act)

    def on_news(self, hear: Callable[[str], None]) -> None:
        """See `port.Store`."""
        self.inside.on_news(hear)

    async def close(self) -> None:
        """See `port.Store`."""
        await self.inside.close()

    def die(self) -> None:
        """The process that used it is gone: nothing that it waits for will be."""
        self._life += 1
        self.crash = None

    def put_back(self, snapshot: bytes) -> None:
        """Replace all by an older state, as somebody with a backup does."""
        self.inside = InlineStore.open(snapshot)

    async def _step(self, life: int, moment: Moment) -> None:
        if self.crash is moment:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash = None
                self.on_crash()
        await self._pause()
        self._check(life)

    async def _pause(self) -> None:
        if self.seconds:
            await asyncio.sleep(self.luck.uniform(0, self.seconds))

    def _check(self, life: int) -> None:
        if life != self._life:
            raise StoreFailed(about="simulated disk", got="a crash")
