"""A custodian that lends, on SQLite and on PostgreSQL, with a browser at its console."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ..databases import CallingThreadStore, new_database
from ..house import House, Office, Watch


@pytest.fixture(params=["sqlite", "postgres"])
async def either(request: pytest.FixtureRequest, house: House) -> AsyncIterator[Office]:
    """The same on both stores."""
    if request.param == "sqlite":
        office = Office.open(house)
        await office.lend()
        yield office
        return
    store = CallingThreadStore.open(new_database(request.getfixturevalue("postgres")))
    office = Office.over(house, Watch(), store)
    await office.lend()
    yield office
    store.close()
