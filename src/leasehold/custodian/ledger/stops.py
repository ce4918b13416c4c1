"""Stops: durable before anybody is told, irrevocable for the instances they found running (M-7, N-7, L-7).

What time does to a stop that was ordered with notice or with a drain is in `notices`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.core.messages import Scope
from leasehold.core.units import DAY, MINUTE, Duration, Instant, Units, after
from leasehold.custodian.ledger import audit, leases
from leasehold.custodian.ledger.checks import check_reason, found, next_number
from leasehold.custodian.ledger.consumers import show_consumer
from leasehold.custodian.ledger.instances import show_instance
from leasehold.custodian.ledger.loans import show_loan
from leasehold.custodian.ledger.members import SELECT, Member, members
from leasehold.custodian.ledger.operators import Gate, Operator, Right, check_alone, check_right
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadRequest, Conflict

Phase = Literal["notice", "drain", "full"]

NOTICE_MAX: Final = Duration(90 * DAY)
DRAIN_MAX: Final = Duration(60 * MINUTE)
PHASES: Final[tuple[Phase, ...]] = ("notice", "drain", "full")  # a stop only ever goes this way
STOPS: Final = (
    "SELECT id, scope, target, reason, actor, epoch, at, lifted, begins, ends, phase FROM stops "
)
_COVERED: Final = """
SELECT id FROM instances
WHERE state IN ('live', 'lost', 'stopping')
  AND (? = 'all' OR (? = 'loan' AND loan = ?) OR (? = 'enclave' AND id = ?))
ORDER BY id
"""
_MAY_SERVE: Final = """
SELECT i.id FROM instances i JOIN grants g ON g.loan = i.loan
WHERE g.consumer = ? AND i.state IN ('live', 'stopping') ORDER BY i.id
"""
_HOLDING: Final = """
FROM instances i JOIN loans l ON l.name = i.loan
WHERE i.id IN (SELECT instance FROM leases WHERE consumer = ? AND state = 'open') ORDER BY i.id
"""
_FOUND: Final = """
FROM stop_instances s JOIN instances i ON i.id = s.instance JOIN loans l ON l.name = i.loan
WHERE s.stop = ? ORDER BY i.id
"""
_AUDIENCE: Final = """
SELECT i.id FROM stop_instances s JOIN instances i ON i.id = s.instance
WHERE s.stop = ? AND i.state <> 'stopped' ORDER BY i.id
"""
# What a stop would find if it began now.
_FINDS: Final = """
FROM instances i JOIN loans l ON l.name = i.loan
WHERE i.state = 'live' AND (? = 'all' OR (? = 'loan' AND i.loan = ?) OR (? = 'enclave' AND i.id = ?))
ORDER BY i.id
"""
# Written off by the clock, before or after the stop, and nobody has proved that its memory is wiped:
# a host that holds its enclave's clock still can serve them whenever it likes.
_IN_DOUBT: Final = """
SELECT CAST(COALESCE(SUM(e.written_off), 0) AS BIGINT)
FROM leases e JOIN instances i ON i.id = e.instance
WHERE e.state = 'written_off' AND i.state <> 'stopped'
  AND (? = 'all' OR (? = 'loan' AND e.loan = ?) OR (? = 'enclave' AND e.instance = ?)
       OR (? = 'consumer' AND e.consumer = ?))
"""
# What this instance should have obeyed by now and, as far as the ledger knows, has not.
_UNHEARD: Final = """
SELECT t.stop FROM stop_instances t JOIN instances i ON i.id = t.instance
WHERE i.id = ? AND i.state = 'stopping'
UNION
SELECT s.id FROM stops s JOIN leases e ON e.consumer = s.target
WHERE s.lifted IS NULL AND s.phase <> 'notice' AND s.scope = 'consumer' AND e.instance = ?
  AND e.state = 'open'
"""


class Stop(msgspec.Struct, frozen=True):
    """An order to stop, until it is `lifted` (L-14).

    In phase `notice` it is not yet in force: it will be at `begins`. In `drain` nothing is leased and
    nobody admitted, and what runs may end until `ends`. In `full` nothing is served. Once begun, what
    it found running stays stopped, whatever is lifted.
    """

    id: int
    scope: Scope
    target: str
    reason: str
    actor: str
    epoch: int
    at: Instant
    lifted: Instant | None
    begins: Instant = Instant(0)
    ends: Instant = Instant(0)
    phase: Phase = "full"


class Progress(msgspec.Struct, frozen=True):
    """How far a stop has come. It is complete when nothing is pending and both unit counts are 0.

    Before it has begun it has reached nobody: `units` are what is out in leases now, and `pending` whom
    it would find. After that `units` can still be served by live leases; `units_in_doubt` were written
    off by the clock and can only be served by an enclave whose host holds its clock still (T29, T30).
    `lapses` is when the last of those leases expires. `dead_from` says of every instance without a proof
    from when it is, or if it stays silent would be, presumed dead: an enclave with an honest
    clock has wiped itself by then. `instances` says the same, and what each still holds, one by one.
    """

    stop: Stop
    units: Units
    units_in_doubt: Units
    proved: tuple[str, ...]
    pending: tuple[str, ...]
    presumed_dead: tuple[str, ...]
    lapses: Instant | None
    dead_from: dict[str, Instant]
    instances: tuple[Member, ...]


def order(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    scope: Scope,
    target: str,
    reason: str,
    notice: Duration = Duration(0),
    drain: Duration = Duration(0),
) -> Stop:
    """M-7, L-14: stop a consumer, an enclave (instance id), a loan or all (empty target).

    It comes into force after `notice`, and what runs then may end within `drain`, both in milliseconds;
    0 is at once. Where the same stop was ordered before, that one, which may only come sooner.
    Raises NotPermitted, UnknownThing, BadRequest.
    """
    check_right(operator, Right.STOP)
    _check_times(scope, notice=notice, drain=drain)
    begins = after(now, notice)
    wanted = Stop(
        id=0,
        scope=scope,
        target=target,
        reason=reason,
        actor=operator.name,
        epoch=0,
        at=now,
        lifted=None,
        begins=begins,
        ends=after(begins, drain),
        phase="notice" if notice else "drain" if drain else "full",
    )
    return _put(tx, now=now, operator=operator, wanted=wanted)


def is_sooner(one: Stop, other: Stop) -> bool:
    """Whether a stop has come further than another of the same scope, or will sooner."""
    further = PHASES.index(one.phase) > PHASES.index(other.phase)
    return further or one.begins < other.begins or one.ends < other.ends


def carry(tx: Tx, *, now: Instant, operator: Operator, stop: Stop) -> Stop:
    """U-5: order a stop of another ledger here, as far as it had come there. Raises as `order` does."""
    check_right(operator, Right.STOP)
    return _put(tx, now=now, operator=operator, wanted=stop)


def _put(tx: Tx, *, now: Instant, operator: Operator, wanted: Stop) -> Stop:
    """Insert what is wanted, or have what is there come sooner; never later (L-14)."""
    scope, target = wanted.scope, wanted.target
    check_reason(wanted.reason)
    _check_target(tx, scope, target)
    there = tx.execute(STOPS + "WHERE lifted IS NULL AND scope = ? AND target = ?", (scope, target))
    begins, ends, phase = wanted.begins, wanted.ends, wanted.phase
    if there:
        known = Stop(*there[0])
        begins, ends = min(known.begins, begins), min(known.ends, ends)
        phase = max(known.phase, phase, key=PHASES.index)
        stop = known.id
        tx.execute(
            "UPDATE stops SET begins = ?, ends = ?, phase = ? WHERE id = ?",
            (begins, ends, phase, stop),
        )
    else:
        stop = next_number(tx, "stop")
        epoch = tx.execute("SELECT value FROM meta WHERE name = 'epoch'")[0][0]
        tx.execute(
            "INSERT INTO stops (id, scope, target, reason, actor, epoch, at, lifted, begins, ends,"
            " phase) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?)",
            (
                stop,
                scope,
                target,
                wanted.reason,
                operator.name,
                epoch,
                now,
                begins,
                ends,
                phase,
            ),
        )
    covered = [] if phase == "notice" else cover(tx, stop=stop, scope=scope, target=target)
    detail = {
        "stop": stop,
        "scope": scope,
        "target": target,
        "reason": wanted.reason,
        "instances": covered,
        "again": bool(there),
        "begins": begins,
        "ends": ends,
        "phase": phase,
    }
    audit.append(tx, now=now, actor=operator.name, kind="stop.order", detail=detail)
    return show_stop(tx, stop)


def lift(tx: Tx, *, now: Instant, operator: Operator, stop: int, reason: str) -> Stop:
    """Resume; instances that the stop found stay stopped. Before it has begun this calls it off.

    Raises NotPermitted, HandsNeeded, UnknownThing, Conflict.
    """
    check_alone(operator, Gate.RESUME)
    check_reason(reason)
    known = show_stop(tx, stop)
    if known.lifted is not None:
        raise Conflict(about=f"stop {stop}", got="lifted before")
    tx.execute("UPDATE stops SET lifted = ? WHERE id = ?", (now, stop))
    detail = {"stop": stop, "reason": reason, "phase": known.phase}
    audit.append(tx, now=now, actor=operator.name, kind="stop.lift", detail=detail)
    return show_stop(tx, stop)


def active_for(tx: Tx, *, loan: str, consumer: str = "", instance: str = "") -> Stop | None:
    """The oldest stop in force that covers any of these."""
    rows = tx.execute(
        STOPS
        + "WHERE lifted IS NULL AND phase <> 'notice' AND (scope = 'all' OR (scope = 'loan' AND target = ?)"
        " OR (scope = 'consumer' AND target = ?) OR (scope = 'enclave' AND target = ?))"
        " ORDER BY id LIMIT 1",
        (loan, consumer, instance),
    )
    return Stop(*rows[0]) if rows else None


def show_stop(tx: Tx, stop: int) -> Stop:
    """Raises UnknownThing."""
    return Stop(*found(tx.execute(STOPS + "WHERE id = ?", (stop,)), about=f"stop {stop}"))


def list_stops(tx: Tx, *, active: bool = False) -> tuple[Stop, ...]:
    """Stops, newest first; where `active`, only those in force and those that will be."""
    rows = tx.execute(STOPS + "WHERE lifted IS NULL OR ? = 0 ORDER BY id DESC", (int(active),))
    return tuple(Stop(*row) for row in rows)


def audience(tx: Tx, *, stop: int) -> tuple[str, ...]:
    """The instances to push the order to: those it stops, or those that may serve the stopped consumer.

    Nobody before it has begun. Raises UnknownThing.
    """
    order = show_stop(tx, stop)
    if order.phase == "notice":
        return ()
    if order.scope == "consumer":
        return tuple(row[0] for row in tx.execute(_MAY_SERVE, (order.target,)))
    return tuple(row[0] for row in tx.execute(_AUDIENCE, (stop,)))


def unheard(tx: Tx, *, instance: str) -> tuple[Stop, ...]:
    """N-6: orders to say again to an instance that speaks: a push may be lost, or never have been sent."""
    numbers = sorted(row[0] for row in tx.execute(_UNHEARD, (instance, instance)))
    return tuple(show_stop(tx, number) for number in numbers)


def progress(tx: Tx, *, stop: int) -> Progress:
    """What the stop has not yet reached. Raises UnknownThing."""
    order = show_stop(tx, stop)
    scope, target = order.scope, order.target
    if scope == "consumer":
        rows = tx.execute(SELECT + _HOLDING, (target,))
    elif order.phase == "notice":
        rows = tx.execute(SELECT + _FINDS, (scope, scope, target, scope, target))
    else:
        rows = tx.execute(SELECT + _FOUND, (stop,))
    doubt = tx.execute(_IN_DOUBT, (scope, scope, target, scope, target, scope, target))[0][0]
    concerned = members(tx, rows, scope=scope, target=target)
    return Progress(
        order,
        leases.outstanding(tx, scope=scope, target=target),
        doubt,
        proved=tuple(one.id for one in concerned if one.state == "stopped"),
        pending=tuple(one.id for one in concerned if one.state in ("live", "stopping")),
        presumed_dead=tuple(one.id for one in concerned if one.state == "lost"),
        lapses=leases.last_expiry(tx, scope=scope, target=target),
        dead_from={one.id: one.dead_from for one in concerned if one.dead_from is not None},
        instances=concerned,
    )


def cover(tx: Tx, *, stop: int, scope: Scope, target: str) -> list[str]:
    """Mark what the stop finds running: it never serves again, whatever is lifted later (N-7)."""
    covered = [row[0] for row in tx.execute(_COVERED, (scope, scope, target, scope, target))]
    for instance in covered:
        tx.execute(
            "INSERT INTO stop_instances (stop, instance) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (stop, instance),
        )
        tx.execute(
            "UPDATE instances SET state = 'stopping' WHERE id = ? AND state = 'live'", (instance,)
        )
    return covered


def _check_times(scope: Scope, *, notice: int, drain: int) -> None:
    for about, got, most in (("notice", notice, NOTICE_MAX), ("drain", drain, DRAIN_MAX)):
        if not 0 <= got <= most:
            raise BadRequest(about=about, got=got, expected=f"0 to {most} milliseconds")
    if drain and scope == "consumer":
        raise BadRequest(
            about="drain",
            got="a stop of a consumer",
            expected="one of an enclave, a loan or all; for a consumer use notice",
        )


def _check_target(tx: Tx, scope: Scope, target: str) -> None:
    match scope:
        case "all":
            if target:
                raise BadRequest(about="target of a stop of all", got=target, expected="nothing")
        case "consumer":
            show_consumer(tx, target)
        case "enclave":
            show_instance(tx, target)
        case "loan":
            show_loan(tx, target)
