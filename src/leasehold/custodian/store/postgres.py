"""The PostgreSQL store: several custodian replicas over one ledger, each with group commit.

All replicas' groups run one after another under one advisory lock. At READ COMMITTED a statement sees
whatever was committed before it began, and nobody else can commit while the lock is held, so an act
sees the ledger as if it were alone (docs/adr/0021-postgresql.md). The lock
is released after the commit is visible. Spec: docs/spec/ledger.md, L-10, L-11 and L-16.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from leasehold.core.units import SECOND, Duration
from leasehold.custodian.store.group import GroupWriter, Job, Outcome, run_group
from leasehold.custodian.store.pgconnection import (
    CHANNEL,
    LOCK,
    STATEMENT,
    Connection,
    Error,
    PgTx,
    connect,
    is_world,
    migrate,
    store_failed,
)
from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")
Connecting = Callable[[str], Connection]

READERS: Final = 2
SOON: Final = Duration(2 * SECOND)  # what a read that may not wait has for a statement (L-16)
LISTEN_SECONDS: Final = 0.5  # how soon a listener sees that it is to end
LISTEN_AGAIN_SECONDS: Final = 0.5
SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Readers:
    """Threads that read, each on a connection of its own."""

    def __init__(
        self, url: str, *, threads: int, name: str, statement: Duration = STATEMENT
    ) -> None:
        self._url, self._statement = url, statement
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._local = threading.local()
        self._connections: list[Connection] = []

    async def read(self, act: Callable[[Tx], T]) -> T:
        """Run an act in a snapshot, in one of the threads. Raises what it raises, and StoreFailed."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, act)

    def close(self) -> None:
        """Finish what was handed in, then end the connections."""
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()

    def _read(self, act: Callable[[Tx], T]) -> T:
        connection = self._begun()
        try:
            return act(PgTx(connection))
        except Error as cause:
            if is_world(cause):
                self._drop(connection)  # also where it only timed out: it may be frozen
                raise store_failed(cause) from cause
            raise
        finally:
            if not connection.closed:
                _roll_back(connection)

    def _begun(self) -> Connection:
        """This thread's connection, in a snapshot. One that died unused is replaced: nothing was read."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                connection.execute(SNAPSHOT)
            except Error as cause:
                self._drop(connection)
                if not is_world(cause):
                    raise
            else:
                return connection
        connection = self._local.connection = connect(self._url, statement=self._statement)
        self._connections.append(connection)
        try:
            connection.execute(SNAPSHOT)
        except Error as cause:
            self._drop(connection)
            raise store_failed(cause) from cause
        return connection

    def _drop(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._local.connection = None
        connection.close()


class PostgresStore:
    """A `Store` in a PostgreSQL database. Any number of processes may open it."""

    def __init__(self, url: str, connection: Connection, connecting: Connecting) -> None:
        self._url, self._connecting = url, connecting
        self._connection: Connection | None = connection
        self._replica = secrets.token_hex(8)
        self._group = GroupWriter(self._commit, name="ledger-writer")
        self._readers = Readers(url, threads=READERS, name="ledger-reader")
        self._soon = Readers(url, threads=1, name="ledger-news", statement=SOON)
        self._listener: threading.Thread | None = None

    @classmethod
    def open(cls, url: str, *, connecting: Connecting = connect) -> PostgresStore:
        """Connect, bring the schema up to date, start the writer. Raises StoreFailed, BadSetting.

        `connecting` makes the writer's connections.
        """
        connection = connecting(url)
        try:
            migrate(connection)
        except StoreFailed:
            connection.close()
            raise
        store = cls(url, connection, connecting)
        store._group.start()
        return store

    async def write(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`. A caller that is cancelled does not undo its act."""
        return await self._group.write(act)

    async def read(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        if self._group.closed:
            raise StoreFailed(about="store", got="closed")
        return await self._readers.read(act)

    async def read_soon(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        if self._group.closed:
            raise StoreFailed(about="store", got="closed")
        return await self._soon.read(act)

    def on_news(self, hear: Callable[[str], None]) -> None:
        """See `port.Store`."""
        loop = asyncio.get_running_loop()

        def told(news: str) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(hear, news)

        self._listener = threading.Thread(
            target=self._listen, args=(told,), name="ledger-listener", daemon=True
        )
        self._listener.start()

    async def close(self) -> None:
        """See `port.Store`."""
        if self._group.close():
            await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._group.join()
        self._readers.close()
        self._soon.close()
        if self._listener is not None:
            self._listener.join()
        if self._connection is not None:
            self._connection.close()

    # The writer ----------------------------------------------------------------------------------

    def _commit(self, jobs: list[Job]) -> list[Outcome]:
        """Run a group in one transaction. Raises StoreFailed; what became of it is then unknown."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connecting(self._url)
        connection = self._connection
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            tx = PgTx(connection, self._replica)
            acts = [job.act for job in jobs]
            outcomes = run_group(tx, acts, control=connection.execute, is_world=is_world)
            connection.execute("COMMIT")
        except Error as cause:
            self._connection = None
            _roll_back(connection)
            connection.close()
            raise store_failed(cause) from cause
        return outcomes

    # The listener --------------------------------------------------------------------------------

    def _listen(self, told: Callable[[str], None]) -> None:
        """Hear what others tell until the store is closed; after every gap say that there was one."""
        while not self._group.closed:
            try:
                connection = connect(self._url)
            except StoreFailed:
                time.sleep(LISTEN_AGAIN_SECONDS)
                continue
            try:
                connection.execute(f"LISTEN {CHANNEL}")
                told("")
                while not self._group.closed:
                    for one in connection.notifies(timeout=LISTEN_SECONDS):
                        replica, _, news = one.payload.partition(" ")
                        if replica != self._replica:
                            told(news)
            except Error:
                time.sleep(LISTEN_AGAIN_SECONDS)
            finally:
                connection.close()


def _roll_back(connection: Connection) -> None:
    with suppress(Error):
        connection.execute("ROLLBACK")
