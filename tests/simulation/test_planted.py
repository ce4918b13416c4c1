"""The simulator can fail: mistakes planted into the real code are found (Z-8)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tools.planted.__main__ import look_for
from tools.planted.hook import Mistake, planted
from tools.planted.mistakes import MISTAKES

ROOT = Path(__file__).parent.parent.parent
# A sample of those that few days are enough for; `make simulate-planted` tries all.
SAMPLE = (
    "grant-without-debit",
    "settled-twice",
    "settled-unlogged",
    "close-returns-all",
    "grants-add-up",
    "held-not-counted",
    "input-not-charged",
    "debit-after-serve",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_planted_mistake_is_found(name: str) -> None:
    found, told = look_for(name, 1, 40)
    assert found, told
    assert "invariant" in told


def test_without_a_mistake_nothing_is_found() -> None:
    found, told = look_for("", 1, 3)
    assert (found, told) == (False, "not found in 3 seeds")


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_one_place(name: str) -> None:
    mistake = MISTAKES[name]
    spec = importlib.util.find_spec(mistake.module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    assert planted(source, mistake) != source
    if mistake.test:
        path, _, test = mistake.test.partition("::")
        assert f"def {test}" in (ROOT / path).read_text()


def test_a_mistake_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        planted("a = 1\n", Mistake("none", "m", "b = 2", "b = 3"))


def test_there_are_enough() -> None:
    assert len(MISTAKES) >= 40
