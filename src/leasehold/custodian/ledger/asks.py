"""Answering a lease ask: all checks, the debit, the audit entry and the stored answer at once (M-3, L-4)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from leasehold.core.crypto import is_equal, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.lease import Account, LeasePolicy, size_lease
from leasehold.core.messages import LeaseAsk, LeaseGranted, LeaseRefused, Problem
from leasehold.core.units import Duration, Instant, Units, after
from leasehold.custodian.ledger import accounts, answers, audit, extensions
from leasehold.custodian.ledger.checks import UNITS_MAX, next_number
from leasehold.custodian.ledger.consumers import key_id
from leasehold.custodian.ledger.grants import budget_of
from leasehold.custodian.ledger.instances import State, speech_refusal
from leasehold.custodian.ledger.leases import alarm, lease_id
from leasehold.custodian.store.port import Tx
from leasehold.errors import (
    BadMessage,
    BudgetExhausted,
    Conflict,
    LeaseholdError,
    LoanStopped,
    TooBusy,
    UnknownKey,
    UnknownThing,
)

# Everything that the decision rests on, read at one moment.
_SITUATION: Final = """
SELECT i.state, i.epoch, i.evidence_expires, i.floor, l.name, l.state, l.policy, l.account,
       (SELECT value FROM meta WHERE name = 'epoch'),
       (SELECT COUNT(*) FROM instances n WHERE n.loan = i.loan AND n.state = 'live'),
       (SELECT MIN(CASE WHEN s.phase = 'notice' AND s.begins > ? THEN s.ends ELSE 0 END)
          FROM stops s WHERE s.lifted IS NULL AND (s.scope = 'all'
            OR (s.scope = 'loan' AND s.target = i.loan)
            OR (s.scope = 'enclave' AND s.target = i.id)
            OR (s.scope = 'consumer' AND s.target = k.consumer))),
       k.id, k.consumer, k.revoked, g.account, c.account,
       e.number, e.epoch, e.granted, e.settled, e.claimed, r.request, r.answer,
       la.granted, la.outstanding, la.settled, la.written_off,
       ga.granted, ga.outstanding, ga.settled, ga.written_off,
       ca.granted, ca.outstanding, ca.settled, ca.written_off
FROM instances i
JOIN loans l ON l.name = i.loan
JOIN accounts la ON la.id = l.account
LEFT JOIN answers r ON r.instance = i.id AND r.kind = 'lease' AND r.sequence = ?
LEFT JOIN keys k ON k.hash = ?
LEFT JOIN grants g ON g.loan = i.loan AND g.consumer = k.consumer
LEFT JOIN key_caps c ON c.loan = i.loan AND c.key = k.id
LEFT JOIN accounts ga ON ga.id = g.account
LEFT JOIN accounts ca ON ca.id = c.account
LEFT JOIN leases e ON e.instance = i.id AND e.key = k.id AND e.state = 'open'
WHERE i.id = ?
"""


class Situation(msgspec.Struct, frozen=True):
    """The asking instance, its loan, the key, the lease that is open for it, and the answer that this

    very ask had before; None where there is none. `stopped` is when a stop of any of these ends service
    (L-14), 0 where one is in force or due.
    """

    state: State
    instance_epoch: int
    evidence_expires: Instant
    floor: int
    loan: str
    loan_state: str
    policy: bytes
    loan_account: int
    epoch: int
    instances: int
    stopped: Instant | None
    key: str | None
    consumer: str | None
    revoked: Instant | None
    grant_account: int | None
    cap_account: int | None
    number: int | None
    lease_epoch: int | None
    granted: Units | None
    settled: Units | None
    claimed: Units | None
    request: bytes | None
    answer: bytes | None
    path: accounts.Path


class Terms(msgspec.Struct, frozen=True):
    """A situation in which a lease may be given: who gets it, from which accounts, and what is held already."""

    key: str
    consumer: str
    path: accounts.Path
    policy: LeasePolicy
    held: Units
    lease: str | None
    settling: Units


def ask(tx: Tx, *, now: Instant, instance: str, ask: LeaseAsk) -> LeaseGranted | LeaseRefused:
    """M-3: answer once: the same (instance, sequence) gets the same answer again, or after a stop a refusal.

    Refusals are answers (codes loan_stopped, evidence_expired, invalid_api_key, insufficient_quota,
    rate_limit_exceeded, conflict). Raises only BadMessage and UnknownThing (no such instance).
    """
    _check(ask)
    message = to_json(ask)
    s = _situation(tx, now=now, instance=instance, ask=ask)
    if s.request is not None and s.answer is not None:
        if is_equal(s.request, sha256(message)):
            return _again(tx, now=now, instance=instance, ask=ask, situation=s, answer=s.answer)
        # Two users of one sequence space: a clone, or a broken enclave.
        alarm(tx, now=now, instance=instance, about="sequence", detail={"sequence": ask.sequence})
        return _refused(ask, Conflict(about="sequence", got=ask.sequence, expected="as before"))
    if ask.sequence <= s.floor:
        return _refused(ask, Conflict(about="sequence", got=ask.sequence, expected="a newer one"))
    answers.forget_old(tx, instance=instance, sequence=ask.sequence, floor=s.floor)
    answer = _answer(tx, now=now, instance=instance, ask=ask, situation=s)
    answers.remember(
        tx,
        instance=instance,
        kind="lease",
        sequence=ask.sequence,
        request=message,
        answer=to_json(answer),
    )
    return answer


def _again(
    tx: Tx, *, now: Instant, instance: str, ask: LeaseAsk, situation: Situation, answer: bytes
) -> LeaseGranted | LeaseRefused:
    """The answer that was given before; but not even an old grant leaves after a stop (M-7)."""
    refusal = check_asker(situation, now=now)
    stored = from_json(answer, LeaseGranted | LeaseRefused)
    if refusal is None or isinstance(stored, LeaseRefused):
        return stored
    return _refuse(tx, now=now, instance=instance, ask=ask, terms=None, why=refusal)


def _situation(tx: Tx, *, now: Instant, instance: str, ask: LeaseAsk) -> Situation:
    rows = tx.execute(_SITUATION, (now, ask.sequence, ask.key_hash, instance))
    if not rows:
        raise UnknownThing(about=f"instance {instance}")
    row = rows[0]
    # The numbers of the path's accounts, each with where its terms begin in the row.
    nodes = ((row[7], 23), (row[14], 27), (row[15], 31))
    there = [(number, Account(*row[at : at + 4])) for number, at in nodes if number is not None]
    path = accounts.Path(tuple(number for number, _ in there), tuple(one for _, one in there))
    return Situation(*(*row[:23], path))


def _check(ask: LeaseAsk) -> None:
    amounts = (ask.sequence, ask.least, ask.need, ask.rate, ask.spent)
    if min(amounts) < 0 or max(amounts) > UNITS_MAX:
        raise BadMessage(about="lease ask", got=amounts, expected=f"0 to {UNITS_MAX}")
    if len(ask.key_hash) != 32:
        raise BadMessage(about="key hash", got=len(ask.key_hash), expected="32 bytes")


def _answer(
    tx: Tx, *, now: Instant, instance: str, ask: LeaseAsk, situation: Situation
) -> LeaseGranted | LeaseRefused:
    terms = _terms(tx, now=now, instance=instance, ask=ask, situation=situation)
    if terms is None:
        refusal = check_asker(situation, now=now) or UnknownKey()
        return _refuse(tx, now=now, instance=instance, ask=ask, terms=None, why=refusal)
    decision = check_asker(situation, now=now) or decide_units(
        ask, terms, instances=situation.instances
    )
    if isinstance(decision, LeaseholdError):
        if isinstance(decision, BudgetExhausted) and terms.path.available < ask.least:
            extensions.open_by_exhaustion(
                tx, now=now, instance=instance, loan=situation.loan, consumer=terms.consumer
            )
        return _refuse(tx, now=now, instance=instance, ask=ask, terms=terms, why=decision)
    return _grant(
        tx, now=now, instance=instance, ask=ask, situation=situation, terms=terms, units=decision
    )


def check_asker(situation: Situation, *, now: Instant) -> LeaseholdError | None:
    """Why this instance gets nothing for this key, whatever the budget; None where it may ask."""
    if situation.stopped == 0 or situation.loan_state != "active":
        return LoanStopped(about=f"loan {situation.loan}")
    silence = speech_refusal(
        situation.state,
        current=situation.instance_epoch == situation.epoch,
        evidence_expires=situation.evidence_expires,
        now=now,
    )
    if silence is None and (situation.revoked is not None or situation.grant_account is None):
        return UnknownKey()
    return silence


def decide_units(ask: LeaseAsk, terms: Terms, *, instances: int) -> Units | LeaseholdError:
    """M-4: how many units, or why none."""
    path, policy = terms.path, terms.policy
    units = size_lease(
        policy,
        least=ask.least,
        need=ask.need,
        rate=ask.rate,
        held=terms.held,
        available=path.available,
        outstanding=path.loan.outstanding,
        instances=instances,
    )
    if units is not None:
        return units
    if path.available < ask.least:
        return BudgetExhausted(got=path.available, expected=f"{ask.least} units available")
    if ask.least > policy.outstanding_max:
        return BudgetExhausted(
            about="one request", got=ask.least, expected=f"<= {policy.outstanding_max} units"
        )
    return TooBusy(about="units out in leases", got=path.loan.outstanding)


def _terms(
    tx: Tx, *, now: Instant, instance: str, ask: LeaseAsk, situation: Situation
) -> Terms | None:
    """Settle what the ask reports, in memory, and see what is left. None for a key without a grant."""
    s = situation
    if s.key is None or s.consumer is None or s.grant_account is None:
        return None
    path = s.path
    policy = _policy(s.policy)
    if s.number is None or s.lease_epoch is None or s.granted is None or s.settled is None:
        return Terms(s.key, s.consumer, path, policy, Units(0), None, Units(0))
    lease, claimed = lease_id(s.lease_epoch, s.number), s.claimed or 0
    settling = Units(0)
    if ask.lease == lease and ask.spent > claimed:
        settling = Units(max(0, min(ask.spent, s.granted) - s.settled))
        path = accounts.move(tx, path, lambda account: account.settle(settling))
        tx.execute(
            "UPDATE leases SET settled = settled + ?, claimed = ? WHERE number = ?",
            (settling, ask.spent, s.number),
        )
        if ask.spent > s.granted:
            detail = {"lease": lease, "claimed": ask.spent, "granted": s.granted}
            alarm(tx, now=now, instance=instance, about="claim above grant", detail=detail)
    held = Units(s.granted - s.settled - settling)
    return Terms(s.key, s.consumer, path, policy, held, lease, settling)


@lru_cache(maxsize=64)
def _policy(stored: bytes) -> LeasePolicy:
    return from_json(stored, LeasePolicy)


def _grant(
    tx: Tx,
    *,
    now: Instant,
    instance: str,
    ask: LeaseAsk,
    situation: Situation,
    terms: Terms,
    units: Units,
) -> LeaseGranted:
    path = accounts.move(tx, terms.path, lambda account: account.lease(units))
    ttl = terms.policy.ttl
    if situation.stopped is not None:
        ttl = min(ttl, Duration(situation.stopped - now))  # L-14
    expires = after(now, ttl)
    lease, granted = terms.lease, Units(units + (situation.granted or 0))
    if lease is None:
        number = next_number(tx, "lease")
        lease = lease_id(situation.epoch, number)
        tx.execute(
            "INSERT INTO leases (number, epoch, instance, loan, consumer, key, granted, settled,"
            " released, written_off, claimed, state, opened, expires)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 'open', ?, ?)",
            (
                number,
                situation.epoch,
                instance,
                situation.loan,
                terms.consumer,
                terms.key,
                units,
                now,
                expires,
            ),
        )
    else:
        tx.execute(
            "UPDATE leases SET granted = ?,"
            " expires = CASE WHEN expires < ? THEN ? ELSE expires END WHERE number = ?",
            (granted, expires, expires, situation.number),
        )
    detail = {
        "instance": instance,
        "loan": situation.loan,
        "consumer": terms.consumer,
        "key": terms.key,
        "lease": lease,
        "sequence": ask.sequence,
        "settled": terms.settling,
        "units": units,
    }
    audit.append(tx, now=now, actor=f"instance:{instance}", kind="lease.grant", detail=detail)
    return LeaseGranted(
        ask.sequence,
        lease,
        situation.epoch,
        terms.consumer,
        ask.key_hash,
        granted,
        ttl,
        budget_of(path.grant),
    )


def _refuse(
    tx: Tx,
    *,
    now: Instant,
    instance: str,
    ask: LeaseAsk,
    terms: Terms | None,
    why: LeaseholdError,
) -> LeaseRefused:
    detail: dict[str, object] = {
        "instance": instance,
        "key": key_id(ask.key_hash),
        "sequence": ask.sequence,
        "code": why.code,
    }
    if terms is not None:
        detail |= {"lease": terms.lease, "settled": terms.settling}
    audit.append(tx, now=now, actor=f"instance:{instance}", kind="lease.refuse", detail=detail)
    known = terms is not None and not isinstance(why, UnknownKey)
    return LeaseRefused(
        ask.sequence,
        ask.key_hash,
        Problem(why.code, why.message),
        budget_of(terms.path.grant) if terms is not None and known else None,
    )


def _refused(ask: LeaseAsk, why: LeaseholdError) -> LeaseRefused:
    return LeaseRefused(ask.sequence, ask.key_hash, Problem(why.code, why.message))
