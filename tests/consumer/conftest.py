"""A fresh world for every test, and TLS servers on the loopback that remember every byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from consumer.server import TlsServer
from consumer.world import FakeEnclave, World

Serve = Callable[[FakeEnclave], TlsServer]


@pytest.fixture
def world() -> World:
    """A custodian, a machine and a clock that stands."""
    return World()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves enclaves until the test is over."""
    with ExitStack() as stack:
        yield lambda enclave: stack.enter_context(TlsServer(enclave))
