"""Leases: rows, and the moves that settle, return or write off what they hold (M-3, M-5, L-3)."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from leasehold.core.messages import Scope
from leasehold.core.units import MINUTE, Instant, Units
from leasehold.custodian.ledger import accounts, audit
from leasehold.custodian.store.port import Row, Tx
from leasehold.errors import UnknownThing

GRACE: Final = MINUTE  # M-5: how long after `expires` a closing report may still return units
_ID: Final = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,17})")
_LEASES: Final = """
SELECT number, epoch, instance, loan, consumer, key, granted, settled, released, written_off, claimed,
       state, opened, expires, ended
FROM leases
"""
_OPEN_WITHIN: Final = (
    " FROM leases WHERE state = 'open' AND (? = 'all' OR (? = 'loan' AND loan = ?)"
    " OR (? = 'enclave' AND instance = ?) OR (? = 'consumer' AND consumer = ?))"
)


class Lease(msgspec.Struct, frozen=True):
    """Units held by one instance for one key. `granted = settled + released + written_off + outstanding`.

    `claimed` is the highest counter that its instance ever reported; more than `granted` is an alarm.
    """

    id: str
    instance: str
    loan: str
    consumer: str
    key: str
    granted: Units
    settled: Units
    released: Units
    written_off: Units
    claimed: Units
    state: Literal["open", "closed", "written_off"]
    opened: Instant
    expires: Instant
    ended: Instant | None

    @property
    def outstanding(self) -> Units:
        """What may still be served."""
        return Units(self.granted - self.settled - self.released - self.written_off)


def lease_id(epoch: int, number: int) -> str:
    """How a lease is called everywhere: unique for ever, since epochs only grow."""
    return f"{epoch}-{number}"


def find_lease(tx: Tx, lease: str) -> Lease | None:
    """The lease of this id, or None."""
    parts = _ID.fullmatch(lease)
    if parts is None:
        return None
    rows = tx.execute(_LEASES + "WHERE number = ? AND epoch = ?", (int(parts[2]), int(parts[1])))
    return _lease(rows[0]) if rows else None


def show_lease(tx: Tx, lease: str) -> Lease:
    """Raises UnknownThing."""
    one = find_lease(tx, lease)
    if one is None:
        raise UnknownThing(about=f"lease {lease}")
    return one


def list_open(
    tx: Tx, *, loan: str | None = None, instance: str | None = None, consumer: str | None = None
) -> tuple[Lease, ...]:
    """Open leases, oldest first."""
    rows = tx.execute(
        _LEASES + "WHERE state = 'open' AND (loan = ? OR ? = 1) AND (instance = ? OR ? = 1)"
        " AND (consumer = ? OR ? = 1) ORDER BY number",
        (
            loan,
            int(loan is None),
            instance,
            int(instance is None),
            consumer,
            int(consumer is None),
        ),
    )
    return tuple(_lease(row) for row in rows)


def list_due(tx: Tx, *, now: Instant, count: int) -> tuple[Lease, ...]:
    """Open leases whose grace is over (M-5), at most `count`."""
    rows = tx.execute(
        _LEASES + "WHERE state = 'open' AND expires <= ? ORDER BY expires LIMIT ?",
        (now - GRACE, count),
    )
    return tuple(_lease(row) for row in rows)


def outstanding(tx: Tx, *, scope: Scope, target: str) -> Units:
    """The sum of units in open leases of a scope: what can still be served there (M-7)."""
    units: Units = tx.execute(
        "SELECT CAST(COALESCE(SUM(granted - settled), 0) AS BIGINT)" + _OPEN_WITHIN,
        (scope, scope, target, scope, target, scope, target),
    )[0][0]
    return units


def last_expiry(tx: Tx, *, scope: Scope, target: str) -> Instant | None:
    """When the last open lease of a scope expires: then `outstanding` is served by no honest clock."""
    at: Instant | None = tx.execute(
        "SELECT MAX(expires)" + _OPEN_WITHIN, (scope, scope, target, scope, target, scope, target)
    )[0][0]
    return at


def outstanding_by_instance(
    tx: Tx, *, scope: Scope, target: str
) -> dict[str, tuple[Units, Instant]]:
    """What `outstanding` and `last_expiry` say, for each instance that holds open leases in the scope."""
    rows = tx.execute(
        "SELECT instance, CAST(SUM(granted - settled) AS BIGINT), MAX(expires)"
        + _OPEN_WITHIN
        + " GROUP BY instance",
        (scope, scope, target, scope, target, scope, target),
    )
    return {instance: (units, expires) for instance, units, expires in rows}


def settle(tx: Tx, *, lease: Lease, spent: Units) -> Units:
    """M-5: merge a cumulative counter into an open lease; returns how many units that settled.

    Clamped to what was granted. The caller writes the audit entry.
    """
    units = Units(max(0, min(spent, lease.granted) - lease.settled))
    if units:
        accounts.move(tx, path_of(tx, lease), lambda account: account.settle(units))
    if spent > lease.claimed:
        tx.execute(
            "UPDATE leases SET settled = settled + ?, claimed = ? WHERE number = ?",
            (units, spent, number_of(lease)),
        )
    return units


def close(tx: Tx, *, now: Instant, actor: str, lease: Lease, spent: Units, proof: bytes) -> None:
    """M-5: settle the final counter of an open lease and return the rest. Audited with its proof."""
    final = Units(max(lease.settled, min(spent, lease.granted)))
    settled, released = Units(final - lease.settled), Units(lease.granted - final)
    accounts.move(tx, path_of(tx, lease), lambda account: account.settle(settled).release(released))
    tx.execute(
        "UPDATE leases SET state = 'closed', settled = ?, released = ?, claimed = ?, ended = ?,"
        " statement = ? WHERE number = ?",
        (final, released, max(spent, lease.claimed), now, proof, number_of(lease)),
    )
    detail = {
        "lease": lease.id,
        "instance": lease.instance,
        "settled": settled,
        "released": released,
        "statement": proof,
    }
    audit.append(tx, now=now, actor=actor, kind="lease.close", detail=detail)


def write_off(tx: Tx, *, now: Instant, actor: str, lease: Lease) -> Units:
    """M-5: the whole remainder of an open lease is in doubt and stays spent. Audited."""
    units = lease.outstanding
    accounts.move(tx, path_of(tx, lease), lambda account: account.write_off(units))
    tx.execute(
        "UPDATE leases SET state = 'written_off', written_off = ?, ended = ? WHERE number = ?",
        (units, now, number_of(lease)),
    )
    detail = {"lease": lease.id, "instance": lease.instance, "units": units}
    audit.append(tx, now=now, actor=actor, kind="lease.write_off", detail=detail)
    return units


def alarm(tx: Tx, *, now: Instant, instance: str, about: str, detail: audit.Detail) -> None:
    """An instance said what no honest one says: put it into the log, where operators look."""
    audit.append(
        tx,
        now=now,
        actor=f"instance:{instance}",
        kind="alarm",
        detail={"about": about, "instance": instance, **detail},
    )


def path_of(tx: Tx, lease: Lease) -> accounts.Path:
    """The accounts that a lease debits."""
    loan, grant, cap = tx.execute(
        "SELECT l.account, g.account, c.account FROM loans l"
        " JOIN grants g ON g.loan = l.name AND g.consumer = ?"
        " LEFT JOIN key_caps c ON c.loan = l.name AND c.key = ? WHERE l.name = ?",
        (lease.consumer, lease.key, lease.loan),
    )[0]
    return accounts.load_path(tx, loan, grant, cap)


def number_of(lease: Lease) -> int:
    """The lease's number in the database, the second half of its id."""
    return int(lease.id.partition("-")[2])


def _lease(row: Row) -> Lease:
    return Lease(lease_id(row[1], row[0]), *row[2:])
