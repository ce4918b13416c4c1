"""The store in memory is one value: it can be copied, and continued from the copy."""

import pytest

from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Tx
from leasehold.errors import Conflict


def put(tx: Tx) -> None:
    tx.execute("INSERT INTO consumers (name, created) VALUES ('ann', 1)")


def count(tx: Tx) -> int:
    found: int = tx.execute("SELECT COUNT(*) FROM consumers")[0][0]
    return found


async def test_a_snapshot_is_a_backup() -> None:
    store = InlineStore.open()
    backup = store.snapshot()
    await store.write(put)
    after = InlineStore.open(store.snapshot())
    before = InlineStore.open(backup)
    assert await after.read(count) == 1
    assert await before.read(count) == 0
    with pytest.raises(Conflict):
        await after.write(put)


async def test_nothing_waits() -> None:
    """A simulated world stays deterministic: the coroutine ends on its first step."""
    work = InlineStore.open().write(put)
    with pytest.raises(StopIteration):
        work.send(None)
