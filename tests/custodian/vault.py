"""A key, a ledger with something in it, and short ways to back it up and put it back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.custodian.ledger.stage import ADMIN, START, Stage, ready

from leasehold.core.crypto import SigningKey
from leasehold.core.units import MINUTE, Instant
from leasehold.custodian.backup import open_backup, write_backup
from leasehold.custodian.ledger import (
    audit,
    nonces,
)
from leasehold.custodian.ledger.notes import Checkpoint
from leasehold.custodian.restoring import Restored, restore
from leasehold.custodian.store.port import Row, Store, Tx

KEY = SigningKey.load(bytes(range(32)))
ORIGIN = "leasehold/test"
LATER = Instant(START + 10 * MINUTE)


def back_up(stage: Stage, path: Path, *, force: bool = False) -> Checkpoint:
    return asyncio.run(
        write_backup(stage.store, path, origin=ORIGIN, key=KEY, now=stage.now, force=force)
    )


def put_back(stage: Stage, path: Path, **more: Any) -> Restored:
    with open_backup(path, origin=ORIGIN, public=KEY.public) as found:
        options = {"operator": ADMIN, "reason": "drill", "replace": True, **more}
        return asyncio.run(restore(stage.store, found, now=stage.now, **options))


def rows(store: Store) -> dict[str, list[Row]]:
    """Everything that a ledger holds."""

    def act(tx: Tx) -> dict[str, list[Row]]:
        names = tx.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        every = [(name, f"SELECT * FROM {name}") for (name,) in names]  # noqa: S608
        return {name: sorted(tx.execute(query), key=repr) for name, query in every}

    return asyncio.run(store.read(act))


def checkpoint_of(stage: Stage) -> Checkpoint:
    return Checkpoint(ORIGIN, *stage.see(audit.head))


def busy_stage() -> Stage:
    """A backup's worth: two leases, one half served, a nonce, a stop."""
    stage = ready()
    lease = stage.lease().lease
    stage.report(lease, 40)
    stage.attest("two")
    stage.lease(instance="two")
    stage.do(lambda tx: nonces.issue(tx, now=stage.now, nonce=bytes(32)))
    return stage
