"""Accounts keep M-2 through every transition, and leases are cut as M-4 says."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leasehold.core.accounts import SHARE, Account, size_lease
from leasehold.core.lease import LeasePolicy
from leasehold.core.units import Duration, Units
from leasehold.errors import BudgetExhausted, Conflict

AMOUNT = st.integers(-5, 60)
STEP = st.tuples(st.sampled_from(["lease", "settle", "release", "write_off", "extend"]), AMOUNT)


def terms(account: Account) -> tuple[int, int, int, int, int]:
    return (
        account.granted,
        account.available,
        account.outstanding,
        account.settled,
        account.written_off,
    )


@given(granted=st.integers(0, 100), steps=st.lists(STEP, max_size=30))
def test_identity_holds_at_every_prefix(granted: int, steps: list[tuple[str, int]]) -> None:
    """M-2: no term is ever negative, and settled and written off never shrink."""
    account = Account(Units(granted))
    for name, units in steps:
        before = account
        try:
            account = getattr(account, name)(Units(units))
        except (BudgetExhausted, Conflict):
            assert account is before
        whole, *parts = terms(account)
        assert sum(parts) == whole
        assert min(parts) >= 0
        assert account.settled >= before.settled
        assert account.written_off >= before.written_off


def test_each_transition_moves_what_it_says() -> None:
    account = Account(Units(100)).lease(Units(60))
    assert terms(account) == (100, 40, 60, 0, 0)
    account = account.settle(Units(25))
    assert terms(account) == (100, 40, 35, 25, 0)
    account = account.release(Units(10))
    assert terms(account) == (100, 50, 25, 25, 0)
    account = account.write_off(Units(25))
    assert terms(account) == (100, 50, 0, 25, 25)
    account = account.extend(Units(-50))
    assert terms(account) == (50, 0, 0, 25, 25)


@pytest.mark.parametrize("units", [-1, 11])
def test_no_more_than_available_is_leased(units: int) -> None:
    with pytest.raises(BudgetExhausted) as refusal:
        Account(Units(10)).lease(Units(units))
    assert refusal.value.got == units


@pytest.mark.parametrize("name", ["settle", "release", "write_off"])
@pytest.mark.parametrize("units", [-1, 6])
def test_no_more_than_outstanding_leaves_it(name: str, units: int) -> None:
    account = Account(Units(10)).lease(Units(5))
    with pytest.raises(Conflict):
        getattr(account, name)(Units(units))


def test_what_is_out_or_spent_is_not_taken_back() -> None:
    account = Account(Units(10)).lease(Units(5))
    with pytest.raises(BudgetExhausted):
        account.extend(Units(-6))


def size(policy: LeasePolicy | None = None, **changes: int) -> Units | None:
    case = {
        "least": 10,
        "need": 100,
        "rate": 0,
        "held": 0,
        "available": 100_000,
        "outstanding": 0,
        "instances": 1,
    }
    return size_lease(policy or LeasePolicy(), **{**case, **changes})  # type: ignore[arg-type]


def test_a_new_lease_expects_one_such_request_a_second() -> None:
    assert size() == 500
    assert size(need=0) == 10
    assert size(least=2_000, need=0) == 2_000
    assert size(available=1_200) == 1_200 // SHARE


@pytest.mark.parametrize("seconds", [5, 10])
def test_a_lease_lasts_the_span_at_the_observed_rate(seconds: int) -> None:
    """`rate` is units per 1,000 s: 50 units/s for ten seconds are 500, less what is held."""
    policy = LeasePolicy(span=Duration(seconds * 1000))
    assert size(policy, rate=50_000) == 50 * seconds
    assert size(policy, rate=50_000, held=100) == 50 * seconds - 100
    assert size(policy, rate=50_000, held=900) == 100


def test_growth_stops_at_a_fair_share_of_what_is_left() -> None:
    assert size(rate=10_000_000, available=8_000, instances=2) == 8_000 // (SHARE * 2)
    assert size(rate=10_000_000, available=8_000, instances=0) == 8_000 // SHARE


def test_waiting_work_may_take_the_last_units_but_not_more() -> None:
    assert size(available=60) == 60
    assert size(available=10) == 10
    assert size(available=9) is None


def test_outstanding_total_is_capped() -> None:
    policy = LeasePolicy(outstanding_max=Units(1_000))
    assert size(policy, outstanding=950) == 50
    assert size(policy, outstanding=991) is None


def test_exact_leases_are_what_the_request_needs() -> None:
    policy = LeasePolicy(exact=True)
    assert size(policy, rate=10_000_000) == 100
    assert size(policy, need=0) == 10


def test_a_renewal_may_be_of_zero_units() -> None:
    """M-5: time alone is renewed where enough is held, even when nothing is left."""
    assert size(least=0, need=0, available=0) == 0
    assert size(least=0, need=0, rate=50_000, held=500) == 0


@given(
    least=st.integers(0, 10**6),
    need=st.integers(0, 10**6),
    rate=st.integers(0, 10**9),
    held=st.integers(0, 10**6),
    available=st.integers(0, 10**6),
    outstanding=st.integers(0, 10**6),
    instances=st.integers(0, 50),
    exact=st.booleans(),
)
def test_size_is_useful_and_affordable(
    least: int,
    need: int,
    rate: int,
    held: int,
    available: int,
    outstanding: int,
    instances: int,
    exact: bool,
) -> None:
    policy = LeasePolicy(span=Duration(10_000), outstanding_max=Units(1_000_000), exact=exact)
    units = size(
        policy,
        least=least,
        need=need,
        rate=rate,
        held=held,
        available=available,
        outstanding=outstanding,
        instances=instances,
    )
    if units is None:
        assert least > min(available, policy.outstanding_max - outstanding)
    else:
        assert least <= units <= available
        assert outstanding + units <= policy.outstanding_max
