"""A ledger with a loan, consumers, keys and instances in it, and short ways to act on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.encoding import to_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import (
    CLOSE_KIND,
    STOP_PROOF_KIND,
    CloseAck,
    CloseReport,
    LeaseAsk,
    LeaseGranted,
    StopNoted,
    StopReport,
    Usage,
)
from leasehold.core.statements import Signed, sign
from leasehold.core.tariff import PER_TOKEN
from leasehold.core.units import DAY, MINUTE, Duration, Instant, Units
from leasehold.custodian.ledger import (
    asks,
    audit,
    books,
    consumers,
    grants,
    instances,
    loans,
    reports,
)
from leasehold.custodian.ledger.audit import check_log
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.store.port import Tx

from ..databases import CallingThreadStore

T = TypeVar("T")

ADMIN = Operator("ada", Role.ADMIN)
STOPPER = Operator("sam", Role.STOPPER)
VIEWER = Operator("vic", Role.VIEWER)
START = Instant(1_800_000_000_000)
EXACT = LeasePolicy(ttl=Duration(30_000), outstanding_max=Units(5_000), exact=True)
LOOSE = LeasePolicy(ttl=Duration(30_000), outstanding_max=Units(2_500))
DIGEST = "ab" * 32


def key_hash(name: str) -> bytes:
    """The SHA-256 of the API key that stands for `name` here."""
    return sha256(name.encode())


def key_id(name: str) -> str:
    """What the ledger calls that key."""
    return consumers.key_id(key_hash(name))


def statement_key(name: str) -> SigningKey:
    """The statement key of the instance `name`."""
    return SigningKey.load(hashlib.sha256(b"statement " + name.encode()).digest())


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits: an inline store's."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("an inline store waited")


AnyStore = InlineStore | CallingThreadStore
new_store: Callable[[], AnyStore] = InlineStore.open
"""Where stages get their stores from; the conftest changes it."""


@dataclass
class Stage:
    """A store, a clock that stands still until told, and the next sequence number."""

    store: AnyStore = field(default_factory=lambda: new_store())
    now: Instant = START
    sequence: int = 0

    def do(self, act: Callable[[Tx], T]) -> T:
        """Run a writing act."""
        return at_once(self.store.write(act))

    def see(self, act: Callable[[Tx], T]) -> T:
        """Run a reading act."""
        return at_once(self.store.read(act))

    def restart(self) -> None:
        """Lose the process and keep the disk."""
        if isinstance(self.store, InlineStore):
            self.store = InlineStore.open(self.store.snapshot())

    def put_back(self, snapshot: Any) -> None:
        """Replace all by what `store.snapshot` gave."""
        if isinstance(self.store, InlineStore):
            self.store = InlineStore.open(snapshot)
        else:
            self.store.put_back(snapshot)

    def edit(self, sql: str) -> None:
        """Change rows behind the ledger's back."""
        if isinstance(self.store, InlineStore):
            self.do(lambda tx: tx.execute("PRAGMA defer_foreign_keys = ON"))
            self.do(lambda tx: tx.execute(sql))
        else:
            self.store.edit(sql)

    def check(self) -> None:
        """The invariants that hold after every single act."""
        self.see(books.check_books)
        self.see(books.check_replay)
        self.see(check_log)

    def lend(
        self,
        loan: str = "loan-1",
        *,
        cap: int = 10_000,
        policy: LeasePolicy = EXACT,
        instances_max: int = 8,
        dead_man: Duration = MINUTE,
    ) -> None:
        """Create the loan, and the model where there is none."""

        def act(tx: Tx) -> None:
            if not loans.list_models(tx):
                loans.add_model(
                    tx,
                    now=self.now,
                    operator=ADMIN,
                    name="tiny",
                    digest=DIGEST,
                    sealed_bytes=1000,
                    engine="llama",
                )
            loans.create_loan(
                tx,
                now=self.now,
                operator=ADMIN,
                name=loan,
                model="tiny",
                manifest=b"manifest",
                tariff=PER_TOKEN,
                policy=policy,
                cap=Units(cap),
                instances_max=instances_max,
                dead_man=dead_man,
            )

        self.do(act)

    def enrol(self, consumer: str, *keys: str, loan: str = "loan-1", units: int = 5_000) -> None:
        """Add a consumer with keys and a grant."""

        def act(tx: Tx) -> None:
            consumers.add_consumer(tx, now=self.now, operator=ADMIN, name=consumer)
            for key in keys:
                consumers.add_key(
                    tx, now=self.now, operator=ADMIN, consumer=consumer, key_hash=key_hash(key)
                )
            grants.create_grant(
                tx,
                now=self.now,
                operator=ADMIN,
                loan=loan,
                consumer=consumer,
                units=Units(units),
            )

        self.do(act)

    def attest(self, instance: str, *, loan: str = "loan-1", life: int = DAY) -> None:
        """Register an instance whose evidence lives `life` milliseconds."""
        self.do(
            lambda tx: instances.register(
                tx,
                now=self.now,
                instance=instance,
                loan=loan,
                statement_key=statement_key(instance).public,
                machine="machine-1",
                verdict=b"{}",
                evidence_digest=sha256(instance.encode()),
                certificate_expires=Instant(self.now + life),
                evidence_expires=Instant(self.now + life),
            )
        )

    def message(
        self,
        key: str = "key-1",
        *,
        least: int = 10,
        need: int = 100,
        rate: int = 0,
        spent: int = 0,
        lease: str = "",
    ) -> LeaseAsk:
        """The next ask, not yet sent."""
        self.sequence += 1
        return LeaseAsk(
            self.sequence,
            key_hash(key),
            Units(least),
            Units(need),
            rate,
            Units(spent),
            lease,
        )

    def send(self, ask: LeaseAsk, instance: str = "one") -> asks.Answer:
        """Deliver an ask."""
        return self.do(lambda tx: asks.ask(tx, now=self.now, instance=instance, ask=ask))

    def lease(self, key: str = "key-1", *, instance: str = "one", units: int = 100) -> LeaseGranted:
        """Ask for exactly that much, and get it."""
        answer = self.send(self.message(key, least=units, need=units), instance)
        assert isinstance(answer, LeaseGranted), answer
        return answer

    def report(self, lease: str, spent: int, instance: str = "one") -> Units:
        """A heartbeat with one counter."""
        usage = (Usage(lease, Units(spent)),)
        return self.do(
            lambda tx: reports.report_usage(tx, now=self.now, instance=instance, usage=usage)
        )

    def close(self, lease: str, spent: int, instance: str = "one") -> CloseAck:
        """A signed closing report."""
        signed = close_report(lease, spent, instance)
        return self.do(lambda tx: reports.close(tx, now=self.now, instance=instance, signed=signed))

    def prove(self, stop: int, *final: tuple[str, int], instance: str = "one") -> StopNoted:
        """A signed proof of stop with final counters."""
        signed = stop_report(stop, *final, instance=instance)
        return self.do(
            lambda tx: reports.record_proof(tx, now=self.now, instance=instance, signed=signed)
        )

    def kinds(self) -> list[str]:
        """The kinds of all entries of the log, in order."""
        return [
            entry.kind for entry in self.see(lambda tx: audit.entries(tx, start=0, count=10_000))
        ]


def close_report(lease: str, spent: int, instance: str = "one") -> Signed:
    """A CloseReport signed by the instance."""
    report = CloseReport(instance, lease, Units(spent), b"")
    return sign(statement_key(instance), CLOSE_KIND, to_json(report))


def stop_report(stop: int, *final: tuple[str, int], instance: str = "one") -> Signed:
    """A StopReport signed by the instance."""
    usage = tuple(Usage(lease, Units(spent)) for lease, spent in final)
    report = StopReport(instance, "loan-1", stop, usage, 1000, START)
    return sign(statement_key(instance), STOP_PROOF_KIND, to_json(report))


def ready(**options: int) -> Stage:
    """A stage with `loan-1`, consumer `ann` with `key-1`, and the live instance `one`."""
    stage = Stage()
    stage.lend(cap=options.get("cap", 10_000), instances_max=options.get("instances_max", 8))
    stage.enrol("ann", "key-1", units=options.get("units", 5_000))
    stage.attest("one")
    return stage
