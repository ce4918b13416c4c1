"""The SQLite store: one writer thread with group commit, readers on connections of their own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from leasehold.core.units import SECOND, Duration
from leasehold.custodian.store.connection import (
    SqliteTx,
    connect,
    is_harmless,
    is_world,
    migrate,
    rewrite_log,
    settle,
    store_failed,
)
from leasehold.custodian.store.group import GroupWriter, Job, Outcome, run_group
from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")
Connecting = Callable[..., sqlite3.Connection]
Rewriting = Callable[[Path | str], None]

READERS: Final = 2
BUSY: Final = Duration(2 * SECOND)  # another process, such as a backup, may hold the lock this long


class SqliteStore:
    """A `Store` in one file. Several processes may open it; each is safe, one is fast."""

    def __init__(
        self,
        path: Path | str,
        connection: sqlite3.Connection,
        busy: Duration,
        connecting: Connecting,
        rewriting: Rewriting,
    ) -> None:
        self._path, self._busy = path, busy
        self._connecting, self._rewriting = connecting, rewriting
        self._connection: sqlite3.Connection | None = connection
        self._group = GroupWriter(self._commit, name="ledger-writer")
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        busy: Duration = BUSY,
        connecting: Connecting = connect,
        rewriting: Rewriting = rewrite_log,
    ) -> SqliteStore:
        """Open or create the file, bring its schema up to date, start the writer. Raises StoreFailed.

        `connecting` makes the writer's connections, `rewriting` syncs the log anew.
        """
        connection = connecting(path, busy=busy)
        try:
            settle(connection, lambda: rewriting(path))
            migrate(connection)
        except StoreFailed:
            connection.close()
            raise
        store = cls(path, connection, busy, connecting, rewriting)
        store._group.start()
        return store

    async def write(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`. A caller that is cancelled does not undo its act."""
        return await self._group.write(act)

    async def read(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        if self._group.closed:
            raise StoreFailed(about="store", got="closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, act)

    async def read_soon(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`: nothing hangs here."""
        return await self.read(act)

    def on_news(self, hear: Callable[[str], None]) -> None:
        """See `port.Store`: there is no other replica."""

    async def close(self) -> None:
        """See `port.Store`."""
        if self._group.close():
            await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._group.join()
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

    def _commit(self, jobs: list[Job]) -> list[Outcome]:
        """Run a group in one transaction. Raises StoreFailed, and then none of it happened."""
        connection = self._connection or self._reconnect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            tx = SqliteTx(connection)
            acts = [job.act for job in jobs]
            outcomes = run_group(tx, acts, control=connection.execute, is_world=is_world)
            connection.execute("COMMIT")
        except sqlite3.Error as cause:
            self._abandon(connection, cause)
            raise store_failed(cause) from cause
        return outcomes

    def _reconnect(self) -> sqlite3.Connection:
        """L-12: a new connection after an I/O error, with nothing left that only seems to be written."""
        connection = self._connecting(self._path, busy=self._busy)
        try:
            settle(connection, lambda: self._rewriting(self._path))
        except StoreFailed:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _abandon(self, connection: sqlite3.Connection, cause: sqlite3.Error) -> None:
        """Undo a group; after an I/O error start over with a new connection, which reads the file afresh."""
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if not is_harmless(cause) or connection.in_transaction:
            self._connection = None
            with suppress(sqlite3.Error):
                connection.close()
