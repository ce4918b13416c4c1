"""What every store promises: the same tests for SQLite in a file and in memory, and for PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from tools.postgres import Server

from leasehold.custodian.store import connection, pgconnection
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import ROWS_MAX, Store, Tx, insert, many
from leasehold.custodian.store.postgres import PostgresStore
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import Conflict, StoreFailed, UnknownThing

from ..databases import new_database

ADD = "INSERT INTO consumers (name, created) VALUES (?, ?)"


@pytest.fixture(params=["sqlite", "inline", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    match request.param:
        case "sqlite":
            made = SqliteStore.open(tmp_path / "ledger.db")
        case "inline":
            made = InlineStore.open()
        case _:
            made = PostgresStore.open(new_database(request.getfixturevalue("postgres")))
    yield made
    await made.close()


def add(name: str) -> object:
    def act(tx: Tx) -> str:
        tx.execute(ADD, (name, 1))
        return name

    return act


def names(tx: Tx) -> list[str]:
    return [row[0] for row in tx.execute("SELECT name FROM consumers ORDER BY name")]


async def test_a_write_is_read(store: Store) -> None:
    assert await store.write(add("ann")) == "ann"
    assert await store.read(names) == ["ann"]


async def test_values_come_back_as_they_went(store: Store) -> None:
    def act(tx: Tx) -> list[object]:
        tx.execute("INSERT INTO nonces (nonce, expires) VALUES (?, ?)", (b"\x00\xff", 1 << 62))
        return [*tx.execute("SELECT nonce, expires, ?, NULL FROM nonces", ("ü",))[0]]

    assert await store.write(act) == [b"\x00\xff", 1 << 62, "ü", None]


async def test_an_error_undoes_its_act_and_nothing_else(store: Store) -> None:
    def fail(tx: Tx) -> None:
        add("bob")(tx)
        raise UnknownThing(about="bob")

    results = await asyncio.gather(
        store.write(add("ann")),
        store.write(fail),
        store.write(add("cid")),
        return_exceptions=True,
    )
    assert results[0] == "ann"
    assert isinstance(results[1], UnknownThing)
    assert results[2] == "cid"
    assert await store.read(names) == ["ann", "cid"]


class Added:
    """An act that can be done with others of its kind: adds a consumer, or refuses to."""

    alone: ClassVar[list[str]] = []
    at_once: ClassVar[list[tuple[str, ...]]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, tx: Tx) -> str:
        """By itself."""
        self.alone.append(self.name)
        (result,) = Added.do(tx, [self])
        if isinstance(result, Exception):
            raise result
        return result

    @staticmethod
    def together(tx: Tx, acts: Sequence[Added]) -> list[str | Exception]:
        """All at once."""
        Added.at_once.append(tuple(act.name for act in acts))
        return Added.do(tx, acts)

    @staticmethod
    def do(tx: Tx, acts: Sequence[Added]) -> list[str | Exception]:
        """By one statement."""
        good = [act.name for act in acts if act.name != "bad"]
        insert(tx, ADD, [(name, 1) for name in good])
        return [act.name if act.name != "bad" else UnknownThing(about="bad") for act in acts]


async def grouped(store: Store, *acts: Callable[[Tx], object]) -> list[object]:
    """Acts that wait for one commit, the first of which holds the writer up until all are there."""
    there = threading.Event()
    first = asyncio.create_task(store.write(lambda _: there.wait(10)))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(store.write(act)) for act in acts]
    await asyncio.sleep(0)
    there.set()
    assert await first
    return await asyncio.gather(*rest, return_exceptions=True)


@pytest.fixture(params=["sqlite", "postgres"])
async def grouping(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    Added.alone.clear()
    Added.at_once.clear()
    made: Store
    if request.param == "sqlite":
        made = SqliteStore.open(tmp_path / "ledger.db")
    else:
        made = PostgresStore.open(new_database(request.getfixturevalue("postgres")))
    yield made
    await made.close()


async def test_acts_of_one_kind_are_done_together(grouping: Store) -> None:
    """Those beside each other; each caller hears of its own."""
    results = await grouped(
        grouping, Added("ann"), Added("bad"), Added("bob"), add("x"), Added("z")
    )
    assert (results[0], results[2:]) == ("ann", ["bob", "x", "z"])
    assert isinstance(results[1], UnknownThing)
    assert Added.at_once == [("ann", "bad", "bob")]
    assert Added.alone == ["z"]
    assert await grouping.read(names) == ["ann", "bob", "x", "z"]


async def test_what_fails_together_is_done_one_after_another(grouping: Store) -> None:
    """A constraint does not say which act broke it: only that act may fail."""
    await grouping.write(add("bob"))
    results = await grouped(grouping, Added("ann"), Added("bob"), Added("cid"))
    assert (results[0], results[2]) == ("ann", "cid")
    assert isinstance(results[1], Conflict)
    assert Added.alone == ["ann", "bob", "cid"]
    assert await grouping.read(names) == ["ann", "bob", "cid"]


async def test_many_rows_by_one_statement(store: Store) -> None:
    def act(tx: Tx) -> list[object]:
        insert(tx, ADD, [("a", 1), ("b", 2), ("c", 3)])
        wanted = [("c",), ("nobody",), ("a",), ("c",), ("b",)]
        sql = (
            "SELECT DISTINCT c.created FROM (VALUES (?)) AS q JOIN consumers c ON c.name = column1"
        )
        return sorted(row[0] for row in tx.execute(*many(sql, wanted)))

    assert await store.write(act) == [1, 2, 3]
    with pytest.raises(Conflict):
        await store.write(lambda tx: insert(tx, ADD, [("d", 1), ("a", 1)]))
    assert await store.read(names) == ["a", "b", "c"]


@pytest.mark.parametrize("count", [0, 1, 63, 2 * ROWS_MAX + 3])
async def test_any_number_of_rows_is_inserted_once(store: Store, count: int) -> None:
    rows = [(f"c{number:04}", number) for number in range(count)]
    await store.write(lambda tx: insert(tx, ADD, rows))
    assert await store.read(names) == [name for name, _ in rows]


async def test_a_constraint_is_a_conflict(store: Store) -> None:
    await store.write(add("ann"))
    with pytest.raises(Conflict) as refusal:
        await store.write(add("ann"))
    assert "unique" in str(refusal.value.got).lower()
    assert await store.read(names) == ["ann"]


async def test_the_schema_itself_refuses_to_overspend(store: Store) -> None:
    """M-2 is also the database's: no arithmetic above it can break it."""
    sql = "INSERT INTO accounts VALUES (?, 'loan', NULL, ?, ?, ?, ?)"
    for terms in ((10, 11, 0, 0), (10, 4, 4, 3), (10, -1, 0, 0), (-1, 0, 0, 0)):
        with pytest.raises(Conflict) as refusal:
            await store.write(lambda tx, terms=terms: tx.execute(sql, (1, *terms)))
        assert "check" in str(refusal.value.got).lower()


async def test_foreign_keys_are_kept(store: Store) -> None:
    with pytest.raises(Conflict) as refusal:
        await store.write(
            lambda tx: tx.execute("INSERT INTO keys VALUES ('k', 'nobody', ?, 1, NULL)", (b"h",))
        )
    assert "foreign key" in str(refusal.value.got).lower()


async def test_a_read_may_not_write(store: Store) -> None:
    with pytest.raises(StoreFailed):
        await store.read(add("ann"))
    assert await store.read(names) == []
    assert await store.write(add("ann")) == "ann"


async def test_a_bug_in_an_act_reaches_its_caller(store: Store) -> None:
    def stop(tx: Tx) -> None:
        raise StopIteration

    with pytest.raises(ZeroDivisionError):
        await store.write(lambda _: 1 // 0)
    with pytest.raises(RuntimeError):
        await store.write(stop)
    with pytest.raises(Exception, match="syntax error"):
        await store.write(lambda tx: tx.execute("NONSENSE"))
    assert await store.write(add("ann")) == "ann"


async def test_a_closed_store_refuses(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreFailed) as refusal:
        await store.write(names)
    assert refusal.value.got == "closed"
    with pytest.raises(StoreFailed):
        await store.read(names)


async def test_the_ledgers_schema_is_there_once(store: Store) -> None:
    versions = await store.read(lambda tx: tx.execute("SELECT version FROM schema_version"))
    numbers = sorted(number for number, _ in connection._migrations())
    assert versions == [(number,) for number in numbers]


def test_numbers_of_migrations_may_have_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is above the newest one done is applied, in order; what is below is not."""

    def migrate(*numbers: int) -> list[int]:
        found = [(number, [f"CREATE TABLE t{number} (a INTEGER)"]) for number in reversed(numbers)]
        monkeypatch.setattr(connection, "_migrations", lambda: iter(found))
        connection.migrate(database)
        return [row[0] for row in database.execute("SELECT version FROM schema_version")]

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        assert migrate(1, 3) == [1, 3]
        assert migrate(1, 3) == [1, 3]
        assert migrate(1, 2, 3, 7, 9) == [1, 3, 7, 9]
        with pytest.raises(StoreFailed):
            migrate(1, 3, 7)


class Door:
    """A TCP port of this machine that leads to a server's Unix socket, for one connection."""

    def __init__(self, behind: str) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._behind = behind
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._socket, socket.socket(socket.AF_UNIX) as inside:
            outside, _ = self._socket.accept()
            inside.connect(self._behind)
            back = threading.Thread(target=self._pump, args=(inside, outside), daemon=True)
            back.start()
            self._pump(outside, inside)
            inside.shutdown(socket.SHUT_WR)
            back.join()
            outside.close()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1 << 16):
            sink.sendall(data)


@pytest.mark.parametrize(("said", "idle"), [("", 5), ("&keepalives_idle=60", 60)])
def test_a_server_that_vanishes_is_missed_by_who_only_listens(
    postgres: Server, said: str, idle: int
) -> None:
    """L-11: the kernel asks whether it is still there; a URL may say how often."""
    door = Door(f"{postgres.folder}/.s.PGSQL.5432")
    url = f"postgresql://postgres@127.0.0.1:{door.port}/postgres?sslmode=disable{said}"
    with (
        closing(pgconnection.connect(url)) as connected,
        socket.socket(fileno=os.dup(connected.fileno())) as seen,
    ):
        assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle
        assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
