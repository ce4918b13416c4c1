"""The operators' commands that watch and decide: extension requests, consumption, instances."""

from __future__ import annotations

from typing import Any, Final

import click

from leasehold.cli import output
from leasehold.cli.access import Access, as_json, with_access
from leasehold.core.units import Units
from leasehold.custodian.ledger.extensions import Request
from leasehold.custodian.ledger.usage import UsageRow, to_csv
from leasehold.custodian.records import Approval, DecisionView, InstanceView, Why

_SHOWN: Final = 16  # characters of an instance id that people compare


@click.group()
def requests() -> None:
    """Decide what consumers ask for."""


@requests.command("list")
@click.option("--status", type=click.Choice(["open", "approved", "denied"]))
@click.option("--loan", "loan_name")
@as_json
@with_access
def list_requests(
    access: Access, *, status: str | None, loan_name: str | None, as_json: bool
) -> None:
    """Show extension requests, newest first."""
    found = access.get("/operator/requests", list[Request], status=status, loan=loan_name)
    if as_json:
        output.write_json(found)
        return
    rows = [
        (one.id, one.loan, one.consumer, one.asked, one.approved, one.status, one.reason)
        for one in found
    ]
    columns = ("request", "loan", "consumer", "asked", "approved", "status", "reason")
    output.write_rows("Requests", columns, rows)


@requests.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--units", type=click.IntRange(1), help="Default: all that was asked.")
@with_access
def approve(access: Access, *, number: int, units: int | None) -> None:
    """Approve request NUMBER, all or part."""
    order = Approval(None if units is None else Units(units))
    decided = access.post(f"/operator/requests/{number}/approve", order, DecisionView)
    request, budget = decided.request, decided.budget
    click.echo(
        f"{request.consumer} has {request.approved:,} units more under {request.loan}: "
        f"{budget.available:,} of {budget.granted:,} are available."
    )
    if decided.cap_limits:
        output.write_note(
            f"The cap of {request.loan} covers less than that; raise it with `leasehold loan cap`."
        )


@requests.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", required=True, help="The consumer reads it.")
@with_access
def deny(access: Access, *, number: int, reason: str) -> None:
    """Deny request NUMBER."""
    decided = access.post(f"/operator/requests/{number}/deny", Why(reason), DecisionView)
    click.echo(f"Request {decided.request.id} of {decided.request.consumer} is denied.")


@click.command()
@click.option(
    "--by",
    type=click.Choice(["loan", "consumer", "key", "instance"]),
    default="consumer",
    show_default=True,
)
@click.option("--loan", "loan_name")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@as_json
@with_access
def usage(access: Access, *, by: str, loan_name: str | None, as_csv: bool, as_json: bool) -> None:
    """Show what was consumed."""
    found = access.get("/operator/usage", list[UsageRow], by=by, loan=loan_name)
    if as_json:
        output.write_json(found)
        return
    if as_csv:
        click.echo(to_csv(found), nl=False)
        return
    columns = {
        "loan": ("loan",),
        "consumer": ("loan", "consumer"),
        "key": ("loan", "consumer", "key"),
        "instance": ("loan", "instance"),
    }[by] + ("leases", "outstanding", "settled", "written_off")
    rows: list[list[Any]] = [[getattr(one, name) for name in columns] for one in found]
    output.write_rows("Usage in units", [name.replace("_", " ") for name in columns], rows)


@click.command()
@click.option("--loan", "loan_name")
@click.option("--state", type=click.Choice(["live", "stopping", "stopped", "lost"]))
@as_json
@with_access
def instances(access: Access, *, loan_name: str | None, state: str | None, as_json: bool) -> None:
    """Show the enclaves that attested."""
    found = access.get("/operator/instances", list[InstanceView], loan=loan_name, state=state)
    output.write_simulated(any(one.simulated for one in found))
    if as_json:
        output.write_json(found)
        return
    rows = [
        (
            one.id[:_SHOWN] if output.is_terminal() else one.id,
            one.loan,
            one.machine,
            one.state,
            "yes" if one.connected else "no",
            "SIMULATED" if one.simulated else "hardware",
            output.utc(one.seen),
            f"REFUSED: {one.refusal}" if one.refusal else "; ".join(one.findings),
        )
        for one in found
    ]
    columns = ("instance", "loan", "machine", "state", "connected", "platform", "seen", "findings")
    output.write_rows("Instances", columns, rows)
