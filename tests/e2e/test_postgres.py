"""Two custodians on one PostgreSQL, an enclave at each, under load: whoever is killed, the books balance.

Whatever is killed is killed with -9, but for one clean stop of the database. After each, everybody is
served again, and the ledger accounts for whatever has reached a consumer.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
from demo.stage import Actor, free_port, wait_for
from tools.postgres import Server

from custodian.databases import new_database
from e2e.house import LEASEHOLD, READY_SECONDS, House, children, is_running
from e2e.lines import Relay
from e2e.takers import Taker
from leasehold.consumer.client import Enclave
from leasehold.core.messages import Budget
from leasehold.core.units import MINUTE, Instant
from leasehold.custodian import records
from leasehold.custodian.ledger import audit, books, grants, sweeps
from leasehold.custodian.reconciliation import (
    Facts,
    Fault,
    Reconciled,
    parse_receipts,
    reconcile,
)
from leasehold.custodian.store.port import Tx
from leasehold.custodian.store.postgres import PostgresStore

LOAN: Final = "pair"
GRANT: Final = 1_000_000
LEASE_SECONDS: Final = 3
HERE, THERE = "here", "there"
CONSUMERS: Final = {"alice": (HERE,), "bob": (THERE,), "carol": (HERE, THERE)}
SEED: Final = 4
PROGRESS_PIECES: Final = range(30, 200)
BACK_SECONDS: Final = 40.0
LAWFUL: Final = {
    "custodian_unreachable",
    "enclave_unreachable",
    "engine_failed",
    "insufficient_quota",
    "lease_lapsed",
    "loan_stopped",
    "no_model",
    "rate_limit_exceeded",
}


@dataclass(slots=True)
class Pair:
    """Two replicas, an enclave at each, and consumers who never have enough.

    The enclave `here` comes through a relay, which stands for the load balancer before the replicas.
    """

    house: House
    database: Server
    url: str
    balancer: Relay
    ports: dict[str, int]
    takers: list[Taker] = field(default_factory=list)
    instances: dict[str, list[str]] = field(default_factory=lambda: {HERE: [], THERE: []})
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311
    checked: list[str] = field(default_factory=list)
    progress: records.ProgressView | None = None
    last: dict[str, Budget] = field(default_factory=dict)
    receipts: Reconciled | None = None

    # Who is there --------------------------------------------------------------------------------

    def replica(self, name: str) -> Actor:
        """Start a replica with the same folder, but for where it listens."""
        house, office = self.house, self.house.office
        if name == THERE:
            office = house.folder / "custodian-there"
            if not office.exists():
                shutil.copytree(house.office, office)
                settings = office / "custodian.toml"
                here, there = (f"127.0.0.1:{self.ports[one]}" for one in (HERE, THERE))
                settings.write_text(settings.read_text().replace(here, there))
        actor = house.start(f"custodian-{name}", LEASEHOLD, "custodian", "serve", office)
        actor.event("serving")
        return actor

    def enclave(self, name: str) -> None:
        """Start an enclave at the replica of that name; does not wait for it."""
        place = self.balancer.custodian if name == HERE else f"127.0.0.1:{self.ports[THERE]}"
        self.house.enclave(name, LOAN, custodian=place, port=self.house.ports[name])

    def served(self, name: str) -> None:
        """Wait until an enclave serves, and remember which instance it is."""
        actor = self.house.running[name]
        actor.event("serving", seconds=READY_SECONDS)
        self.instances[name].append(actor.event("attested")["instance"])

    def taker(self, who: str) -> None:
        """Let somebody begin to ask, at each enclave in turn."""
        house, key = self.house, self.house.enrol(who, {LOAN: GRANT})
        places = itertools.cycle([house.ports[name] for name in CONSUMERS[who]])

        def connect() -> Enclave:
            return Enclave.connect(
                f"127.0.0.1:{next(places)}", manifest=house.manifest(LOAN), api_key=key
            )

        self.takers.append(Taker(who, connect, house.folder / f"{who}.receipts"))
        self.takers[-1].start()

    # What happens --------------------------------------------------------------------------------

    def go_on(self, after: str) -> None:
        """Everybody is served again for a while; then the books are looked at."""
        goals = {one: one.pieces + self.chance.choice(PROGRESS_PIECES) for one in self.takers}
        wait_for(
            lambda: all(one.pieces >= goal for one, goal in goals.items()),
            f"service after {after}: {[dict(one.refusals) for one in self.takers]}",
            seconds=BACK_SECONDS,
        )
        delivered = {one.name: one.pieces for one in self.takers}
        budgets, _ = asyncio.run(self.look())
        for who, pieces in delivered.items():
            budget = budgets[who]
            spent = budget.settled + budget.written_off + budget.outstanding
            assert budget.available + spent == budget.granted == GRANT, after
            assert 0 < pieces <= spent, after
        self.checked.append(after)

    async def look(self, *, now: Instant | None = None) -> tuple[dict[str, Budget], Facts]:
        """Recompute the books, at a time when no report is waited for where `now` is one."""
        store = PostgresStore.open(self.url)
        try:
            if now is not None:
                await store.write(lambda tx: sweeps.sweep(tx, now=now))
            for check in (books.check_books, books.check_replay, audit.check_log):
                await store.read(check)
            return await store.read(_budgets), await store.read(_facts)
        finally:
            await store.close()

    def kill_replica(self) -> None:
        """One replica dies; its enclave comes to the other one and nobody needs to wait for the first."""
        self.house.running[f"custodian-{HERE}"].kill()
        self.balancer.lead(self.ports[THERE])
        self.go_on("the end of a replica")
        self.replica(HERE)
        self.balancer.lead(self.ports[HERE])

    def kill_governor(self) -> None:
        """The governor of an enclave dies, and its worker with it; the borrower starts another."""
        actor = self.house.running[THERE]
        (worker,) = children(actor.process.pid)
        actor.kill()
        wait_for(lambda: not is_running(worker), "the end of a worker whose governor is gone")
        self.enclave(THERE)
        self.served(THERE)

    def kill_worker(self) -> None:
        """An engine dies; its governor loads it again."""
        actor = self.house.running[HERE]
        (worker,) = children(actor.process.pid)
        os.kill(worker, signal.SIGKILL)
        wait_for(
            lambda: any(one.get("event") == "worker_died" for one in actor.events()),
            "the end of the worker",
        )

    def kill_database(self) -> None:
        """Every process of PostgreSQL dies; it recovers from its log."""
        self.database.kill()
        self.database.start()

    def restart_database(self) -> None:
        """PostgreSQL is stopped in good order, for an update say, and started again."""
        self.database.stop("fast")
        self.database.start()

    def stop(self) -> None:
        """A stop ordered at one replica, and what both enclaves prove."""
        stopped = self.house.operate("stop", "loan", LOAN, "--reason", "enough", "--json").json()
        number = stopped["stop"]["id"]
        live = {names[-1] for names in self.instances.values()}

        def proved() -> records.ProgressView | None:
            with self.house.desk() as desk:
                found = desk.get(f"/operator/stops/{number}", records.ProgressView)
            return found if live <= set(found.proved) else None

        self.progress = wait_for(proved, "the proofs of stop")
        for taker in self.takers:
            refusals = taker.refusals
            wait_for(lambda refusals=refusals: refusals["loan_stopped"], "a refusal: loan_stopped")
            taker.end()

    def close(self) -> None:
        """Both replicas die; time passes after which nobody waits for a report; the books are closed."""
        for name in (HERE, THERE):
            self.house.running[f"custodian-{name}"].kill()
        much_later = Instant(time.time_ns() // 1_000_000 + 2 * MINUTE)
        self.last, facts = asyncio.run(self.look(now=much_later))
        kept = b"".join(taker.file.read_bytes() for taker in self.takers)
        self.receipts = reconcile(parse_receipts(kept), facts)


def _budgets(tx: Tx) -> dict[str, Budget]:
    found = grants.list_grants(tx, loan=LOAN)
    return {one.consumer: grants.budget_of(one.budget) for one in found}


def _facts(tx: Tx) -> Facts:
    return Facts.read(one for _, one in audit.read_all(tx))


@pytest.fixture(scope="module")
def pair(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Five disasters in an order that chance chose once, and the stop at the end."""
    house = House(tmp_path_factory.mktemp("pair"))
    balancer = Relay("127.0.0.1", house.port)
    ports = {HERE: house.port, THERE: free_port()}
    made = Pair(house, postgres, new_database(postgres), balancer, ports)
    try:
        house.found("--store", made.url)
        house.seal_tiny("tiny")
        made.replica(HERE)
        house.lend(LOAN, "tiny", "llama", "--lease-seconds", LEASE_SECONDS, cap=10 * GRANT)
        made.replica(THERE)
        for name in (HERE, THERE):
            house.ports[name] = free_port()
            made.enclave(name)
        for name in (HERE, THERE):
            made.served(name)
        for who in CONSUMERS:
            made.taker(who)
        made.go_on("the start")
        disasters: list[tuple[str, Callable[[], None]]] = [
            ("the end of a replica, and its return", made.kill_replica),
            ("the end of a governor", made.kill_governor),
            ("the end of a worker", made.kill_worker),
            ("the end of the database", made.kill_database),
            ("a restart of the database", made.restart_database),
        ]
        for name, happen in made.chance.sample(disasters, len(disasters)):
            happen()
            made.go_on(name)
        made.stop()
        made.close()
        yield made
    finally:
        for taker in made.takers:
            taker.end()
        house.end()
        balancer.end()


def test_service_went_on_and_the_books_balanced_every_time(pair: Pair) -> None:
    assert len(pair.checked) == 7
    for taker in pair.takers:
        assert taker.surprises == []
        assert taker.answers > 0
    reasons = sum((taker.refusals for taker in pair.takers), Counter[str]())
    assert reasons.keys() <= LAWFUL | {"cut"}


def test_a_stop_at_one_replica_was_obeyed_at_the_other(pair: Pair) -> None:
    assert pair.progress is not None
    for name in (HERE, THERE):
        assert pair.instances[name][-1] in pair.progress.proved
        stopped = pair.house.running[name].event("stopped")
        assert stopped["stop"] == pair.progress.stop.id
        assert children(pair.house.running[name].process.pid) == []
    killed = set(pair.instances[THERE][:-1])
    assert set(pair.progress.pending) | set(pair.progress.presumed_dead) == killed


def test_no_unit_is_served_for_nothing_and_none_is_lost_to_a_living_instance(pair: Pair) -> None:
    for taker in pair.takers:
        budget = pair.last[taker.name]
        assert budget.granted == GRANT
        assert budget.outstanding == 0
        assert budget.available + budget.settled + budget.written_off == GRANT
        assert taker.receipted + taker.unsigned <= budget.settled + budget.written_off
    # Only the governor that was killed took units with it, and alice never asked it for any.
    assert pair.last["alice"].written_off == 0
    assert pair.last["bob"].written_off > 0
    alice = next(taker for taker in pair.takers if taker.name == "alice")
    assert (alice.missing, alice.receipted) == (0, pair.last["alice"].settled)


def test_the_receipts_agree_with_the_log(pair: Pair) -> None:
    """But for receipts that a governor took with it when it was killed, after it had closed their lease."""
    assert pair.receipts is not None
    killed = set(pair.instances[THERE][:-1])
    owners = {row.lease: row.instance for row in pair.receipts.rows}
    lost = [
        one
        for one in pair.receipts.findings
        if one.fault is Fault.BROKEN and owners[one.lease] in killed
    ]
    assert pair.receipts.findings == tuple(lost)
    assert len(lost) <= sum(taker.missing for taker in pair.takers)


def test_no_process_made_a_mistake_of_its_own(pair: Pair) -> None:
    for log in pair.house.logs:
        said = log.read_text()
        for mistake in ("Traceback", "internal_error", '"mistake"'):
            assert mistake not in said, said
