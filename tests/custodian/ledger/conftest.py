"""Every test of the ledger runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..databases import CallingThreadStore, new_database
from . import stage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Twice. Hypothesis' state machines, which are test classes, stay with SQLite."""
    if "ledger_store" in metafunc.fixturenames:
        metafunc.parametrize("ledger_store", ["sqlite", "postgres"], indirect=True)


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> Iterator[tuple[CallingThreadStore, Any]]:
    """One database for all, and what is in it when it is new."""
    store = CallingThreadStore.open(new_database(request.getfixturevalue("postgres")))
    yield store, store.snapshot()
    store.close()


@pytest.fixture(autouse=True)
def ledger_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this test's stages keep their ledger."""
    if getattr(request, "param", "sqlite") == "postgres":
        store, empty = request.getfixturevalue("database")

        def emptied() -> CallingThreadStore:
            store.put_back(empty)
            return store

        monkeypatch.setattr(stage, "new_store", emptied)
