"""Restores: a hundred drills, every step failing once, what is told and what stays stopped (T28, L-8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

import pytest
from tests.custodian.house import Events, House, listen_anywhere
from tests.custodian.ledger.stage import ADMIN, START, STOPPER, VIEWER, Stage, key_hash, ready
from tools.postgres import Server

from leasehold.core.crypto import SigningKey
from leasehold.core.messages import AttestAgain, LeaseGranted, LeaseRefused, Scope
from leasehold.core.units import MINUTE, Duration, Instant, Units
from leasehold.custodian.backup import open_backup, write_backup
from leasehold.custodian.ledger import (
    audit,
    consumers,
    epoch,
    grants,
    instances,
    leases,
    loans,
    stops,
    sweeps,
)
from leasehold.custodian.ledger.notes import checkpoint_text, sign_note
from leasehold.custodian.lock import held
from leasehold.custodian.mark import Mark, Stand, read_checkpoint, stand
from leasehold.custodian.restoring import restore, restore_folder
from leasehold.custodian.serve import running
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Row, Store, Tx
from leasehold.custodian.store.sqlite import SqliteStore
from leasehold.errors import (
    AlreadyExists,
    BadSignature,
    LeaseholdError,
    LedgerInUse,
    NotPermitted,
    StoreFailed,
    UnknownThing,
    Unproven,
)

from .databases import CallingThreadStore, new_database
from .vault import KEY, LATER, ORIGIN, back_up, busy_stage, checkpoint_of, put_back, rows

T = TypeVar("T")


# Drills ------------------------------------------------------------------------------------------


@dataclass
class Drill:
    """Enclaves that ask and serve, operators that grant and stop, a random course of it all."""

    random: Random
    stage: Stage = field(default_factory=Stage)
    held: dict[str, tuple[str, int]] = field(default_factory=dict)  # lease: instance, granted
    spent: dict[str, int] = field(default_factory=dict)
    granted: int = 4_000
    boots: int = 0

    def begin(self) -> None:
        self.stage.lend(cap=self.granted)
        self.stage.enrol("ann", "ann-1", "ann-2", units=3_000)
        self.stage.enrol("bob", "bob-1", units=3_000)
        self.boot()

    def boot(self) -> str:
        self.boots += 1
        name = f"boot-{self.boots}"
        self.stage.attest(name)
        return name

    def live(self) -> list[str]:
        return [one.id for one in self.stage.see(instances.list_instances) if one.state == "live"]

    def go(self, steps: int) -> None:
        acts: list[Callable[[], object]] = [
            *[self.lease] * 6, *[self.serve] * 4, self.close, self.wait, self.stop, self.grant,
            self.boot, self.revoke,
        ]  # fmt: skip
        for _ in range(steps):
            try:
                self.random.choice(acts)()
            except LeaseholdError:
                continue

    def lease(self) -> None:
        live = self.live()
        if not live:
            return
        instance, key = self.random.choice(live), self.random.choice(["ann-1", "ann-2", "bob-1"])
        units = self.random.randint(1, 200)
        ask = self.stage.message(key, least=units, need=units)
        answer = self.stage.send(ask, instance)
        if isinstance(answer, LeaseGranted):
            self.held[answer.lease] = (instance, answer.granted)
            self.spent.setdefault(answer.lease, 0)

    def serve(self) -> None:
        for lease, (instance, granted) in self.held.items():
            self.spent[lease] = self.random.randint(self.spent[lease], granted)
            if self.random.random() < 0.5:
                self.stage.report(lease, self.spent[lease], instance)

    def close(self) -> None:
        if self.held:
            lease = self.random.choice(sorted(self.held))
            instance, _ = self.held.pop(lease)
            self.stage.close(lease, self.spent[lease], instance)

    def wait(self) -> None:
        self.stage.now = Instant(self.stage.now + self.random.choice([1_000, 40_000, 100_000]))
        self.stage.do(lambda tx: sweeps.sweep(tx, now=self.stage.now))

    def stop(self) -> None:
        scope, target = self.random.choice([("consumer", "bob"), ("enclave", f"boot-{self.boots}")])
        self.order(scope, target)

    def order(self, scope: Any, target: str) -> None:
        self.stage.do(
            lambda tx: stops.order(
                tx, now=self.stage.now, operator=STOPPER, scope=scope, target=target, reason=""
            )
        )

    def grant(self) -> None:
        more = self.random.randint(1, 300)
        self.stage.do(
            lambda tx: loans.change_cap(
                tx, now=self.stage.now, operator=ADMIN, loan="loan-1", units=Units(more)
            )
        )
        self.granted += more

    def revoke(self) -> None:
        if self.random.random() < 0.2:
            self.stage.do(
                lambda tx: consumers.revoke_key(
                    tx, now=self.stage.now, operator=ADMIN, key=consumers.key_id(key_hash("ann-2"))
                )
            )

    def used(self) -> dict[int, tuple[int, int]]:
        """Of every account what is settled, and what is spent: settled or written off."""
        found = self.stage.see(
            lambda tx: tx.execute("SELECT id, settled, settled + written_off FROM accounts")
        )
        return {number: (settled, spent) for number, settled, spent in found}

    def active(self) -> set[tuple[str, str]]:
        return {
            (one.scope, one.target)
            for one in self.stage.see(lambda tx: stops.list_stops(tx, active=True))
        }


@pytest.mark.parametrize("seed", range(100))
def test_a_drill(tmp_path: Path, seed: int) -> None:
    """R1: nothing of the old epoch is granted, no spent unit comes back, no stop is lifted, books hold."""
    drill = Drill(Random(seed))  # noqa: S311  the same courses in every run
    stage = drill.stage
    drill.begin()
    drill.go(drill.random.randint(0, 40))
    checkpoint = back_up(stage, tmp_path / "backup.db")
    used, active, old = drill.used(), drill.active(), stage.see(epoch.current)
    drill.go(drill.random.randint(0, 40))
    if drill.random.random() < 0.5:  # the disk is gone; else the newer ledger is replaced
        stage.store = InlineStore.open()
    else:
        active |= drill.active() & {("consumer", "bob")}
    done = put_back(stage, tmp_path / "backup.db")

    stage.check()
    assert stage.see(lambda tx: stand(tx, checkpoint)) is Stand.EXTENDS
    assert done.epoch == stage.see(epoch.current) > old
    for number, (settled, spent) in drill.used().items():
        assert (settled, spent) >= used[number]
        assert spent >= used[number][1]
    assert drill.active() >= active | {("all", "")}
    assert stage.see(leases.list_open) == ()
    assert all(one.budget.available == 0 for one in stage.see(loans.list_loans))
    for lease, (instance, _) in drill.held.items():  # what enclaves still hold
        ask = stage.message("ann-1", least=1, need=1, spent=drill.spent[lease], lease=lease)
        try:
            answer = stage.send(ask, instance)
        except UnknownThing:  # it came after the backup, and is told to attest again
            continue
        if isinstance(answer, AttestAgain):  # looked at first: its evidence expired meanwhile
            assert answer.problem.code == "evidence_expired"
            continue
        assert isinstance(answer, LeaseRefused)
        assert answer.problem.code == "loan_stopped"
    assert sum(drill.spent.values()) <= drill.granted

    again(drill)
    assert sum(drill.spent.values()) <= drill.granted
    stage.check()


def known(drill: Drill) -> set[str]:
    return {one.id for one in drill.stage.see(instances.list_instances)}


def again(drill: Drill) -> None:
    """Operators resume and grant anew: service goes on, under lease ids that were never used."""
    stage, before = drill.stage, set(drill.spent)
    for one in stage.see(lambda tx: stops.list_stops(tx, active=True)):
        stage.do(
            lambda tx, one=one: stops.lift(
                tx, now=stage.now, operator=ADMIN, stop=one.id, reason=""
            )
        )
    stage.do(
        lambda tx: grants.change_grant(
            tx, now=stage.now, operator=ADMIN, loan="loan-1", consumer="ann", units=Units(500)
        )
    )
    stage.do(
        lambda tx: loans.change_cap(
            tx, now=stage.now, operator=ADMIN, loan="loan-1", units=Units(500)
        )
    )
    drill.granted += 500
    for instance in {instance for instance, _ in drill.held.values()}:
        with pytest.raises(UnknownThing) if instance not in known(drill) else nullcontext():
            late = stage.send(stage.message("ann-1", least=1, need=1), instance)
            assert isinstance(late, LeaseRefused | AttestAgain)
            assert late.problem.code in ("loan_stopped", "evidence_expired")  # stopped, or lost
    answer = stage.send(stage.message("ann-1", least=10, need=10), drill.boot())
    assert isinstance(answer, LeaseGranted)
    assert answer.lease not in before
    drill.spent[answer.lease] = answer.granted


# Every step fails once ---------------------------------------------------------------------------


class Cut(Exception):
    """The process ends here."""


class Failing:
    """A store whose transactions end at a given statement, as if power was cut there."""

    def __init__(self, inner: Store, after: int) -> None:
        self.inner, self.left = inner, after

    def _wrap(self, act: Callable[[Tx], T]) -> Callable[[Tx], T]:
        def cut(tx: Tx) -> T:
            return act(_FailingTx(self, tx))

        return cut

    async def write(self, act: Callable[[Tx], T]) -> T:
        return await self.inner.write(self._wrap(act))

    async def read(self, act: Callable[[Tx], T]) -> T:
        return await self.inner.read(self._wrap(act))

    async def close(self) -> None:
        await self.inner.close()


class _FailingTx:
    def __init__(self, store: Failing, tx: Tx) -> None:
        self._store, self._tx, self.memo = store, tx, tx.memo

    def tell(self, news: str) -> None:
        self._tx.tell(news)

    def execute(self, sql: str, params: Any = ()) -> list[Row]:
        self._store.left -= 1
        if self._store.left < 0:
            raise Cut
        return self._tx.execute(sql, params)


def test_whichever_statement_fails_the_ledger_is_old_or_restored(tmp_path: Path) -> None:
    """U-4: no ledger is ever the backup as it was; what comes after a failure is another try that works."""
    stage = busy_stage()
    back_up(stage, tmp_path / "backup.db")
    stage.now = LATER
    stage.lease()
    old = rows(stage.store)
    inner = stage.store
    with open_backup(tmp_path / "backup.db", origin=ORIGIN, public=KEY.public) as found:
        steps = 0
        while True:
            store = Failing(inner, steps)
            try:
                asyncio.run(
                    restore(store, found, now=LATER, operator=ADMIN, reason="", replace=True)
                )
                break
            except Cut:
                assert rows(inner) == old
                steps += 1
    assert steps > 100
    assert stage.see(epoch.current) == LATER // 1000
    assert stage.see(leases.list_open) == ()
    stage.check()
    assert rows(inner)["nonces"] == []


def test_a_failure_anywhere_leaves_a_folder_that_is_safe(house: House, tmp_path: Path) -> None:
    """U-3, U-4, U-6, on files: after each failure the custodian may start on what is there, or refuses to."""
    settings = house.settings
    backup = tmp_path / "backup.db"
    mark = Mark(settings.mark, settings.origin, settings.audit)

    async def fill() -> None:
        store = SqliteStore.open(settings.ledger)
        await store.write(
            lambda tx: consumers.add_consumer(tx, now=START, operator=ADMIN, name="a")
        )
        await write_backup(store, backup, origin=settings.origin, key=settings.audit, now=START)
        await store.write(
            lambda tx: consumers.add_consumer(tx, now=START, operator=ADMIN, name="b")
        )
        await mark.write(store)
        await store.close()

    async def attempt(after: int) -> bool:
        try:
            await restore_folder(
                settings,
                backup,
                now=LATER,
                operator=ADMIN,
                reason="",
                replace=True,
                open_store=lambda path, _url: Failing(SqliteStore.open(path), after),
            )
        except Cut:
            return False
        return True

    async def look() -> tuple[int, set[str]]:
        store = SqliteStore.open(settings.ledger)
        await store.read(mark.check)
        found = await store.read(
            lambda tx: (
                epoch.current(tx),
                {one.name for one in consumers.list_consumers(tx)},
            )
        )
        await store.close()
        return found

    asyncio.run(fill())
    steps = 0
    while not asyncio.run(attempt(steps)):
        now, names = asyncio.run(look())
        assert (now, names) in ((1, {"a", "b"}), (LATER // 1000, {"a"}))
        for copy in settings.folder.glob("ledger-replaced-*"):
            copy.unlink()
        if now > 1:  # restored, and only the mark was not yet written
            break
        steps += 1
    assert asyncio.run(look()) == (LATER // 1000, {"a"})
    assert steps > 50


# Refusals and reports ----------------------------------------------------------------------------


def test_a_ledger_with_content_is_replaced_only_on_request(tmp_path: Path) -> None:
    stage, path = busy_stage(), tmp_path / "backup.db"
    back_up(stage, path)
    old = rows(stage.store)
    with pytest.raises(AlreadyExists):
        put_back(stage, path, replace=False)
    with pytest.raises(NotPermitted):
        put_back(stage, path, operator=VIEWER)
    assert rows(stage.store) == old
    stage.store = InlineStore.open()
    put_back(stage, path, replace=False)
    stage.check()


def test_a_backup_of_another_history_is_refused(tmp_path: Path) -> None:
    """U-5: a kept checkpoint that the backup's log does not begin with."""
    stage, path = ready(), tmp_path / "backup.db"
    twin = Stage(InlineStore.open(stage.store.snapshot()))
    twin.lease(units=5)
    forked = checkpoint_of(twin)
    stage.lease(units=6)
    stage.lease(units=7)
    back_up(stage, path)
    with pytest.raises(Unproven):
        put_back(stage, path, newer=[forked])
    put_back(stage, path, newer=[forked], other_history=True)
    assert stage.see(lambda tx: stand(tx, forked)) is Stand.GAVE_UP
    stage.check()
    with pytest.raises(BadSignature):
        read_checkpoint(
            sign_note(checkpoint_text(forked), name=ORIGIN, key=SigningKey.load(bytes(32))),
            origin=ORIGIN,
            public=KEY.public,
        )


def test_what_was_decided_after_the_backup_is_told_and_stops_stay(tmp_path: Path) -> None:
    stage, path = ready(), tmp_path / "backup.db"
    back_up(stage, path)
    size = checkpoint_of(stage).size
    stage.enrol("late", "key-9")
    for scope, target in (("consumer", "ann"), ("consumer", "late"), ("loan", "loan-1")):
        stage.do(
            lambda tx, scope=scope, target=target: stops.order(
                tx, now=START, operator=STOPPER, scope=scope, target=target, reason="theft"
            )
        )
    stage.do(
        lambda tx: consumers.revoke_key(
            tx, now=START, operator=ADMIN, key=consumers.key_id(key_hash("key-1"))
        )
    )
    head = checkpoint_of(stage)
    done = put_back(stage, path)
    assert [one.kind for one in done.lost] == ["stop.order"] * 3 + ["key.revoke"]
    assert set(done.kept) == {("consumer", "ann"), ("loan", "loan-1")}
    assert (done.backup_size, done.known) == (size, head.size)
    entry = stage.see(lambda tx: audit.entries(tx, start=size, count=1))[0]
    assert entry.kind == "epoch.restore"
    assert stage.see(lambda tx: stand(tx, head)) is Stand.GAVE_UP


def test_notices_are_carried_with_their_own_times_and_never_put_off(tmp_path: Path) -> None:
    """U-5, L-14: what the replaced ledger knew to come sooner, or as begun, is so in the restored one."""
    stage, path = ready(), tmp_path / "backup.db"

    def order(scope: Scope, target: str, notice: int, drain: int = 0) -> None:
        stage.do(
            lambda tx: stops.order(
                tx,
                now=stage.now,
                operator=STOPPER,
                scope=scope,
                target=target,
                reason="maintenance",
                notice=Duration(notice),
                drain=Duration(drain),
            )
        )

    order("loan", "loan-1", 10 * MINUTE)
    order("consumer", "ann", MINUTE)
    back_up(stage, path)
    order("loan", "loan-1", 0, MINUTE)
    order("enclave", "one", 5 * MINUTE, MINUTE)
    done = put_back(stage, path)
    assert set(done.kept) == {("loan", "loan-1"), ("enclave", "one")}
    found = {one.scope: one for one in stage.see(lambda tx: stops.list_stops(tx, active=True))}
    loan, enclave, consumer = found["loan"], found["enclave"], found["consumer"]
    assert (loan.phase, loan.begins, loan.ends) == ("drain", START, START + MINUTE)
    assert (enclave.phase, enclave.begins, enclave.ends) == (
        "notice",
        START + 5 * MINUTE,
        START + 6 * MINUTE,
    )
    assert (consumer.phase, consumer.begins) == ("notice", START + MINUTE)
    assert found["all"].phase == "full"
    stage.check()


def test_the_epoch_is_above_the_replaced_ledgers(tmp_path: Path) -> None:
    """A clock that went back does not bring an epoch back."""
    stage, path = ready(), tmp_path / "backup.db"
    back_up(stage, path)
    first = put_back(stage, path).epoch
    stage.now = Instant(1_000)
    assert put_back(stage, path).epoch == first + 1


def test_a_damaged_ledger_is_moved_aside(house: House, tmp_path: Path) -> None:
    settings, path = house.settings, tmp_path / "backup.db"

    async def fill() -> None:
        store = SqliteStore.open(settings.ledger)
        await store.write(
            lambda tx: consumers.add_consumer(tx, now=START, operator=ADMIN, name="a")
        )
        await write_backup(store, path, origin=settings.origin, key=settings.audit, now=START)
        await store.close()

    asyncio.run(fill())
    garbage = b"no database at all " * 1000
    settings.ledger.write_bytes(garbage)

    async def put(*, replace: bool) -> Path | None:
        _, aside = await restore_folder(
            settings, path, now=LATER, operator=ADMIN, reason="", replace=replace
        )
        return aside

    with pytest.raises(StoreFailed):
        asyncio.run(put(replace=False))
    aside = asyncio.run(put(replace=True))
    assert aside is not None
    assert aside.read_bytes() == garbage


def test_nobody_restores_under_a_custodian_that_runs(house: House, tmp_path: Path) -> None:
    """U-3: each excludes the other; several custodians do not."""
    folder = house.settings.folder
    with held(folder, alone=False), held(folder, alone=False), pytest.raises(LedgerInUse):
        asyncio.run(
            restore_folder(house.settings, tmp_path / "b.db", now=START, operator=ADMIN, reason="")
        )
    with held(folder, alone=True):
        with pytest.raises(LedgerInUse), held(folder, alone=False):
            pass

        async def serve() -> None:
            async with running(listen_anywhere(house.settings), log=Events()):
                pass

        with pytest.raises(LedgerInUse):
            asyncio.run(serve())


def test_the_newer_of_two_backups_can_still_be_restored(house: House, tmp_path: Path) -> None:
    """The older one first, by mistake: its log and the newer one's part at the restore."""
    settings, old, new = house.settings, tmp_path / "old.db", tmp_path / "new.db"

    async def enrol(*names: str, backup: Path | None) -> None:
        store = SqliteStore.open(settings.ledger)
        for name in names:
            await store.write(
                lambda tx, name=name: consumers.add_consumer(
                    tx, now=START, operator=ADMIN, name=name
                )
            )
        if backup is not None:
            await write_backup(store, backup, origin=settings.origin, key=settings.audit, now=START)
        await Mark(settings.mark, settings.origin, settings.audit).write(store)
        await store.close()

    async def put(path: Path, **more: bool) -> list[str]:
        await restore_folder(
            settings, path, now=LATER, operator=ADMIN, reason="", replace=True, **more
        )
        store = SqliteStore.open(settings.ledger)
        await store.read(Mark(settings.mark, settings.origin, settings.audit).check)
        found = await store.read(consumers.list_consumers)
        await store.close()
        for copy in settings.folder.glob("ledger-replaced-*"):
            copy.unlink()
        return [one.name for one in found]

    asyncio.run(enrol("ann", backup=old))
    asyncio.run(enrol("bob", "cat", "dan", "eve", backup=new))
    assert asyncio.run(put(old)) == ["ann"]
    with pytest.raises(Unproven):
        asyncio.run(put(new))
    assert asyncio.run(put(new, other_history=True)) == ["ann", "bob", "cat", "dan", "eve"]


@pytest.fixture
def pg(postgres: Server) -> Iterator[CallingThreadStore]:
    store = CallingThreadStore.open(new_database(postgres))
    yield store
    store.close()


def test_a_backup_goes_from_one_database_into_the_other(
    tmp_path: Path, pg: CallingThreadStore
) -> None:
    """U-1: one form for every store; what PostgreSQL held, SQLite holds, and back."""
    there, here = Stage(cast("InlineStore", pg)), busy_stage()
    back_up(here, tmp_path / "here.db")
    before = checkpoint_of(here)
    there.now = LATER
    put_back(there, tmp_path / "here.db", replace=False)
    there.check()
    assert there.see(lambda tx: stand(tx, before)) is Stand.EXTENDS
    assert there.see(leases.list_open) == ()
    moved = checkpoint_of(there)
    back_up(there, tmp_path / "there.db")
    put_back(here, tmp_path / "there.db")
    here.check()
    assert here.see(lambda tx: stand(tx, moved)) is Stand.EXTENDS
    assert here.see(epoch.current) > there.see(epoch.current)
    with pytest.raises(AlreadyExists):
        put_back(there, tmp_path / "here.db", replace=False)


def test_whichever_statement_fails_on_postgresql_the_ledger_is_old_or_restored(
    tmp_path: Path, pg: CallingThreadStore
) -> None:
    stage, there = busy_stage(), Stage(cast("InlineStore", pg))
    back_up(stage, tmp_path / "backup.db")
    put_back(there, tmp_path / "backup.db")
    old = pg.snapshot()
    with open_backup(tmp_path / "backup.db", origin=ORIGIN, public=KEY.public) as found:
        steps = 0
        while True:
            try:
                asyncio.run(
                    restore(
                        Failing(there.store, steps),
                        found,
                        now=LATER,
                        operator=ADMIN,
                        reason="",
                        replace=True,
                    )
                )
                break
            except Cut:
                assert pg.snapshot() == old
                steps += 7
    there.check()
    assert there.see(epoch.current) == LATER // 1000
