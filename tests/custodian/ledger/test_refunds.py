"""Refunds give back what a lease cost, once, within the cap, and leave what is spent (M-9)."""

from __future__ import annotations

import msgspec
import pytest

from leasehold.core.units import MINUTE, Instant, Units
from leasehold.custodian.ledger import audit, books, grants, loans, refunds, sweeps
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.ledger.refunds import Refund
from leasehold.errors import (
    BadRequest,
    BooksWrong,
    BudgetExhausted,
    Conflict,
    LeaseholdError,
    NotPermitted,
    UnknownThing,
)

from .stage import ADMIN, STOPPER, VIEWER, Stage, ready


def give(
    stage: Stage,
    lease: str,
    units: int,
    *,
    operator: Operator = ADMIN,
    consumer: str = "ann",
    reason: str = "the engine died",
) -> Refund:
    return stage.do(
        lambda tx: refunds.refund(
            tx,
            now=stage.now,
            operator=operator,
            loan="loan-1",
            consumer=consumer,
            lease=lease,
            units=Units(units),
            reason=reason,
        )
    )


def lost(stage: Stage, spent: int = 30) -> str:
    """A lease of 100 units of which `spent` were served and the rest written off."""
    lease = stage.lease().lease
    stage.report(lease, spent)
    stage.now = Instant(stage.now + 5 * MINUTE)
    stage.do(lambda tx: sweeps.sweep(tx, now=stage.now))
    stage.attest("one")
    return lease


def test_a_refund_makes_the_grant_larger_and_nothing_smaller() -> None:
    stage = ready()
    lease = lost(stage)
    before = stage.see(lambda tx: grants.show_grant(tx, loan="loan-1", consumer="ann")).budget
    cap = stage.see(loans.list_loans)[0].budget
    done = give(stage, lease, 70)
    after = stage.see(lambda tx: grants.show_grant(tx, loan="loan-1", consumer="ann")).budget
    assert after.granted == before.granted + 70
    assert (after.settled, after.written_off) == (before.settled, before.written_off) == (30, 70)
    assert stage.see(loans.list_loans)[0].budget == cap
    assert done.lease_total == done.operator_total == done.consumer_total == 70
    stage.check()


def test_never_more_than_the_lease_cost_in_all_refunds_together() -> None:
    stage = ready()
    lease = lost(stage)
    give(stage, lease, 60)
    with pytest.raises(Conflict):
        give(stage, lease, 41)
    assert give(stage, lease, 40).lease_total == 100
    with pytest.raises(Conflict):
        give(stage, lease, 1)
    stage.check()


def test_of_an_open_lease_only_what_is_settled() -> None:
    stage = ready()
    lease = stage.lease().lease
    with pytest.raises(Conflict):
        give(stage, lease, 1)
    stage.report(lease, 10)
    give(stage, lease, 10)
    with pytest.raises(Conflict):
        give(stage, lease, 1)
    stage.close(lease, 10)
    stage.check()


@pytest.mark.parametrize(
    ("refusal", "changed"),
    [
        (NotPermitted, {"operator": VIEWER}),
        (NotPermitted, {"operator": STOPPER}),
        (BadRequest, {"units": 0}),
        (BadRequest, {"units": -5}),
        (BadRequest, {"units": 1 << 60}),
        (BadRequest, {"reason": " "}),
        (BadRequest, {"reason": "x" * 501}),
        (UnknownThing, {"lease": "1-99"}),
        (UnknownThing, {"lease": "2-1"}),  # the number of a lease in another epoch
        (UnknownThing, {"lease": "no lease"}),
        (Conflict, {"consumer": "bob"}),
    ],
)
def test_refusals_change_nothing(refusal: type[LeaseholdError], changed: dict[str, object]) -> None:
    stage = ready()
    stage.enrol("bob", "key-2")
    lease = lost(stage)
    head = stage.see(audit.head)
    with pytest.raises(refusal):
        give(**{"stage": stage, "lease": lease, "units": 10, **changed})  # type: ignore[arg-type]
    assert stage.see(audit.head) == head
    assert stage.see(refunds.list_refunds) == ()


def test_the_cap_is_not_raised() -> None:
    stage = ready(cap=120)
    lease = lost(stage)
    with pytest.raises(BudgetExhausted):
        give(stage, lease, 21)
    give(stage, lease, 20)
    assert stage.lease(units=20)
    stage.check()


def test_totals_count_per_operator_and_consumer() -> None:
    """T47: who gives back much, and who gets much, is in every entry and in the list."""
    stage = ready()
    stage.enrol("bob", "key-2")
    other = Operator("eve", Role.ADMIN)
    first, second = lost(stage), lost(stage)
    give(stage, first, 10)
    give(stage, second, 20, operator=other)
    give(stage, second, 5)
    found = stage.see(refunds.list_refunds)
    assert [(one.lease_total, one.operator_total, one.consumer_total) for one in found] == [
        (10, 10, 10),
        (20, 20, 30),
        (25, 15, 35),
    ]
    logged = [
        entry.detail
        for entry in stage.see(lambda tx: audit.entries(tx, start=0, count=1000))
        if entry.kind == "lease.refund"
    ]
    for entry, one in zip(logged, found, strict=True):
        shown = msgspec.to_builtins(one)
        assert entry == {"refund": one.id} | {
            name: value for name, value in shown.items() if name not in ("id", "operator", "at")
        }
    assert stage.see(lambda tx: refunds.list_refunds(tx, consumer="bob")) == ()
    assert stage.see(lambda tx: refunds.list_refunds(tx, loan="loan-1")) == found


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE refunds SET units = units + 1",
        "DELETE FROM refunds",
        "UPDATE accounts SET granted = granted + 1 WHERE kind = 'grant'",
    ],
)
def test_a_refund_that_the_log_does_not_know_is_noticed(damage: str) -> None:
    stage = ready()
    give(stage, lost(stage), 10)
    stage.do(lambda tx: tx.execute(damage))
    with pytest.raises(BooksWrong):
        stage.see(books.check_replay)


def test_more_refunded_than_the_lease_cost_is_noticed() -> None:
    stage = ready()
    give(stage, lost(stage), 10)
    stage.do(lambda tx: tx.execute("UPDATE refunds SET units = 101"))
    with pytest.raises(BooksWrong):
        stage.see(books.check_books)


@pytest.mark.parametrize(("units", "total"), [(101, 101), (-5, -5), (10, 99)])
def test_a_log_that_gives_back_too_much_does_not_replay(units: int, total: int) -> None:
    """At every prefix: an entry like none that the code writes."""
    stage = ready()
    lease = lost(stage)
    detail = {
        "loan": "loan-1", "consumer": "ann", "lease": lease, "units": units, "lease_total": total,
    }  # fmt: skip
    stage.do(
        lambda tx: audit.append(tx, now=stage.now, actor="ada", kind="lease.refund", detail=detail)
    )
    with pytest.raises(BooksWrong) as wrong:
        stage.see(books.check_replay)
    assert str(wrong.value.about).startswith("log entry")
