"""What a batch of lease asks rests on: read at once, changed in memory, written at once (M-3, L-15).

The asks of a batch are answered one after another, each on what those before it left; what they change is
on disk with the batch's transaction, or nothing of it is. Refuses to know: what is granted, and why not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from leasehold.core.accounts import Account
from leasehold.core.encoding import from_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import Budget
from leasehold.core.units import Instant, Units
from leasehold.custodian.ledger import accounts, answers, audit
from leasehold.custodian.ledger.checks import next_number
from leasehold.custodian.ledger.instances import State, speech_refusal
from leasehold.custodian.ledger.leases import lease_id
from leasehold.custodian.store.port import Tx, many
from leasehold.errors import LeaseholdError

_ASKERS: Final = """
WITH q (instance) AS (VALUES (?)),
     lent (loan, live) AS (
         SELECT loan, COUNT(*) FROM instances
         WHERE state = 'live'
               AND loan IN (SELECT loan FROM instances WHERE id IN (SELECT instance FROM q))
         GROUP BY loan)
SELECT DISTINCT i.id, i.state, i.epoch, i.evidence_expires, i.refusal, l.name, l.state, l.policy,
       l.account, (SELECT value FROM meta WHERE name = 'epoch'), COALESCE(n.live, 0), i.floor,
       (SELECT MAX(sequence) FROM answers WHERE instance = i.id AND kind = 'lease')
FROM q JOIN instances i ON i.id = q.instance JOIN loans l ON l.name = i.loan
LEFT JOIN lent n ON n.loan = i.loan
"""
_HOLDERS: Final = """
WITH q (instance, loan, hash) AS (VALUES (?, ?, ?))
SELECT q.instance, q.hash, k.id, k.consumer, k.revoked, g.account, c.account,
       e.number, e.epoch, e.granted, e.settled, e.claimed, e.expires
FROM q JOIN keys k ON k.hash = q.hash
LEFT JOIN grants g ON g.loan = q.loan AND g.consumer = k.consumer
LEFT JOIN key_caps c ON c.loan = q.loan AND c.key = k.id
LEFT JOIN leases e ON e.instance = q.instance AND e.key = k.id AND e.state = 'open'
"""
_GIVEN: Final = """
WITH q (instance, sequence) AS (VALUES (?, ?))
SELECT r.instance, r.sequence, r.request, r.answer
FROM q JOIN answers r ON r.instance = q.instance AND r.kind = 'lease' AND r.sequence = q.sequence
"""
_STOPS: Final = """
WITH q (scope, target) AS (VALUES (?, ?))
SELECT DISTINCT s.scope, s.target, s.phase, s.begins, s.ends
FROM q JOIN stops s ON s.scope = q.scope AND s.target = q.target AND s.lifted IS NULL
"""
_OPEN: Final = """
INSERT INTO leases (number, epoch, instance, loan, consumer, key, granted, settled, released, written_off,
                    claimed, state, opened, expires)
VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 'open', ?, ?)
"""
_CHANGE: Final = """
WITH q (granted, settled, claimed, expires, number) AS (VALUES (?, ?, ?, ?, ?))
UPDATE leases SET granted = q.granted, settled = q.settled, claimed = q.claimed, expires = q.expires
FROM q WHERE leases.number = q.number
"""

Pair = tuple[str, bytes]  # instance, key hash
Asks = Iterable[tuple[str, bytes, int]]  # instance, key hash, sequence


class Asker(msgspec.Struct, frozen=True):
    """An instance and its loan."""

    id: str
    state: State
    epoch: int
    evidence_expires: Instant
    refusal: str
    loan: str
    loan_state: str
    policy: bytes
    account: int
    ledger_epoch: int
    live: int

    def silence(self, now: Instant) -> LeaseholdError | None:
        """Why it may not act; see `speech_refusal`."""
        return speech_refusal(
            self.state,
            current=self.epoch == self.ledger_epoch,
            evidence_expires=self.evidence_expires,
            refusal=self.refusal,
            now=now,
        )


class Holder(msgspec.Struct, frozen=True):
    """A key and whose it is."""

    key: str
    consumer: str
    revoked: Instant | None


class Held(msgspec.Struct, frozen=True):
    """A lease that is open for an instance and a key."""

    number: int
    epoch: int
    granted: Units
    settled: Units
    claimed: Units
    expires: Instant

    @property
    def id(self) -> str:
        """What it is called everywhere."""
        return lease_id(self.epoch, self.number)

    @property
    def outstanding(self) -> Units:
        """What may still be served."""
        return Units(self.granted - self.settled)


class Node:
    """An account: as it was read, and what it has by now. `moved` does the same with `core.lease`'s checks."""

    __slots__ = ("available", "number", "outstanding", "settled", "was")

    def __init__(self, number: int, account: Account) -> None:
        self.number, self.was = number, account
        self.available: int = account.available
        self.outstanding: int = account.outstanding
        self.settled: int = account.settled

    @property
    def moved(self) -> Account:
        """The account as it is to be stored. Raises BudgetExhausted, Conflict: never where all went right."""
        settled = Units(self.settled - self.was.settled)
        leased = Units(self.outstanding - self.was.outstanding + settled)
        return self.was.lease(leased).settle(settled)


class Path:
    """The accounts that leases of some holders debit, from the loan's down; other paths share them."""

    __slots__ = ("nodes",)

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def available(self) -> Units:
        """What may be leased on the whole path."""
        least = self.nodes[0].available
        for node in self.nodes:
            if node.available < least:
                least = node.available
        return Units(least)

    @property
    def outstanding(self) -> Units:
        """What the whole loan has out in leases."""
        return Units(self.nodes[0].outstanding)

    @property
    def budget(self) -> Budget:
        """The consumer's grant, as the protocol shows it."""
        node = self.nodes[1]
        return Budget(
            node.was.granted,
            Units(node.available),
            Units(node.outstanding),
            Units(node.settled),
            node.was.written_off,
        )

    def lease(self, units: Units) -> None:
        """Move units from available to outstanding at every node."""
        for node in self.nodes:
            node.available -= units
            node.outstanding += units

    def settle(self, units: Units) -> None:
        """Move units from outstanding to settled at every node."""
        for node in self.nodes:
            node.outstanding -= units
            node.settled += units


class Sitting:
    """The ledger as a batch of asks sees and changes it. `write` brings the changes to the tables."""

    def __init__(self, tx: Tx, page: audit.Page, asks: Asks) -> None:
        """Read what these asks rest on, all at one moment. Their entries go to `page`."""
        self.tx, self.page = tx, page
        asked = list(asks)
        names = [(instance,) for instance in {one[0] for one in asked}]
        rows = tx.execute(*many(_ASKERS, names)) if names else []
        self.askers = {row[0]: Asker(*row[:11]) for row in rows}
        self.floors: dict[str, int] = {row[0]: row[11] for row in rows}
        newest: dict[str, int | None] = {row[0]: row[12] for row in rows}
        known = [one for one in asked if one[0] in self.askers]
        self.holders: dict[Pair, Holder] = {}
        self.paths: dict[Pair, Path] = {}
        self.leases: dict[Pair, Held] = {}
        self.given: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        self._stops: dict[tuple[str, str], tuple[str, Instant, Instant]] = {}
        self._nodes: dict[int, Node] = {}
        self._changed: dict[int, Held] = {}
        self._remembered: list[answers.Answer] = []
        if known:
            self._read(known, newest)

    def _read(
        self, known: Sequence[tuple[str, bytes, int]], newest: Mapping[str, int | None]
    ) -> None:
        execute, loan_of = self.tx.execute, {one.id: one.loan for one in self.askers.values()}
        pairs = {(instance, loan_of[instance], key_hash) for instance, key_hash, _ in known}
        paths: dict[Pair, tuple[int, ...]] = {}
        for row in execute(*many(_HOLDERS, list(pairs))):
            pair = row[0], row[1]
            self.holders[pair] = Holder(*row[2:5])
            if row[5] is not None:
                nodes = self.askers[row[0]].account, row[5], row[6]
                paths[pair] = nodes if row[6] is not None else nodes[:2]
            if row[7] is not None:
                self.leases[pair] = Held(*row[7:])
        again = [(one[0], one[2]) for one in known if one[2] <= (newest[one[0]] or 0)]
        for instance, sequence, request, answer in execute(*many(_GIVEN, again)) if again else ():
            self.given[instance, sequence] = (request, answer)
        subjects = {("all", "")}
        subjects |= {("loan", loan) for loan in loan_of.values()}
        subjects |= {("enclave", instance) for instance in loan_of}
        subjects |= {("consumer", one.consumer) for one in self.holders.values()}
        for scope, target, *when in execute(*many(_STOPS, list(subjects))):
            self._stops[scope, target] = (when[0], when[1], when[2])
        numbers = {number for path in paths.values() for number in path}
        for number, account in (accounts.load(self.tx, list(numbers)) if numbers else {}).items():
            self._nodes[number] = Node(number, account)
        shared = {path: Path([self._nodes[one] for one in path]) for path in set(paths.values())}
        self.paths = {pair: shared[path] for pair, path in paths.items()}

    def stopped(self, asker: Asker, holder: Holder | None, now: Instant) -> Instant | None:
        """When a stop of any of these ends service (L-14): 0 where one is in force or due, None without one."""
        if not self._stops:
            return None
        subjects = [("all", ""), ("loan", asker.loan), ("enclave", asker.id)]
        if holder is not None:
            subjects.append(("consumer", holder.consumer))
        found = [self._stops[one] for one in subjects if one in self._stops]
        return min(
            (
                ends if phase == "notice" and begins > now else Instant(0)
                for phase, begins, ends in found
            ),
            default=None,
        )

    def open(
        self,
        asker: Asker,
        holder: Holder,
        pair: Pair,
        *,
        units: Units,
        now: Instant,
        expires: Instant,
    ) -> Held:
        """A new lease."""
        number, epoch = next_number(self.tx, "lease"), asker.ledger_epoch
        held = self.leases[pair] = Held(number, epoch, units, Units(0), Units(0), expires)
        whose = (asker.id, asker.loan, holder.consumer, holder.key)
        self.tx.execute(_OPEN, (number, epoch, *whose, units, now, expires))
        return held

    def change(self, pair: Pair, held: Held) -> None:
        """An open lease is now like this."""
        self.leases[pair] = self._changed[held.number] = held

    def remember(self, instance: str, sequence: int, request: bytes, answer: bytes) -> None:
        """Keep the answer that an ask with this hash got."""
        self.given[instance, sequence] = (request, answer)
        self._remembered.append((instance, "lease", sequence, request, answer))

    def forget_old(self, asker: Asker, sequence: int) -> None:
        """Drop the oldest answers where there are many; see `answers.forget_old`."""
        if sequence - self.floors[asker.id] > answers.ANSWERS_MAX:
            self.floors[asker.id] = answers.forget_old(
                self.tx, instance=asker.id, sequence=sequence
            )

    def write(self) -> None:
        """Bring what has changed to the tables. Raises Conflict where the schema forbids it."""
        nodes = self._nodes.values()
        accounts.write(self.tx, {one.number: accounts.step(one.was, one.moved) for one in nodes})
        if self._changed:
            rows = [
                (one.granted, one.settled, one.claimed, one.expires, one.number)
                for one in self._changed.values()
            ]
            self.tx.execute(*many(_CHANGE, rows))
        if self._remembered:
            answers.remember_all(self.tx, self._remembered)


@lru_cache(maxsize=64)
def policy_of(stored: bytes) -> LeasePolicy:
    """A loan's policy as its row has it."""
    return from_json(stored, LeasePolicy)
