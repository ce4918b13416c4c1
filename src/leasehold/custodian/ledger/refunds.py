"""Refunds: an operator gives back units that a lease cost for nothing, to its grant (T47).

What was spent stays spent: a refund makes the grant larger. How much each operator gave back, and each
consumer got, stands in every entry and in the list. Spec: docs/spec/metering.md, M-9.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import audit, grants, leases, loans
from leasehold.custodian.ledger.checks import check_reason, check_units, next_number
from leasehold.custodian.ledger.operators import Gate, Operator, check_alone
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadRequest, BudgetExhausted, Conflict

KIND: Final = "lease.refund"
_SUM: Final = "SELECT CAST(COALESCE(SUM(r.units), 0) AS BIGINT) FROM refunds r "
_LIST: Final = """
SELECT r.id, l.loan, l.consumer, l.epoch, l.number, r.units, r.actor, r.reason, r.at
FROM refunds r JOIN leases l ON l.number = r.lease ORDER BY r.id
"""


class Refund(msgspec.Struct, frozen=True):
    """Units that one lease cost and that its consumer may use again.

    The totals count refunds up to this one: of the lease, by the operator, to the consumer.
    """

    id: int
    loan: str
    consumer: str
    lease: str
    units: Units
    operator: str
    reason: str
    at: Instant
    lease_total: Units
    operator_total: Units
    consumer_total: Units


def refund(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    loan: str,
    consumer: str,
    lease: str,
    units: Units,
    reason: str,
) -> Refund:
    """M-9: give `units` of the lease's cost back to its grant, and say why.

    Raises NotPermitted, HandsNeeded, UnknownThing, Conflict (another's lease, or more than it cost),
    BudgetExhausted (the loan's cap has less left), BadRequest.
    """
    check_alone(operator, Gate.GRANT)
    check_units(units, about="refund", least=1)
    check_reason(reason)
    if not reason.strip():
        raise BadRequest(about="reason of a refund", got="nothing", expected="why")
    one = leases.show_lease(tx, lease)
    if (one.loan, one.consumer) != (loan, consumer):
        raise Conflict(
            about=f"lease {lease}",
            got=f"{one.loan}, {one.consumer}",
            expected=f"{loan}, {consumer}",
        )
    number = leases.number_of(one)
    before: Units = tx.execute(_SUM + "WHERE r.lease = ?", (number,))[0][0]
    left = one.settled + one.written_off - before
    if units > left:
        raise Conflict(about=f"refund of lease {lease}", got=units, expected=f"<= {left} units")
    _check_cap(tx, loan=loan, units=units)
    grants.extend(tx, loan=loan, consumer=consumer, units=units)
    made = next_number(tx, "refund")
    tx.execute(
        "INSERT INTO refunds (id, lease, units, actor, reason, at) VALUES (?, ?, ?, ?, ?, ?)",
        (made, number, units, operator.name, reason, now),
    )
    done = Refund(
        id=made,
        loan=loan,
        consumer=consumer,
        lease=lease,
        units=units,
        operator=operator.name,
        reason=reason,
        at=now,
        lease_total=Units(before + units),
        operator_total=tx.execute(_SUM + "WHERE r.actor = ?", (operator.name,))[0][0],
        consumer_total=tx.execute(
            _SUM + "JOIN leases l ON l.number = r.lease WHERE l.consumer = ?", (consumer,)
        )[0][0],
    )
    detail = {
        "refund": made,
        "loan": loan,
        "consumer": consumer,
        "lease": lease,
        "units": units,
        "reason": reason,
        "lease_total": done.lease_total,
        "operator_total": done.operator_total,
        "consumer_total": done.consumer_total,
    }
    audit.append(tx, now=now, actor=operator.name, kind=KIND, detail=detail)
    return done


def list_refunds(
    tx: Tx, *, loan: str | None = None, consumer: str | None = None
) -> tuple[Refund, ...]:
    """Refunds of a loan, to a consumer, in order; the totals count all that came before, listed or not."""
    totals: dict[tuple[str, object], int] = {}

    def add(name: str, key: object, units: int) -> Units:
        totals[name, key] = totals.get((name, key), 0) + units
        return Units(totals[name, key])

    every = [
        Refund(
            id=number,
            loan=lent,
            consumer=who,
            lease=leases.lease_id(epoch, lease),
            units=units,
            operator=actor,
            reason=reason,
            at=at,
            lease_total=add("lease", lease, units),
            operator_total=add("operator", actor, units),
            consumer_total=add("consumer", who, units),
        )
        for number, lent, who, epoch, lease, units, actor, reason, at in tx.execute(_LIST)
    ]
    return tuple(
        one
        for one in every
        if (loan is None or one.loan == loan) and (consumer is None or one.consumer == consumer)
    )


def _check_cap(tx: Tx, *, loan: str, units: Units) -> None:
    """The cap is not raised: what it cannot cover would be a refund on paper."""
    left = loans.show_loan(tx, loan).budget.available
    if units > left:
        raise BudgetExhausted(
            about=f"cap of {loan}", got=left, expected=f"{units} units, by `leasehold loan cap`"
        )
