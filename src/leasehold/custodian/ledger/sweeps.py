"""What time does to the ledger: write-offs, lost instances, old nonces, stops that are due (L-6, L-14)."""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import audit, leases, nonces, notices
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.store.port import Tx

LEASES_MAX: Final = 200  # written off in one sweep, so that no transaction keeps others waiting
INSTANCES_MAX: Final = 200
ACTOR: Final = "custodian"

# N-8: by then an enclave with an honest clock has wiped itself.
_SILENT: Final = """
SELECT i.id FROM instances i JOIN loans l ON l.name = i.loan
WHERE i.state IN ('live', 'stopping')
  AND (i.seen + l.dead_man <= ? OR i.certificate_expires <= ?)
ORDER BY i.id LIMIT ?
"""


class Swept(msgspec.Struct, frozen=True):
    """What a sweep did; `stops` have come further and are to be told."""

    leases: tuple[str, ...]
    units: Units
    lost: tuple[str, ...]
    stops: tuple[Stop, ...] = ()


def sweep(tx: Tx, *, now: Instant) -> Swept:
    """Write off leases past `expires + GRACE`; mark instances lost that are silent or uncertified.

    Begin the stops whose notice is over, end the drains that are. Call it every second; one call does a
    bounded amount.
    """
    begun = notices.advance(tx, now=now, actor=ACTOR)
    due = leases.list_due(tx, now=now, count=LEASES_MAX)
    units = sum(leases.write_off(tx, now=now, actor=ACTOR, lease=lease) for lease in due)
    overdue = now - leases.GRACE
    lost = tuple(row[0] for row in tx.execute(_SILENT, (overdue, overdue, INSTANCES_MAX)))
    for instance in lost:
        tx.execute("UPDATE instances SET state = 'lost' WHERE id = ?", (instance,))
        audit.append(tx, now=now, actor=ACTOR, kind="instance.lost", detail={"instance": instance})
    nonces.forget_expired(tx, now=now)
    return Swept(tuple(lease.id for lease in due), Units(units), lost, begun)
