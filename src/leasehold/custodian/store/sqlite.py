"""The SQLite store: one writer thread with group commit, readers on connections of their own.

All acts that are waiting share one commit, so many callers cost one fsync. Nobody hears of an act
before the commit that holds it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, TypeVar

from leasehold.core.units import SECOND, Duration
from leasehold.custodian.store.connection import (
    SqliteTx,
    connect,
    is_harmless,
    is_world,
    migrate,
    store_failed,
)
from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")

GROUP_MAX: Final = 256  # acts in one commit; more gains nothing and makes the first one wait
READERS: Final = 2
BUSY: Final = Duration(2 * SECOND)  # another process, such as a backup, may hold the lock this long


class _Outcome:
    """How an act ended: a value or an error, kept for its caller until the commit is on disk."""

    __slots__ = ("error", "value")

    def __init__(self, error: Exception | None = None) -> None:
        self.value: Any = None
        self.error = error

    def __enter__(self) -> _Outcome:
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


class _Job:
    """An act with the future that its caller waits on."""

    __slots__ = ("act", "future", "loop")

    def __init__(self, act: Callable[[Tx], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.act, self.loop = act, loop
        self.future: asyncio.Future[Any] = loop.create_future()


class SqliteStore:
    """A `Store` in one file. Several processes may open it; each is safe, one is fast."""

    def __init__(self, path: Path, connection: sqlite3.Connection, busy: Duration) -> None:
        self._path, self._busy = path, busy
        self._connection: sqlite3.Connection | None = connection
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # held to hand in a job, so that none comes after the last
        self._closed = False
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")
        self._writer = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    @classmethod
    def open(cls, path: Path, *, busy: Duration = BUSY) -> SqliteStore:
        """Open or create the file, bring its schema up to date, start the writer. Raises StoreFailed."""
        connection = connect(path, busy=busy)
        migrate(connection)
        store = cls(path, connection, busy)
        store._writer.start()
        return store

    async def write(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`. A caller that is cancelled does not undo its act."""
        job = _Job(act, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise StoreFailed(about="store", got="closed")
            self._jobs.put(job)
        result: T = await job.future
        return result

    async def read(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        if self._closed:
            raise StoreFailed(about="store", got="closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, act)

    async def close(self) -> None:
        """See `port.Store`."""
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._jobs.put(None)
        if first:
            await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._writer.join()
        self._readers.shutdown()
        for connection in (*self._reading, self._connection):
            if connection is not None:
                connection.close()

    # Readers -------------------------------------------------------------------------------------

    def _read(self, act: Callable[[Tx], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(
                self._path, read_only=True, busy=self._busy
            )
            self._reading.append(connection)
        try:
            connection.execute("BEGIN")
            return act(SqliteTx(connection))
        except sqlite3.Error as cause:
            if is_world(cause):
                raise store_failed(cause) from cause
            raise
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    # The writer ----------------------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            jobs, going = self._gather()
            try:
                outcomes = self._commit(jobs)
            except StoreFailed as failure:
                outcomes = [
                    _Outcome(StoreFailed(about=failure.about, got=failure.got)) for _ in jobs
                ]
            _deliver(jobs, outcomes)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait for a job and take whatever else is waiting; False with the last one ever."""
        jobs: list[_Job] = []
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

    def _commit(self, jobs: list[_Job]) -> list[_Outcome]:
        """Run a group in one transaction. Raises StoreFailed, and then none of it happened."""
        if not jobs:
            return []
        if self._connection is None:
            self._connection = connect(self._path, busy=self._busy)
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            tx = SqliteTx(connection)
            outcomes = [_run_act(connection, tx, job.act) for job in jobs]
            connection.execute("COMMIT")
        except sqlite3.Error as cause:
            self._abandon(connection, cause)
            raise store_failed(cause) from cause
        return outcomes

    def _abandon(self, connection: sqlite3.Connection, cause: sqlite3.Error) -> None:
        """Undo a group; after an I/O error start over with a new connection, which reads the file afresh."""
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if not is_harmless(cause) or connection.in_transaction:
            self._connection = None
            with suppress(sqlite3.Error):
                connection.close()


def _run_act(connection: sqlite3.Connection, tx: SqliteTx, act: Callable[[Tx], Any]) -> _Outcome:
    """Run one act of a group so that its failure undoes nothing else."""
    connection.execute("SAVEPOINT act")
    memo = dict(tx.memo)
    with _Outcome() as outcome:
        outcome.value = act(tx)
    if isinstance(outcome.error, sqlite3.Error) and is_world(outcome.error):
        raise outcome.error
    if outcome.error is not None:
        connection.execute("ROLLBACK TO act")
        tx.memo = memo
    connection.execute("RELEASE act")
    return outcome


def _deliver(jobs: list[_Job], outcomes: list[_Outcome]) -> None:
    """Wake the callers, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], _Outcome]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, results in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: list[tuple[asyncio.Future[Any], _Outcome]]) -> None:
    for future, outcome in results:
        if future.done():  # its caller was cancelled
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
