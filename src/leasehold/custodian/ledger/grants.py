"""Grants: a consumer's budget under a loan, and optional caps for single keys (M-2)."""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.accounts import Account
from leasehold.core.messages import Budget
from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import accounts, audit
from leasehold.custodian.ledger.checks import check_absent, check_units, found
from leasehold.custodian.ledger.consumers import show_consumer, show_key
from leasehold.custodian.ledger.loans import show_loan
from leasehold.custodian.ledger.operators import Gate, Operator, Right, check_alone, check_right
from leasehold.custodian.store.port import Row, Tx

_GRANTS: Final = """
SELECT g.loan, g.consumer, g.account, a.granted, a.outstanding, a.settled, a.written_off
FROM grants g JOIN accounts a ON a.id = g.account
"""
_CAPS: Final = """
SELECT c.loan, c.key, c.account, a.granted, a.outstanding, a.settled, a.written_off
FROM key_caps c JOIN accounts a ON a.id = c.account
"""
_USED_BY_KEY: Final = """
SELECT CAST(COALESCE(SUM(granted - settled - released - written_off), 0) AS BIGINT),
       CAST(COALESCE(SUM(settled), 0) AS BIGINT), CAST(COALESCE(SUM(written_off), 0) AS BIGINT)
FROM leases WHERE loan = ? AND consumer = ? AND key = ?
"""


class Grant(msgspec.Struct, frozen=True):
    """A consumer's budget under a loan. Grants may add up to more than the loan's cap."""

    loan: str
    consumer: str
    account: int
    budget: Account


class KeyCap(msgspec.Struct, frozen=True):
    """A bound on what one key may use of its consumer's grant, over the key's whole life."""

    loan: str
    key: str
    account: int
    budget: Account


def create_grant(
    tx: Tx, *, now: Instant, operator: Operator, loan: str, consumer: str, units: Units
) -> Grant:
    """Raises NotPermitted, HandsNeeded, UnknownThing, AlreadyExists, BadRequest."""
    check_alone(operator, Gate.GRANT)
    check_units(units, about="grant")
    parent = show_loan(tx, loan).account
    show_consumer(tx, consumer)
    rows = tx.execute("SELECT 1 FROM grants WHERE loan = ? AND consumer = ?", (loan, consumer))
    check_absent(rows, about=f"grant of {loan} to {consumer}")
    account = accounts.open_account(tx, kind="grant", parent=parent, account=Account(units))
    tx.execute(
        "INSERT INTO grants (loan, consumer, account) VALUES (?, ?, ?)", (loan, consumer, account)
    )
    detail = {"loan": loan, "consumer": consumer, "units": units}
    audit.append(tx, now=now, actor=operator.name, kind="grant.create", detail=detail)
    return show_grant(tx, loan=loan, consumer=consumer)


def change_grant(
    tx: Tx, *, now: Instant, operator: Operator, loan: str, consumer: str, units: Units
) -> Grant:
    """Add `units`; a negative number takes back what is available.

    Raises NotPermitted, HandsNeeded (to add), UnknownThing, BudgetExhausted, BadRequest.
    """
    check_right(operator, Right.CHANGE)
    if units > 0:
        check_alone(operator, Gate.GRANT)
    extend(tx, loan=loan, consumer=consumer, units=units)
    detail = {"loan": loan, "consumer": consumer, "units": units}
    audit.append(tx, now=now, actor=operator.name, kind="grant.change", detail=detail)
    return show_grant(tx, loan=loan, consumer=consumer)


def extend(tx: Tx, *, loan: str, consumer: str, units: Units) -> None:
    """Change a grant's size. The caller has checked the right to, and writes the audit entry."""
    grant = show_grant(tx, loan=loan, consumer=consumer)
    check_units(grant.budget.granted + max(0, units), about="grant")
    path = accounts.load_path(tx, grant.account)
    accounts.move(tx, path, lambda account: account.extend(units))


def show_grant(tx: Tx, *, loan: str, consumer: str) -> Grant:
    """Raises UnknownThing."""
    rows = tx.execute(_GRANTS + "WHERE g.loan = ? AND g.consumer = ?", (loan, consumer))
    return _grant(found(rows, about=f"grant of {loan} to {consumer}"))


def list_grants(
    tx: Tx, *, loan: str | None = None, consumer: str | None = None
) -> tuple[Grant, ...]:
    """Grants by loan and consumer."""
    rows = tx.execute(
        _GRANTS + "WHERE (g.loan = ? OR ? = 1) AND (g.consumer = ? OR ? = 1)"
        " ORDER BY g.loan, g.consumer",
        (loan, int(loan is None), consumer, int(consumer is None)),
    )
    return tuple(_grant(row) for row in rows)


def cap_key(
    tx: Tx, *, now: Instant, operator: Operator, loan: str, key: str, units: Units
) -> KeyCap:
    """Let this key use at most `units` in all, what it used before included; a second call changes the cap.

    Raises NotPermitted, UnknownThing, BudgetExhausted where more is used or out already, BadRequest.
    """
    check_right(operator, Right.CHANGE)
    check_units(units, about="key cap")
    consumer = show_key(tx, key).consumer
    parent = show_grant(tx, loan=loan, consumer=consumer).account
    rows = tx.execute("SELECT account FROM key_caps WHERE loan = ? AND key = ?", (loan, key))
    opened = rows[0][0] if rows else None
    number = opened or _open_cap(tx, loan=loan, consumer=consumer, key=key, parent=parent)
    path = accounts.load_path(tx, number)
    accounts.move(tx, path, lambda account: account.extend(Units(units - account.granted)))
    detail = {"loan": loan, "consumer": consumer, "key": key, "units": units}
    audit.append(tx, now=now, actor=operator.name, kind="key.cap", detail=detail)
    return _cap(tx.execute(_CAPS + "WHERE c.loan = ? AND c.key = ?", (loan, key))[0])


def list_key_caps(tx: Tx, *, loan: str) -> tuple[KeyCap, ...]:
    """The loan's key caps."""
    rows = tx.execute(_CAPS + "WHERE c.loan = ? ORDER BY c.key", (loan,))
    return tuple(_cap(row) for row in rows)


def budget_of(account: Account) -> Budget:
    """An account as the protocol shows it."""
    return Budget(
        account.granted,
        account.available,
        account.outstanding,
        account.settled,
        account.written_off,
    )


def _open_cap(tx: Tx, *, loan: str, consumer: str, key: str, parent: int) -> int:
    """A cap's account begins with the key's past, so that it always equals the sum of its leases."""
    outstanding, settled, written_off = tx.execute(_USED_BY_KEY, (loan, consumer, key))[0]
    past = Account(
        Units(outstanding + settled + written_off),
        Units(outstanding),
        Units(settled),
        Units(written_off),
    )
    number = accounts.open_account(tx, kind="key", parent=parent, account=past)
    tx.execute("INSERT INTO key_caps (loan, key, account) VALUES (?, ?, ?)", (loan, key, number))
    return number


def _grant(row: Row) -> Grant:
    return Grant(row[0], row[1], row[2], Account(*row[3:]))


def _cap(row: Row) -> KeyCap:
    return KeyCap(row[0], row[1], row[2], Account(*row[3:]))
