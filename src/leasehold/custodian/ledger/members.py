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
# As `stops` counts what is in doubt: written off by the clock, and no proof that its memory is wiped.
_IN_DOUBT: Final = """
SELECT instance, CAST(SUM(written_off) AS BIGINT) FROM leases
WHERE state = 'written_off' AND (? = 'all' OR (? = 'loan' AND loan = ?)
  OR (? = 'enclave' AND instance = ?) OR (? = 'consumer' AND consumer = ?))
GROUP BY instance
"""


class Member(msgspec.Struct, frozen=True):
    """An instance and what it may still serve in the scope of a stop.

    `units` are out in its open leases, the last of which expires at `lapses`; `units_in_doubt` were written
    off by the clock, and it has not proved that it wiped itself. `proved` is when its proof
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
    units_in_doubt: Units


def members(tx: Tx, rows: Iterable[Row], *, scope: Scope, target: str) -> tuple[Member, ...]:
    """Instances read by `SELECT`, with what each still holds in the scope."""
    held = leases.outstanding_by_instance(tx, scope=scope, target=target)
    scoped = (scope, scope, target, scope, target, scope, target)
    doubt: dict[str, Units] = dict(tx.execute(_IN_DOUBT, scoped))
    return tuple(
        _member(row, held.get(row[0], (Units(0), None)), doubt.get(row[0], Units(0)))
        for row in rows
    )


def _member(row: Row, held: tuple[Units, Instant | None], doubt: Units) -> Member:
    name, loan, machine, state, seen, proved, verdict, silent, uncertified = row
    dead = after(min(silent, uncertified), leases.GRACE)
    known = (name, loan, machine, state, seen, proved, verdict)
    if state == "stopped":
        return Member(*known, None, *held, Units(0))
    return Member(*known, dead, *held, doubt)
