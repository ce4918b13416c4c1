"""What instances report: cumulative counters, closing reports, proofs of stop (M-5, N-6, N-7)."""

from __future__ import annotations

import msgspec

from leasehold.core.crypto import is_equal
from leasehold.core.encoding import from_json
from leasehold.core.messages import (
    CLOSE_KIND,
    STOP_PROOF_KIND,
    CloseAck,
    CloseReport,
    StopNoted,
    StopReport,
    Usage,
)
from leasehold.core.statements import Signed, check_signed
from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import audit, leases
from leasehold.custodian.ledger.checks import UNITS_MAX, found
from leasehold.custodian.ledger.instances import Instance, show_instance
from leasehold.custodian.ledger.leases import Lease
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadMessage, UnknownThing


def report_usage(tx: Tx, *, now: Instant, instance: str, usage: tuple[Usage, ...]) -> Units:
    """Take a heartbeat: mark the instance as seen, settle what its leases served; return the units settled.

    Counters merge by maximum. A claim above what was granted is clamped and audited as an alarm.
    Raises BadMessage, UnknownThing (no such instance).
    """
    rows = tx.execute(
        "UPDATE instances SET seen = CASE WHEN seen < ? THEN ? ELSE seen END WHERE id = ?"
        " RETURNING id",
        (now, now, instance),
    )
    found(rows, about=f"instance {instance}")
    settled: list[tuple[str, Units]] = []
    for one in usage:
        lease = _claimed_lease(tx, now=now, instance=instance, usage=one)
        if lease is None or lease.state != "open" or one.spent <= lease.claimed:
            continue  # late, doubled, or after a write-off
        units = leases.settle(tx, lease=lease, spent=one.spent)
        _check_claim(tx, now=now, lease=lease, spent=one.spent)
        if units:
            settled.append((lease.id, units))
    if settled:
        audit.append(
            tx,
            now=now,
            actor=f"instance:{instance}",
            kind="lease.settle",
            detail={"instance": instance, "settled": settled},
        )
    return Units(sum(units for _, units in settled))


def close(tx: Tx, *, now: Instant, instance: str, signed: Signed) -> CloseAck:
    """M-5: take a signed CloseReport: settle the final count, return the rest.

    Idempotent. After a write-off, or with other contents than the first, it is audited and changes
    nothing. Raises BadSignature, BadMessage, UnknownThing.
    """
    speaker = show_instance(tx, instance)
    payload = check_signed(signed, kind=CLOSE_KIND, public=speaker.statement_key)
    report = from_json(payload, CloseReport)
    _check_speaker(report.instance, speaker)
    _check_counter(report.spent)
    lease = leases.find_lease(tx, report.lease)
    if lease is None or lease.instance != instance:
        raise UnknownThing(about=f"lease {report.lease}")
    proof = msgspec.json.encode(signed)
    actor = f"instance:{instance}"
    if lease.state == "open":
        _check_claim(tx, now=now, lease=lease, spent=report.spent)
        leases.close(tx, now=now, actor=actor, lease=lease, spent=report.spent, proof=proof)
    elif not _is_known(tx, lease, proof):
        detail = {"lease": lease.id, "state": lease.state, "statement": signed}
        audit.append(tx, now=now, actor=actor, kind="lease.close_late", detail=detail)
    return CloseAck(lease.id)


def record_proof(tx: Tx, *, now: Instant, instance: str, signed: Signed) -> StopNoted:
    """N-7: take a signed StopReport: the instance is stopped and its leases closed by the counters in it.

    An open lease that the proof does not mention is written off: its closing report may be under way
    with a higher count. Idempotent. Raises BadSignature, BadMessage, UnknownThing.
    """
    speaker = show_instance(tx, instance)
    payload = check_signed(signed, kind=STOP_PROOF_KIND, public=speaker.statement_key)
    report = from_json(payload, StopReport)
    _check_speaker(report.instance, speaker)
    if speaker.state == "stopped":
        return StopNoted(report.stop)
    actor = f"instance:{instance}"
    proof = msgspec.json.encode(signed)
    detail = {"instance": instance, "stop": report.stop, "statement": signed}
    audit.append(tx, now=now, actor=actor, kind="stop.proof", detail=detail)
    final = {one.lease: one.spent for one in report.leases}
    for lease in leases.list_open(tx, instance=instance):
        spent = final.get(lease.id)
        if spent is None:
            leases.write_off(tx, now=now, actor=actor, lease=lease)
            continue
        _check_counter(spent)
        _check_claim(tx, now=now, lease=lease, spent=spent)
        leases.close(tx, now=now, actor=actor, lease=lease, spent=spent, proof=proof)
    tx.execute(
        "UPDATE instances SET state = 'stopped', seen = ?, proved = ? WHERE id = ?",
        (now, now, instance),
    )
    tx.execute("DELETE FROM answers WHERE instance = ?", (instance,))
    return StopNoted(report.stop)


def _claimed_lease(tx: Tx, *, now: Instant, instance: str, usage: Usage) -> Lease | None:
    """The lease a counter is for, if it is this instance's; anything else is an alarm."""
    _check_counter(usage.spent)
    lease = leases.find_lease(tx, usage.lease)
    if lease is not None and lease.instance == instance:
        return lease
    detail = {"lease": usage.lease, "claimed": usage.spent}
    leases.alarm(tx, now=now, instance=instance, about="a lease it does not have", detail=detail)
    return None


def _check_claim(tx: Tx, *, now: Instant, lease: Lease, spent: Units) -> None:
    """T47: more than granted was never served lawfully; it is clamped, and operators must see it."""
    if spent > lease.granted:
        detail = {"lease": lease.id, "claimed": spent, "granted": lease.granted}
        leases.alarm(tx, now=now, instance=lease.instance, about="claim above grant", detail=detail)


def _check_counter(spent: int) -> None:
    if not 0 <= spent <= UNITS_MAX:
        raise BadMessage(about="counter", got=spent, expected=f"0 to {UNITS_MAX}")


def _check_speaker(named: str, speaker: Instance) -> None:
    if named != speaker.id:
        raise BadMessage(about="instance", got=named, expected=speaker.id)


def _is_known(tx: Tx, lease: Lease, proof: bytes) -> bool:
    """Whether this is the very statement that closed the lease."""
    rows = tx.execute("SELECT statement FROM leases WHERE number = ?", (leases.number_of(lease),))
    stored: bytes | None = rows[0][0]
    return stored is not None and is_equal(stored, proof)
