"""The meter of one enclave: purses of leased units, and tickets without which the engine can't run.

Spec: docs/spec/metering.md, M-5, M-6, M-8. Nothing here is stored, ever: a restart forgets it all, and
what it held is burned. Refuses to know: wires, requests, what a unit buys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from leasehold.core.messages import Budget, LeaseGranted, Usage
from leasehold.core.units import Instant, Units, after
from leasehold.errors import (
    BadMessage,
    BudgetExhausted,
    LeaseholdError,
    LeaseLapsed,
    LoanStopped,
)

RATE_WINDOW: Final = 1000  # milliseconds between two samples of the rate of use
RATE_MEMORY: Final = 10_000  # milliseconds that the rate so far weighs: answers come in bursts
RENEW_AGAIN: Final = 1000  # milliseconds until an unanswered renewal is asked for again


@dataclass(slots=True)
class Purse:
    """What one lease still holds, in memory only. Times are the enclave's monotonic clock."""

    lease: str
    consumer: str
    key_hash: bytes
    granted: Units
    spent: Units
    held: Units
    expires: Instant
    renew_at: Instant
    used_at: Instant
    budget: Budget
    unsent: Units = Units(0)  # spent on what has not left yet
    tickets: int = 0
    ended: LeaseholdError | None = None  # why nothing more may be spent from it
    receipt_head: bytes = b""
    ahead_at: Instant = Instant(0)  # when units ahead of need may be asked for again
    rate: int = 0  # units per 1,000 seconds
    sampled_at: Instant = Instant(0)
    sampled: Units = Units(0)

    @property
    def free(self) -> Units:
        """Units that no ticket holds."""
        return Units(self.granted - self.spent - self.held)


@dataclass(slots=True, eq=False)
class Ticket:
    """The permission to run one request. Only `Meter.admit` makes one.

    `held` are the units still reserved, `spent` those already spent under it, `unsent` those of them whose
    output has not left.
    """

    purse: Purse
    held: Units
    spent: Units = Units(0)
    unsent: Units = Units(0)
    open: bool = True

    def sent(self) -> None:
        """M-7: all that was spent has left, or never will: it may be reported."""
        self.purse.unsent = Units(self.purse.unsent - self.unsent)
        self.unsent = Units(0)


@dataclass(frozen=True, slots=True)
class Granted:
    """Units are held; the work may start."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Short:
    """The purse can't cover it: ask the custodian for at least `least` and rather `need` units."""

    least: Units
    need: Units


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and asking the custodian would not change it."""

    error: LeaseholdError


class Credit(Enum):
    """What became of a grant: taken, for a lease that was dropped, or for one nobody wanted.

    A stray lease was never spent from; its closing report says so and returns its units.
    """

    TAKEN = 1
    DROPPED = 2
    STRAY = 3


@dataclass(slots=True)
class Meter:
    """All purses of one instance, one per key."""

    _purses: dict[bytes, Purse] = field(default_factory=dict)
    _ending: list[Purse] = field(default_factory=list)
    _newest: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # per key, of any lease
    _stopped: dict[str, Instant] = field(default_factory=dict)  # consumer, when
    _epoch: int = 0
    over: LeaseholdError | None = None  # why nobody is admitted any more

    # What the custodian says ---------------------------------------------------------------------

    def credit(self, grant: LeaseGranted, *, asked_at: Instant | None, now: Instant) -> Credit:
        """M-3, M-5: take a grant in. `asked_at` is None for an answer that nobody waits for.

        Totals merge by maximum, so a doubled or late grant adds nothing, and an answer without a
        question adds no time. What was asked for before a stop is no grant after it. A key's leases
        are numbered upwards: an older one is one that was dropped, a newer one ends the one before.
        Raises BadMessage.
        """
        purse = self._purses.get(grant.key_hash)
        if purse is None or purse.lease != grant.lease:
            number = _number(grant.lease)
            if number <= self._newest.get(grant.key_hash, (0, 0)):
                return Credit.DROPPED
            self._newest[grant.key_hash] = number
            stopped_at = self._stopped.get(grant.consumer)
            is_late = asked_at is None or (stopped_at is not None and asked_at <= stopped_at)
            if self.over is not None or is_late or number[0] < self._epoch:
                return Credit.STRAY
            if purse is not None:
                self._end(purse, LeaseLapsed(about=f"lease {purse.lease}", got="a newer lease"))
            self._stopped.pop(grant.consumer, None)
            purse = self._open(grant, now=now)
        purse.granted = max(purse.granted, grant.granted)
        purse.budget = grant.budget
        if asked_at is not None and self.over is None:
            purse.expires = max(purse.expires, after(asked_at, grant.ttl))
            purse.renew_at = max(purse.renew_at, after(asked_at, grant.ttl // 2))
        return Credit.TAKEN

    def begin_epoch(self, epoch: int) -> None:
        """T28: leases of an epoch before this one are void; a restored ledger burned them."""
        self._epoch = epoch
        for purse in [p for p in self._purses.values() if _number(p.lease)[0] < epoch]:
            self._end(purse, LeaseLapsed(about=f"lease {purse.lease}", got="an older epoch"))

    def stop_consumer(self, consumer: str, *, now: Instant) -> None:
        """M-7: nothing more for this consumer, from now on and in the middle of a word."""
        self._stopped[consumer] = now
        for purse in [p for p in self._purses.values() if p.consumer == consumer]:
            self._end(purse, LoanStopped(about=f"consumer {consumer}"))

    def drain(self, why: LeaseholdError, *, until: Instant) -> None:
        """N-11: admit nobody, renew nothing; who was admitted may spend what is leased until `until`."""
        self.over = self.over or why
        for purse in self._purses.values():
            purse.expires = purse.renew_at = min(purse.expires, until)

    def stop_all(self, why: LeaseholdError) -> None:
        """M-7: nothing more for anybody, for ever."""
        self.over = self.over or why
        for purse in list(self._purses.values()):
            self._end(purse, why)

    # What requests do ----------------------------------------------------------------------------

    def admit(
        self, key_hash: bytes, *, least: Units, want: Units, now: Instant
    ) -> Granted | Short | Denied:
        """M-6: hold up to `want` units for a request, at least `least`."""
        if self.over is not None:
            return Denied(self.over)
        purse = self._purses.get(key_hash)
        if purse is None:
            return Short(least, want)
        if now >= purse.expires:
            return Short(Units(max(0, least - purse.free)), Units(max(0, want - purse.free)))
        if purse.free < least:
            return Short(Units(least - purse.free), Units(want - purse.free))
        units = Units(min(want, purse.free))
        purse.held = Units(purse.held + units)
        purse.tickets += 1
        purse.used_at = now
        return Granted(Ticket(purse, units))

    def top_up(self, ticket: Ticket, units: Units) -> Units:
        """Move up to `units` more from the purse to the ticket; tells how many it got."""
        if not ticket.open or ticket.purse.ended is not None:
            return Units(0)
        more = Units(min(units, ticket.purse.free))
        ticket.purse.held = Units(ticket.purse.held + more)
        ticket.held = Units(ticket.held + more)
        return more

    def spend(self, ticket: Ticket, units: Units, *, now: Instant) -> None:
        """M-6: take held units for output that is about to leave, or raise; nothing leaves unspent.

        Raises LoanStopped, LeaseLapsed, BudgetExhausted.
        """
        purse = ticket.purse
        if purse.ended is not None:
            raise purse.ended.again()
        if now >= purse.expires:
            raise self._lapse(purse)
        if not ticket.open or not 0 <= units <= ticket.held:
            raise BudgetExhausted(about="ticket", got=units, expected=f"<= {ticket.held} units")
        ticket.held = Units(ticket.held - units)
        ticket.spent = Units(ticket.spent + units)
        ticket.unsent = Units(ticket.unsent + units)
        purse.unsent = Units(purse.unsent + units)
        purse.held = Units(purse.held - units)
        purse.spent = Units(purse.spent + units)
        purse.used_at = now

    def settle(self, ticket: Ticket) -> Units:
        """M-6: end a ticket; what it still holds goes back to the purse. Tells what it spent."""
        if ticket.open:
            ticket.open = False
            ticket.purse.held = Units(ticket.purse.held - ticket.held)
            ticket.held = Units(0)
            ticket.purse.tickets -= 1
            ticket.sent()
        return ticket.spent

    # What the link needs -------------------------------------------------------------------------

    def purse(self, key_hash: bytes) -> Purse | None:
        """The purse of a key, where it has one."""
        return self._purses.get(key_hash)

    def spent(self, key_hash: bytes) -> Units:
        """The cumulative counter of the lease open for this key, 0 where there is none.

        M-7: without what is spent and has not left, so that a stop still finds it in what can be served.
        """
        purse = self._purses.get(key_hash)
        return Units(0) if purse is None else Units(purse.spent - purse.unsent)

    def usage(self) -> tuple[Usage, ...]:
        """Cumulative counters of all leases not yet dropped, as `spent` counts; of ended ones all of it."""
        live = [Usage(p.lease, Units(p.spent - p.unsent)) for p in self._purses.values()]
        return (*live, *(Usage(p.lease, p.spent) for p in self._ending))

    def rate(self, key_hash: bytes, *, now: Instant) -> int:
        """Units per 1,000 seconds that this key has used of late."""
        purse = self._purses.get(key_hash)
        if purse is None:
            return 0
        passed = now - purse.sampled_at
        if passed >= RATE_WINDOW:
            latest = (purse.spent - purse.sampled) * 1_000_000 // passed
            before = RATE_MEMORY if purse.rate else 0
            purse.rate = (purse.rate * before + latest * passed) // (before + passed)
            purse.sampled_at, purse.sampled = now, purse.spent
        return purse.rate

    def due(self, *, now: Instant, idle: int) -> list[bytes]:
        """Keys whose lease should be renewed now. Ends purses that lapsed or were idle for `idle` ms."""
        keys = []
        for purse in list(self._purses.values()):
            if now >= purse.expires:
                self._end(purse, self._lapse(purse))
            elif not purse.tickets and now - purse.used_at >= idle:
                self._end(purse, LeaseLapsed(about=f"lease {purse.lease}", got="idle"))
            elif now >= purse.renew_at:
                purse.renew_at = after(now, RENEW_AGAIN)
                keys.append(purse.key_hash)
        return keys

    def drop_ended(self) -> list[Purse]:
        """M-8: forget the ended purses that no ticket uses any more; their closing report is due."""
        done = [purse for purse in self._ending if not purse.tickets]
        self._ending = [purse for purse in self._ending if purse.tickets]
        return done

    def _open(self, grant: LeaseGranted, *, now: Instant) -> Purse:
        purse = Purse(
            grant.lease,
            grant.consumer,
            grant.key_hash,
            granted=Units(0),
            spent=Units(0),
            held=Units(0),
            expires=now,
            renew_at=now,
            used_at=now,
            budget=grant.budget,
            sampled_at=now,
        )
        self._purses[grant.key_hash] = purse
        return purse

    def _lapse(self, purse: Purse) -> LeaseholdError:
        return LeaseLapsed(about=f"lease {purse.lease}") if self.over is None else self.over.again()

    def _end(self, purse: Purse, why: LeaseholdError) -> None:
        purse.ended = why
        del self._purses[purse.key_hash]
        self._ending.append(purse)


def _number(lease: str) -> tuple[int, int]:
    """M-3: epoch and number of a lease id, which only ever grow. Raises BadMessage."""
    epoch, _, number = lease.partition("-")
    if not (epoch.isdecimal() and number.isdecimal()):
        raise BadMessage(about="lease id", got=lease, expected="EPOCH-NUMBER")
    return int(epoch), int(number)
