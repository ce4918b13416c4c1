"""What `leasehold stop` says of what is not over: how much is left, until when, who is silent since when."""

from __future__ import annotations

import click
import pytest
from msgspec.structs import replace

from leasehold.cli.consumer import budget_fields
from leasehold.cli.stop import Span
from leasehold.core.messages import BudgetAnswer, StopReason
from leasehold.core.units import DAY, MINUTE, Instant, Units
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.records import ProgressView
from leasehold.custodian.words import explain

START = Instant(1_800_000_000_000)
STOP = Stop(3, "loan", "clinic", "over", "ada", 1, START, None)


def announced(**changed: object) -> Stop:
    fields: dict[str, object] = {
        "begins": START + 10 * MINUTE,
        "ends": START + 10 * MINUTE,
        "phase": "notice",
    }
    return replace(STOP, **(fields | changed))


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


def test_a_notice_says_when_it_begins_and_how_to_call_it_off() -> None:
    said = explain(view(stop=announced(), units=Units(1500), pending=("one", "two")))
    assert "Stop 3 of loan clinic will begin by itself at 2027-01-15 08:10:00 UTC" in said
    assert "no lease is granted that lives longer" in said
    assert "1,500 units are leased now by 2 enclaves." in said
    assert "`leasehold resume 3` calls it off." in said
    assert "in force" not in said


def test_a_notice_with_a_drain_says_until_when_it_drains() -> None:
    said = explain(view(stop=announced(ends=START + 12 * MINUTE)))
    assert "what runs may finish until 2027-01-15 08:12:00 UTC" in said


def test_a_notice_of_a_consumer_counts_no_enclaves() -> None:
    said = explain(view(stop=announced(scope="consumer", target="alice"), units=Units(7)))
    assert "7 units are leased now." in said


def test_a_notice_that_was_called_off_is_said_to_be_so() -> None:
    said = explain(view(stop=announced(lifted=START)))
    assert said == "Stop 3 of loan clinic was called off before it began."


def test_a_drain_says_until_when_and_how_much() -> None:
    stop = announced(begins=START, ends=START + 2 * MINUTE, phase="drain")
    said = explain(view(stop=stop, units=Units(40), lapses=START + MINUTE))
    assert "Stop 3 of loan clinic is in force. Nothing is leased and nobody admitted" in said
    assert "on what is leased already until 2027-01-15 08:02:00 UTC." in said
    assert "At most 40 units can still be served until 2027-01-15 08:01:00 UTC" in said


@pytest.mark.parametrize(
    ("text", "span"),
    [("0s", 0), ("90s", 90_000), ("10m", 10 * MINUTE), ("2h", 120 * MINUTE), ("1d", DAY)],
)
def test_times_are_read_with_their_unit(text: str, span: int) -> None:
    assert Span(DAY).convert(text, None, None) == span


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "1.5h", "5y", "25h", "2d", "10 m", "9999999999s"]
)
def test_other_times_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no time such as 90s, 10m or 2h, of 1 days"):
        Span(DAY).convert(text, None, None)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("notice", "will stop at 2027-01-15 08:10:00 UTC: maintenance"),
        ("drain", "stops at 2027-01-15 08:12:00 UTC: maintenance"),
    ],
)
def test_a_budget_says_when_its_service_ends(mode: str, said: str) -> None:
    reason = StopReason(3, 1, "loan", "clinic", "maintenance", START)
    coming = replace(reason, mode=mode, begins=START + 10 * MINUTE, ends=START + 12 * MINUTE)
    units = [Units(1)] * 5
    answer = BudgetAnswer("alice", "clinic", *units, "1 unit per token")
    assert "service" not in budget_fields(answer)
    assert budget_fields(replace(answer, coming=coming))["service"] == said
