"""The one door to psycopg: connections, migrations, the transaction, and which errors are the world's.

Statements are written once, in the portable subset that `port` names; what PostgreSQL says otherwise is
translated here. Source for error classes: PostgreSQL manual, appendix A.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import StrDumper

from leasehold.core.units import SECOND, Duration
from leasehold.custodian.store.connection import migrations, next_migration
from leasehold.custodian.store.port import Row, Value
from leasehold.errors import BadRequest, BadSetting, Conflict, StoreFailed

Error = psycopg.Error

T = TypeVar("T")

CHANNEL: Final = "leasehold"
LOCK: Final = 0x1EA5E401D  # the advisory lock of whoever writes
CONNECT_SECONDS_MAX: Final = 5
STATEMENT: Final = Duration(20 * SECOND)
WAIT_SECONDS: Final = 0.1  # how often a wait looks whether the connection was closed; psycopg's own
_ANSWER: Final = (
    1.25  # of a statement's time, until the server itself must have said that it is over
)
# Over TCP, a server that vanishes without a word is missed in as long: a listener only waits.
_ALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": STATEMENT,
}
# What must hold for a commit to be on disk when it returns; the first can be set for a session.
_DURABLE: Final = ("synchronous_commit", "fsync", "full_page_writes")
_CONSTRAINT: Final = "23"  # class: integrity constraint violation
# Classes for which the world is to blame: connection, resources, operator intervention, system, read-only
# transaction, rolled back by the server (serialization, deadlock), lock not available.
_WORLD: Final = ("08", "53", "57", "58", "25006", "40", "55", "XX001", "XX002")


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """psycopg's, with a bound on every wait for the server: one that is frozen keeps no time limits."""

    seconds_max: float = CONNECT_SECONDS_MAX

    def wait(
        self, gen: PQGen[T], interval: float = WAIT_SECONDS, timeout: float | None = None
    ) -> T:
        """See psycopg. Raises OperationalError; the connection is then of no more use."""
        return super().wait(gen, interval, self.seconds_max if timeout is None else timeout)


class PgTx:
    """A `Tx` over one connection, inside a transaction that its maker began."""

    __slots__ = ("_cursor", "_replica", "memo")

    def __init__(self, connection: Connection, replica: str = "") -> None:
        self._cursor = connection.cursor()
        self._replica = replica
        self.memo: dict[str, Any] = {}

    def execute(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """See `port.Tx`."""
        try:
            self._cursor.execute(translate(sql), params, prepare=True)
        except psycopg.IntegrityError as cause:
            said = cause.diag.message_primary
            raise Conflict(about="the ledger's constraints", got=said) from cause
        except psycopg.errors.NumericValueOutOfRange as cause:  # a number that somebody sent
            raise BadRequest(about="a number", expected="less than 2^63") from cause
        return self._cursor.fetchall() if self._cursor.description is not None else []

    def tell(self, news: str) -> None:
        """See `port.Tx`: PostgreSQL delivers it with the commit, or not at all."""
        words = f"{self._replica} {news}"
        self._cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, words), prepare=True)


@lru_cache(maxsize=512)
def translate(sql: str) -> bytes:
    """A portable statement as psycopg wants it."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


def connect(url: str, *, statement: Duration = STATEMENT) -> Connection:
    """Open a connection on which a commit is on disk when it returns. Raises StoreFailed, BadSetting.

    `statement` is how many milliseconds a statement, or a wait for a lock, may take. What the URL says of
    its own life over TCP counts before what is said here (L-11).
    """
    try:
        said = conninfo_to_dict(url)
        mine = {name: value for name, value in _ALIVE.items() if name not in said}
        connection = Connection.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS_MAX,
            prepare_threshold=0,
            **cast("Any", mine),
        )
    except psycopg.ProgrammingError as cause:
        raise BadSetting(about="store", expected="postgresql://USER@HOST:PORT/DATABASE") from cause
    except psycopg.Error as cause:
        raise store_failed(cause, about=name_of(url)) from cause
    try:
        connection.adapters.register_dumper(int, Int8Dumper)
        connection.adapters.register_dumper(str, StrDumper)
        connection.execute("SET synchronous_commit = on")
        connection.execute(f"SET statement_timeout = {statement}")
        connection.execute(f"SET lock_timeout = {statement}")
        connection.execute(f"SET idle_in_transaction_session_timeout = {2 * STATEMENT}")
        connection.seconds_max = statement / SECOND * _ANSWER
        for setting in _DURABLE:
            row = connection.execute(cast("Any", f"SHOW {setting}")).fetchone()
            if row is None or row[0] != "on":
                got = "nothing" if row is None else row[0]
                raise StoreFailed(about=f"PostgreSQL's {setting}", got=got, expected="on")
    except psycopg.Error as cause:
        connection.close()
        raise store_failed(cause, about=name_of(url)) from cause
    except StoreFailed:
        connection.close()
        raise
    return connection


def migrate(connection: Connection) -> None:
    """Bring the schema up to date, one replica at a time. Raises StoreFailed as SQLite's does."""
    known = dict(migrations())
    try:
        while True:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_version (version bigint NOT NULL)"
                )
                row = connection.execute("SELECT MAX(version) FROM schema_version").fetchone()
                number = next_migration((row and row[0]) or 0, known)
                if number is None:
                    return
                connection.execute(cast("Any", schema(known[number])), prepare=False)
                connection.execute("INSERT INTO schema_version (version) VALUES (%s)", (number,))
    except psycopg.Error as cause:
        raise store_failed(cause) from cause


def schema(script: str) -> str:
    """A migration in PostgreSQL's words."""
    script = re.sub(r"\bINTEGER\b", "bigint", script)
    script = re.sub(r"\bBLOB\b", "bytea", script)
    script = re.sub(r"\) STRICT(, WITHOUT ROWID)?;", ");", script)
    return re.sub(r"\bx''", r"'\\x'", script)


def is_world(error: BaseException | None) -> bool:
    """Whether server, network or resources failed, so that the whole transaction is in doubt."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # not from the server: the connection is gone
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_WORLD)


def store_failed(error: psycopg.Error, *, about: str = "PostgreSQL") -> StoreFailed:
    """The refusal that stands for a failure of PostgreSQL's. Never has what it was sent, nor a password."""
    return StoreFailed(about=about, got=error.sqlstate or type(error).__name__.strip("_"))


def name_of(url: str) -> str:
    """A database without what is secret about it."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        return "PostgreSQL"
    host, port = parts.get("host", "localhost"), parts.get("port", 5432)
    return f"PostgreSQL {parts.get('dbname', '')} at {host}:{port}"
