"""Who sees everything and believes nobody: the invariants, checked where things happen.

Spec: docs/spec/simulation.md, Z-3; the numbers are those of docs/security/invariants.md. What was served
is counted from what left an enclave, what was granted from what is durable, never from what either says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from leasehold.core import merkle, trees
from leasehold.core.encoding import from_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import (
    FromCustodian,
    FromEnclave,
    LeaseAsk,
    LeaseGranted,
    StopOrder,
    StopReason,
)
from leasehold.core.statements import Signed
from leasehold.core.units import SECOND
from leasehold.custodian.ledger import audit, books, stops
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadMessage, LeaseholdError, codes
from leasehold.testing.box import Box
from leasehold.testing.simulation.stopping import Stopping

SLACK_SECONDS: Final = 0.05  # between a message's arrival and the enclave's reading it
CANARY: Final = "canary7f3a"  # in every prompt
_LEASES: Final = """
SELECT e.number, e.epoch, e.instance, k.hash, e.consumer, e.granted, e.settled, e.released, e.state,
       e.expires
FROM leases e JOIN keys k ON k.id = e.key
"""
_GRANTS: Final = """
SELECT g.consumer, a.granted, a.settled + a.written_off FROM grants g JOIN accounts a ON a.id = g.account
"""
_CODES: Final = frozenset(codes())
_LOANS: Final = "SELECT a.granted FROM loans l JOIN accounts a ON a.id = l.account"

Who = tuple[str, bytes]  # an instance and the hash of a key


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: int, told: str) -> None:
        super().__init__(f"invariant {invariant}: {told}")
        self.invariant, self.told = invariant, told

    def __reduce__(self) -> tuple[type[Violation], tuple[int, str]]:
        """So that it comes back from the process that lived the day."""
        return Violation, (self.invariant, self.told)


@dataclass(slots=True)
class _Lease:
    """A lease as it was ever durable, also in a past that a restore forgot."""

    owner: Who
    consumer: str
    granted: int = 0
    released: int = 0
    expires: int = 0


@dataclass(slots=True)
class Sight:
    """What is known of one enclave from outside."""

    box: Box
    turned: bool = False  # its clock is a lie
    rogue: bool = False  # it says what no honest enclave says
    deaf: bool = False  # its host drops every order to stop
    old: bool = False  # it was there before the ledger was put back
    stopped: float | None = None  # when an order reached it
    drained: float | None = None  # when one with a drain did
    drained_until: float = 0.0  # by the earliest of those
    consumers: dict[str, float] = field(default_factory=dict)  # likewise, by consumer
    told: set[int] = field(default_factory=set)  # the stops that it was sent an order of
    asked: dict[int, float] = field(default_factory=dict)  # when each lease was asked for
    live: dict[bytes, float] = field(default_factory=dict)  # until when each key's lease lives


@dataclass(slots=True)
class Observer:
    """Checks the invariants; the first one that does not hold stays in `violation`."""

    policy: LeasePolicy
    seen: dict[str, Sight] = field(default_factory=dict)
    violation: Violation | None = None
    served: Counter[Who] = field(default_factory=Counter)
    by_consumer: Counter[str] = field(default_factory=Counter)
    ever: Counter[str] = field(default_factory=Counter)  # granted, and never taken back in vain
    ever_cap: int = 0
    events: Counter[str] = field(default_factory=Counter)
    story: list[tuple[float, str, str]] = field(default_factory=list)
    _leases: dict[str, _Lease] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)
    _granted: Counter[str] = field(default_factory=Counter)
    _cap: int = 0
    stopping: Stopping = field(init=False)
    _epoch: int = 0
    _last_lease: int = 0  # the highest number of a lease that was looked at
    _size: int = 0
    _frontier: list[tuple[int, bytes]] = field(default_factory=list)
    _restoring: bool = False

    def __post_init__(self) -> None:
        self.stopping = Stopping(self.fail, self.tell)

    # What happens --------------------------------------------------------------------------------

    def tell(self, kind: str, detail: str = "") -> None:
        """Put an event into the story of this day."""
        self.events[kind] += 1
        self.story.append((round(_time(), 6), kind, detail))

    def fail(self, invariant: int, told: str) -> None:
        """Remember the first violation."""
        if self.violation is None:
            self.violation = Violation(invariant, f"{told} (at {_time():.3f} s)")

    def met(self, box: Box) -> Sight:
        """Watch an enclave from its boot on."""
        sight = self.seen[box.enclave.instance] = Sight(box)

        def tap(message: bytes, *, up: bool) -> bool:
            return self._passes(sight, message, up=up)

        def spy(message: bytes, *, up: bool) -> None:
            if up and b'"lease-ask"' in message:
                said: FromEnclave = from_json(message, FromEnclave)
                if isinstance(said, LeaseAsk):
                    sight.asked.setdefault(said.sequence, _time())
            elif not up and b'"stop-order"' in message:
                order: FromCustodian = from_json(message, FromCustodian)
                if isinstance(order, StopOrder):
                    sight.told.add(from_json(order.statement.payload, StopReason).stop)

        box.wire.tap, box.wire.spy = tap, spy
        return sight

    def _passes(self, sight: Sight, message: bytes, *, up: bool) -> bool:
        if up:
            if CANARY.encode() in message:
                self.fail(9, "a prompt went to the custodian")
            return True
        try:
            said: FromCustodian | None = from_json(message, FromCustodian)
        except BadMessage:  # the custodian's complaint about a message, before it hangs up
            said = None
        match said:
            case StopOrder(statement=Signed(payload=payload)):
                if sight.deaf:
                    return False
                self._ordered(sight, from_json(payload, StopReason))
            case LeaseGranted():
                self._told(sight, said)
        return True

    def _ordered(self, sight: Sight, reason: StopReason) -> None:
        if reason.mode == "drain":
            until = _time() + reason.left / SECOND
            if sight.drained is None:
                sight.drained, sight.drained_until = _time(), until
            sight.drained_until = min(sight.drained_until, until)
        elif reason.scope == "consumer":
            watch = self.stopping.watches.get(reason.stop)
            if watch is not None:  # one that was lifted meanwhile stops nobody for long
                sight.consumers.setdefault(reason.target, _time())
        elif sight.stopped is None:
            sight.stopped = _time()

    def _told(self, sight: Sight, said: LeaseGranted) -> None:
        """Invariant 2: what an enclave is told was durable before."""
        lease = self._leases.get(said.lease)
        owner = (sight.box.enclave.instance, said.key_hash)
        if said.sequence in sight.asked:
            until = sight.asked[said.sequence] + said.ttl / SECOND
            sight.live[said.key_hash] = max(until, sight.live.get(said.key_hash, 0.0))
        if lease is None or lease.granted < said.granted:
            held = None if lease is None else lease.granted
            self.fail(2, f"lease {said.lease}: told {said.granted}, durable {held}")
        elif lease.owner != owner:
            self.fail(7, f"lease {said.lease} was told to two enclaves or keys")

    def serve(self, box: Box, key_hash: bytes, consumer: str, units: int, *, since: float) -> None:
        """So much has just left an enclave for a consumer who asked at `since` (invariants 1 to 5)."""
        if not units:
            return
        sight, owner = self.seen[box.enclave.instance], (box.enclave.instance, key_hash)
        self.served[owner] += units
        self.by_consumer[consumer] += units
        self._check_covered(owner)
        if self.by_consumer[consumer] > self.ever[consumer]:
            self.fail(
                1, f"{consumer}: served {self.by_consumer[consumer]} of {self.ever[consumer]}"
            )
        if self.by_consumer.total() > self.ever_cap:
            self.fail(1, f"the loan: served {self.by_consumer.total()} of {self.ever_cap}")
        if not (sight.old or sight.rogue):  # who said too much before may serve it after
            self.stopping.serve(box, consumer, units)
        self._check_time(sight, key_hash, consumer, since)

    def _check_time(self, sight: Sight, key_hash: bytes, consumer: str, since: float) -> None:
        now = _time()
        if sight.drained is not None:
            if since > sight.drained + SLACK_SECONDS:
                self.fail(4, f"admitted {since - sight.drained:.3f} s after the order to drain")
            if not sight.turned and now > sight.drained_until + SLACK_SECONDS:
                self.fail(4, f"served {now - sight.drained_until:.3f} s after the end of a drain")
        stopped = sight.stopped if sight.stopped is not None else sight.consumers.get(consumer)
        if stopped is not None and now > stopped + SLACK_SECONDS:
            self.fail(4, f"served {now - stopped:.3f} s after the order to stop had come")
        late = now - sight.live.get(key_hash, 0.0)
        if not sight.turned and late > SLACK_SECONDS:
            self.fail(5, f"served {late:.3f} s after the end of a lease that nobody renewed")

    def _check_covered(self, owner: Who) -> None:
        """Invariants 2 and 3: what was served is at most what durable leases hold or held."""
        covered = sum(
            lease.granted - lease.released
            for lease in self._leases.values()
            if lease.owner == owner
        )
        if self.served[owner] > covered and not self.seen[owner[0]].rogue:
            self.fail(3, f"{owner[0][:8]}: served {self.served[owner]}, leased {covered}")

    def answered(self, status: int, code: str | None) -> None:
        """Invariant 10: every refusal has a reason."""
        self.events[f"answer {status} {code or ''}".strip()] += 1
        if (status >= 400 or code is not None) and code not in _CODES:
            self.fail(10, f"an answer {status} with code {code!r}")
        if status == 0 or code == "internal_error":
            self.fail(10, f"an answer {status} {code}")

    # The ledger ----------------------------------------------------------------------------------

    def committed(self, tx: Tx) -> None:
        """Look at the ledger after a commit: nothing may change that the log does not tell."""
        size: int = tx.execute("SELECT size FROM log_head")[0][0]
        if size == self._size and not self._restoring:
            return
        self._look_at_log(tx)
        self._look_at_leases(tx)
        self._look_at_grants(tx)
        self._look_at_stops(tx)

    def _look_at_log(self, tx: Tx) -> None:
        """Invariant 8: the log is what it was, and more."""
        epoch: int = tx.execute("SELECT value FROM meta WHERE name = 'epoch'")[0][0]
        if epoch < self._epoch:
            self.fail(7, f"epoch {epoch} after {self._epoch}")
        if epoch > self._epoch:
            self._last_lease = 0  # numbers may come again
        self._epoch = epoch
        for leaf in audit.leaves(tx, start=self._size, count=10_000):
            trees.push(self._frontier, merkle.leaf_hash(leaf))
            self._size += 1
        if audit.head(tx) != (self._size, trees.frontier_root(self._frontier)):
            self.fail(8, f"the log's head at {self._size} entries")

    def _look_at_leases(self, tx: Tx) -> None:
        rows = tx.execute(_LEASES + "WHERE e.state = 'open'")
        gone = self._open - {row[0] for row in rows}
        self._open = {row[0] for row in rows}
        for number in gone:
            rows += tx.execute(_LEASES + "WHERE e.number = ?", (number,))
        # Given and ended in one commit: the acts of a group need not be of one moment.
        rows += tx.execute(
            _LEASES + "WHERE e.number > ? AND e.state <> 'open'", (self._last_lease,)
        )
        self._last_lease = max([self._last_lease, *(row[0] for row in rows)])
        held = sum(row[5] - row[6] for row in rows if row[8] == "open")
        if held > self.policy.outstanding_max:
            self.fail(4, f"{held} units are out, the loan allows {self.policy.outstanding_max}")
        usages: dict[str, dict[str, int]] = {}
        for (
            number,
            epoch,
            instance,
            key_hash,
            consumer,
            granted,
            settled,
            released,
            _,
            until,
        ) in rows:
            owner, name = (instance, key_hash), f"{epoch}-{number}"
            if instance not in usages:
                usages[instance] = self._usage(instance)
            usage = usages[instance]
            if name in usage and settled > usage[name]:
                self.fail(2, f"lease {name}: settled {settled}, served {usage[name]}")
            lease = self._leases.setdefault(name, _Lease(owner, consumer))
            if lease.owner != owner:
                self.fail(7, f"lease id {name} was used twice")
            if granted > lease.granted or until > lease.expires:
                later = until if until > lease.expires else 0
                self.stopping.lease(tx, name, instance, consumer, until=later)
            lease.granted, lease.expires = max(lease.granted, granted), max(lease.expires, until)
            if released > lease.released:
                lease.released = released
                if instance in self.seen:
                    self._check_covered(owner)

    def _usage(self, instance: str) -> dict[str, int]:
        """Invariant 2, from the other side: nobody is charged for what no enclave says it served."""
        sight = self.seen.get(instance)
        if sight is None or sight.rogue:
            return {}
        return {one.lease: one.spent for one in sight.box.enclave.meter.usage()}

    def _look_at_grants(self, tx: Tx) -> None:
        for consumer, granted, spent in tx.execute(_GRANTS):
            if spent > granted:
                self.fail(1, f"{consumer}: spent {spent} of {granted}")
            step = granted - self._granted[consumer]
            self._granted[consumer] = granted
            self.ever[consumer] += 0 if self._restoring else step
        for (granted,) in tx.execute(_LOANS):
            self.ever_cap += 0 if self._restoring else granted - self._cap
            self._cap = granted

    def _look_at_stops(self, tx: Tx) -> None:
        known: set[int] | None = None
        for stop in self.stopping.look(tx):
            if known is None:
                known = {one.id for one in stops.list_stops(tx) if one.lifted is not None}
            if stop.id not in known and not self._restoring:
                self.fail(6, f"stop {stop.id} is gone")
            if stop.scope == "consumer":
                for sight in self.seen.values():
                    sight.consumers.pop(stop.target, None)

    def check_books(self, tx: Tx) -> None:
        """Invariants 1 and 8 in full: accounts, leases and log say the same."""
        try:
            books.check_books(tx)
            books.check_replay(tx)
            audit.check_log(tx)
        except LeaseholdError as wrong:
            self.fail(8, f"{wrong.code}: {wrong.message}")

    def restoring(self) -> None:
        """An old backup is put back; what it forgets stays counted here."""
        self._restoring = True
        self._size, self._frontier = 0, []
        self._open = set()
        self._granted, self._cap = Counter(), 0
        self.stopping.forget()
        for sight in self.seen.values():
            sight.old = True

    def restored(self, tx: Tx, *, epoch: int) -> None:
        """The restore is over. Invariant 6: a new epoch, all stopped, nothing available."""
        self._restoring = False
        if epoch <= self._epoch_before():
            self.fail(7, f"epoch {epoch} after a restore")
        if not any(stop.scope == "all" for stop in stops.list_stops(tx, active=True)):
            self.fail(6, "a restore left the loan running")
        if self._open:
            self.fail(6, "a restore left leases open")
        for consumer, granted, spent in tx.execute(_GRANTS):
            if granted != spent:
                self.fail(6, f"a restore left {consumer} {granted - spent} units")

    def _epoch_before(self) -> int:
        return max((int(name.partition("-")[0]) for name in self._leases), default=0)

    def finish(self) -> None:
        """What must hold when the day is over."""
        for sight in self.seen.values():
            if any(CANARY in str(fields) for _, fields in sight.box.log.said):
                self.fail(9, "a prompt is in an enclave's log")
            if "mistake" in sight.box.log.names():
                self.fail(10, f"an enclave made a mistake: {sight.box.log.said}")
        held: Counter[str] = Counter()
        for sight in self.seen.values():
            held.update({usage.lease: 1 for usage in sight.box.enclave.meter.usage()})
        twice = [lease for lease, count in held.items() if count > 1]
        if twice:
            self.fail(7, f"leases held by two enclaves: {twice}")


def _time() -> float:
    return asyncio.get_running_loop().time()
