"""The gated acts of operators, as one table: done at once where one hand is enough, proposed otherwise.

Spec: docs/spec/custodian-api.md, O-18 to O-21. There is no other way to these acts: the ledger refuses
them to an operator who came past this table. Refuses to know HTTP and certificates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from leasehold.core.encoding import to_json, unhex
from leasehold.core.units import Instant
from leasehold.custodian import acts, proposed, records
from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger import (
    consumers,
    extensions,
    grants,
    hands,
    leases,
    loans,
    refunds,
    stops,
)
from leasehold.custodian.ledger.operators import Gate, Operator
from leasehold.custodian.store.port import Tx
from leasehold.custodian.watch import decided
from leasehold.errors import BadRequest, ProposalClosed


@dataclass(frozen=True, slots=True)
class Ready:
    """An act that was read, and checked as far as can be without the ledger.

    `gate` is None where one hand is always enough. `order` is the record it was read from, `find` raises
    where something that it names is not there. `answer` tells those whom the act concerns once it is
    durable, and gives the record that the operator gets.
    """

    gate: Gate | None
    order: object
    find: Callable[[Tx], object]
    act: Callable[[Tx, Instant, Operator], Any]
    answer: Callable[[Any], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Pending:
    """What is answered with 202: nothing is done yet."""

    view: proposed.ProposalView


Prepare = Callable[[Desk, Call], Ready]


# The gated acts --------------------------------------------------------------------------------------


def _create_loan(desk: Desk, call: Call) -> Ready:
    """Lend a model."""
    order = call.read(records.LoanOrder)
    desk.custodian.check_manifest(order.manifest)
    new = acts.NewLoan(
        name=order.name,
        model=order.model,
        manifest=order.manifest,
        tariff=order.tariff,
        policy=order.policy,
        cap=order.cap,
        instances_max=order.instances_max,
        dead_man=order.dead_man,
    )
    return Ready(
        Gate.RELEASE,
        order,
        lambda tx: loans.show_model(tx, order.model),
        lambda tx, now, operator: acts.create_loan(tx, now, operator, new),
        _loan,
    )


def _change_cap(_desk: Desk, call: Call) -> Ready:
    """Raise or lower a loan's cap."""
    name, order = call.path["name"], call.read(records.CapChange)
    return Ready(
        Gate.CAP if order.units > 0 else None,
        order,
        lambda tx: loans.show_loan(tx, name),
        lambda tx, now, operator: loans.change_cap(
            tx, now=now, operator=operator, loan=name, units=order.units
        ),
        _loan,
    )


def _replace_manifest(desk: Desk, call: Call) -> Ready:
    """Judge by another manifest."""
    name, order = call.path["name"], call.read(records.ManifestChange)
    desk.custodian.check_manifest(order.manifest)

    async def answer(changed: loans.Loan) -> object:
        await desk.custodian.tell_manifest(name)
        return await _loan(changed)

    return Ready(
        Gate.MANIFEST,
        order,
        lambda tx: loans.show_loan(tx, name),
        lambda tx, now, operator: acts.replace_manifest(tx, now, operator, name, order.manifest),
        answer,
    )


def _create_grant(_desk: Desk, call: Call) -> Ready:
    """A budget for a consumer under a loan."""
    order = call.read(records.GrantOrder)

    def find(tx: Tx) -> None:
        loans.show_loan(tx, order.loan)
        consumers.show_consumer(tx, order.consumer)

    return Ready(
        Gate.GRANT,
        order,
        find,
        lambda tx, now, operator: grants.create_grant(
            tx,
            now=now,
            operator=operator,
            loan=order.loan,
            consumer=order.consumer,
            units=order.units,
        ),
        _grant,
    )


def _change_grant(_desk: Desk, call: Call) -> Ready:
    """Add to a budget, or take back what is available."""
    order = call.read(records.GrantOrder)
    return Ready(
        Gate.GRANT if order.units > 0 else None,
        order,
        lambda tx: grants.show_grant(tx, loan=order.loan, consumer=order.consumer),
        lambda tx, now, operator: grants.change_grant(
            tx,
            now=now,
            operator=operator,
            loan=order.loan,
            consumer=order.consumer,
            units=order.units,
        ),
        _grant,
    )


def _refund(_desk: Desk, call: Call) -> Ready:
    """M-9: give back what a lease cost for nothing."""
    order = call.read(records.RefundOrder)
    return Ready(
        Gate.GRANT,
        order,
        lambda tx: leases.show_lease(tx, order.lease),
        lambda tx, now, operator: refunds.refund(
            tx,
            now=now,
            operator=operator,
            loan=order.loan,
            consumer=order.consumer,
            lease=order.lease,
            units=order.units,
            reason=order.reason,
        ),
        _same,
    )


def _approve_request(desk: Desk, call: Call) -> Ready:
    """Approve all or part of what a consumer asks for."""
    number, order = call.number, call.read(records.Approval)

    def find(tx: Tx) -> None:
        asked = extensions.show_request(tx, number).asked
        if order.units is None:  # the consumer may ask for more until the last hand approves
            raise BadRequest(about="units", got="all", expected=f"a number: {asked} are asked for")

    async def answer(decision: extensions.Decision) -> object:
        desk.custodian.tell_decision(decision)
        return decided(decision)

    return Ready(
        Gate.GRANT,
        order,
        find,
        lambda tx, now, operator: acts.approve(tx, now, operator, number, order.units),
        answer,
    )


def _lift_stop(desk: Desk, call: Call) -> Ready:
    """Resume, or call off what has not begun."""
    number, order = call.number, call.read(records.Why)

    async def answer(stop: stops.Stop) -> object:
        await desk.custodian.tell_lifted(stop)
        return stop

    return Ready(
        Gate.RESUME,
        order,
        lambda tx: stops.show_stop(tx, number),
        lambda tx, now, operator: acts.lift(tx, now, operator, number, order.reason),
        answer,
    )


async def _loan(loan: loans.Loan) -> object:
    return records.view_loan(loan)


async def _grant(grant: grants.Grant) -> object:
    return records.view_grant(grant)


async def _same(record: object) -> object:
    return record


GATED: Final[Mapping[str, Prepare]] = {
    "POST /operator/loans": _create_loan,
    "POST /operator/loans/{name}/cap": _change_cap,
    "PUT /operator/loans/{name}/manifest": _replace_manifest,
    "POST /operator/grants": _create_grant,
    "POST /operator/grants/change": _change_grant,
    "POST /operator/refunds": _refund,
    "POST /operator/requests/{id}/approve": _approve_request,
    "POST /operator/stops/{id}/lift": _lift_stop,
}


# Doing and proposing ---------------------------------------------------------------------------------


def _gated(act: str) -> Handler:
    """O-19: the endpoint of a gated act."""

    async def endpoint(desk: Desk, call: Call) -> object:
        ready, quorum = GATED[act](desk, call), desk.settings.quorum
        if ready.gate is None or quorum.hands.needed(ready.gate) == 1:
            return await ready.answer(
                await desk.custodian.change(lambda tx, now: ready.act(tx, now, call.operator))
            )
        path = {name: str(call.number) if name == "id" else call.path[name] for name in call.path}
        gate = ready.gate

        def propose(tx: Tx, now: Instant) -> Pending:
            ready.find(tx)
            one = hands.propose(
                tx,
                now=now,
                operator=call.operator,
                kind=gate,
                act=act,
                path=path,
                body=to_json(ready.order),
            )
            return Pending(proposed.view_proposal(one, quorum, now=now))

        return await desk.custodian.change(propose)

    return endpoint


async def approve(desk: Desk, call: Call) -> object:
    """O-20: one more hand; the last one does it, in the same transaction."""
    number = call.number
    digest = unhex(call.read(proposed.HandOrder).digest, about="digest", size=32)
    now = desk.custodian.ports.clock.now()
    found = await desk.custodian.look(
        lambda tx: hands.check_open(
            tx, now=now, operator=call.operator, proposal=number, digest=digest
        )
    )
    order, quorum = found.order, desk.settings.quorum
    prepare = GATED.get(order.act)
    if prepare is None:
        raise ProposalClosed(about=f"proposal {number}", got=order.act, expected="an act of today")
    ready = prepare(desk, Call(call.operator, order.path, {}, order.body))

    def act(tx: Tx, now: Instant) -> tuple[proposed.ProposalView, Any]:
        one, done = hands.approve(
            tx,
            now=now,
            operator=call.operator,
            proposal=number,
            digest=digest,
            quorum=quorum,
            execute=ready.act,
        )
        return proposed.view_proposal(one, quorum, now=now), done

    view, done = await desk.custodian.change(act)
    if view.state == "done":
        await ready.answer(done)
    return view


async def reject(desk: Desk, call: Call) -> object:
    """O-21: say no, or take the own proposal back."""
    number, reason = call.number, call.read(records.Why).reason

    def act(tx: Tx, now: Instant) -> proposed.ProposalView:
        one = hands.reject(tx, now=now, operator=call.operator, proposal=number, reason=reason)
        return proposed.view_proposal(one, desk.settings.quorum, now=now)

    return await desk.custodian.change(act)


async def list_proposals(desk: Desk, call: Call) -> object:
    """Proposals, newest first, without their requests."""
    closed, quorum = call.ask(proposed.ProposalQuery).closed, desk.settings.quorum
    now = desk.custodian.ports.clock.now()
    found = await desk.custodian.look(lambda tx: hands.list_proposals(tx, now=now, closed=closed))
    return [proposed.view_proposal(one, quorum, now=now, is_whole=False) for one in found]


async def show_proposal(desk: Desk, call: Call) -> object:
    """One proposal with the exact text that its digest is of."""
    number, now = call.number, desk.custodian.ports.clock.now()
    one = await desk.custodian.look(lambda tx: hands.show_proposal(tx, number))
    return proposed.view_proposal(one, desk.settings.quorum, now=now)


def _split(act: str) -> tuple[str, str, Handler]:
    method, _, path = act.partition(" ")
    return method, path, _gated(act)


ENDPOINTS: Final[tuple[tuple[str, str, Handler], ...]] = (
    *(_split(act) for act in GATED),
    ("GET", "/operator/proposals", list_proposals),
    ("GET", "/operator/proposals/{id}", show_proposal),
    ("POST", "/operator/proposals/{id}/approve", approve),
    ("POST", "/operator/proposals/{id}/reject", reject),
)
