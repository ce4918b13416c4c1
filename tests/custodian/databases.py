"""Databases for tests on PostgreSQL, and a store that runs acts in the calling thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from tools.postgres import Server

from leasehold.custodian.store.pgconnection import Connection, PgTx, connect, migrate, schema
from leasehold.custodian.store.port import Tx

T = TypeVar("T")
_NUMBERS = itertools.count(1)
_KEPT = {"schema_version"}


def new_database(server: Server) -> str:
    """The URL of a database with nothing in it."""
    name = f"test{next(_NUMBERS)}"
    connection = connect(server.url())
    connection.execute(f"CREATE DATABASE {name}", prepare=False)
    connection.close()
    return server.url(name)


class CallingThreadStore:
    """Like `InlineStore`, on PostgreSQL: acts run at once, one after another. What it holds is durable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, url: str) -> CallingThreadStore:
        """Connect, and bring the schema up to date."""
        connection = connect(url)
        migrate(connection)
        return cls(connection)

    async def write(self, act: Callable[[Tx], T]) -> T:
        """Run an act and commit."""
        return self._run("BEGIN", act, "COMMIT")

    async def read(self, act: Callable[[Tx], T]) -> T:
        """Run an act that may not write."""
        return self._run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", act, "ROLLBACK")

    async def read_soon(self, act: Callable[[Tx], T]) -> T:
        """The same."""
        return await self.read(act)

    def _run(self, begin: str, act: Callable[[Tx], T], end: str) -> T:
        self._connection.execute(begin)
        try:
            result = act(PgTx(self._connection))
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute(end)
        return result

    def snapshot(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        return {
            name: self._connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608
            for name in self._tables()
        }

    def put_back(self, snapshot: dict[str, list[tuple[Any, ...]]]) -> None:
        """Replace every row of every table."""
        with self._connection.transaction():
            self._connection.execute("SET LOCAL session_replication_role = replica")
            self._connection.execute(f"TRUNCATE {', '.join(self._tables())} CASCADE")
            for name, rows in snapshot.items():
                for row in rows:
                    marks = ", ".join(["%s"] * len(row))
                    self._connection.execute(f"INSERT INTO {name} VALUES ({marks})", row)  # noqa: S608

    def edit(self, sql: str) -> None:
        """Change rows as somebody with the database's password can, whatever refers to them."""
        with self._connection.transaction():
            self._connection.execute("SET LOCAL session_replication_role = replica")
            self._connection.execute(schema(sql))

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _tables(self) -> list[str]:
        rows = self._connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
        ).fetchall()
        return [row[0] for row in rows if row[0] not in _KEPT]
