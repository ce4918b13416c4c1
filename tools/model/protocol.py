"""The protocol as a state machine: one ledger, three enclaves, and wires that lose, double and reorder.

What units do is the code's own (`core.accounts`: `Account` and `size_lease`); around it stand the rules of
docs/spec/metering.md, M-3, M-5, M-7 and docs/spec/ledger.md, L-6 to L-8, each as one function from a state to
the next. Time is left out: whatever time may do, such as a write-off, may happen at any moment. A message is
in the set of what was ever sent, and may arrive at any moment, any number of times, or never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from leasehold.core.accounts import Account, size_lease
from leasehold.core.lease import LeasePolicy
from leasehold.core.units import Units

GRANTED: Final = 3
ANEW: Final = 1  # units that are granted anew after a restore
POLICY: Final = LeasePolicy(exact=True)
NEED: Final = 2

_FRESH: Final = Account(Units(GRANTED))

LeaseId = tuple[int, int]  # epoch, number


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as the ledger has it."""

    id: LeaseId
    owner: int
    granted: int
    settled: int = 0
    state: Literal["open", "closed", "written_off"] = "open"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is durable. `answers` are (instance, sequence, lease id, total) that were given."""

    account: Account = _FRESH
    leases: tuple[Lease, ...] = ()
    answers: tuple[tuple[int, int, LeaseId, int], ...] = ()
    epoch: int = 1
    number: int = 0
    stopped: bool = False
    ended: frozenset[int] = frozenset()  # instances that a stop found


@dataclass(frozen=True, slots=True)
class Enclave:
    """One running instance, in memory only. `epoch` is that of its attestation."""

    instance: int
    epoch: int
    asked: int = 0
    lease: LeaseId | None = None
    granted: int = 0
    spent: int = 0
    dropped: frozenset[LeaseId] = frozenset()
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """Anything that was ever said. `kind`: ask, grant, close, stop."""

    kind: str
    instance: int
    sequence: int = 0
    lease: LeaseId | None = None
    units: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A moment. The last five are the observer's: what was served, what was ever durable or granted."""

    ledger: Ledger = Ledger()
    backup: Ledger | None = None
    enclaves: tuple[Enclave, ...] = ()
    sent: frozenset[Message] = frozenset()
    instances: int = 0
    stops: int = 0
    restores: int = 0
    served: tuple[tuple[LeaseId, int], ...] = ()
    durable: tuple[tuple[LeaseId, int, int], ...] = ()  # id, owner, the most that was granted
    ever: int = GRANTED
    bound: int | None = None  # of the stop in force
    after_stop: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's decisions that a weakening turns off, one at a time."""

    debit_first: bool = True
    merge_by_maximum: bool = True
    drop_forgotten: bool = True
    write_off_burns: bool = True
    restore_raises_epoch: bool = True
    restore_burns_available: bool = True
    stop_refuses: bool = True
    close_tells_all: bool = True
    spend_within_lease: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """How far to go: what makes the space finite."""

    enclaves: int = 3
    asks: int = 1  # of each instance
    instances: int = 4
    stops: int = 1
    restores: int = 1


Step = tuple[str, State]


def steps(s: State, rules: Rules, limits: Limits) -> Iterator[Step]:
    """Everything that may happen next, with its name."""
    yield from _hosts(s, limits)
    for at, enclave in enumerate(s.enclaves):
        yield from _enclave(s, at, enclave, rules, limits)
    for message in s.sent:
        yield from _arrive(s, message, rules)
    yield from _custodian(s, rules, limits)


# Hosts -------------------------------------------------------------------------------------------


def _hosts(s: State, limits: Limits) -> Iterator[Step]:
    if (
        len(s.enclaves) < limits.enclaves
        and s.instances < limits.instances
        and not s.ledger.stopped
    ):
        new = Enclave(s.instances + 1, s.ledger.epoch)
        yield (
            f"instance {new.instance} attests",
            replace(s, enclaves=(*s.enclaves, new), instances=new.instance),
        )
    for at, enclave in enumerate(s.enclaves):
        rest = (*s.enclaves[:at], *s.enclaves[at + 1 :])
        yield f"instance {enclave.instance} dies", replace(s, enclaves=rest)


# Enclaves ----------------------------------------------------------------------------------------


def _enclave(s: State, at: int, e: Enclave, rules: Rules, limits: Limits) -> Iterator[Step]:
    if e.stopped:
        return
    if e.asked < limits.asks:
        ask = Message("ask", e.instance, e.asked + 1, e.lease, e.spent)
        yield f"{e.instance} asks", _say(_put(s, at, replace(e, asked=e.asked + 1)), ask)
    if e.lease is None:
        return
    if e.spent < e.granted or (not rules.spend_within_lease and e.spent < e.granted + 1):
        yield f"{e.instance} serves a unit", _serve(s, at, e)
    said = e.spent if rules.close_tells_all else 0
    close = Message("close", e.instance, 0, e.lease, said)
    dropped = e.dropped | {e.lease} if rules.drop_forgotten else e.dropped
    idle = replace(e, lease=None, granted=0, spent=0, dropped=dropped)
    yield f"{e.instance} closes its lease", _say(_put(s, at, idle), close)


def _serve(s: State, at: int, e: Enclave) -> State:
    assert e.lease is not None  # noqa: S101  the caller looked
    served = dict(s.served)
    served[e.lease] = served.get(e.lease, 0) + 1
    known = any(lease.id == e.lease for lease in s.ledger.leases)
    return replace(
        _put(s, at, replace(e, spent=e.spent + 1)),
        served=tuple(sorted(served.items())),
        after_stop=s.after_stop + (s.bound is not None and known),
    )


# Messages ----------------------------------------------------------------------------------------


def _arrive(s: State, m: Message, rules: Rules) -> Iterator[Step]:
    match m.kind:
        case "ask":
            yield from _answer(s, m, rules)
        case "close":
            yield from _close(s, m)
        case "grant" | "stop":
            for at, enclave in enumerate(s.enclaves):
                if enclave.instance == m.instance:
                    heard = _hear(enclave, m, rules)
                    if heard != enclave:
                        yield f"{m.instance} hears {m.kind}", _put(s, at, heard)


def _hear(e: Enclave, m: Message, rules: Rules) -> Enclave:
    """M-3, M-5, M-7: totals merge by maximum; what was dropped or stopped stays so."""
    if m.kind == "stop":
        return replace(e, stopped=True)
    if e.stopped or m.lease in e.dropped:
        return e
    if e.lease not in (None, m.lease):
        return e
    total = max(e.granted, m.units) if rules.merge_by_maximum else min(e.granted + m.units, 9)
    return replace(e, lease=m.lease, granted=total)


def _answer(s: State, m: Message, rules: Rules) -> Iterator[Step]:
    """M-3: the same ask gets the same answer; a new one is debited before it is answered."""
    ledger = s.ledger
    if rules.stop_refuses and (ledger.stopped or m.instance in ledger.ended):
        return
    given = [a for a in ledger.answers if a[:2] == (m.instance, m.sequence)]
    if given:
        _, _, lease, total = given[0]
        yield f"the answer to {m.instance} again", _say(s, _grant(m, lease, total))
        return
    account = ledger.account
    mine = [one for one in ledger.leases if one.owner == m.instance and one.state == "open"]
    units = size_lease(
        POLICY,
        least=Units(1),
        need=Units(NEED),
        rate=0,
        held=Units(0),
        available=account.available,
        outstanding=account.outstanding,
        instances=1,
    )
    if units is None:
        return
    if rules.debit_first:
        account = account.lease(units)
    if mine:
        lease = replace(mine[0], granted=mine[0].granted + units)
        leases = tuple(lease if one.id == lease.id else one for one in ledger.leases)
    else:
        lease = Lease((ledger.epoch, ledger.number + 1), m.instance, units)
        leases = (*ledger.leases, lease)
    kept = (m.instance, m.sequence, lease.id, lease.granted)
    after = replace(
        ledger,
        account=account,
        leases=leases,
        number=max(ledger.number, lease.id[1]),
        answers=(*ledger.answers, kept),
    )
    durable = {one[0]: one for one in s.durable}
    before = durable.get(lease.id, (lease.id, lease.owner, 0))
    durable[lease.id] = (lease.id, before[1], max(before[2], lease.granted))
    told = replace(s, ledger=after, durable=tuple(sorted(durable.values())))
    if before[1] != lease.owner:  # two instances hold it: remember the thief for the invariant
        told = replace(told, durable=(*told.durable, (lease.id, lease.owner, lease.granted)))
    yield f"the ledger grants {m.instance} {units}", _say(told, _grant(m, lease.id, lease.granted))


def _grant(ask: Message, lease: LeaseId, total: int) -> Message:
    return Message("grant", ask.instance, ask.sequence, lease, total)


def _close(s: State, m: Message) -> Iterator[Step]:
    """M-5: settle the final count, return the rest; after a write-off it changes nothing."""
    for lease in s.ledger.leases:
        if lease.id != m.lease or lease.owner != m.instance:
            continue
        if lease.state != "open":
            continue
        account = s.ledger.account
        rest = lease.granted - lease.settled
        spent = min(m.units, rest)
        account = account.settle(Units(spent)).release(Units(rest - spent))
        closed = replace(lease, settled=lease.settled + spent, state="closed")
        yield f"the close of {m.instance} is noted", _ledger(s, account, closed)


# The custodian -----------------------------------------------------------------------------------


def _custodian(s: State, rules: Rules, limits: Limits) -> Iterator[Step]:
    ledger = s.ledger
    for lease in ledger.leases:
        if lease.state == "open":
            rest = Units(lease.granted - lease.settled)
            move = ledger.account.write_off if rules.write_off_burns else ledger.account.release
            gone = replace(lease, state="written_off")
            yield f"lease {lease.id} is written off", _ledger(s, move(rest), gone)
    if s.stops < limits.stops and not ledger.stopped:
        yield "everything is stopped", _stop(s)
    if ledger.stopped:
        lifted = replace(ledger, stopped=False)
        yield "the stop is lifted", replace(s, ledger=lifted, bound=None, after_stop=0)
    if s.backup is None and ledger.leases and s.restores < limits.restores:
        yield "a backup is taken", replace(s, backup=ledger)
    if s.backup is not None and s.restores < limits.restores:
        yield "the backup is put back", _restore(s, s.backup, rules)


def _stop(s: State) -> State:
    """M-7: in the ledger first; what may still be served is known in that moment."""
    found = frozenset(range(1, s.instances + 1))
    ledger = replace(s.ledger, stopped=True, ended=s.ledger.ended | found)
    told = s.sent | {Message("stop", instance) for instance in found}
    doubt = sum(one.granted - one.settled for one in ledger.leases if one.state != "closed")
    return replace(s, ledger=ledger, sent=told, stops=s.stops + 1, bound=doubt, after_stop=0)


def _restore(s: State, backup: Ledger, rules: Rules) -> State:
    """L-8: a new epoch, everything stopped, what is out and what is available burned; then granted anew."""
    account, leases = backup.account, []
    for lease in backup.leases:
        gone = lease
        if lease.state == "open":
            account = account.write_off(Units(lease.granted - lease.settled))
            gone = replace(lease, state="written_off")
        leases.append(gone)
    if rules.restore_burns_available:
        account = account.extend(Units(-account.available))
    epoch = max(backup.epoch, s.ledger.epoch) + 1 if rules.restore_raises_epoch else backup.epoch
    everybody = frozenset(range(1, s.instances + 1))
    ledger = replace(
        backup,
        account=account.extend(Units(ANEW)),
        leases=tuple(leases),
        epoch=epoch,
        stopped=True,
        ended=everybody,
    )
    return replace(
        s, ledger=ledger, restores=s.restores + 1, ever=s.ever + ANEW, bound=None, after_stop=0
    )


# Small changes -----------------------------------------------------------------------------------


def _put(s: State, at: int, enclave: Enclave) -> State:
    return replace(s, enclaves=(*s.enclaves[:at], enclave, *s.enclaves[at + 1 :]))


def _say(s: State, message: Message) -> State:
    return replace(s, sent=s.sent | {message})


def _ledger(s: State, account: Account, lease: Lease) -> State:
    leases = tuple(lease if one.id == lease.id else one for one in s.ledger.leases)
    return replace(s, ledger=replace(s.ledger, account=account, leases=leases))


def broken(s: State) -> str | None:
    """Which invariant of docs/security/invariants.md does not hold in this moment, if any."""
    served = dict(s.served)
    if sum(served.values()) > s.ever:
        return f"1: {sum(served.values())} units served, {s.ever} ever granted"
    if min(s.ledger.account.available, s.ledger.account.outstanding) < 0:
        return f"1: {s.ledger.account}"
    most = {one[0]: one[2] for one in s.durable}
    for lease, units in served.items():
        if units > most.get(lease, 0):
            return f"2: lease {lease} served {units}, durable were {most.get(lease, 0)}"
    if s.bound is not None and s.after_stop > s.bound:
        return f"4: {s.after_stop} units after a stop that bounded them to {s.bound}"
    if len({one[0] for one in s.durable}) != len(s.durable):
        return "7: a lease id was given twice"
    return None
