"""The lease protocol, explored whole (invariants 1, 2, 4 and 7), and shown to need each of its rules."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from tools.model.explore import explore
from tools.model.protocol import Limits, Rules

from leasehold.errors import Conflict

CALM = Limits(enclaves=2, asks=1, instances=2, stops=0, restores=0)
REBORN = replace(CALM, instances=3)
STOPPED = replace(CALM, stops=1)
RESTORED = replace(REBORN, restores=1)
# Where each weakening shows, and the invariant that it breaks.
WEAK = {
    "merge_by_maximum": (STOPPED, "2"),
    "drop_forgotten": (STOPPED, "2"),
    "write_off_burns": (CALM, "1"),
    "restore_raises_epoch": (RESTORED, "7"),
    "restore_burns_available": (RESTORED, "1"),
    "stop_refuses": (STOPPED, "4"),
    "close_tells_all": (REBORN, "1"),
    "spend_within_lease": (CALM, "2"),
}


@pytest.mark.parametrize(
    ("limits", "least"),
    [
        (replace(CALM, enclaves=3, instances=3), 50_000),
        (replace(STOPPED, restores=1), 200_000),
    ],
    ids=["three enclaves", "stop and restore"],
)
def test_in_every_state_the_invariants_hold(limits: Limits, least: int) -> None:
    found = explore(Rules(), limits)
    assert (found.broken, found.story) == (None, ())
    assert found.states > least


@pytest.mark.parametrize("name", WEAK)
def test_without_a_rule_an_invariant_breaks(name: str) -> None:
    limits, invariant = WEAK[name]
    found = explore(replace(Rules(), **{name: False}), limits)
    assert found.broken is not None
    assert found.broken.startswith(f"{invariant}:"), found.story
    assert len(found.story) >= 4


def test_an_undebited_lease_is_refused_by_the_code_itself() -> None:
    """What the ledger never moved out cannot be settled, released or written off."""
    with pytest.raises(Conflict):
        explore(replace(Rules(), debit_first=False), CALM)


def test_every_rule_is_tried() -> None:
    assert {field.name for field in fields(Rules)} == WEAK.keys() | {"debit_first"}
