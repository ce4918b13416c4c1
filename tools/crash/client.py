"""The client's side of a store: the connection is lost before or after any statement, the commit included.

Whoever is told that his act failed looks at what is there and asks again if it is not. In one course every
statement of every act is cut once in each of both ways.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import psycopg

from leasehold.core.units import Duration
from leasehold.custodian.store import connection, pgconnection
from leasehold.custodian.store.port import Store
from leasehold.custodian.store.postgres import PostgresStore
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import StoreFailed
from tools.crash.acts import Act
from tools.crash.check import Check, Lost, content


class When(Enum):
    """Which side of a statement the connection is lost on."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(slots=True)
class Scissors:
    """Cuts at the `at`-th statement from now; None cuts nothing.

    `fail` does to a connection what happens to it, and gives the error that the driver raises then.
    """

    fail: Callable[[Any], Exception]
    when: When = When.BEFORE
    at: int | None = None

    def run(self, real: Any, statement: Callable[[], Any]) -> Any:
        """Run a statement of a connection, or cut."""
        if self.at is None:
            return statement()
        self.at -= 1
        if self.at >= 0:
            return statement()
        self.at = None
        if self.when is When.AFTER:
            cursor = statement()
            if cursor is not None and cursor.description is not None:
                cursor.fetchall()
        raise self.fail(real)


class Cuttable:
    """A connection, or a cursor of it, whose statements go past the scissors."""

    def __init__(self, scissors: Scissors, connection: Any, target: Any) -> None:
        self._scissors, self._connection, self._target = scissors, connection, target

    def execute(self, *statement: Any, **more: Any) -> Any:
        """Run or cut."""
        return self._scissors.run(
            self._connection, lambda: self._target.execute(*statement, **more)
        )

    def cursor(self) -> Cuttable:
        """A cursor of it."""
        return Cuttable(self._scissors, self._connection, self._target.cursor())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def fail_sqlite(_connection: Any) -> Exception:
    """What SQLite raises when its disk is gone; the connection is still there."""
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode, failure.sqlite_errorname = sqlite3.SQLITE_IOERR, "SQLITE_IOERR"
    return failure


def fail_postgres(real: Any) -> Exception:
    """What psycopg raises when its server is gone; the server ends whatever was open."""
    real.close()
    return psycopg.OperationalError("connection lost")


def cuttable(scissors: Scissors, place: Path | str) -> Store:
    """A store whose writer's statements go past the scissors: a file's, or that at a URL."""
    if isinstance(place, Path):

        def to_file(path: Path, busy: Duration) -> Any:
            real = connection.connect(path, busy=busy)
            return Cuttable(scissors, real, real)

        return SqliteStore.open(place, connecting=to_file)

    def to_server(url: str) -> Any:
        real = pgconnection.connect(url)
        return Cuttable(scissors, real, real)

    return PostgresStore.open(place, connecting=to_server)


async def cut_everywhere(store: Store, scissors: Scissors, check: Check, *, every: int = 1) -> int:
    """Go through the course; each `every`-th statement is cut once in both ways. Tells how many were.

    Raises Lost where an act is there in part, or acknowledged and not there.
    """
    cuts = 0
    for index, act in enumerate(check.acts):
        statement, done = index % every, False
        while not done:
            for when in When:
                scissors.when, scissors.at = when, statement
                done = await _attempt(store, scissors, act)
                cuts += not done
                there = await store.read(content)
                if there not in check.expected[index + done : index + 2]:
                    raise Lost(f"act {index}, cut {when.value} statement {statement}")
                changes = check.expected[index] != check.expected[index + 1]
                done = done or (changes and there == check.expected[index + 1])
                if done:
                    break
            statement += every
    return cuts


async def _attempt(store: Store, scissors: Scissors, act: Act) -> bool:
    """Whether the act was acknowledged. Raises Lost where that cannot be."""
    try:
        await store.write(act)
    except StoreFailed:
        return False
    if scissors.at is None:
        raise Lost("an act was acknowledged on a connection that was lost")
    scissors.at = None
    return True
