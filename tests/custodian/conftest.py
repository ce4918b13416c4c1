"""Fixtures of the custodian's own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .house import House, Office


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A custodian's folder."""
    return House.build(tmp_path / "custodian")


@pytest.fixture
async def office(house: House) -> Office:
    """A custodian that lends, in process."""
    office = Office.open(house)
    await office.lend()
    return office
