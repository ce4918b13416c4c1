"""What operators watch and decide: extension requests, stops, consumption, instances, the audit log.

The second half of the table of endpoints; see `desk`. Spec: docs/spec/custodian-api.md.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from leasehold.core.units import Duration
from leasehold.custodian import records
from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger import audit, claims, extensions, grants, instances, stops, usage
from leasehold.custodian.service import is_complete
from leasehold.custodian.tree_records import CheckpointView

# Extension requests ----------------------------------------------------------------------------------


async def list_requests(desk: Desk, call: Call) -> object:
    """Extension requests, newest first."""
    want = call.ask(records.RequestQuery)
    return await desk.custodian.look(
        lambda tx: extensions.list_requests(tx, status=want.status, loan=want.loan)
    )


async def deny(desk: Desk, call: Call) -> object:
    """Deny, with a reason for the consumer."""
    reason = call.read(records.Why).reason
    return decided(await desk.custodian.deny(call.operator, call.number, reason))


def decided(decision: extensions.Decision) -> records.DecisionView:
    """A decision as operators see it."""
    budget = grants.budget_of(decision.budget)
    return records.DecisionView(decision.request, budget, decision.cap_limits)


# Stops -----------------------------------------------------------------------------------------------


async def list_stops(desk: Desk, call: Call) -> object:
    """Stops, newest first."""
    active = call.ask(records.StopQuery).active
    return await desk.custodian.look(lambda tx: stops.list_stops(tx, active=active))


async def order_stop(desk: Desk, call: Call) -> object:
    """O-23: stop, at once or with notice or a drain, and say how far it has come."""
    new = call.read(records.StopCommand)
    stop = await desk.custodian.stop(
        call.operator,
        new.scope,
        new.target,
        new.reason,
        notice=Duration(new.notice),
        drain=Duration(new.drain),
    )
    return _progress(desk, await desk.custodian.look(lambda tx: stops.progress(tx, stop=stop.id)))


async def show_progress(desk: Desk, call: Call) -> object:
    """O-8: how far a stop has come; waits for news where asked to."""
    want, stop = call.ask(records.ProgressQuery), call.number
    with suppress(TimeoutError):
        async with asyncio.timeout(want.wait):
            found = await desk.custodian.await_progress(stop, proved=want.proved)
            return _progress(desk, found)
    return _progress(desk, await desk.custodian.look(lambda tx: stops.progress(tx, stop=stop)))


def _progress(desk: Desk, found: stops.Progress) -> records.ProgressView:
    now, listening = desk.custodian.ports.clock.now(), set(desk.custodian.listeners.names())
    complete = is_complete(found)
    return records.view_progress(found, complete=complete, now=now, listening=listening)


# What happened ---------------------------------------------------------------------------------------


async def show_usage(desk: Desk, call: Call) -> object:
    """Consumption, added up."""
    want = call.ask(records.UsageQuery)
    return await desk.custodian.look(lambda tx: usage.rows(tx, by=want.by, loan=want.loan))


async def list_instances(desk: Desk, call: Call) -> object:
    """Instances, newest first."""
    want = call.ask(records.InstanceQuery)
    found = await desk.custodian.look(
        lambda tx: instances.list_instances(tx, loan=want.loan, state=want.state)
    )
    listening = set(desk.custodian.listeners.names())
    return [records.view_instance(one, connected=one.id in listening) for one in found]


async def list_appraisals(desk: Desk, call: Call) -> object:
    """The latest appraisals, accepted and refused."""
    want = call.ask(records.AppraisalQuery)
    return await desk.custodian.look(
        lambda tx: instances.list_appraisals(tx, loan=want.loan, count=want.count)
    )


async def show_audit(desk: Desk, call: Call) -> object:
    """A part of the audit log."""
    want = call.ask(records.AuditQuery)
    return await desk.custodian.look(
        lambda tx: records.AuditPage(
            size=audit.head(tx)[0],
            leaves=audit.leaves(tx, start=want.start, count=want.count),
            entries=audit.entries(tx, start=want.start, count=want.count),
        )
    )


async def show_checkpoint(desk: Desk, _call: Call) -> object:
    """O-9: a signed checkpoint of the audit log as it is now."""
    key, origin = desk.settings.audit, desk.settings.origin
    return await desk.custodian.look(
        lambda tx: CheckpointView(audit.checkpoint(tx, origin=origin, key=key))
    )


async def show_accounts(desk: Desk, _call: Call) -> object:
    """O-9: every account as the ledger has it, to be compared with what the log gives."""
    return await desk.custodian.look(claims.claim)


ENDPOINTS: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/operator/requests", list_requests),
    ("POST", "/operator/requests/{id}/deny", deny),
    ("GET", "/operator/stops", list_stops),
    ("POST", "/operator/stops", order_stop),
    ("GET", "/operator/stops/{id}", show_progress),
    ("GET", "/operator/usage", show_usage),
    ("GET", "/operator/instances", list_instances),
    ("GET", "/operator/appraisals", list_appraisals),
    ("GET", "/operator/audit", show_audit),
    ("GET", "/operator/audit/checkpoint", show_checkpoint),
    ("GET", "/operator/audit/accounts", show_accounts),
)
