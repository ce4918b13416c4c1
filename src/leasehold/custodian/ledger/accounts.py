"""Accounts as rows: the budget tree of M-2 (L-2). All arithmetic is `core.accounts.Account`'s.

A move changes every node of a path at once and by the same amounts. The schema's own constraints
repeat the identity, so that no mistake here can overspend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from leasehold.core.accounts import Account
from leasehold.core.units import Units
from leasehold.custodian.ledger.checks import next_number
from leasehold.custodian.store.port import Tx, many
from leasehold.errors import BooksWrong

Kind = Literal["loan", "grant", "key"]

_LOAD = """
WITH wanted (id) AS (VALUES (?))
SELECT a.id, a.granted, a.outstanding, a.settled, a.written_off
FROM wanted w JOIN accounts a ON a.id = w.id
"""
_MOVE = """
WITH q (granted, outstanding, settled, written_off, id) AS (VALUES (?, ?, ?, ?, ?))
UPDATE accounts SET granted = accounts.granted + q.granted,
    outstanding = accounts.outstanding + q.outstanding, settled = accounts.settled + q.settled,
    written_off = accounts.written_off + q.written_off
FROM q WHERE accounts.id = q.id
"""
Step = tuple[int, int, int, int]  # what is added to granted, outstanding, settled, written off


class Path(msgspec.Struct, frozen=True):
    """The accounts that one lease debits: the loan's cap, the grant and, where there is one, the key's cap."""

    numbers: tuple[int, ...]
    accounts: tuple[Account, ...]

    @property
    def available(self) -> Units:
        """What may be leased on the whole path."""
        return min([account.available for account in self.accounts])

    @property
    def loan(self) -> Account:
        """The loan's cap."""
        return self.accounts[0]

    @property
    def grant(self) -> Account:
        """The consumer's grant."""
        return self.accounts[1]


def open_account(tx: Tx, *, kind: Kind, parent: int | None, account: Account) -> int:
    """A new node of the tree; returns its number."""
    number = next_number(tx, "account")
    tx.execute(
        "INSERT INTO accounts (id, kind, parent, granted, outstanding, settled, written_off)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            kind,
            parent,
            account.granted,
            account.outstanding,
            account.settled,
            account.written_off,
        ),
    )
    return number


def load_path(tx: Tx, loan: int, grant: int | None = None, cap: int | None = None) -> Path:
    """Read the accounts of a path, or the loan's alone. Raises BooksWrong where one is missing."""
    numbers = tuple(number for number in (loan, grant, cap) if number is not None)
    found = load(tx, numbers)
    return Path(numbers, tuple(found[number] for number in numbers))


def load(tx: Tx, numbers: Sequence[int]) -> dict[int, Account]:
    """Accounts by their numbers, at least one. Raises BooksWrong where one is missing."""
    rows = tx.execute(*many(_LOAD, [(number,) for number in numbers]))
    found = {row[0]: Account(*row[1:]) for row in rows}
    if missing := set(numbers) - found.keys():
        raise BooksWrong(about="accounts", got=sorted(found), expected=sorted(missing))
    return found


def move(tx: Tx, path: Path, change: Callable[[Account], Account]) -> Path:
    """Apply a transition of `core.accounts.Account` to every node, or to none.

    Raises what the transition raises (BudgetExhausted, Conflict), before anything is written.
    """
    moved = tuple([change(account) for account in path.accounts])
    added = step(path.accounts[0], moved[0])
    for before, after in zip(path.accounts[1:], moved[1:], strict=True):
        if step(before, after) != added:
            raise BooksWrong(about="a move", got=added, expected="the same amounts at every node")
    write(tx, dict.fromkeys(path.numbers, added))
    return Path(path.numbers, moved)


def write(tx: Tx, steps: Mapping[int, Step]) -> None:
    """Add to accounts, by their numbers. Raises Conflict where the schema finds it to overspend."""
    rows = [(*added, number) for number, added in steps.items() if any(added)]
    if rows:
        tx.execute(*many(_MOVE, rows))


def step(before: Account, after: Account) -> Step:
    """What was added to each term."""
    return (
        after.granted - before.granted,
        after.outstanding - before.outstanding,
        after.settled - before.settled,
        after.written_off - before.written_off,
    )
