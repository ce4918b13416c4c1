"""The one door to sqlite3: connections, migrations, the transaction, and which errors are the world's."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from leasehold.core.units import MIB, SECOND, Duration
from leasehold.custodian.store.port import Row, Value
from leasehold.errors import BadRequest, Conflict, StoreFailed

MEMORY: Final = ":memory:"
_STATEMENTS_CACHED: Final = 256  # the ledger has about 150

# Primary result codes for which the world, not a statement of ours, is to blame.
_WORLD: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
# After these the connection is as good as before.
_HARMLESS: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})


class SqliteTx:
    """A `Tx` over one connection, inside a transaction that its maker began."""

    __slots__ = ("_cursor", "memo")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._cursor = connection.cursor()
        self.memo: dict[str, Any] = {}

    def execute(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """See `port.Tx`."""
        try:
            self._cursor.execute(sql, params)
            return self._cursor.fetchall()
        except sqlite3.IntegrityError as cause:
            raise Conflict(about="the ledger's constraints", got=str(cause)) from cause
        except OverflowError as cause:  # a number that somebody sent
            raise BadRequest(about="a number", expected="less than 2^63") from cause

    def tell(self, news: str) -> None:
        """See `port.Tx`: there is no other replica."""


def connect(
    path: Path | str, *, read_only: bool = False, busy: Duration = SECOND
) -> sqlite3.Connection:
    """Open a database for any one thread at a time. Raises StoreFailed.

    WAL with synchronous=FULL: a commit is on disk when it returns. `busy` is how many milliseconds to
    wait for another process's lock. A text that begins with `file:` is a URI of SQLite's.
    """
    try:
        connection = sqlite3.connect(
            path,
            uri=str(path).startswith("file:"),
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS_CACHED,
            timeout=busy / SECOND,
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")  # no piece of the ledger in other files
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
    except sqlite3.Error as cause:
        raise store_failed(cause) from cause
    return connection


def settle(connection: sqlite3.Connection, rewrite: Callable[[], None]) -> None:
    """L-12: have every byte of the write-ahead log written and synced again, with nobody else at it.

    After a sync that failed, the system may have forgotten pages that it still shows; what is built on
    them would be gone with the power. Raises StoreFailed.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")  # whoever holds this alone may change the log
        try:
            rewrite()
        finally:
            connection.execute("ROLLBACK")
    except sqlite3.Error as cause:
        raise store_failed(cause) from cause


def rewrite_log(path: Path | str) -> None:
    """Write the log of the database at `path` over itself, byte for byte, and sync it. Raises StoreFailed.

    A second descriptor does no harm here: SQLite locks the database and the index, never the log.
    """
    try:
        file = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as cause:
        raise StoreFailed(about="SQLite's log", got=cause.strerror) from cause
    try:
        at = 0
        while data := os.pread(file, MIB, at):
            at += os.pwrite(file, data, at)
        os.fsync(file)
    except OSError as cause:
        raise StoreFailed(about="SQLite's log", got=cause.strerror) from cause
    finally:
        os.close(file)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, each migration in a transaction of its own, in the order of numbers.

    Numbers may have gaps: whatever is above the newest one done is applied.
    Raises StoreFailed, also for a database that a newer release has written.
    """
    known = dict(_migrations())
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        while True:
            connection.execute("BEGIN IMMEDIATE")
            done = connection.execute("SELECT MAX(version) FROM schema_version").fetchone()[0] or 0
            number = next_migration(done, known)
            if number is None:
                return
            for statement in known[number]:
                connection.execute(statement)
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (number,))
            connection.execute("COMMIT")
    except sqlite3.Error as cause:
        raise store_failed(cause) from cause
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def next_migration(done: int, known: Collection[int]) -> int | None:
    """The number of the migration to run after `done`, None where all are. Raises StoreFailed."""
    if done > max(known):
        raise StoreFailed(about="schema version", got=done, expected=max(known))
    return min((number for number in known if number > done), default=None)


def _migrations() -> Iterator[tuple[int, list[str]]]:
    return ((number, list(_statements(script))) for number, script in migrations())


def migrations() -> Iterator[tuple[int, str]]:
    """The numbered scripts."""
    for file in resources.files("leasehold.custodian.store.migrations").iterdir():
        if file.name.endswith(".sql"):
            yield int(file.name[:4]), file.read_text(encoding="utf-8")


def _statements(script: str) -> Iterator[str]:
    """The single statements of a script without triggers."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def is_world(error: BaseException | None) -> bool:
    """Whether disk, lock or memory failed, so that the whole transaction is in doubt."""
    return _primary(error) in _WORLD


def is_harmless(error: BaseException | None) -> bool:
    """Whether the connection can go on after a rollback, without being opened anew."""
    return _primary(error) in _HARMLESS


def store_failed(error: sqlite3.Error) -> StoreFailed:
    """The refusal that stands for a failure of SQLite's."""
    return StoreFailed(about="SQLite", got=getattr(error, "sqlite_errorname", type(error).__name__))


def _primary(error: BaseException | None) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
