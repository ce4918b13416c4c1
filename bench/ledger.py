"""The ledger: durable lease grants beside the bare database, and what crashes cost a budget.

The peer commits the rows that grants consist of, read back from our ledger, into the same schema with the
same constraints, in groups of as many grants as there are callers, by `executemany`, the drivers' own way for
many rows (ours writes a table's rows by one statement, which on PostgreSQL is faster). It decides nothing,
checks nothing, hashes nothing, and nobody waits for a single row. A second peer writes, as ours does, of a row
that a group changes several times only the last.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.custodian.store.granting import ADMIN, NOW, key_hash, set_up
from tools.postgres import Server

from bench.harness import Row
from leasehold.core.messages import LeaseAsk, LeaseGranted
from leasehold.core.units import Units
from leasehold.custodian.ledger import asks, consumers
from leasehold.custodian.store import pgconnection
from leasehold.custodian.store.connection import connect
from leasehold.custodian.store.port import Store, Tx
from leasehold.custodian.store.postgres import PostgresStore
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import LeaseholdError
from leasehold.testing.time import run_simulated
from leasehold.testing.world import Box, Consumer, World

CALLERS: Final = 64
RUNS: Final = 7
BAR: Final = 0.5
HOURS: Final = 4
LOST_BAR: Final = 0.1  # per cent
GRANT: Final = 10_000_000
PEAK_SECONDS: Final = 0.01  # for each token while an answer is made
PEAK_LEASE_SECONDS: Final = 10
_SEEN: Final = 16  # keys that `set_up` made

Rows = list[tuple[str, list[tuple[Any, ...]]]]  # one statement for a kind of row, and the rows


@dataclass(frozen=True, slots=True)
class Grants:
    """What one run of callers took."""

    seconds: float
    latencies: Sequence[float]

    def per_second(self, count: int) -> float:
        """Grants a second."""
        return count / self.seconds


async def grant(store: Store, first: int, count: int) -> Grants:
    """`count` durable grants by 64 callers, each with a key of its own, numbered from `first`."""
    latencies: list[float] = []
    hashes = [key_hash(caller) for caller in range(CALLERS)]

    async def call(caller: int) -> None:
        for step in range(count // CALLERS):
            sequence = first + step * CALLERS + caller
            ask = LeaseAsk(sequence, hashes[caller], Units(1), Units(7), 0, Units(0))
            started = time.perf_counter()
            answer = await store.write(asks.Ask(NOW, "one", ask))
            latencies.append(time.perf_counter() - started)
            if not isinstance(answer, LeaseGranted):
                raise RuntimeError(f"no grant: {answer}")

    started = time.perf_counter()
    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))
    return Grants(time.perf_counter() - started, latencies)


def more_keys(tx: Tx) -> None:
    """As many keys as callers."""
    set_up(tx)
    for caller in range(_SEEN, CALLERS):
        consumers.add_key(tx, now=NOW, operator=ADMIN, consumer="c", key_hash=key_hash(caller))


def rows_of(tx: Tx, first: int, count: int) -> list[Rows]:
    """What ours wrote for these grants, in groups of as many as there are callers."""
    log = tx.execute("SELECT position, leaf FROM log ORDER BY position DESC LIMIT ?", (count,))
    answers = tx.execute(
        "SELECT instance, kind, sequence, request, answer FROM answers WHERE sequence >= ?"
        " ORDER BY sequence",
        (first,),
    )
    size, frontier = tx.execute("SELECT size, frontier FROM log_head")[0]
    leases = tx.execute("SELECT granted, expires, number FROM leases ORDER BY number")
    groups: list[Rows] = []
    for start in range(0, count, CALLERS):
        part = range(start, start + CALLERS)
        groups.append(
            [
                (
                    "UPDATE accounts SET outstanding = outstanding + ? WHERE id IN (?, ?)",
                    [(0, 1, 2) for _ in part],
                ),
                (
                    "UPDATE leases SET granted = ?, expires = ? WHERE number = ?",
                    [leases[at % len(leases)] for at in part],
                ),
                (
                    "INSERT INTO log (position, leaf) VALUES (?, ?)",
                    [(log[at][0] + 10_000_000, log[at][1]) for at in part],
                ),
                ("UPDATE log_head SET size = ?, frontier = ?", [(size, frontier) for _ in part]),
                (
                    "INSERT INTO answers (instance, kind, sequence, request, answer)"
                    " VALUES (?, ?, ?, ?, ?)",
                    [
                        (row[0], row[1], row[2] + 10_000_000, row[3], row[4])
                        for row in answers[start : start + CALLERS]
                    ],
                ),
            ]
        )
    return groups


def last_only(group: Rows) -> Rows:
    """The group without what a later row of it overwrites: each account and the log's head once."""
    return [
        (sql, rows[-1:] if "accounts" in sql or "log_head" in sql else rows) for sql, rows in group
    ]


def write_bare_sqlite(path: Path, groups: Sequence[Rows]) -> float:
    """Seconds that sqlite3 itself takes for these rows."""
    connection = connect(path)
    started = time.perf_counter()
    for group in groups:
        connection.execute("BEGIN IMMEDIATE")
        for statement, rows in group:
            connection.executemany(statement, rows)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    for table, column in (("log", "position"), ("answers", "sequence")):
        connection.execute(f"DELETE FROM {table} WHERE {column} >= 10000000")  # noqa: S608
    connection.close()
    return seconds


def write_bare_postgres(url: str, groups: Sequence[Rows]) -> float:
    """Seconds that psycopg itself takes for these rows, in a pipeline."""
    connection = pgconnection.connect(url)
    cursor = connection.cursor()
    started = time.perf_counter()
    for group in groups:
        connection.execute("BEGIN")
        for statement, rows in group:
            cursor.executemany(pgconnection.translate(statement), rows)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    for table, column in (("log", "position"), ("answers", "sequence")):
        statement = f"DELETE FROM {table} WHERE {column} >= 10000000"  # noqa: S608
        connection.execute(statement.encode())
    connection.close()
    return seconds


async def compare(
    name: str, store: Store, bare: Callable[[Sequence[Rows]], float], count: int
) -> list[Row]:
    """Ours and the bare database in turn, on the same files."""
    await store.write(more_keys)
    await grant(store, 1, 20 * CALLERS)
    ratios: list[float] = []
    strict: list[float] = []
    rates: list[float] = []
    latencies: list[float] = []
    for run in range(RUNS):
        first = 1_000_000 + run * count
        ours = await grant(store, first, count)
        groups = await store.read(partial(rows_of, first=first, count=count))
        seconds = await asyncio.to_thread(bare, groups)
        ratios.append(seconds / ours.seconds)
        seconds = await asyncio.to_thread(bare, [last_only(group) for group in groups])
        strict.append(seconds / ours.seconds)
        rates.append(ours.per_second(count))
        latencies += ours.latencies
    latencies.sort()
    beside = f"bare {name}: {statistics.median(rates) / statistics.median(ratios):,.0f}/s"
    return [
        Row(
            "ledger",
            f"{name}: grants a second over the bare database's",
            statistics.median(ratios),
            "",
            BAR,
            ">=",
            (min(ratios), max(ratios)),
            beside,
        ),
        Row(
            "ledger",
            f"{name}: the same, over only the last of rows that overwrite each other",
            statistics.median(strict),
            "",
            None,
            ">=",
            (min(strict), max(strict)),
            f"bare {name}: {statistics.median(rates) / statistics.median(strict):,.0f}/s",
        ),
        Row("ledger", f"{name}: durable grants, 64 callers", statistics.median(rates), "1/s"),
        Row("ledger", f"{name}: one grant, p50", 1e3 * latencies[len(latencies) // 2], "ms"),
        Row("ledger", f"{name}: one grant, p99", 1e3 * latencies[len(latencies) * 99 // 100], "ms"),
    ]


async def sqlite_rows() -> list[Row]:
    """In a file on this machine's disk."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        path = Path(place) / "ledger.db"
        store = SqliteStore.open(path)
        rows = await compare("SQLite", store, partial(write_bare_sqlite, path), 6_400)
        await store.close()
    return rows


async def postgres_rows() -> list[Row]:
    """On a server of its own over a Unix socket, with the settings that it has by itself."""
    server = Server.make()
    try:
        store = PostgresStore.open(server.url())
        rows = await compare("PostgreSQL", store, partial(write_bare_postgres, server.url()), 1_280)
        await store.close()
    finally:
        server.remove()
    return rows


# What crashes cost -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crash:
    """One enclave's end: what it had served in its life, and how much of it the ledger did not know."""

    served: int
    unreported: int

    def lost_at(self, size: int) -> int:
        """What leases of one fixed size would have lost: the rest of the open one, and what was unreported."""
        return -self.served % size + self.unreported


async def crashing_hours(hours: int) -> tuple[int, int, list[Crash]]:
    """Units settled and written off in so many enclave-hours with one crash each, in steady use."""
    world = await World.make(seed=5, cap=GRANT)
    alice = await world.consumer("alice", GRANT)
    hour, crashes = 3600.0, []
    for _ in range(hours):
        before = (await world.budget("alice")).budget.settled
        box = await world.enclave(token_seconds=PEAK_SECONDS).serving()
        using = asyncio.create_task(_use(alice, box))
        await asyncio.sleep(hour * world.luck.uniform(0.9, 1.1))
        served = sum(one.spent for one in box.enclave.meter.usage())
        settled = (await world.budget("alice")).budget.settled - before
        crashes.append(Crash(served, served - settled))
        await box.kill()
        using.cancel()
        with suppress(asyncio.CancelledError):
            await using
    await asyncio.sleep(600)
    budget = (await world.budget("alice")).budget
    await world.end()
    return budget.settled, budget.written_off, crashes


async def _use(alice: Consumer, box: Box) -> None:
    """A question of some words and an answer of 150 tokens, and a pause to read it."""
    while True:
        with suppress(LeaseholdError):
            await alice.ask(box, "tell me more about all of this", max_tokens=150)
        await asyncio.sleep(4)


def crash_rows() -> list[Row]:
    """In simulated time: real ledger, link, meter and gate; beside them fixed leases at the same crashes.

    The peer leases so much and no other amount, a new one when the last is used up, and reports as often.
    """
    settled, lost, crashes = run_simulated(lambda: crashing_hours(HOURS))
    share = 100 * lost / (settled + lost)
    beside = f"{settled:,} units served in {HOURS} enclave-hours, {lost:,} burned"
    what = "budget lost at one crash per enclave-hour"
    rows = [Row("ledger", what, share, "%", LOST_BAR, beside=beside)]
    peak, tenth = round(PEAK_LEASE_SECONDS / PEAK_SECONDS), GRANT // 10
    sizes = ((f"{PEAK_LEASE_SECONDS} s at the peak rate", peak), ("a tenth of the grant", tenth))
    for name, size in sizes:
        fixed = sum(crash.lost_at(size) for crash in crashes)
        beside = f"{fixed:,} burned by fixed leases of {size:,}"
        what = f"fixed leases, {name}: lost, over ours"
        rows.append(Row("ledger", what, fixed / max(1, lost), "times", None, ">=", beside=beside))
    return rows


def measure() -> list[Row]:
    """All rows."""
    return [*asyncio.run(sqlite_rows()), *asyncio.run(postgres_rows()), *crash_rows()]
