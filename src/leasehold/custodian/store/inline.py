"""A store in the calling thread and in memory: deterministic, for simulated worlds and tests.

Same SQL, same schema, same errors as `sqlite`; what it lacks is durability.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from leasehold.custodian.store.connection import (
    MEMORY,
    SqliteTx,
    connect,
    is_world,
    migrate,
    store_failed,
)
from leasehold.custodian.store.group import Outcome, run_group
from leasehold.custodian.store.port import Tx
from leasehold.errors import StoreFailed

T = TypeVar("T")


class _TellingTx(SqliteTx):
    """A `Tx` that keeps the news."""

    __slots__ = ("_news",)

    def __init__(self, connection: sqlite3.Connection, news: list[str]) -> None:
        super().__init__(connection)
        self._news = news

    def tell(self, news: str) -> None:
        """See `port.Tx`."""
        self._news.append(news)


@lru_cache(maxsize=1)
def _empty() -> bytes:
    """A store with nothing in it but its tables, which take ten milliseconds to make."""
    connection = connect(MEMORY)
    try:
        migrate(connection)
        return connection.serialize()
    finally:
        connection.close()


class InlineStore:
    """A `Store` that never yields to the event loop and whose whole content is one value."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection

    @classmethod
    def open(cls, snapshot: bytes | None = None) -> InlineStore:
        """A new and empty store, or one that continues from a `snapshot`."""
        connection = connect(MEMORY)
        connection.deserialize(_empty() if snapshot is None else snapshot)
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        return cls(connection)

    def snapshot(self) -> bytes:
        """All that was committed: what a backup, or a disk after a crash, holds. Raises StoreFailed."""
        return self._open().serialize()

    async def write(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        return self._run(act, end="COMMIT")

    async def read(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`."""
        connection = self._open()
        connection.execute("PRAGMA query_only = 1")
        try:
            return self._run(act, end="ROLLBACK")
        finally:
            connection.execute("PRAGMA query_only = 0")

    async def read_soon(self, act: Callable[[Tx], T]) -> T:
        """See `port.Store`: nothing hangs here."""
        return await self.read(act)

    def group(self, acts: Sequence[Callable[[Tx], Any]]) -> tuple[list[Outcome], list[str]]:
        """Run acts in one commit, as the other stores do; how each ended, and the news of those that hold.

        Raises StoreFailed, and then none of them happened.
        """
        connection, news = self._open(), list[str]()
        marks: list[int] = []

        def control(sql: str) -> None:
            connection.execute(sql)
            if sql.startswith("SAVEPOINT"):
                marks.append(len(news))
            elif sql.startswith("ROLLBACK"):
                del news[marks[-1] :]

        def act(_: Tx) -> list[Outcome]:
            return run_group(_TellingTx(connection, news), acts, control=control, is_world=is_world)

        return self._run(act, end="COMMIT"), news

    def peek(self, act: Callable[[Tx], T]) -> T:
        """Run an act that is known to write nothing, for whoever looks after every commit."""
        return act(SqliteTx(self._open()))

    def on_news(self, hear: Callable[[str], None]) -> None:
        """See `port.Store`: there is no other replica."""

    async def close(self) -> None:
        """See `port.Store`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, act: Callable[[Tx], T], *, end: str) -> T:
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE" if end == "COMMIT" else "BEGIN")
            result = act(SqliteTx(connection))
            connection.execute(end)
        except sqlite3.Error as cause:
            if is_world(cause):
                raise store_failed(cause) from cause
            raise
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return result

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreFailed(about="store", got="closed")
        return self._connection
