"""Extension requests: at most one open for a grant, opened by exhaustion, decided by an operator (L-9)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.core.accounts import Account
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import REASON_CHARS_MAX, ExtensionAsk, ExtensionState
from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import answers, audit, consumers, grants
from leasehold.custodian.ledger.checks import (
    UNITS_MAX,
    check_reason,
    check_units,
    found,
    next_number,
)
from leasehold.custodian.ledger.instances import show_instance
from leasehold.custodian.ledger.loans import show_loan
from leasehold.custodian.ledger.operators import Gate, Operator, Right, check_alone, check_right
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadMessage, BadRequest, Conflict, UnknownKey, UnknownThing

Status = Literal["open", "approved", "denied"]

_REQUESTS: Final = """
SELECT id, loan, consumer, asked, reason, status, approved, opened, decided, decided_by, decision
FROM extensions
"""


class Request(msgspec.Struct, frozen=True):
    """`asked` is 0 where the budget ran out and the consumer has not yet said how much it wants."""

    id: int
    loan: str
    consumer: str
    asked: Units
    reason: str
    status: Status
    approved: Units
    opened: Instant
    decided: Instant | None
    decided_by: str
    decision: str


class Decision(msgspec.Struct, frozen=True):
    """A decided request. `state` is what to push to the loan's instances; `budget` the grant after it.

    `cap_limits`: the loan's cap covers less than the grant now has available.
    """

    request: Request
    state: ExtensionState
    budget: Account
    cap_limits: bool


def ask(tx: Tx, *, now: Instant, instance: str, ask: ExtensionAsk) -> ExtensionState:
    """Open or complete the consumer's request; idempotent by (instance, sequence).

    Raises BadMessage, UnknownThing, UnknownKey, Conflict (same sequence, other contents).
    """
    if not (0 <= ask.sequence <= UNITS_MAX and 1 <= ask.units <= UNITS_MAX):
        raise BadMessage(about="extension ask", got=ask.units, expected=f"1 to {UNITS_MAX} units")
    if len(ask.reason) > REASON_CHARS_MAX:
        raise BadMessage(about="reason", got=len(ask.reason), expected=f"<= {REASON_CHARS_MAX}")
    loan = show_instance(tx, instance).loan
    message = to_json(ask)
    stored = answers.recall(
        tx, instance=instance, kind="extension", sequence=ask.sequence, request=message
    )
    if stored is not None:
        return from_json(stored, ExtensionState)
    consumer = _asker(tx, key_hash=ask.key_hash, loan=loan)
    latest = _latest(tx, loan=loan, consumer=consumer)
    if latest is None or latest.status != "open":
        request = _open(tx, now, loan, consumer, ask.units, ask.reason)
    else:
        request = latest.id
        tx.execute(
            "UPDATE extensions SET asked = ?, reason = ? WHERE id = ?",
            (ask.units, ask.reason, request),
        )
    detail = {
        "request": request,
        "loan": loan,
        "consumer": consumer,
        "key": consumers.key_id(ask.key_hash),
        "asked": ask.units,
        "reason": ask.reason,
    }
    audit.append(tx, now=now, actor=f"instance:{instance}", kind="extension.ask", detail=detail)
    answer = state(tx, key_hash=ask.key_hash, loan=loan, sequence=ask.sequence)
    answers.remember(
        tx,
        instance=instance,
        kind="extension",
        sequence=ask.sequence,
        request=message,
        answer=to_json(answer),
    )
    return answer


def open_by_exhaustion(tx: Tx, *, now: Instant, instance: str, loan: str, consumer: str) -> None:
    """Open a request without an amount, unless one is open or the last word was no.

    After a denial only the consumer's own words open another: operators are not asked in a loop.
    """
    latest = _latest(tx, loan=loan, consumer=consumer)
    if latest is not None and latest.status in ("open", "denied"):
        return
    request = _open(tx, now, loan, consumer, Units(0), "")
    detail = {"request": request, "loan": loan, "consumer": consumer, "asked": 0, "reason": ""}
    audit.append(tx, now=now, actor=f"instance:{instance}", kind="extension.open", detail=detail)


def state(tx: Tx, *, key_hash: bytes, loan: str, sequence: int = 0) -> ExtensionState:
    """What became of the latest request, and how the budget stands. Raises UnknownKey."""
    consumer = _asker(tx, key_hash=key_hash, loan=loan)
    return _state(tx, loan=loan, consumer=consumer, keys=(key_hash,), sequence=sequence)


def show_request(tx: Tx, request: int) -> Request:
    """Raises UnknownThing."""
    rows = tx.execute(_REQUESTS + "WHERE id = ?", (request,))
    return Request(*found(rows, about=f"request {request}"))


def list_requests(
    tx: Tx, *, status: Status | None = None, loan: str | None = None
) -> tuple[Request, ...]:
    """Requests, newest first."""
    rows = tx.execute(
        _REQUESTS + "WHERE (status = ? OR ? = 1) AND (loan = ? OR ? = 1) ORDER BY id DESC",
        (status, int(status is None), loan, int(loan is None)),
    )
    return tuple(Request(*row) for row in rows)


def approve(
    tx: Tx, *, now: Instant, operator: Operator, request: int, units: Units | None = None
) -> Decision:
    """Add `units`, or all that was asked, to the grant.

    Raises NotPermitted, HandsNeeded, UnknownThing, Conflict (already decided), BadRequest (no amount
    anywhere).
    """
    check_alone(operator, Gate.GRANT)
    asked = _undecided(tx, request)
    amount = asked.asked if units is None else units
    if amount == 0:
        raise BadRequest(about="units", expected="an amount: the consumer has not named one")
    check_units(amount, about="units", least=1)
    grants.extend(tx, loan=asked.loan, consumer=asked.consumer, units=Units(amount))
    return _decide(tx, asked, now=now, by=operator, status="approved", units=amount, why="")


def deny(tx: Tx, *, now: Instant, operator: Operator, request: int, reason: str) -> Decision:
    """Raises NotPermitted, UnknownThing, Conflict (already decided), BadRequest."""
    check_right(operator, Right.CHANGE)
    check_reason(reason)
    asked = _undecided(tx, request)
    return _decide(tx, asked, now=now, by=operator, status="denied", units=0, why=reason)


def _decide(
    tx: Tx, asked: Request, *, now: Instant, by: Operator, status: Status, units: int, why: str
) -> Decision:
    tx.execute(
        "UPDATE extensions SET status = ?, approved = ?, decided = ?, decided_by = ?, decision = ?"
        " WHERE id = ?",
        (status, units, now, by.name, why, asked.id),
    )
    detail = {
        "request": asked.id,
        "loan": asked.loan,
        "consumer": asked.consumer,
        "units": units,
        "reason": why,
    }
    audit.append(tx, now=now, actor=by.name, kind=f"extension.{status}", detail=detail)
    return show_decision(tx, asked.id)


def show_decision(tx: Tx, request: int) -> Decision:
    """A decided request as its decision stands now. Raises UnknownThing, Conflict (still open)."""
    asked = show_request(tx, request)
    if asked.status == "open":
        raise Conflict(about=f"request {request}", got="open", expected="decided")
    budget = grants.show_grant(tx, loan=asked.loan, consumer=asked.consumer).budget
    keys = consumers.list_keys(tx, consumer=asked.consumer)
    live = tuple(key.hash for key in keys if key.revoked is None)
    return Decision(
        asked,
        _state(tx, loan=asked.loan, consumer=asked.consumer, keys=live, sequence=0),
        budget,
        cap_limits=show_loan(tx, asked.loan).budget.available < budget.available,
    )


def _undecided(tx: Tx, request: int) -> Request:
    asked = show_request(tx, request)
    if asked.status != "open":
        raise Conflict(about=f"request {request}", got=asked.status, expected="open")
    return asked


def _asker(tx: Tx, *, key_hash: bytes, loan: str) -> str:
    """The consumer of a live key that has a grant under this loan. Raises UnknownKey."""
    consumer = consumers.find_key(tx, key_hash).consumer
    try:
        grants.show_grant(tx, loan=loan, consumer=consumer)
    except UnknownThing as cause:
        raise UnknownKey from cause
    return consumer


def _latest(tx: Tx, *, loan: str, consumer: str) -> Request | None:
    rows = tx.execute(
        _REQUESTS + "WHERE loan = ? AND consumer = ? ORDER BY id DESC LIMIT 1", (loan, consumer)
    )
    return Request(*rows[0]) if rows else None


def _open(tx: Tx, now: Instant, loan: str, consumer: str, units: Units, reason: str) -> int:
    request = next_number(tx, "extension")
    tx.execute(
        "INSERT INTO extensions (id, loan, consumer, asked, reason, status, approved, opened,"
        " decided_by, decision) VALUES (?, ?, ?, ?, ?, 'open', 0, ?, '', '')",
        (request, loan, consumer, units, reason, now),
    )
    return request


def _state(
    tx: Tx, *, loan: str, consumer: str, keys: tuple[bytes, ...], sequence: int
) -> ExtensionState:
    budget = grants.budget_of(grants.show_grant(tx, loan=loan, consumer=consumer).budget)
    latest = _latest(tx, loan=loan, consumer=consumer)
    if latest is None:
        return ExtensionState(sequence, keys, 0, "none", Units(0), Units(0), "", consumer, budget)
    return ExtensionState(
        sequence,
        keys,
        latest.id,
        latest.status,
        latest.asked,
        latest.approved,
        latest.reason if latest.status == "open" else latest.decision,
        consumer,
        budget,
    )
