"""A ledger as one SQLite file: rows copied from one transaction into another, whatever stores they are in.

The schema of a new file says which tables there are, which come first and what orders their rows, so
that a table of a later migration needs no word here. Refuses to know: what the tables mean.
Spec: docs/spec/backup.md, U-1 and U-2.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from leasehold.core.crypto import sha256
from leasehold.custodian.store.connection import SqliteTx, connect, migrate, store_failed
from leasehold.custodian.store.port import Row, Tx
from leasehold.errors import BadBackup

# Nonces count once, and not once more in a copy.
LEFT_OUT: Final = frozenset({"schema_version", "nonces"})
NOTE: Final = "backup"  # the table that only a backup has
_PAGE: Final = 1000
_SCHEMA: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name <> ? ORDER BY type, name"
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, its columns, and those of them that order its rows."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def pages(self, tx: Tx) -> Iterator[list[Row]]:
        """All rows by their key, some at a time."""
        names, key = ", ".join(self.columns), ", ".join(self.key)
        places = [self.columns.index(column) for column in self.key]
        marks = ", ".join("?" * len(self.key))
        page = tx.execute(f"SELECT {names} FROM {self.name} ORDER BY {key} LIMIT {_PAGE}")  # noqa: S608
        while page:
            yield page
            last = tuple(page[-1][place] for place in places)
            page = tx.execute(
                f"SELECT {names} FROM {self.name} WHERE ({key}) > ({marks})"  # noqa: S608
                f" ORDER BY {key} LIMIT {_PAGE}",
                last,
            )


def tables(connection: sqlite3.Connection) -> tuple[Table, ...]:
    """The ledger's tables, each after those that it refers to. Raises BadBackup."""
    names = [row[0] for row in connection.execute("SELECT name FROM pragma_table_list")]
    waiting = {
        name: {
            row[2]
            for row in connection.execute(f"PRAGMA foreign_key_list({name})")
            if row[2] != name
        }
        for name in sorted(names)
        if name not in LEFT_OUT and name != NOTE and not name.startswith("sqlite_")
    }
    found: list[Table] = []
    while waiting:
        ready = [name for name, above in waiting.items() if not above & waiting.keys()]
        if not ready:
            raise BadBackup(about="tables", got=", ".join(waiting), expected="an order of them")
        found += [_table(connection, name) for name in ready]
        for name in ready:
            del waiting[name]
    return tuple(found)


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
    key = [row[1] for row in sorted(columns, key=lambda row: int(row[5])) if row[5]]
    if not key:
        raise BadBackup(about=f"table {name}", expected="a primary key")
    return Table(name, tuple(row[1] for row in columns), tuple(key))


def empty(tx: Tx, found: Sequence[Table]) -> None:
    """Delete every row, also of what is left out of copies but for the schema's version."""
    tx.execute("DELETE FROM nonces")
    for table in reversed(found):
        tx.execute(f"DELETE FROM {table.name}")  # noqa: S608


def copy(source: Tx, target: Tx, found: Sequence[Table]) -> None:
    """Put every row of the source into the target, whose tables are empty."""
    for table in found:
        marks = ", ".join("?" * len(table.columns))
        insert = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})"  # noqa: S608
        for page in table.pages(source):
            for row in page:
                target.execute(insert, row)
    target.memo.clear()  # it was about rows that are gone


def digest(connection: sqlite3.Connection) -> bytes:
    """U-2: a SHA-256 over the schema and every row of a file, but for its note."""
    tx = SqliteTx(connection)
    state = sha256(msgspec.msgpack.encode(tx.execute(_SCHEMA, (NOTE,))))
    for table in tables(connection):
        for page in table.pages(tx):
            state = sha256(state + msgspec.msgpack.encode((table.name, page)))
    return state


class Sink:
    """A new file under the making: rows go into `tx`; `seal` gives it its note."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.tx = SqliteTx(connection)
        self.tables = tables(connection)

    def digest(self) -> bytes:
        """Of what is in it now."""
        return digest(self._connection)

    def seal(self, note: str) -> None:
        """Put the note in."""
        self.tx.execute(f"CREATE TABLE {NOTE} (note TEXT NOT NULL)")
        self.tx.execute(f"INSERT INTO {NOTE} (note) VALUES (?)", (note,))  # noqa: S608


@contextmanager
def new_file(path: Path) -> Iterator[Sink]:
    """A file of the newest schema and without rows; on disk when the block ends. Raises StoreFailed."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # Nobody reads it before it is whole, so it needs no journal; the sync is at the end.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            migrate(connection)
            connection.execute("BEGIN")
            sink = Sink(connection)
            empty(sink.tx, sink.tables)
            yield sink
            connection.execute("COMMIT")
    except sqlite3.Error as cause:
        raise store_failed(cause) from cause
    with path.open("rb") as file:
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Source:
    """A private copy of a backup file, in the newest schema."""

    tx: Tx
    tables: tuple[Table, ...]


@contextmanager
def open_file(path: Path, *, accept: Callable[[str, bytes], None]) -> Iterator[Source]:
    """Read a backup without touching it.

    `accept` gets its note and its digest, and raises unless they are good: until then nothing in it is
    believed but that it is a whole SQLite file, and none of its own statements runs. Raises BadBackup,
    StoreFailed (the copy's disk, or a newer schema).
    """
    with TemporaryDirectory(prefix="leasehold-") as folder:
        private = Path(folder) / "backup.db"
        accept(*_take(path, private))
        with closing(connect(private)) as connection:
            migrate(connection)
            connection.execute("BEGIN")
            yield Source(SqliteTx(connection), tables(connection))


def _take(path: Path, private: Path) -> tuple[str, bytes]:
    """Copy a backup page by page; give its note and digest. Raises BadBackup."""
    where = f"file:{_quoted(path)}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(where, uri=True, isolation_level=None)) as source:
            source.execute("PRAGMA trusted_schema = OFF")
            damage = source.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if damage != "ok":
                raise BadBackup(about=path, got=damage)
            notes = source.execute(f"SELECT note FROM {NOTE}").fetchall()  # noqa: S608
            if len(notes) != 1 or not isinstance(notes[0][0], str):
                raise BadBackup(about=path, got=f"{len(notes)} notes", expected=1)
            was = digest(source)
            with closing(sqlite3.connect(private)) as target:
                source.backup(target)
    except sqlite3.Error as cause:
        raise BadBackup(about=path, got=cause) from cause
    return notes[0][0], was


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
