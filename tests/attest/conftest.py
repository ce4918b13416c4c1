"""The benches are made once: nothing in them changes."""

from __future__ import annotations

import pytest

from .bench import Bench, make_bench


@pytest.fixture(scope="session")
def bench() -> Bench:
    return make_bench()


@pytest.fixture(scope="session")
def platform_bench() -> Bench:
    return make_bench("platform", ca="platform")
