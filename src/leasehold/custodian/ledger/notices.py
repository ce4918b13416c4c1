"""Stops with notice and with a drain: what time does to them, and who is told before they begin (L-14).

Spec: docs/spec/ledger.md. That a stop comes no later than it was ordered is `stops`' business.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.messages import StopReason
from leasehold.core.units import Duration, Instant
from leasehold.custodian.ledger import audit, stops
from leasehold.custodian.ledger.stops import STOPS, Phase, Stop
from leasehold.custodian.store.port import Tx

STOPS_MAX: Final = 50  # advanced in one sweep

# A drain ends also where the stop was lifted since: what it found running stays stopped (N-7).
_DUE: Final = (
    STOPS + "WHERE (phase = 'notice' AND lifted IS NULL AND begins <= ?)"
    " OR (phase = 'drain' AND ends <= ?) ORDER BY id LIMIT ?"
)
_LISTENERS: Final = """
SELECT id FROM instances
WHERE state = 'live' AND (? = 'all' OR (? = 'loan' AND loan = ?) OR (? = 'enclave' AND id = ?))
ORDER BY id
"""
# What ends an instance's service, or a consumer's; the soonest first.
_COMING: Final = """
WHERE lifted IS NULL AND phase <> 'full' AND (scope = 'all'
  OR (scope = 'loan' AND target = (SELECT loan FROM instances WHERE id = ?))
  OR (scope = 'enclave' AND target = ?) OR (scope = 'consumer' AND target = ?))
ORDER BY begins, ends, id LIMIT 1
"""


class Told(msgspec.Struct, frozen=True):
    """Whom a stop concerns now: who is ordered, and who is told what is coming; None where nothing is."""

    stop: Stop
    ordered: tuple[str, ...]
    announced: tuple[tuple[str, Stop | None], ...] = ()


def advance(tx: Tx, *, now: Instant, actor: str) -> tuple[Stop, ...]:
    """Begin the stops whose notice is over and end the drains that are; tells which, each an act of its own."""
    due = [Stop(*row) for row in tx.execute(_DUE, (now, now, STOPS_MAX))]
    for stop in due:
        phase: Phase = "drain" if now < stop.ends else "full"
        tx.execute("UPDATE stops SET phase = ? WHERE id = ?", (phase, stop.id))
        detail: dict[str, object] = {"stop": stop.id, "phase": phase}
        if stop.phase == "notice":
            detail["instances"] = stops.cover(
                tx, stop=stop.id, scope=stop.scope, target=stop.target
            )
        kind = "stop.begin" if stop.phase == "notice" else "stop.drained"
        audit.append(tx, now=now, actor=actor, kind=kind, detail=detail)
    return tuple(stops.show_stop(tx, stop.id) for stop in due)


def coming(tx: Tx, *, instance: str, consumer: str = "") -> Stop | None:
    """The soonest stop that was announced to this instance, or drains it; also a consumer's where named."""
    rows = tx.execute(STOPS + _COMING, (instance, instance, consumer))
    return Stop(*rows[0]) if rows else None


def telling(tx: Tx, *, stop: int) -> Told:
    """Whom to tell when a stop was ordered, has come further, or was lifted (N-11). Raises UnknownThing."""
    order = stops.show_stop(tx, stop)
    if order.phase == "notice":
        names = listeners(tx, stop=order)
        return Told(order, (), tuple((name, coming(tx, instance=name)) for name in names))
    is_over = order.lifted is not None and order.scope == "consumer"
    return Told(order, () if is_over else stops.audience(tx, stop=stop))


def reason_of(stop: Stop, *, now: Instant) -> StopReason:
    """What the root signs of a stop: how it comes, and how long is left by the custodian's clock.

    Never more is left of a drain than it was long: the clock may have been set back since.
    """
    said = StopReason(stop.id, stop.epoch, stop.scope, stop.target, stop.reason, stop.at)
    if stop.phase == "full" or (stop.phase == "drain" and stop.ends <= now):
        return said
    left = max(0, stop.begins - now)
    if stop.phase == "drain":
        left = min(stop.ends - now, stop.ends - stop.begins)
    return msgspec.structs.replace(
        said, mode=stop.phase, begins=stop.begins, ends=stop.ends, left=Duration(left)
    )


def listeners(tx: Tx, *, stop: Stop) -> tuple[str, ...]:
    """The live instances to which a notice is told, or that it was called off; none for a consumer's."""
    scope, target = stop.scope, stop.target
    return tuple(row[0] for row in tx.execute(_LISTENERS, (scope, scope, target, scope, target)))
