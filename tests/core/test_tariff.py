"""M-1: work has a price in whole units."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leasehold.core.tariff import NAMED, PER_REQUEST, PER_TOKEN, Tariff, Work, check_tariff
from leasehold.errors import BadSetting

WORK = st.builds(
    Work,
    requests=st.integers(0, 1000),
    input_tokens=st.integers(0, 1000),
    output_tokens=st.integers(0, 1000),
    rows=st.integers(0, 1000),
    steps=st.integers(0, 1000),
)


def test_every_kind_of_work_has_its_own_price() -> None:
    tariff = Tariff(request=1, input_token=10, output_token=100, row=1_000, step=10_000)
    work = Work(requests=2, input_tokens=3, output_tokens=4, rows=5, steps=6)
    assert tariff.cost(work) == 65_432


def test_the_named_tariffs() -> None:
    work = Work(requests=1, input_tokens=7, output_tokens=5, rows=3)
    assert NAMED["per-token"] is PER_TOKEN
    assert NAMED["per-request"] is PER_REQUEST
    assert PER_TOKEN.cost(work) == 12
    assert PER_REQUEST.cost(work) == 1


@given(one=WORK, other=WORK)
def test_cost_is_additive(one: Work, other: Work) -> None:
    """What is charged block by block is what the whole costs."""
    tariff = Tariff(request=3, input_token=1, output_token=4, row=2, step=9)
    both = Work(*(getattr(one, name) + getattr(other, name) for name in Work.__struct_fields__))
    assert tariff.cost(both) == tariff.cost(one) + tariff.cost(other)


@pytest.mark.parametrize("name", Tariff.__struct_fields__)
def test_one_price_is_enough_and_none_is_negative(name: str) -> None:
    assert check_tariff(Tariff(**{name: 1})) == Tariff(**{name: 1})
    with pytest.raises(BadSetting) as refusal:
        check_tariff(Tariff(**{"request": 1, "row": 1, name: -1}))
    assert "no price below 0" in refusal.value.message


def test_a_free_tariff_is_refused() -> None:
    with pytest.raises(BadSetting):
        check_tariff(Tariff())
