"""Group commit: one thread that writes, for every store that has a connection to write on.

All acts that are waiting share one commit, so many callers cost one wait for the disk. Nobody hears of
an act before the commit that holds it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")

GROUP_MAX: Final = 256  # acts in one commit; more gains nothing and makes the first one wait


class Outcome(msgspec.Struct):
    """How an act ended: a value or an error, kept for its caller until the commit is on disk."""

    error: Exception | None = None
    value: Any = None

    def __enter__(self) -> Outcome:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, StopIteration):  # a future refuses to carry one
            error = RuntimeError("an act raised StopIteration")
        if isinstance(error, Exception):
            self.error = error
            return True
        return False


class Job(msgspec.Struct):
    """An act with the future that its caller waits on."""

    act: Callable[[Tx], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


Commit = Callable[[list[Job]], list[Outcome]]


def run_group(
    tx: Tx,
    acts: Sequence[Callable[[Tx], Any]],
    *,
    control: Callable[[str], object],
    is_world: Callable[[BaseException], bool],
) -> list[Outcome]:
    """Run acts in one transaction so that one's failure undoes nothing of another's.

    `control` runs a statement that governs the transaction. Raises what the world did (`is_world`).
    """

    def run(act: Callable[[Tx], Any]) -> Outcome:
        control("SAVEPOINT act")
        memo = dict(tx.memo)
        with Outcome() as outcome:
            outcome.value = act(tx)
        if outcome.error is not None:
            if is_world(outcome.error):
                raise outcome.error
            control("ROLLBACK TO SAVEPOINT act")
            tx.memo = memo
        control("RELEASE SAVEPOINT act")
        return outcome

    outcomes: list[Outcome] = []
    for together, alike in groupby(acts, key=lambda act: getattr(act, "together", None)):
        some = list(alike)
        if together is not None and len(some) > 1:
            done = run(partial(together, acts=some))
            if done.error is None:
                outcomes += [
                    Outcome(result) if isinstance(result, Exception) else Outcome(None, result)
                    for result in done.value
                ]
                continue
        outcomes += [run(act) for act in some]
    return outcomes


class GroupWriter:
    """The writing thread. `commit` runs a group in one transaction, or raises StoreFailed for all of it."""

    def __init__(self, commit: Commit, *, name: str) -> None:
        self._commit = commit
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # held to hand in a job, so that none comes after the last
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def closed(self) -> bool:
        """Nothing is taken any more."""
        return self._closed

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    async def write(self, act: Callable[[Tx], T]) -> T:
        """Hand in an act and wait for its commit. A caller that is cancelled does not undo its act."""
        loop = asyncio.get_running_loop()
        job = Job(act, loop, loop.create_future())
        with self._lock:
            if self._closed:
                raise StoreFailed(about="store", got="closed")
            self._jobs.put(job)
        result: T = await job.future
        return result

    def close(self) -> bool:
        """Take nothing more; tells whether this was the first call. What was handed in is still written."""
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._jobs.put(None)
        return first

    def join(self) -> None:
        """Wait, in a thread, until all is written."""
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            jobs, going = self._gather()
            with Outcome() as group:
                group.value = self._commit(jobs) if jobs else []
            failure = group.error
            if isinstance(failure, StoreFailed):
                outcomes = [Outcome(failure.again()) for _ in jobs]
            elif failure is not None:  # a mistake of ours: its callers hear of it, and others go on
                outcomes = [Outcome(failure) for _ in jobs]
            else:
                outcomes = group.value
            _deliver(jobs, outcomes)

    def _gather(self) -> tuple[list[Job], bool]:
        """Wait for a job and take whatever else is waiting; False with the last one ever."""
        jobs: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == GROUP_MAX:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs, True
        return jobs, False


def _deliver(jobs: list[Job], outcomes: list[Outcome]) -> None:
    """Wake the callers, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, results in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(resolve, results)


def resolve(results: list[tuple[asyncio.Future[Any], Outcome]]) -> None:
    """Wake callers with how their acts ended, those who were cancelled left out."""
    for future, outcome in results:
        if future.done():  # its caller was cancelled
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
