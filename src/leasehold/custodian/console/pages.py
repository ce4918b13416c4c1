"""What the pages show: read by the API's own endpoints, put beside each other.

Spec: docs/spec/console.md, O-30 to O-32. Refuses to know HTTP and what the templates make of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from leasehold.core.units import Instant, Units
from leasehold.custodian.console.line import Line
from leasehold.custodian.console.stopping import ROWS_MAX, Card, card, state_of
from leasehold.custodian.leak import units_a_day
from leasehold.custodian.ledger.extensions import Request
from leasehold.custodian.ledger.operators import Right
from leasehold.custodian.ledger.stops import Stop
from leasehold.custodian.ledger.usage import UsageRow
from leasehold.custodian.proposed import ProposalView
from leasehold.custodian.records import GrantView, Hello, InstanceView, LoanView, ProgressView
from leasehold.custodian.words import prices

MOVING_SECONDS = 2  # until the page of a stop that can still come further loads itself anew
LIST_SECONDS = 5
ENDED_SHOWN = 50  # stops that were lifted
LIST_ROWS = 20  # instances of each stop where all stops are listed


@dataclass(frozen=True, slots=True)
class Page:
    """A template and what it is filled with; `refresh` in seconds, None for never."""

    template: str
    title: str
    values: dict[str, Any]
    refresh: int | None = None
    simulated: bool = False


async def frame(line: Line, page: Page) -> dict[str, Any]:
    """What every page has around it (O-30), and what it has in it."""
    requests = await line.read("/operator/requests", list[Request], {"status": "open"})
    stops = await line.read("/operator/stops", list[Stop], {"active": "true"})
    waiting = await line.read("/operator/proposals", list[ProposalView])
    serving = [
        one
        for state in ("live", "stopping")
        for one in await line.read("/operator/instances", list[InstanceView], {"state": state})
    ]
    is_live = page.refresh is not None and line.query.get("live") != "no"
    around = {
        "hello": await line.read("/operator/hello", Hello),
        "may_stop": line.may(Right.STOP),
        "may_change": line.may(Right.CHANGE),
        "title": page.title,
        "now": line.now,
        "open_requests": len(requests),
        "open_stops": len(stops),
        "open_proposals": len(waiting),
        "simulated": page.simulated or any(one.simulated for one in serving),
        "can_refresh": page.refresh is not None,
        "refresh": page.refresh if is_live else None,
    }
    return around | page.values


# Loans -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lent:
    """A loan with what goes on under it; `heard` is when one of its live enclaves was last heard."""

    view: LoanView
    pace: int
    live: int
    heard: Instant | None
    stops: tuple[Stop, ...]
    requests: int

    @property
    def can_be_stopped(self) -> bool:
        """Whether a stop of the loan would change anything."""
        full = any(one.phase == "full" and one.scope != "enclave" for one in self.stops)
        return self.view.state == "active" and not full


async def loans(line: Line) -> Page:
    """O-31: every loan."""
    found = await line.read("/operator/loans", list[LoanView])
    instances = await line.read("/operator/instances", list[InstanceView])
    requests = await line.read("/operator/requests", list[Request], {"status": "open"})
    stops = await line.read("/operator/stops", list[Stop], {"active": "true"})
    rows = [_lent(line, one, instances, stops, requests) for one in found]
    return Page("loans.html", "Loans", {"loans": rows}, LIST_SECONDS)


async def loan(line: Line, name: str) -> Page:
    """O-31: one loan, its enclaves, its consumers, its requests."""
    found = await line.read("/operator/loans/{name}", LoanView, name=name)
    of = {"loan": name}
    instances = await line.read("/operator/instances", list[InstanceView], of)
    requests = await line.read("/operator/requests", list[Request], of)
    stops = await line.read("/operator/stops", list[Stop], {"active": "true"})
    used = await line.read("/operator/usage", list[UsageRow], {"by": "instance", **of})
    is_open = [one for one in requests if one.status == "open"]
    values = {
        "loan": _lent(line, found, instances, stops, is_open),
        "prices": prices(found.tariff),
        "instances": instances[:ROWS_MAX],
        "more": max(0, len(instances) - ROWS_MAX),
        "held": {one.instance: one for one in used},
        "grants": await line.read("/operator/grants", list[GrantView], of),
        "requests": requests,
    }
    simulated = any(one.simulated for one in instances)
    return Page("loan.html", f"Loan {name}", values, LIST_SECONDS, simulated)


def _lent(
    line: Line,
    view: LoanView,
    instances: Iterable[InstanceView],
    stops: Iterable[Stop],
    requests: Iterable[Request],
) -> Lent:
    used = Units(view.budget.settled + view.budget.written_off)
    mine = [one for one in instances if one.loan == view.name]
    return Lent(
        view,
        units_a_day(used, since=view.created, now=line.now),
        sum(one.state == "live" for one in mine),
        max((one.seen for one in mine), default=None),
        tuple(one for one in stops if one.scope == "all" or _is_of(one, view.name, mine)),
        sum(one.loan == view.name for one in requests),
    )


def _is_of(stop: Stop, loan: str, instances: Sequence[InstanceView]) -> bool:
    if stop.scope == "enclave":
        return any(one.id == stop.target for one in instances)
    return stop.scope == "loan" and stop.target == loan


# Stops -----------------------------------------------------------------------------------------------


async def stops(line: Line) -> Page:
    """O-32: every stop that is in force or announced, and which were lifted."""
    found = await line.read("/operator/stops", list[Stop])
    cards = [await _card(line, one.id, LIST_ROWS) for one in found if one.lifted is None]
    ended = [(one, state_of(one)) for one in found if one.lifted is not None][:ENDED_SHOWN]
    return Page(
        "stops.html",
        "Stops",
        {"cards": cards, "ended": ended},
        LIST_SECONDS if any(one.is_moving for one in cards) else None,
        any(_is_simulated(one) for one in cards),
    )


async def stop(line: Line, number: str) -> Page:
    """O-32: one stop."""
    one = await _card(line, number)
    refresh = MOVING_SECONDS if one.is_moving else None
    name = f"Stop {one.view.stop.id} of {one.what}"
    order = line.order_of(one.view.stop)
    values = {"card": one, "order": order, "order_says": order.payload.decode()}
    return Page("stop.html", name, values, refresh, _is_simulated(one))


async def _card(line: Line, number: object, rows_max: int = ROWS_MAX) -> Card:
    view = await line.read("/operator/stops/{id}", ProgressView, id=str(number))
    return card(view, rows_max=rows_max)


def _is_simulated(one: Card) -> bool:
    return any(member.simulated for member in one.view.instances)
