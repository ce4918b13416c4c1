"""Several custodians over one PostgreSQL: one ledger, and a stop at one reaches the enclaves of all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from tools.postgres import Server

from leasehold.core.encoding import to_json
from leasehold.core.messages import (
    STOP_PROOF_KIND,
    ExtensionAsk,
    ExtensionState,
    HeartbeatAck,
    LeaseAsk,
    LeaseGranted,
    StopOrder,
    StopProof,
    StopReport,
)
from leasehold.core.statements import sign
from leasehold.core.units import MINUTE, Duration, Units
from leasehold.custodian import acts
from leasehold.custodian.backup import open_backup, write_backup
from leasehold.custodian.channel import attend
from leasehold.custodian.ledger import asks, audit, books, extensions, grants, stops
from leasehold.custodian.replicas import relay
from leasehold.custodian.restoring import restore
from leasehold.custodian.service import Custodian
from leasehold.custodian.store.pgconnection import connect
from leasehold.custodian.store.port import Store, Tx
from leasehold.custodian.store.postgres import PostgresStore
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import StoreFailed

from .databases import new_database
from .house import ADMIN, LOAN, WAIT_SECONDS, Events, Guest, House, Line, Office, Watch, key_hash

SOON_SECONDS = 1.0


class Replica:
    """One custodian process: its own store, its own listeners."""

    def __init__(self, house: House, clock: Watch, url: str) -> None:
        self.store = PostgresStore.open(url)
        self.log = Events()
        self.office = Office.over(house, clock, self.store)
        self.custodian: Custodian = self.office.custodian
        self._relaying = asyncio.create_task(relay(self.custodian, self.log))

    async def close(self) -> None:
        """End the process."""
        self._relaying.cancel()
        await asyncio.gather(self._relaying, return_exceptions=True)
        await self.store.close()


@pytest.fixture
async def url(postgres: Server) -> str:
    """A database of its own."""
    return new_database(postgres)


@pytest.fixture
async def replicas(house: House, url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two of them, and a loan with consumers."""
    clock = Watch()
    both = Replica(house, clock, url), Replica(house, clock, url)
    await both[0].office.lend()
    yield both
    for one in both:
        await one.close()


@asynccontextmanager
async def channel(replica: Replica, guest: Guest) -> AsyncIterator[Line]:
    """The enclave's end of a channel to that replica."""
    ours, theirs = Line.pair()
    attending = asyncio.create_task(attend(replica.custodian, guest.id, theirs))
    try:
        yield ours
    finally:
        await ours.close()
        await asyncio.wait_for(attending, WAIT_SECONDS)


async def test_a_stop_at_one_reaches_an_enclave_of_the_other(
    house: House, replicas: tuple[Replica, Replica]
) -> None:
    here, there = replicas
    guest = Guest(house)
    await guest.attested(here.custodian)
    async with channel(there, guest) as line:
        await asyncio.sleep(0.2)  # until it listens
        await here.custodian.stop(ADMIN, "loan", LOAN, "enough")
        async with asyncio.timeout(SOON_SECONDS):
            assert isinstance(await line.hear(), StopOrder)


async def test_a_notice_at_one_and_its_beginning_reach_an_enclave_of_the_other(
    house: House, replicas: tuple[Replica, Replica]
) -> None:
    """L-10, L-14: also that it was called off; whichever replica begins it, once."""
    here, there = replicas
    guest = Guest(house)
    await guest.attested(here.custodian)
    async with channel(there, guest) as line:
        await asyncio.sleep(0.2)  # until it listens
        first = await here.custodian.stop(
            ADMIN, "loan", LOAN, "maintenance", notice=Duration(MINUTE)
        )
        async with asyncio.timeout(SOON_SECONDS):
            told = await line.hear()
        assert isinstance(told, HeartbeatAck)
        assert told.coming is not None
        await here.custodian.change(lambda tx, now: acts.lift(tx, now, ADMIN, first.id, "off"))
        async with asyncio.timeout(SOON_SECONDS):
            told = await line.hear()
        assert isinstance(told, HeartbeatAck)
        assert told.coming is None
        await here.custodian.stop(ADMIN, "loan", LOAN, "now", notice=Duration(50))
        async with asyncio.timeout(SOON_SECONDS):
            assert isinstance(await line.hear(), HeartbeatAck)
        here.office.clock.passed += MINUTE
        swept = await asyncio.gather(here.custodian.sweep(), there.custodian.sweep())
        assert sum(len(one.stops) for one in swept) == 1
        async with asyncio.timeout(SOON_SECONDS):
            assert isinstance(await line.hear(), StopOrder)


async def test_a_decision_at_one_reaches_an_enclave_of_the_other(
    house: House, replicas: tuple[Replica, Replica]
) -> None:
    here, there = replicas
    guest = Guest(house)
    await guest.attested(here.custodian)
    async with channel(there, guest) as line:
        await asyncio.sleep(0.2)
        ask = ExtensionAsk(1, key_hash("lh-alice"), Units(70), "more, please")
        await here.custodian.handle(guest.id, ask)
        await here.custodian.approve(ADMIN, 1, Units(70))
        async with asyncio.timeout(SOON_SECONDS):
            state = await line.hear()
        assert isinstance(state, ExtensionState)
        assert (state.status, state.approved) == ("approved", 70)


async def test_whoever_waits_for_a_stop_hears_of_proofs_that_another_replica_got(
    house: House, replicas: tuple[Replica, Replica]
) -> None:
    here, there = replicas
    guest = Guest(house)
    await guest.attested(here.custodian)
    stop = await here.custodian.stop(ADMIN, "loan", LOAN, "enough")
    waiting = asyncio.create_task(here.custodian.await_progress(stop.id, proved=0))
    await asyncio.sleep(0.2)
    report = StopReport(guest.id, LOAN, stop.id, (), 1, here.office.clock.now())
    proof = StopProof(sign(guest.statement, STOP_PROOF_KIND, to_json(report)))
    await there.custodian.handle(guest.id, proof)
    async with asyncio.timeout(SOON_SECONDS):
        assert (await waiting).proved == (guest.id,)


async def test_what_was_told_while_nobody_listened_is_looked_up(
    house: House, replicas: tuple[Replica, Replica], url: str
) -> None:
    """The server cuts the listening connection; the stop falls into the gap."""
    here, there = replicas
    guest = Guest(house)
    await guest.attested(here.custodian)
    async with channel(there, guest) as line:
        await asyncio.sleep(0.2)
        cutter = connect(url)
        cutter.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
        )
        await here.custodian.stop(ADMIN, "loan", LOAN, "enough")
        cutter.close()
        async with asyncio.timeout(5):
            assert isinstance(await line.hear(), StopOrder)


async def test_a_stop_reaches_an_enclave_of_a_replica_whose_reads_hang(
    house: House, replicas: tuple[Replica, Replica], url: str
) -> None:
    """L-16: a table is locked; what was told of it before waits, and so do other reads. The lock stays."""
    here, there = replicas
    guest = Guest(house)
    await guest.attested(here.custodian)
    await here.custodian.handle(
        guest.id, ExtensionAsk(1, key_hash("lh-alice"), Units(70), "more, please")
    )
    await here.custodian.approve(ADMIN, 1, Units(70))
    async with channel(there, guest) as line:
        await asyncio.sleep(0.2)
        locker = connect(url)
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE extensions IN ACCESS EXCLUSIVE MODE")
        hung = [
            asyncio.create_task(there.store.read(lambda tx: extensions.show_decision(tx, 1)))
            for _ in range(4)
        ]
        for _ in range(8):
            await here.store.write(lambda tx: tx.tell(f"{acts.EXTENSION} 1"))
        await here.custodian.stop(ADMIN, "loan", LOAN, "enough")
        async with asyncio.timeout(WAIT_SECONDS):
            assert isinstance(await line.hear(), StopOrder)
        assert not any(one.done() for one in hung)
        locker.execute("ROLLBACK")
        locker.close()
        assert {one.state.status for one in await asyncio.gather(*hung)} == {"approved"}
        async with asyncio.timeout(WAIT_SECONDS):  # what could not be read is read again
            while not isinstance(told := await line.hear(), ExtensionState):
                pass
        assert (told.status, told.approved) == ("approved", 70)


async def test_a_frozen_server_process_is_given_up_for_a_fresh_one(
    house: House, replicas: tuple[Replica, Replica]
) -> None:
    """L-16: it keeps no time limit, and its connection stands."""
    _, there = replicas

    def backend(tx: Tx) -> int:
        number: int = tx.execute("SELECT pg_backend_pid()")[0][0]
        return number

    frozen = await there.store.read_soon(backend)
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert await there.store.read_soon(backend) != frozen
    finally:
        os.kill(frozen, signal.SIGCONT)


async def test_callers_at_both_never_overspend_one_cap(
    house: House, replicas: tuple[Replica, Replica]
) -> None:
    """Invariants 1, 7 and 8: 64 callers, a cap that is not enough for all of them."""
    here, _ = replicas
    guests = [Guest(house) for _ in range(4)]
    for guest in guests:
        await guest.attested(here.custodian)
    granted: list[LeaseGranted] = []

    async def call(number: int) -> None:
        replica, guest = replicas[number % 2], guests[number % 4]
        for step in range(12):
            sequence = 1 + number * 12 + step
            ask = LeaseAsk(sequence, key_hash("lh-alice"), Units(1), Units(9), 0, Units(0))
            act = partial(asks.ask, now=here.office.clock.now(), instance=guest.id, ask=ask)
            answer = await replica.store.write(act)
            again = await replicas[(number + 1) % 2].store.write(act)
            assert again == answer
            if isinstance(answer, LeaseGranted):
                granted.append(answer)

    await asyncio.gather(*(call(number) for number in range(64)))
    assert len({one.lease for one in granted}) == len(guests)
    loan = await here.custodian.look(lambda tx: grants.show_grant(tx, loan=LOAN, consumer="alice"))
    assert loan.budget.outstanding <= loan.budget.granted
    for look in (books.check_books, books.check_replay, audit.check_log):
        await here.store.read(look)


async def test_a_server_that_dies_under_load_loses_nothing_acknowledged(
    house: House, postgres: Server, url: str
) -> None:
    """D2: refused while it is down, never served; back without hand work."""
    clock = Watch()
    replica = Replica(house, clock, url)
    await replica.office.lend()
    guest = Guest(house)
    await guest.attested(replica.custodian)
    told: dict[int, LeaseGranted] = {}
    failures = 0
    over, served_again = False, asyncio.Event()
    enough = 1 << 30

    async def call(number: int) -> None:
        nonlocal failures
        sequence = number
        while not over:
            ask = LeaseAsk(sequence, key_hash("lh-alice"), Units(0), Units(1), 0, Units(0))
            act = partial(asks.ask, now=clock.now(), instance=guest.id, ask=ask)
            try:
                answer = await replica.store.write(act)
            except StoreFailed:
                failures += 1
                await asyncio.sleep(0.02)
                continue
            assert isinstance(answer, LeaseGranted)
            told[sequence] = answer
            sequence += 8
            if len(told) >= enough:
                served_again.set()

    callers = [asyncio.create_task(call(number)) for number in range(1, 9)]
    await asyncio.sleep(0.5)
    before = len(told)
    await asyncio.to_thread(postgres.stop, "immediate")
    await asyncio.sleep(0.3)
    await asyncio.to_thread(postgres.start)
    enough = len(told) + 50
    async with asyncio.timeout(20):
        await served_again.wait()
    over = True
    await asyncio.gather(*callers)
    assert before > 0
    assert failures > 0
    again = [
        partial(
            asks.ask,
            now=clock.now(),
            instance=guest.id,
            ask=LeaseAsk(sequence, key_hash("lh-alice"), Units(0), Units(1), 0, Units(0)),
        )
        for sequence in told
    ]
    assert await asyncio.gather(*map(replica.store.write, again)) == [*told.values()]
    for look in (books.check_books, books.check_replay, audit.check_log):
        await replica.store.read(look)
    await replica.close()


async def test_a_backup_goes_from_either_store_into_the_other(
    house: House, replicas: tuple[Replica, Replica], url: str, postgres: Server, tmp_path: Path
) -> None:
    """U-1: the file is the same whatever the store."""
    here, _ = replicas
    origin, key, now = house.settings.origin, house.settings.audit, here.office.clock.now()
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    await write_backup(here.store, first, origin=origin, key=key, now=now)
    for make in (
        lambda: SqliteStore.open(tmp_path / "ledger.db"),
        lambda: PostgresStore.open(new_database(postgres)),
    ):
        store: Store = make()
        with open_backup(first, origin=origin, public=key.public) as backup:
            done = await restore(store, backup, now=now, operator=ADMIN, reason="a drill")
        assert done.size > done.backup_size
        for look in (books.check_books, books.check_replay, audit.check_log):
            await store.read(look)
        stopped = await store.read(lambda tx: stops.list_stops(tx, active=True))
        assert [one.scope for one in stopped] == ["all"]
        await write_backup(store, second, origin=origin, key=key, now=now, force=True)
        await store.close()


async def test_two_replicas_may_start_at_once(url: str) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(PostgresStore.open, url) for _ in range(4)))
    for store in stores:
        assert await store.read(stops.list_stops) == ()
        await store.close()


def test_a_server_that_may_forget_is_refused(postgres: Server) -> None:
    """A commit must be on disk: fsync off is no durability."""
    postgres.configure("full_page_writes", "off")
    try:
        with pytest.raises(StoreFailed) as refusal:
            connect(postgres.url())
        assert refusal.value.about == "PostgreSQL's full_page_writes"
        assert (refusal.value.got, refusal.value.expected) == ("off", "on")
    finally:
        postgres.configure("full_page_writes", "on")


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(StoreFailed) as refusal:
        connect("postgresql://lender:hunter2@127.0.0.1:1/books")
    assert refusal.value.about == "PostgreSQL books at 127.0.0.1:1"
    assert "hunter2" not in refusal.value.message
    assert os.environ.get("PGPASSWORD") is None
