"""What `leasehold stop` says of what is not over: how much is left, until when, who is silent since when."""

from __future__ import annotations

from leasehold.cli.stop import explain
from leasehold.core.units import MINUTE, Instant, Units
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.records import ProgressView

START = Instant(1_800_000_000_000)
STOP = Stop(3, "loan", "clinic", "over", "ada", 1, START, None)


def view(**changed: object) -> ProgressView:
    fields: dict[str, object] = {
        "stop": STOP,
        "units": Units(0),
        "units_in_doubt": Units(0),
        "proved": (),
        "pending": (),
        "presumed_dead": (),
        "lapses": None,
        "dead_from": {},
        "complete": False,
        "time": START,
    }
    return ProgressView(**(fields | changed))


def test_what_is_left_has_an_end_and_the_silent_a_time() -> None:
    said = explain(
        view(
            units=Units(1500),
            lapses=START + MINUTE,
            pending=("one",),
            presumed_dead=("two",),
            dead_from={"one": START + 3 * MINUTE, "two": START - MINUTE},
        )
    )
    assert "At most 1,500 units can still be served until 2027-01-15 08:01:00 UTC" in said
    assert "later only under a clock that is held still" in said
    assert "Not yet proved: one (if silent, dead from 2027-01-15 08:03:00 UTC)." in said
    assert "presumed dead: two (dead from 2027-01-15 07:59:00 UTC)." in said


def test_nothing_left_has_no_end() -> None:
    assert "At most 0 units can still be served." in explain(view())


def test_a_complete_stop_is_said_to_be_so() -> None:
    assert "It is complete" in explain(view(complete=True))
