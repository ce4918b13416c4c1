"""Auditing the ledger against itself: accounts against leases, both against the log (kinds of A-3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from leasehold.core.accounts import Account
from leasehold.core.units import Units
from leasehold.custodian.ledger.audit import Entry, read_all
from leasehold.custodian.ledger.stops import PHASES
from leasehold.custodian.store.port import Tx
from leasehold.errors import BooksWrong, BudgetExhausted, Conflict

Name = tuple[str, ...]  # ("loan", L), ("grant", L, consumer) or ("key", L, key)
Terms = tuple[int, int, int]  # outstanding, settled, written off

_ACCOUNTS: Final = """
SELECT 'loan', l.name, '', a.id, a.parent, a.granted, a.outstanding, a.settled, a.written_off
FROM loans l JOIN accounts a ON a.id = l.account AND a.kind = 'loan'
UNION ALL
SELECT 'grant', g.loan, g.consumer, a.id, a.parent, a.granted, a.outstanding, a.settled,
       a.written_off
FROM grants g JOIN accounts a ON a.id = g.account AND a.kind = 'grant'
UNION ALL
SELECT 'key', c.loan, c.key, a.id, a.parent, a.granted, a.outstanding, a.settled, a.written_off
FROM key_caps c JOIN accounts a ON a.id = c.account AND a.kind = 'key'
"""
_LEASES: Final = """
SELECT number, loan, consumer, key, state, granted, settled, released, written_off FROM leases
"""
_REFUNDS: Final = """
SELECT l.epoch, l.number, l.settled + l.written_off, CAST(SUM(r.units) AS BIGINT)
FROM refunds r JOIN leases l ON l.number = r.lease
GROUP BY l.epoch, l.number, l.settled, l.written_off
"""
_PROPOSALS: Final = "SELECT id, digest, state, closed_by FROM proposals"
_STOPS: Final = "SELECT id, scope, target, begins, ends, phase, lifted FROM stops"


def check_books(tx: Tx) -> None:
    """Recompute every account from the lease rows (M-2) and raise BooksWrong with what differs."""
    accounts = stored_accounts(tx)
    total = tx.execute("SELECT COUNT(*) FROM accounts")[0][0]
    _compare("number of accounts", got=total, expected=len(accounts))
    sums: dict[Name, Terms] = dict.fromkeys(accounts, (0, 0, 0))
    for number, loan, consumer, key, state, granted, settled, released, lost in tx.execute(_LEASES):
        held = granted - settled - released - lost
        if held < 0 or min(settled, released, lost) < 0 or (state != "open" and held):
            raise BooksWrong(
                about=f"lease {number}", got=held, expected="nothing held, nothing owed"
            )
        path: tuple[Name, ...] = (("loan", loan), ("grant", loan, consumer), ("key", loan, key))
        for name in path:
            if name in sums:
                out, done, gone = sums[name]
                sums[name] = (out + held, done + settled, gone + lost)
            elif name[0] != "key":
                raise BooksWrong(about=f"lease {number}", got="no account", expected=name)
    for epoch, number, cost, refunded in tx.execute(_REFUNDS):
        if refunded > cost:
            raise BooksWrong(
                about=f"refunds of lease {epoch}-{number}", got=refunded, expected=f"<= {cost}"
            )
    for name, account in accounts.items():
        if min(account.available, account.outstanding, account.settled, account.written_off) < 0:
            raise BooksWrong(about=name, got=account, expected="no term below 0 (M-2)")
        stored = (account.outstanding, account.settled, account.written_off)
        _compare(name, got=stored, expected=sums[name])


def check_replay(tx: Tx) -> None:
    """Replay the audit log from nothing: M-2 holds at every prefix, and the end is the ledger as it is.

    Raises BooksWrong.
    """
    replay = replay_entries(entry for _, entry in read_all(tx))
    accounts = stored_accounts(tx)
    for name in accounts.keys() | replay.accounts.keys():
        _compare(name, got=accounts.get(name), expected=replay.accounts.get(name))
    held = {
        f"{row[0]}-{row[1]}": row[2]
        for row in tx.execute(
            "SELECT epoch, number, granted - settled FROM leases WHERE state = 'open'"
        )
    }
    _compare("open leases", got=held, expected=dict(replay.held()))
    refunded = {f"{row[0]}-{row[1]}": row[3] for row in tx.execute(_REFUNDS)}
    _compare("refunds", got=refunded, expected=replay.refunded)
    laid: dict[int, set[str]] = {}
    for proposal, operator in tx.execute("SELECT proposal, operator FROM proposal_hands"):
        laid.setdefault(proposal, set()).add(operator)
    proposals = {
        number: Proposed(digest.hex(), frozenset(laid.get(number, ())), state, closed_by)
        for number, digest, state, closed_by in tx.execute(_PROPOSALS)
    }
    _compare("proposals", got=proposals, expected=replay.proposals)
    stops = {number: Ordered(*row) for number, *row in tx.execute(_STOPS)}
    _compare("stops", got=stops, expected=replay.stops)


def replay_entries(entries: Iterable[Entry]) -> Replay:
    """The ledger that a log tells, without a database. Raises BooksWrong where an entry cannot be."""
    replay = Replay()
    for entry in entries:
        try:
            replay.step(entry)
        except (BudgetExhausted, Conflict, KeyError, TypeError, ValueError) as cause:
            raise BooksWrong(about=f"log entry {entry.index}", got=str(cause)) from cause
    return replay


@dataclass(frozen=True, slots=True)
class Proposed:
    """What the log tells of a proposal (L-13): its digest, whose hands are on it, what became of it."""

    digest: str
    hands: frozenset[str]
    state: str = "pending"
    closed_by: str = ""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What the log tells of a stop (L-14): what of, when it begins and ends service, how far it has come."""

    scope: str
    target: str
    begins: int
    ends: int
    phase: str
    lifted: int | None = None


class Replay:
    """The ledger as the log alone tells it."""

    def __init__(self) -> None:
        self.accounts: dict[Name, Account] = {}
        self._leases: dict[
            str, tuple[list[Name], int]
        ] = {}  # open ones: the path, and what is held
        self._used: dict[Name, Terms] = {}  # per key, for a cap that comes later
        self._cost: dict[str, int] = {}  # per lease, what is settled and written off
        self.refunded: dict[str, int] = {}  # per lease
        self.proposals: dict[int, Proposed] = {}
        self.stops: dict[int, Ordered] = {}

    def held(self) -> Iterator[tuple[str, int]]:
        """Every open lease with what it holds."""
        return ((lease, held) for lease, (_, held) in self._leases.items())

    def step(self, entry: Entry) -> None:
        """Apply one entry; entries that move no units change nothing."""
        detail: dict[str, Any] = entry.detail
        match entry.kind:
            case "loan.create":
                self.accounts["loan", detail["loan"]] = Account(detail["units"])
            case "grant.create":
                name = ("grant", detail["loan"], detail["consumer"])
                self.accounts[name] = Account(detail["units"])
            case "loan.cap":
                self._extend(("loan", detail["loan"]), detail["units"])
            case "grant.change" | "extension.approved":
                self._extend(("grant", detail["loan"], detail["consumer"]), detail["units"])
            case "key.take_back":
                self._extend(("key", detail["loan"], detail["key"]), detail["units"])
            case "key.cap":
                self._cap(("key", detail["loan"], detail["key"]), detail["units"])
            case "lease.grant":
                self._grant(detail)
            case "lease.refuse":
                self._settle(detail.get("lease"), detail.get("settled", 0))
            case "lease.settle":
                for lease, units in detail["settled"]:
                    self._settle(lease, units)
            case "lease.close":
                self._settle(detail["lease"], detail["settled"])
                self._end(detail["lease"], released=detail["released"], written_off=0)
            case "lease.write_off":
                self._end(detail["lease"], released=0, written_off=detail["units"])
            case "lease.refund":
                self._refund(detail)
            case "hands.propose":
                hands = frozenset({entry.actor})
                self.proposals[detail["proposal"]] = Proposed(detail["digest"], hands)
            case "hands.approve":
                self._approve(entry.actor, detail)
            case "hands.reject":
                self._close(detail, detail["state"], entry.actor)
            case "stop.order":
                self._order(entry)
            case "stop.begin" | "stop.drained":
                self._advance(entry)
            case "stop.lift":
                self._change_stop(detail["stop"], lifted=entry.at)

    def _extend(self, name: Name, units: int) -> None:
        self.accounts[name] = self.accounts[name].extend(Units(units))

    def _refund(self, detail: dict[str, Any]) -> None:
        """M-9, at every prefix: never more than the lease cost until then."""
        lease, units = detail["lease"], detail["units"]
        total = self.refunded.get(lease, 0) + units
        if units <= 0 or total > self._cost[lease] or total != detail["lease_total"]:
            raise Conflict(about=f"refund of lease {lease}", got=total, expected=self._cost[lease])
        self.refunded[lease] = total
        self._extend(("grant", detail["loan"], detail["consumer"]), units)

    def _approve(self, actor: str, detail: dict[str, Any]) -> None:
        """L-13, at every prefix: never done by fewer hands than its entry says were needed."""
        one = self.proposals[detail["proposal"]]
        hands = one.hands | {actor}
        self.proposals[detail["proposal"]] = replace(one, hands=hands)
        approvers = set(detail["approvers"])
        if not approvers <= hands or detail["done"] != (len(approvers) >= detail["needed"]):
            raise Conflict(about="hands", got=detail["approvers"], expected=detail["needed"])
        if detail["done"]:
            self._close(detail, "done", actor)

    def _close(self, detail: dict[str, Any], state: str, actor: str) -> None:
        one = self.proposals[detail["proposal"]]
        if (one.digest, one.state) != (detail["digest"], "pending"):
            raise Conflict(about=f"proposal {detail['proposal']}", got=one, expected=detail)
        self.proposals[detail["proposal"]] = replace(one, state=state, closed_by=actor)

    def _order(self, entry: Entry) -> None:
        """L-14, at every prefix: ordered again it never comes later, nor goes back."""
        detail: dict[str, Any] = entry.detail
        number = detail["stop"]
        known = self.stops.get(number)
        if known is not None and "phase" not in detail:  # of a release that knew no notice
            return
        begins, ends = detail.get("begins", entry.at), detail.get("ends", entry.at)
        phase = detail.get("phase", PHASES[-1])
        one = Ordered(detail["scope"], detail["target"], begins, ends, phase)
        if known is not None and not (
            begins <= known.begins
            and ends <= known.ends
            and PHASES.index(phase) >= PHASES.index(known.phase)
            and known.lifted is None
        ):
            raise Conflict(about=f"stop {number}", got=one, expected=f"no later than {known}")
        self.stops[number] = one

    def _advance(self, entry: Entry) -> None:
        """L-14, at every prefix: nothing begins before its time or called off, nor ends its drain early."""
        detail: dict[str, Any] = entry.detail
        number, phase = detail["stop"], detail["phase"]
        known = self.stops[number]
        due = known.begins if entry.kind == "stop.begin" else known.ends
        is_early = entry.at < due or (entry.kind == "stop.begin" and known.lifted is not None)
        if is_early or PHASES.index(phase) <= PHASES.index(known.phase):
            raise Conflict(about=f"stop {number}", got=phase, expected=f"after {known.phase}")
        self._change_stop(number, phase=phase)

    def _change_stop(self, number: int, **changes: Any) -> None:
        if self.stops[number].lifted is not None and "lifted" in changes:
            raise Conflict(about=f"stop {number}", got="lifted twice")
        self.stops[number] = replace(self.stops[number], **changes)

    def _cap(self, name: Name, units: int) -> None:
        if name not in self.accounts:
            past = self._used.get(name, (0, 0, 0))
            self.accounts[name] = Account(Units(sum(past)), *map(Units, past))
        self._extend(name, units - self.accounts[name].granted)

    def _grant(self, detail: dict[str, Any]) -> None:
        lease, units = detail["lease"], detail["units"]
        path: list[Name] = [
            ("loan", detail["loan"]),
            ("grant", detail["loan"], detail["consumer"]),
            ("key", detail["loan"], detail["key"]),
        ]
        self._leases.setdefault(lease, (path, 0))
        self._settle(lease, detail["settled"])
        for name in self._nodes(path):
            self.accounts[name] = self.accounts[name].lease(units)
        self._hold(lease, units, (units, 0, 0))

    def _settle(self, lease: str | None, units: int) -> None:
        if lease is None or units == 0:
            return
        for name in self._nodes(self._leases[lease][0]):
            self.accounts[name] = self.accounts[name].settle(Units(units))
        self._hold(lease, -units, (-units, units, 0))

    def _end(self, lease: str, *, released: int, written_off: int) -> None:
        path = self._leases[lease][0]
        for name in self._nodes(path):
            account = self.accounts[name].release(Units(released))
            self.accounts[name] = account.write_off(Units(written_off))
        self._hold(lease, -released - written_off, (-released - written_off, 0, written_off))
        _, held = self._leases.pop(lease)
        _compare(f"what lease {lease} holds at its end", got=held, expected=0)

    def _hold(self, lease: str, units: int, terms: Terms) -> None:
        path, held = self._leases[lease]
        self._leases[lease] = (path, held + units)
        self._cost[lease] = self._cost.get(lease, 0) + terms[1] + terms[2]
        out, done, gone = self._used.get(path[2], (0, 0, 0))
        self._used[path[2]] = (out + terms[0], done + terms[1], gone + terms[2])

    def _nodes(self, path: list[Name]) -> list[Name]:
        return [*path[:2], *(name for name in path[2:] if name in self.accounts)]


def stored_accounts(tx: Tx) -> dict[Name, Account]:
    """Every account by name. Raises BooksWrong where the tree is not one."""
    rows = tx.execute(_ACCOUNTS)
    loans = {row[1]: row[3] for row in rows if row[0] == "loan"}
    grants = {row[3]: row[1] for row in rows if row[0] == "grant"}
    accounts: dict[Name, Account] = {}
    for kind, loan, other, number, parent, *terms in rows:
        above = {"loan": None, "grant": loans.get(loan)}.get(kind, parent)
        if parent != above or (kind == "key" and grants.get(parent) != loan):
            raise BooksWrong(about=f"account {number}", got=parent, expected=above)
        name: Name = (kind, loan, other) if other else (kind, loan)
        accounts[name] = Account(*terms)
    return accounts


def _compare(about: object, *, got: object, expected: object) -> None:
    if got != expected:
        raise BooksWrong(about=about, got=got, expected=expected)
