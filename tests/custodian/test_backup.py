"""Backups: whole or not at all, private, and refused after any change (U-1, U-2)."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest
from tests.custodian.house import House
from tests.custodian.ledger.stage import START, STOPPER, Stage

from leasehold.core.crypto import SigningKey
from leasehold.custodian.backup import open_backup
from leasehold.custodian.ledger import (
    stops,
)
from leasehold.custodian.ledger.notes import checkpoint_text, sign_note
from leasehold.custodian.store import connection
from leasehold.custodian.store.snapshot import tables
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import (
    AlreadyExists,
    BadBackup,
    BadSignature,
    BooksWrong,
    FileTrouble,
    StoreFailed,
)

from .vault import KEY, ORIGIN, back_up, busy_stage, checkpoint_of, put_back, rows

T = TypeVar("T")


def test_a_backup_is_a_private_file_and_never_replaces_one_unasked(tmp_path: Path) -> None:
    stage, path = busy_stage(), tmp_path / "backup.db"
    first = back_up(stage, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["backup.db"]
    before = path.read_bytes()
    with pytest.raises(AlreadyExists):
        back_up(stage, path)
    assert path.read_bytes() == before
    stage.lease()
    assert back_up(stage, path, force=True).size > first.size
    with open_backup(path, origin=ORIGIN, public=KEY.public) as found:
        assert found.taken == START
        assert found.tx.execute("SELECT COUNT(*) FROM nonces") == [(0,)]
    assert [one.name for one in tmp_path.iterdir()] == ["backup.db"]


def test_a_backup_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    stage = busy_stage()
    stage.do(lambda tx: tx.execute("UPDATE accounts SET granted = granted + 1 WHERE id = 1"))
    with pytest.raises(BooksWrong):
        back_up(stage, tmp_path / "backup.db")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileTrouble):
        back_up(stage, tmp_path / "missing" / "backup.db")


TAMPER = {
    "a unit": "UPDATE accounts SET granted = granted + 1 WHERE id = 1",
    "a key": "UPDATE keys SET hash = zeroblob(32)",
    "a stop": "DELETE FROM stop_instances",
    "an instance": "UPDATE instances SET state = 'live', statement_key = zeroblob(32)",
    "a leaf": "UPDATE log SET leaf = CAST(replace(CAST(leaf AS TEXT), 'ann', 'bob') AS BLOB)",
    "the log's end": "DELETE FROM log WHERE position = (SELECT MAX(position) FROM log)",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON log BEGIN DELETE FROM stops; END",
    "a view": "CREATE VIEW v AS SELECT 1",
    "the version": "DROP TABLE schema_version",
    "a table": "CREATE TABLE more (a INTEGER)",
    "the note's digest": "UPDATE backup SET note = replace(note, 'backup ', 'backup 0')",
}


@pytest.mark.parametrize("change", TAMPER)
def test_a_changed_backup_is_refused(tmp_path: Path, change: str) -> None:
    """U-2: whatever row or rule is changed, and though books and log may agree."""
    stage, path = busy_stage(), tmp_path / "backup.db"
    stage.do(
        lambda tx: stops.order(
            tx, now=START, operator=STOPPER, scope="loan", target="loan-1", reason=""
        )
    )
    back_up(stage, path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(TAMPER[change])
        other.commit()
    old = rows(stage.store)
    with pytest.raises(BadSignature if "note" in change else BadBackup):
        put_back(stage, path)
    assert rows(stage.store) == old


def test_flipped_and_missing_bytes_are_refused(tmp_path: Path) -> None:
    stage, path = busy_stage(), tmp_path / "backup.db"
    back_up(stage, path)
    good, random = path.read_bytes(), Random(1)  # noqa: S311
    for _ in range(60):
        place = random.randrange(len(good))
        path.write_bytes(
            good[:place] + bytes([good[place] ^ 1 << random.randrange(8)]) + good[place + 1 :]
        )
        try:
            with open_backup(path, origin=ORIGIN, public=KEY.public) as found:
                same = found.checkpoint
        except (BadBackup, BadSignature):
            continue
        assert same == checkpoint_of(stage)  # a bit of free space that means nothing
    for size in (0, 100, 4096, len(good) // 2, len(good) - 4096):
        path.write_bytes(good[:size])
        with pytest.raises(BadBackup):
            put_back(stage, path)


def test_only_this_custodians_backups_count(tmp_path: Path) -> None:
    stage, path = busy_stage(), tmp_path / "backup.db"
    back_up(stage, path)
    for origin, public in (
        ("leasehold/other", KEY.public),
        (ORIGIN, SigningKey.load(bytes(32)).public),
    ):
        with pytest.raises(BadSignature), open_backup(path, origin=origin, public=public):
            pass
    with (
        pytest.raises(FileTrouble),
        open_backup(tmp_path / "none", origin=ORIGIN, public=KEY.public),
    ):
        pass


def test_a_plain_copy_of_the_ledger_is_no_backup(house: House) -> None:
    asyncio.run(SqliteStore.open(house.settings.ledger).close())
    with (
        pytest.raises(BadBackup),
        open_backup(house.settings.ledger, origin=ORIGIN, public=KEY.public),
    ):
        pass


def test_a_checkpoint_alone_does_not_pass_for_a_note(tmp_path: Path) -> None:
    """An old checkpoint, honestly signed, cannot be made the note of other content."""
    stage, path = busy_stage(), tmp_path / "backup.db"
    back_up(stage, path)
    note = sign_note(checkpoint_text(checkpoint_of(stage)), name=ORIGIN, key=KEY)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE backup SET note = ?", (note,))
        other.commit()
    with pytest.raises(BadBackup):
        put_back(stage, path)


def test_a_backup_of_an_older_schema_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup outlives releases: its digest is that of the schema it was made in."""
    stage, path = busy_stage(), tmp_path / "backup.db"
    back_up(stage, path)
    later = [
        *connection._migrations(),
        (9999, ["ALTER TABLE consumers ADD COLUMN shoe INTEGER NOT NULL DEFAULT 42"]),
    ]
    monkeypatch.setattr(connection, "_migrations", lambda: iter(later))
    fresh = Stage()
    put_back(fresh, path)
    fresh.check()
    assert fresh.see(lambda tx: tx.execute("SELECT name, shoe FROM consumers")) == [("ann", 42)]
    back_up(fresh, path, force=True)
    monkeypatch.undo()
    with pytest.raises(StoreFailed):  # of a newer release
        put_back(fresh, path)


def test_every_table_is_in_a_backup() -> None:
    """A table that a later migration adds is copied after those that it refers to."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        connection.migrate(database)
        found = [one.name for one in tables(database)]
        names = {
            row[0]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert set(found) == names - {"nonces", "schema_version"}
    for child, parent in (("leases", "keys"), ("grants", "accounts"), ("stop_instances", "stops")):
        assert found.index(child) > found.index(parent)
