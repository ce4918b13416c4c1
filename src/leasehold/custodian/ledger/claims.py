"""The accounts that a custodian claims to have, against those that the log alone gives.

Spec: docs/spec/witness.md, J-4. Refuses to know: whether the log is the one that was witnessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from leasehold.core.accounts import Account
from leasehold.custodian.ledger.audit import Entry, head
from leasehold.custodian.ledger.books import Name, replay_entries, stored_accounts
from leasehold.custodian.store.port import Tx
from leasehold.errors import BooksWrong, Unproven

_NAMED_MAX: Final = 10  # accounts in one refusal


class ClaimedAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account as a custodian shows it: `loan L`, `grant L CONSUMER` or `key L KEY`, and its terms."""

    name: Name
    granted: int
    outstanding: int
    settled: int
    written_off: int


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a custodian says his accounts are after the first `size` entries of his log."""

    size: int
    accounts: tuple[ClaimedAccount, ...]


def claim(tx: Tx) -> Claim:
    """The accounts as the tables have them, with the log's size at this moment."""
    found = sorted(stored_accounts(tx).items())
    return Claim(head(tx)[0], tuple(_claimed(name, account) for name, account in found))


def check_claim(claim: Claim, entries: Sequence[Entry]) -> None:
    """J-4: the claimed accounts are what the log gives. Raises BooksWrong, which names the accounts.

    Raises Unproven where the entries end before what is claimed.
    """
    if not 0 <= claim.size <= len(entries):
        raise Unproven(about="log size", got=len(entries), expected=f">= {claim.size}, as claimed")
    replay = replay_entries(entries[: claim.size])
    expected = {_claimed(name, account) for name, account in replay.accounts.items()}
    got = set(claim.accounts)
    if len(got) != len(claim.accounts):
        raise BooksWrong(about="claimed accounts", got="one of them twice")
    names = sorted({one.name for one in expected ^ got})
    if names:
        raise BooksWrong(
            about=", ".join(" ".join(name) for name in names[:_NAMED_MAX]),
            got=[_terms(one) for one in sorted(got - expected, key=_name)][:_NAMED_MAX],
            expected=[_terms(one) for one in sorted(expected - got, key=_name)][:_NAMED_MAX],
        )


def _claimed(name: Name, account: Account) -> ClaimedAccount:
    terms = (account.granted, account.outstanding, account.settled, account.written_off)
    return ClaimedAccount(name, *terms)


def _terms(one: ClaimedAccount) -> tuple[int, int, int, int]:
    return (one.granted, one.outstanding, one.settled, one.written_off)


def _name(one: ClaimedAccount) -> Name:
    return one.name
