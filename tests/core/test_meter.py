"""The meter: nothing is served that was not granted, whatever arrives in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.core.messages import Budget, LeaseGranted, Usage
from leasehold.core.meter import Credit, Denied, Granted, Meter, Short, Ticket
from leasehold.core.units import Duration, Instant, Units
from leasehold.errors import BudgetExhausted, LeaseLapsed, LoanStopped

KEY = b"k" * 32
BUDGET = Budget(Units(100), Units(0), Units(0), Units(0), Units(0))


def grant(units: int, *, lease: str = "1-1", key: bytes = KEY, ttl: int = 1000) -> LeaseGranted:
    return LeaseGranted(1, lease, 1, "alice", key, Units(units), Duration(ttl), BUDGET)


def at(milliseconds: int) -> Instant:
    return Instant(milliseconds)


def admit(meter: Meter, units: int, *, now: int = 0) -> Ticket:
    outcome = meter.admit(KEY, least=Units(units), want=Units(units), now=at(now))
    assert isinstance(outcome, Granted)
    return outcome.ticket


def filled(units: int) -> Meter:
    meter = Meter()
    assert meter.credit(grant(units), asked_at=at(0), now=at(0)) is Credit.TAKEN
    return meter


def test_a_key_without_a_lease_is_short_of_all_it_wants() -> None:
    outcome = Meter().admit(KEY, least=Units(3), want=Units(9), now=at(0))
    assert outcome == Short(Units(3), Units(9))


def test_a_grant_is_cumulative_so_doubled_and_late_answers_add_nothing() -> None:
    meter = filled(10)
    meter.credit(grant(10), asked_at=None, now=at(1))
    meter.credit(grant(25), asked_at=at(1), now=at(1))
    meter.credit(grant(10), asked_at=None, now=at(2))
    purse = meter.purse(KEY)
    assert purse is not None
    assert purse.free == 25


def test_an_answer_nobody_asked_for_adds_no_time() -> None:
    meter = filled(10)
    meter.credit(grant(20), asked_at=None, now=at(900))
    ticket = admit(meter, 5, now=999)
    with pytest.raises(LeaseLapsed):
        meter.spend(ticket, Units(1), now=at(1000))


def test_time_counts_from_the_asking_not_from_the_answer() -> None:
    meter = Meter()
    meter.credit(grant(10, ttl=1000), asked_at=at(0), now=at(900))
    assert isinstance(meter.admit(KEY, least=Units(1), want=Units(1), now=at(1000)), Short)


def test_spending_more_than_is_held_is_refused() -> None:
    meter = filled(10)
    ticket = admit(meter, 4)
    with pytest.raises(BudgetExhausted):
        meter.spend(ticket, Units(5), now=at(0))
    meter.spend(ticket, Units(4), now=at(0))
    with pytest.raises(BudgetExhausted):
        meter.spend(ticket, Units(1), now=at(0))


def test_negative_spending_is_refused() -> None:
    ticket = admit(meter := filled(10), 4)
    with pytest.raises(BudgetExhausted):
        meter.spend(ticket, Units(-1), now=at(0))


def test_settling_returns_the_rest_once() -> None:
    meter = filled(10)
    ticket = admit(meter, 8)
    meter.spend(ticket, Units(3), now=at(0))
    assert meter.settle(ticket) == 3
    assert meter.settle(ticket) == 3
    purse = meter.purse(KEY)
    assert purse is not None
    assert (purse.free, purse.spent, purse.held) == (7, 3, 0)
    with pytest.raises(BudgetExhausted):
        meter.spend(ticket, Units(0), now=at(0))


def test_what_has_not_left_is_not_reported_as_spent() -> None:
    """M-7: it can still be served, so a stop must find it outstanding; once the purse has ended it can not."""
    meter = filled(20)
    first, second = admit(meter, 8), admit(meter, 8)
    meter.spend(first, Units(5), now=at(1))
    meter.spend(second, Units(3), now=at(1))
    assert (meter.spent(KEY), meter.usage()) == (0, (Usage("1-1", Units(0)),))
    first.sent()
    meter.spend(first, Units(1), now=at(2))
    assert (meter.spent(KEY), meter.usage()) == (5, (Usage("1-1", Units(5)),))
    meter.settle(first)
    assert meter.spent(KEY) == 6
    meter.stop_consumer("alice", now=at(3))
    assert meter.usage() == (Usage("1-1", Units(9)),)
    meter.settle(second)
    assert [(purse.spent, purse.unsent) for purse in meter.drop_ended()] == [(9, 0)]


def test_a_stop_of_the_consumer_ends_open_tickets_in_mid_word() -> None:
    meter = filled(10)
    ticket = admit(meter, 8)
    meter.stop_consumer("alice", now=at(5))
    with pytest.raises(LoanStopped):
        meter.spend(ticket, Units(1), now=at(6))
    assert meter.drop_ended() == []
    meter.settle(ticket)
    assert [purse.lease for purse in meter.drop_ended()] == ["1-1"]


def test_what_was_asked_for_before_the_stop_is_no_grant_after_it() -> None:
    meter = filled(10)
    meter.stop_consumer("alice", now=at(5))
    late = grant(10, lease="1-2")
    assert meter.credit(late, asked_at=at(4), now=at(6)) is Credit.STRAY
    assert meter.credit(grant(10, lease="1-3"), asked_at=at(6), now=at(7)) is Credit.TAKEN


def test_a_dropped_lease_never_comes_back() -> None:
    meter = filled(10)
    assert meter.due(now=at(1000), idle=10_000) == []
    assert [purse.lease for purse in meter.drop_ended()] == ["1-1"]
    assert meter.credit(grant(50), asked_at=at(1000), now=at(1001)) is Credit.DROPPED
    assert meter.purse(KEY) is None


def test_after_the_end_of_all_nothing_is_granted() -> None:
    meter = filled(10)
    ticket = admit(meter, 1)
    meter.stop_all(LoanStopped(about="drill"))
    with pytest.raises(LoanStopped):
        meter.spend(ticket, Units(1), now=at(0))
    assert isinstance(meter.admit(KEY, least=Units(0), want=Units(0), now=at(0)), Denied)
    other = grant(9, lease="1-1", key=b"o" * 32)
    assert meter.credit(other, asked_at=at(0), now=at(0)) is Credit.STRAY


def test_a_drain_admits_nobody_and_lets_tickets_spend_what_is_leased() -> None:
    """N-11: up to its end, which a repetition does not put off."""
    meter = filled(10)
    ticket = admit(meter, 4)
    meter.drain(LoanStopped(about="maintenance"), until=at(500))
    meter.drain(LoanStopped(about="again"), until=at(900))
    outcome = meter.admit(KEY, least=Units(1), want=Units(1), now=at(1))
    assert isinstance(outcome, Denied)
    assert isinstance(outcome.error, LoanStopped)
    assert "maintenance" in outcome.error.message
    meter.spend(ticket, Units(4), now=at(10))
    assert meter.top_up(ticket, Units(9)) == 6
    meter.spend(ticket, Units(1), now=at(499))
    with pytest.raises(LoanStopped):
        meter.spend(ticket, Units(1), now=at(500))


def test_a_drain_renews_nothing_and_takes_no_time_from_a_late_grant() -> None:
    meter = filled(10)
    ticket = admit(meter, 4)
    meter.drain(LoanStopped(about="maintenance"), until=at(5_000))
    assert meter.due(now=at(600), idle=10_000) == []
    assert meter.credit(grant(20), asked_at=at(600), now=at(700)) is Credit.TAKEN
    assert meter.credit(grant(9, lease="1-2"), asked_at=at(600), now=at(700)) is Credit.STRAY
    with pytest.raises(LoanStopped):  # its own lease was over before the drain was
        meter.spend(ticket, Units(1), now=at(1000))
    assert meter.due(now=at(1000), idle=10_000) == []
    assert isinstance(ticket.purse.ended, LoanStopped)


def test_leases_of_an_older_epoch_are_void() -> None:
    """T28: a restored ledger burned them; what is under way from them ends as well."""
    meter = Meter()
    meter.credit(grant(10), asked_at=at(0), now=at(0))
    ticket = admit(meter, 5)
    meter.begin_epoch(2)
    with pytest.raises(LeaseLapsed):
        meter.spend(ticket, Units(1), now=at(1))
    assert meter.purse(KEY) is None
    late = meter.credit(grant(20, lease="1-7"), asked_at=at(2), now=at(2))
    assert late is Credit.STRAY
    assert meter.credit(grant(20, lease="2-8"), asked_at=at(2), now=at(2)) is Credit.TAKEN


def test_leases_are_renewed_at_half_of_their_life_and_closed_when_idle() -> None:
    meter = filled(10)
    assert meter.due(now=at(499), idle=10_000) == []
    assert meter.due(now=at(500), idle=10_000) == [KEY]
    assert meter.due(now=at(600), idle=600) == []
    assert [purse.lease for purse in meter.drop_ended()] == ["1-1"]


def test_the_rate_of_use_is_in_units_per_thousand_seconds() -> None:
    meter = filled(10_000)
    ticket = admit(meter, 10_000)
    meter.spend(ticket, Units(500), now=at(900))
    assert meter.rate(KEY, now=at(999)) == 0
    assert meter.rate(KEY, now=at(2000)) == 250_000


steps = st.lists(
    st.tuples(
        st.sampled_from(["credit", "admit", "spend", "settle", "top_up", "due", "stop", "tick"]),
        st.integers(0, 40),
        st.integers(1, 3),
    ),
    max_size=60,
)


@given(steps)
def test_spent_and_held_never_exceed_what_was_granted(moves: list[tuple[str, int, int]]) -> None:
    """Invariant 1, over any order of events, with grants doubled and late."""
    meter, now, tickets = Meter(), 0, []
    granted: dict[str, int] = {}
    spent: dict[str, int] = {}
    for move, amount, which in moves:
        lease = f"1-{which}"
        match move:
            case "credit":
                if (
                    meter.credit(grant(amount, lease=lease), asked_at=at(now), now=at(now))
                    is Credit.TAKEN
                ):
                    granted[lease] = max(granted.get(lease, 0), amount)
            case "admit":
                outcome = meter.admit(
                    KEY, least=Units(amount // 2), want=Units(amount), now=at(now)
                )
                if isinstance(outcome, Granted):
                    tickets.append(outcome.ticket)
            case "spend" if tickets:
                ticket = tickets[amount % len(tickets)]
                try:
                    meter.spend(ticket, Units(amount), now=at(now))
                except (BudgetExhausted, LeaseLapsed, LoanStopped):
                    continue
                spent[ticket.purse.lease] = spent.get(ticket.purse.lease, 0) + amount
            case "settle" if tickets:
                meter.settle(tickets[amount % len(tickets)])
            case "top_up" if tickets:
                meter.top_up(tickets[amount % len(tickets)], Units(amount))
            case "due":
                meter.due(now=at(now), idle=300)
                meter.drop_ended()
            case "stop":
                meter.stop_consumer("alice", now=at(now))
            case _:
                now += amount * 10
        for lease, total in spent.items():
            assert total <= granted[lease]
        purse = meter.purse(KEY)
        if purse is not None:
            assert purse.free >= 0
            assert purse.held == sum(t.held for t in tickets if t.open and t.purse is purse)
