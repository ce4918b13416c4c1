"""A partition between custodian and enclave, under load: service ends by itself, and the books balance.

Four enclaves, each with a consumer that never stops asking: one behind each way in which a relay can fall
silent, and one in a network namespace where the machine allows that (the terminal says so where not).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
from demo.stage import Actor, free_port, wait_for

from e2e.conftest import SAID
from e2e.house import READY_SECONDS, House, children
from e2e.lines import BOTH, DOWN, UP, Line, Namespaces, Relay
from e2e.takers import Taker
from leasehold.consumer.client import Enclave
from leasehold.core.messages import Budget
from leasehold.core.units import MINUTE, Instant
from leasehold.custodian.ledger import audit, books, grants, sweeps
from leasehold.custodian.reconciliation import Facts, Reconciled, parse_receipts, reconcile
from leasehold.custodian.store.port import Tx
from leasehold.custodian.store.sqlite import SqliteStore

LOAN: Final = "split"
GRANT: Final = 1_000_000
LEASE_SECONDS: Final = 3
DEAD_MAN_SECONDS: Final = 7  # the least that a configuration may say
SPACE: Final = "namespace"
APART: Final = BOTH  # the line that is never mended
RUNNING_PIECES: Final = 60
END_SECONDS: Final = 40.0
MODEL_BYTES: Final = 900_000


@dataclass(slots=True)
class Side:
    """One enclave, its line and its consumer.

    `leased` are the units that had left the grant just after the cut, `workers` the processes that its
    governor still had after the end.
    """

    line: Line
    actor: Actor
    taker: Taker
    port: int
    leased: int = 0
    workers: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Split:
    """Four enclaves, and what became of them: budgets after the healing, and when all time is over."""

    house: House
    sides: dict[str, Side] = field(default_factory=dict)
    healed: dict[str, Budget] = field(default_factory=dict)
    last: dict[str, Budget] = field(default_factory=dict)
    receipts: Reconciled | None = None

    def begin(self, name: str, line: Line) -> None:
        """Start an enclave behind a line."""
        house, port = self.house, free_port()
        key = house.enrol(name, {LOAN: GRANT})
        actor = house.enclave(
            name, LOAN, custodian=line.custodian, host=line.host, prefix=line.prefix, port=port
        )

        def connect() -> Enclave:
            return Enclave.connect(
                f"{line.host}:{port}", manifest=house.manifest(LOAN), api_key=key
            )

        taker = Taker(name, connect, house.folder / f"{name}.receipts")
        self.sides[name] = Side(line, actor, taker, port)

    def cut(self) -> None:
        """Silence every line while everybody is served; what can still be served was leased by then."""
        for side in self.sides.values():
            side.actor.event("serving", seconds=READY_SECONDS)
            side.taker.start()
        for side in self.sides.values():
            wait_for(
                lambda taker=side.taker: taker.pieces >= RUNNING_PIECES,
                f"service to {side.taker.name}: {dict(side.taker.refusals)}",
                seconds=READY_SECONDS,
            )
        for side in self.sides.values():
            side.line.cut()
        budgets = self.house.budgets(LOAN)
        for name, side in self.sides.items():
            side.leased = budgets[name].granted - budgets[name].available

    def fall(self) -> None:
        """Wait until every enclave has wiped itself, and its consumer was told so."""
        for side in self.sides.values():
            side.actor.event("stopped", seconds=END_SECONDS)
            told = side.taker.refusals["lease_lapsed"]
            wait_for(
                lambda side=side, told=told: side.taker.refusals["lease_lapsed"] > told,
                f"a refusal after the end: {dict(side.taker.refusals)}",
            )
        for side in self.sides.values():
            side.taker.end()
            side.workers = children(side.actor.process.pid)

    def mend(self) -> None:
        """Mend all lines but one, and wait for the reports of those who hold nothing any more."""
        for name, side in self.sides.items():
            if name != APART:
                side.line.mend()

        def settled() -> dict[str, Budget] | None:
            found = self.house.budgets(LOAN)
            open_ones = [name for name, one in found.items() if one.outstanding]
            return found if open_ones in ([APART], []) else None

        self.healed = wait_for(settled, "the last reports", seconds=END_SECONDS)

    async def close(self) -> None:
        """Let the time pass after which nobody waits for a report, and look at the books."""
        self.house.running["custodian"].kill()
        much_later = Instant(time.time_ns() // 1_000_000 + 2 * MINUTE)
        store = SqliteStore.open(self.house.office / "ledger.db")
        try:
            await store.write(lambda tx: sweeps.sweep(tx, now=much_later))
            for look in (books.check_books, books.check_replay, audit.check_log):
                await store.read(look)
            self.last = await store.read(_budgets)
            facts = await store.read(lambda tx: Facts.read(one for _, one in audit.read_all(tx)))
        finally:
            await store.close()
        kept = b"".join(side.taker.file.read_bytes() for side in self.sides.values())
        self.receipts = reconcile(parse_receipts(kept), facts)


def _budgets(tx: Tx) -> dict[str, Budget]:
    found = grants.list_grants(tx, loan=LOAN)
    return {one.consumer: grants.budget_of(one.budget) for one in found}


@pytest.fixture(scope="module")
def spaces(request: pytest.FixtureRequest) -> Iterator[Namespaces | None]:
    """Namespaces, or None where this machine does not allow them; the terminal is told which."""
    said = request.config.stash.setdefault(SAID, [])
    try:
        made = Namespaces.make(free_port())
    except OSError as reason:
        said.append(f"partitions: by a relay only, because {reason}")
        yield None
        return
    said.append("partitions: by a relay and by network namespaces")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def split(spaces: Namespaces | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """Cut, wait, mend, and close the books."""
    address = spaces.office if spaces else "127.0.0.1"
    port = spaces.custodian_port if spaces else free_port()
    split = Split(House(tmp_path_factory.mktemp("split"), address=address, port=port))
    relays = {way: Relay(address, port, way) for way in (UP, DOWN, BOTH)}
    try:
        house = split.house
        house.found("--name", "127.0.0.1")  # as enclaves behind a relay call it
        house.serve()
        house.seal_tiny("tiny")
        options = ("--lease-seconds", LEASE_SECONDS, "--dead-man", DEAD_MAN_SECONDS)
        house.lend(LOAN, "tiny", "llama", *options, cap=10 * GRANT, dead_man=DEAD_MAN_SECONDS)
        lines: dict[str, Line] = {**relays} if spaces is None else {**relays, SPACE: spaces}
        for name, line in lines.items():
            split.begin(name, line)
        split.cut()
        split.fall()
        split.mend()
        asyncio.run(split.close())
        yield split
    finally:
        split.house.end()
        for relay in relays.values():
            relay.end()


def test_every_line_was_silent_in_its_own_way(split: Split) -> None:
    swallowed = {
        name: {way for way, size in side.line.swallowed.items() if size}
        for name, side in split.sides.items()
        if isinstance(side.line, Relay)
    }
    assert swallowed.pop(BOTH) >= {UP}  # a custodian that hears nothing has little to say
    assert swallowed == {UP: {UP}, DOWN: {DOWN}}


def test_an_enclave_serves_what_it_had_leased_and_then_refuses(split: Split) -> None:
    for side in split.sides.values():
        taker = side.taker
        assert taker.surprises == []
        assert taker.missing == 0
        assert taker.answers > 0
        assert 0 < taker.pieces <= taker.receipted <= side.leased
        assert side.taker.refusals["lease_lapsed"] > 0
    reasons = sum((side.taker.refusals for side in split.sides.values()), Counter[str]())
    assert reasons.keys() <= {"lease_lapsed", "custodian_unreachable"}


def test_the_dead_mans_switch_wiped_the_model(split: Split) -> None:
    for side in split.sides.values():
        stopping, stopped = side.actor.event("stopping"), side.actor.event("stopped")
        assert (stopping["code"], stopping["stop"]) == ("lease_lapsed", 0)
        assert stopped["bytes"] >= MODEL_BYTES
        assert side.workers == []


def test_what_was_served_is_accounted_for_to_the_unit_healed_or_not(split: Split) -> None:
    assert split.last.keys() == split.sides.keys()
    for name, side in split.sides.items():
        budget = split.last[name]
        spent = budget.settled + budget.written_off
        assert budget.granted == GRANT == budget.available + budget.outstanding + spent
        assert budget.outstanding == 0
        assert side.taker.receipted <= spent
        if name != APART:  # all was reported: nothing is in doubt
            assert budget.written_off == 0
            assert side.taker.receipted == budget.settled
            assert split.healed[name] == budget
    assert split.last[APART].written_off > 0


def test_the_receipts_agree_with_the_log(split: Split) -> None:
    assert split.receipts is not None
    assert split.receipts.findings == ()


def test_no_process_made_a_mistake_of_its_own(split: Split) -> None:
    for log in split.house.logs:
        said = log.read_text()
        for mistake in ("Traceback", "internal_error", '"mistake"'):
            assert mistake not in said, said
