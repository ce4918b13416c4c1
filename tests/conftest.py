"""What all tests share: a real PostgreSQL server, made when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tools.postgres import Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server of this run's own. Where none can be made the tests that need it fail."""
    server = Server.make()
    yield server
    server.remove()
