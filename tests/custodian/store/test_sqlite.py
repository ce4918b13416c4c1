"""SQLite in a file: group commit, kill -9, a full disk, a locked file, other versions."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from leasehold.core.units import Duration
from leasehold.custodian.ledger import books
from leasehold.custodian.ledger.audit import check_log
from leasehold.custodian.ledger.leases import list_open
from leasehold.custodian.store.connection import connect
from leasehold.custodian.store.port import Tx
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import StoreFailed

BLOB = b"x" * 2000


def fill(tx: Tx, name: bytes = BLOB) -> None:
    tx.execute("INSERT INTO nonces (nonce, expires) VALUES (?, 1)", (os.urandom(16) + name,))


def count(tx: Tx) -> int:
    found: int = tx.execute("SELECT COUNT(*) FROM nonces")[0][0]
    return found


async def test_waiting_callers_share_commits(tmp_path: Path) -> None:
    """64 callers, and far fewer commits than acts: SQLite's own change counter tells."""
    path = tmp_path / "ledger.db"
    store = SqliteStore.open(path)
    with closing(sqlite3.connect(path, check_same_thread=False)) as other:
        versions: list[int] = []

        def act(tx: Tx) -> None:
            fill(tx)
            versions.append(other.execute("PRAGMA data_version").fetchone()[0])

        for _ in range(2):
            await asyncio.gather(*(store.write(act) for _ in range(64)))
    assert await store.read(count) == 128
    assert len(set(versions)) <= 6
    await store.close()


async def test_a_cancelled_caller_breaks_nothing(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "ledger.db")
    gone = asyncio.create_task(store.write(fill))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await store.write(fill)
    assert await store.read(count) == 2
    await store.close()


async def test_closing_finishes_what_was_handed_in(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "ledger.db")
    waiting = [asyncio.create_task(store.write(fill)) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*waiting)
    again = SqliteStore.open(tmp_path / "ledger.db")
    assert await again.read(count) == 20
    await again.close()


async def test_a_full_disk_refuses_the_group_and_heals(tmp_path: Path) -> None:
    """D2: nothing is acknowledged, nothing is half done, and no hand is needed afterwards."""
    store = SqliteStore.open(tmp_path / "ledger.db")
    await store.write(fill)
    pages = (await store.read(lambda tx: tx.execute("PRAGMA page_count")))[0][0]
    await store.write(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages + 5}"))
    results = await asyncio.gather(*(store.write(fill) for _ in range(100)), return_exceptions=True)
    refused = [error for error in results if isinstance(error, StoreFailed)]
    assert len(refused) >= 90
    assert all(error is None or isinstance(error, StoreFailed) for error in results)
    assert {error.got for error in refused} == {"SQLITE_FULL"}
    acknowledged = 1 + len(results) - len(refused)
    assert await store.read(count) == acknowledged
    await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 1000000"))
    await store.write(fill)
    assert await store.read(count) == acknowledged + 1
    await store.close()


async def test_a_locked_file_refuses_and_heals(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "ledger.db", busy=Duration(1))
    thief = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    thief.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed) as refusal:
        await store.write(fill)
    assert refusal.value.got == "SQLITE_BUSY"
    assert await store.read(count) == 0
    thief.execute("ROLLBACK")
    thief.close()
    await store.write(fill)
    assert await store.read(count) == 1
    await store.close()


async def test_a_broken_connection_is_replaced(tmp_path: Path) -> None:
    """An I/O error leaves a connection in doubt: the next group opens a new one."""

    def broken(tx: Tx) -> None:
        fill(tx)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR"
        raise error

    opened: list[object] = []

    def connecting(path: Path, *, busy: Duration) -> sqlite3.Connection:
        opened.append(path)
        if len(opened) == 2:
            raise StoreFailed(about="SQLite", got="SQLITE_CANTOPEN")
        return connect(path, busy=busy)

    store = SqliteStore.open(tmp_path / "ledger.db", connecting=connecting)
    with pytest.raises(StoreFailed) as refusal:
        await store.write(broken)
    assert refusal.value.got == "SQLITE_IOERR"
    with pytest.raises(StoreFailed) as refusal:
        await store.write(fill)
    assert refusal.value.got == "SQLITE_CANTOPEN"
    await store.write(fill)
    assert await store.read(count) == 1
    await store.close()


def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    asyncio.run(SqliteStore.open(path).close())
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO schema_version (version) VALUES (999)")
    other.close()
    with pytest.raises(StoreFailed) as refusal:
        SqliteStore.open(path)
    assert refusal.value.about == "schema version"


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreFailed) as refusal:
        SqliteStore.open(tmp_path / "ledger.db")
    assert refusal.value.got == "SQLITE_NOTADB"
    with pytest.raises(StoreFailed):
        SqliteStore.open(tmp_path / "missing" / "ledger.db")


WRITER = Path(__file__).with_name("granting.py")


@pytest.mark.parametrize("lines", [3, 40, 90, 150, 260])
def test_kill_loses_nothing_acknowledged(tmp_path: Path, lines: int) -> None:
    """D3, invariant 6: kill -9 under load; every grant that was told of is in the ledger, which is sound."""
    path = tmp_path / "ledger.db"
    with subprocess.Popen(
        [sys.executable, WRITER, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read().splitlines(keepends=True)
    granted: dict[str, int] = {}
    for line in told:
        if line.endswith("\n"):  # the last one may be torn
            lease, units = line.split()
            granted[lease] = max(granted.get(lease, 0), int(units))
    assert granted

    async def look() -> None:
        store = SqliteStore.open(path)
        known = {lease.id: lease.granted for lease in await store.read(list_open)}
        assert all(known[lease] >= units for lease, units in granted.items())
        for check in (books.check_books, books.check_replay, check_log):
            await store.read(check)
        await store.close()

    asyncio.run(look())
