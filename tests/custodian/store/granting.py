"""A process that grants leases from 16 callers and says of each that it did, until it is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from functools import partial
from pathlib import Path

from leasehold.core.crypto import sha256
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import LeaseAsk, LeaseGranted
from leasehold.core.tariff import PER_TOKEN
from leasehold.core.units import DAY, MINUTE, Instant, Units
from leasehold.custodian.ledger import asks, consumers, grants, instances, loans
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.store.port import Tx
from leasehold.custodian.store.sqlite import SqliteStore

CALLERS = 16
NOW = Instant(1_800_000_000_000)
ADMIN = Operator("ada", Role.ADMIN)


def key_hash(caller: int) -> bytes:
    """Every caller has its own key."""
    return sha256(str(caller).encode())


def set_up(tx: Tx) -> None:
    """A loan, a consumer with a key for every caller, one instance."""
    loans.add_model(
        tx, now=NOW, operator=ADMIN, name="m", digest="ab" * 32, sealed_bytes=1, engine="llama"
    )
    loans.create_loan(
        tx,
        now=NOW,
        operator=ADMIN,
        name="l",
        model="m",
        manifest=b"",
        tariff=PER_TOKEN,
        policy=LeasePolicy(exact=True, outstanding_max=Units(1 << 40)),
        cap=Units(1 << 40),
        instances_max=1,
        dead_man=MINUTE,
    )
    consumers.add_consumer(tx, now=NOW, operator=ADMIN, name="c")
    grants.create_grant(tx, now=NOW, operator=ADMIN, loan="l", consumer="c", units=Units(1 << 40))
    for caller in range(CALLERS):
        consumers.add_key(tx, now=NOW, operator=ADMIN, consumer="c", key_hash=key_hash(caller))
    instances.register(
        tx,
        now=NOW,
        instance="one",
        loan="l",
        statement_key=bytes(32),
        machine="m",
        verdict=b"{}",
        evidence_digest=b"",
        certificate_expires=Instant(NOW + DAY),
        evidence_expires=Instant(NOW + DAY),
    )


async def main(path: Path) -> None:
    """Grant until killed."""
    store = SqliteStore.open(path)
    await store.write(set_up)

    async def call(caller: int) -> None:
        for sequence in itertools.count(caller + 1, CALLERS):
            ask = LeaseAsk(sequence, key_hash(caller), Units(1), Units(7), 0, Units(0))
            answer = await store.write(partial(asks.ask, now=NOW, instance="one", ask=ask))
            assert isinstance(answer, LeaseGranted)
            os.write(1, f"{answer.lease} {answer.granted}\n".encode())

    await asyncio.gather(*(call(caller) for caller in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
