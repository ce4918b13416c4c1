"""What the writer writes, the standard library's reader reads back."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.attest.toml import write_toml

names = st.from_regex(r"\A[a-z][a-z0-9_]{0,20}\Z")
values = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.booleans(),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
)
tables = st.dictionaries(names, values, max_size=5)


@given(top=tables, inner=tables, rows=st.lists(tables, min_size=1, max_size=3))
def test_everything_comes_back(
    top: dict[str, object], inner: dict[str, object], rows: list[dict[str, object]]
) -> None:
    written = {**top, "Inner": inner, "Rows": rows}
    assert tomllib.loads(write_toml(written).decode()) == written


def test_times_are_written_in_utc() -> None:
    moment = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)
    assert write_toml({"at": moment}) == b"at = 2027-06-01T12:00:00Z\n"


def test_other_kinds_are_refused() -> None:
    for value in (1.5, datetime(2027, 6, 1)):  # a time without zone means nothing
        with pytest.raises(TypeError):
            write_toml({"at": value})
