"""An old ledger that was put back by hand is noticed (U-6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.custodian.house import Events, House, listen_anywhere
from tests.custodian.ledger.stage import ADMIN, START, ready

from leasehold.core.crypto import SigningKey
from leasehold.custodian.backup import write_backup
from leasehold.custodian.ledger import (
    consumers,
)
from leasehold.custodian.ledger.notes import checkpoint_text, sign_note
from leasehold.custodian.mark import Mark
from leasehold.custodian.private_files import write_private
from leasehold.custodian.restoring import restore_folder
from leasehold.custodian.serve import running
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Store
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import (
    BadMessage,
    BadSignature,
    LedgerOld,
)

from .vault import KEY, LATER, ORIGIN, back_up, checkpoint_of, put_back

T = TypeVar("T")


def test_an_old_ledger_is_noticed(house: House) -> None:
    """U-6: shorter, or of another history; after a restore that says so it is served again."""
    stage, mark = ready(), Mark(house.settings.mark, ORIGIN, KEY)
    asyncio.run(mark.write(stage.store))
    stage.see(mark.check)
    old = stage.store.snapshot()
    stage.lease()
    stage.see(mark.check)  # longer than the mark: a crash before it was written
    asyncio.run(mark.write(stage.store))
    stage.see(mark.check)
    stage.store = InlineStore.open(old)
    with pytest.raises(LedgerOld):
        stage.see(mark.check)
    for units in (7, 8, 9):
        stage.lease(units=units)  # as long again, and longer, but not the same
    with pytest.raises(LedgerOld):
        stage.see(mark.check)
    stage.store = InlineStore.open()
    with pytest.raises(LedgerOld):
        stage.see(mark.check)


def test_a_restored_ledger_is_served_though_the_mark_was_not_written(
    house: House, tmp_path: Path
) -> None:
    stage, mark = ready(), Mark(house.settings.mark, ORIGIN, KEY)
    back_up(stage, tmp_path / "backup.db")
    stage.lease()
    asyncio.run(mark.write(stage.store))
    read = mark.read()
    assert read is not None
    newest, of_epoch = read
    assert of_epoch == 1
    done = put_back(stage, tmp_path / "backup.db", newer=[newest])
    assert (done.known, done.backup_size) == (newest.size, newest.size - 1)
    stage.see(mark.check)
    stage.restart()
    stage.see(mark.check)


def test_the_mark_of_another_replica_is_given_up_by_the_epoch(house: House, tmp_path: Path) -> None:
    """Nobody named it to the restore; a copy of after the restore that is put back is noticed all the same."""
    stage, mark = ready(), Mark(house.settings.mark, ORIGIN, KEY)
    back_up(stage, tmp_path / "backup.db")
    stage.lease()
    asyncio.run(mark.write(stage.store))
    stage.lease(units=7)
    put_back(stage, tmp_path / "backup.db")
    stage.see(mark.check)
    asyncio.run(mark.write(stage.store))
    old = stage.store.snapshot()
    stage.enrol("bob", "key-2")
    asyncio.run(mark.write(stage.store))
    stage.store = InlineStore.open(old)
    with pytest.raises(LedgerOld):
        stage.see(mark.check)


def test_a_mark_without_an_epoch_is_refused(house: House) -> None:
    stage, mark = ready(), Mark(house.settings.mark, ORIGIN, KEY)
    note = sign_note(checkpoint_text(checkpoint_of(stage)), name=ORIGIN, key=KEY)
    write_private(house.settings.mark, note.encode())
    with pytest.raises(BadMessage):
        stage.see(mark.check)


def test_a_forged_mark_is_refused(house: House) -> None:
    stage, mark = ready(), Mark(house.settings.mark, ORIGIN, KEY)
    other = Mark(house.settings.mark, ORIGIN, SigningKey.load(bytes(32)))
    asyncio.run(other.write(stage.store))
    with pytest.raises(BadSignature):
        stage.see(mark.check)


def test_a_custodian_does_not_start_on_an_old_copy(house: House, tmp_path: Path) -> None:
    """T28 on real files: copied back by hand it refuses; restored by the command it serves."""
    settings = listen_anywhere(house.settings)

    async def serve(work: Callable[[Store], Any] | None = None) -> None:
        async with running(settings, log=Events()) as found:
            if work is not None:
                await found.custodian.ports.store.write(
                    lambda tx: consumers.add_consumer(tx, now=START, operator=ADMIN, name="late")
                )

    async def save() -> None:
        store = SqliteStore.open(settings.ledger)
        await write_backup(
            store, tmp_path / "b.db", origin=settings.origin, key=settings.audit, now=START
        )
        await store.close()

    async def put() -> None:
        await restore_folder(
            settings, tmp_path / "b.db", now=LATER, operator=ADMIN, reason="", replace=True
        )

    asyncio.run(serve())
    asyncio.run(save())
    by_hand = settings.ledger.read_bytes()
    asyncio.run(serve(lambda _store: None))
    settings.ledger.write_bytes(by_hand)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (settings.folder / name).unlink(missing_ok=True)
    with pytest.raises(LedgerOld):
        asyncio.run(serve())
    asyncio.run(put())
    asyncio.run(serve())
