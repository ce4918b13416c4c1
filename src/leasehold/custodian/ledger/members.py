"""The instances that a stop concerns, one by one: who proved it when, who holds how much until when (M-7, O-8).

Which they are is `stops`' business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from leasehold.core.messages import Scope
from leasehold.core.units import Instant, Units, after
from leasehold.custodian.ledger import leases
from leasehold.custodian.ledger.instances import State
from leasehold.custodian.store.port import Row, Tx

# How a query begins whose rows `members` takes: of an instance `i` and its loan `l`.
SELECT: Final = (
    "SELECT i.id, i.loan, i.machine, i.state, i.seen, i.proved, i.verdict, i.seen + l.dead_man,"
    " i.certificate_expires "
)


class Member(msgspec.Struct, frozen=True):
    """An instance and what it may still serve in the scope of a stop.

    `units` are out in its open leases, the last of which expires at `lapses`. `proved` is when its proof
    of stop became durable; `dead_from` is from when it is, or if it stays silent would be, presumed dead,
    None where it has proved that it stopped.
    """

    id: str
    loan: str
    machine: str
    state: State
    seen: Instant
    proved: Instant | None
    verdict: bytes
    dead_from: Instant | None
    units: Units
    lapses: Instant | None


def members(tx: Tx, rows: Iterable[Row], *, scope: Scope, target: str) -> tuple[Member, ...]:
    """Instances read by `SELECT`, with what each still holds in the scope."""
    held = leases.outstanding_by_instance(tx, scope=scope, target=target)
    return tuple(_member(row, *held.get(row[0], (Units(0), None))) for row in rows)


def _member(row: Row, units: Units, lapses: Instant | None) -> Member:
    name, loan, machine, state, seen, proved, verdict, silent, uncertified = row
    dead = None if state == "stopped" else after(min(silent, uncertified), leases.GRACE)
    return Member(name, loan, machine, state, seen, proved, verdict, dead, units, lapses)
