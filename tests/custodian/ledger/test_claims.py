"""J-4: accounts that a custodian claims, against what the log alone gives."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from leasehold.custodian.ledger import audit, claims
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.claims import Claim, ClaimedAccount
from leasehold.errors import BooksWrong, Unproven

from .stage import Stage


@dataclass
class Told:
    """What a custodian claims, and the entries of his log."""

    claim: Claim
    entries: tuple[Entry, ...]


def told() -> Told:
    stage = Stage()
    stage.lend()
    stage.enrol("alice", "key-1")
    stage.attest("one")
    stage.lease(units=100)
    claim = stage.see(claims.claim)
    stage.enrol("bob", "key-2")  # after the claim
    return Told(claim, stage.see(lambda tx: audit.entries(tx, start=0, count=1000)))


def test_true_accounts_are_what_the_log_gives() -> None:
    one = told()
    assert {account.name for account in one.claim.accounts} == {
        ("loan", "loan-1"),
        ("grant", "loan-1", "alice"),
    }
    claims.check_claim(one.claim, one.entries)


def changed(claim: Claim, **terms: int) -> Claim:
    """Another grant than alice's."""
    accounts = tuple(
        replace(one, **terms) if one.name[0] == "grant" else one for one in claim.accounts
    )
    return replace(claim, accounts=accounts)


@pytest.mark.parametrize("term", ["granted", "outstanding", "settled", "written_off"])
def test_a_unit_more_or_less_is_said_by_name(term: str) -> None:
    """T58: a table that was edited beside the log."""
    one = told()
    with pytest.raises(BooksWrong) as caught:
        claims.check_claim(changed(one.claim, **{term: 77}), one.entries)
    assert caught.value.about == "grant loan-1 alice"
    assert "77" in caught.value.message


def test_an_account_that_is_missing_made_up_or_doubled_is_said() -> None:
    one = told()
    missing = replace(one.claim, accounts=one.claim.accounts[:1])
    made_up = ClaimedAccount(("grant", "loan-1", "eve"), 1, 0, 0, 0)
    for claim, about in (
        (missing, one.claim.accounts[1].name),
        (replace(one.claim, accounts=(*one.claim.accounts, made_up)), made_up.name),
    ):
        with pytest.raises(BooksWrong) as caught:
            claims.check_claim(claim, one.entries)
        assert caught.value.about == " ".join(about)
    twice = replace(one.claim, accounts=one.claim.accounts * 2)
    with pytest.raises(BooksWrong, match="twice"):
        claims.check_claim(twice, one.entries)


@pytest.mark.parametrize("size", [-1, 10_000])
def test_a_claim_beyond_the_log_is_not_compared(size: int) -> None:
    one = told()
    with pytest.raises(Unproven):
        claims.check_claim(replace(one.claim, size=size), one.entries)
