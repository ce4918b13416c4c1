"""A ledger's disk that fails, and the replicas' seats at it: slow, full, cut off, put back as it was.

Spec: docs/spec/simulation.md, Z-2. What it holds is what was committed; who dies before a commit leaves
nothing, who dies after it leaves everything and has told nobody. Several replicas have one seat each at the
same ledger, and hear of each other by news, late or never, as PostgreSQL's listeners do (L-10).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from leasehold.custodian.store.group import Job, Outcome, resolve
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")
NEWS_SECONDS_MAX: Final = 0.05
PARTED_SECONDS_MAX: Final = 20.0  # what a statement may take before it is given up (L-11)


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
    """What all replicas write to. `watch` sees the ledger after every commit.

    `crash` names a moment of the write after `crash_in` others at which `on_crash` is called with the seat
    that writes, and from then on whoever waits for a write of that life hears that it failed.
    """

    luck: random.Random
    inside: InlineStore = field(default_factory=InlineStore.open)
    seconds: float = 0.0  # the longest step of a write
    full: bool = False
    lie: float = 0.0  # how often a commit is said to have failed
    crash: Moment | None = None
    crash_in: int = 0
    on_crash: Callable[[Seat], None] = lambda _: None
    watch: Callable[[Tx], None] = _nobody
    seats: list[Seat] = field(default_factory=list)

    def seat(self) -> Seat:
        """A `Store` for one more replica."""
        self.seats.append(Seat(self))
        return self.seats[-1]

    def die(self) -> None:
        """All processes that used it are gone: nothing that they wait for will be."""
        for seat in self.seats:
            seat.die()

    def put_back(self, snapshot: bytes) -> None:
        """Replace all by an older state, as somebody with a backup does."""
        self.inside = InlineStore.open(snapshot)

    async def pause(self) -> None:
        """Take the time of one step."""
        if self.seconds:
            await asyncio.sleep(self.luck.uniform(0, self.seconds))


@dataclass(slots=True, eq=False)
class Seat:
    """One replica's `Store`. `parted` from the database nothing comes through; `deaf` it hears no news.

    `gaps` counts how often it may have missed some, `hanging` what still waits for an answer that never comes.
    """

    disk: Disk
    parted: bool = False
    deaf: bool = False
    gaps: int = 0
    hanging: int = 0
    _life: int = 0
    _hear: Callable[[str], None] | None = None
    _jobs: list[Job] = field(default_factory=list)

    async def write(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        life, disk = self._life, self.disk
        await self._step(life, Moment.BEFORE)
        if disk.full:
            raise StoreFailed(about="simulated disk", got="full")
        loop = asyncio.get_running_loop()
        job = Job(act, loop, loop.create_future())
        self._jobs.append(job)
        if len(self._jobs) == 1:
            loop.call_later(disk.luck.uniform(0, disk.seconds), self._commit, self._jobs)
        result: T = await job.future
        await self._step(life, Moment.AFTER)
        if disk.lie and disk.luck.random() < disk.lie:
            raise StoreFailed(about="simulated disk", got="no answer to a commit")
        return result

    async def read(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        life = self._life
        await self._through(life)
        return await self.disk.inside.read(act)

    async def read_soon(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`: nothing hangs here."""
        return await self.read(act)

    def on_news(self, hear: Callable[[str], None]) -> None:
        """See `port.Store`."""
        self._hear = hear
        self._listen()

    async def close(self) -> None:
        """See `port.Store`."""
        await self.disk.inside.close()

    def die(self) -> None:
        """The process that used it is gone: nothing that it waits for will be."""
        self._life += 1
        self._hear = None
        self.disk.crash = None
        self._fail(StoreFailed(about="simulated disk", got="a crash"))

    # News ----------------------------------------------------------------------------------------

    def tell(self, news: Sequence[str]) -> None:
        """Let this replica hear what another one has just committed, a moment later."""
        if self.hears:
            for one in news:
                seconds = self.disk.luck.uniform(0, NEWS_SECONDS_MAX)
                asyncio.get_running_loop().call_later(seconds, self._arrive, one, self.gaps)

    @property
    def hears(self) -> bool:
        """Whether news reach it at the moment."""
        return self._hear is not None and not (self.deaf or self.parted)

    def miss(self) -> None:
        """News that are under way are lost from now on, while `deaf` or `parted`."""
        self.gaps += 1

    def listen_again(self) -> None:
        """The gap is over, and the replica is told that there was one."""
        if self.hears:
            self._listen()

    def _listen(self) -> None:
        if len(self.disk.seats) > 1:
            self._arrive("", self.gaps)

    def _arrive(self, news: str, gaps: int) -> None:
        if self._hear is not None and gaps == self.gaps:
            self._hear(news)

    # Commits -------------------------------------------------------------------------------------

    def _commit(self, jobs: list[Job]) -> None:
        """All acts that wait share one commit, as they do in the other stores."""
        if jobs is not self._jobs:
            return  # they were given up
        if self.parted:
            self._fail(StoreFailed(about="simulated database", got="no answer"))
            return
        disk, self._jobs = self.disk, []
        outcomes, news = disk.inside.group([job.act for job in jobs])
        disk.inside.peek(disk.watch)
        for seat in disk.seats:
            if seat is not self:
                seat.tell(news)
        resolve([(job.future, outcome) for job, outcome in zip(jobs, outcomes, strict=True)])

    def _fail(self, failure: StoreFailed) -> None:
        jobs, self._jobs = self._jobs, []
        resolve([(job.future, Outcome(failure.again())) for job in jobs])

    # What may fail -------------------------------------------------------------------------------

    async def _step(self, life: int, moment: Moment) -> None:
        disk = self.disk
        if disk.crash is moment:
            disk.crash_in -= 1
            if disk.crash_in < 0:
                disk.crash = None
                disk.on_crash(self)
        await self._through(life)

    async def _through(self, life: int) -> None:
        await self.disk.pause()
        if self.parted:
            self.hanging += 1
            try:
                await asyncio.sleep(self.disk.luck.uniform(0, PARTED_SECONDS_MAX))
            finally:
                self.hanging -= 1
            raise StoreFailed(about="simulated database", got="no answer")
        if life != self._life:
            raise StoreFailed(about="simulated disk", got="a crash")
