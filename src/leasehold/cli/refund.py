"""`leasehold grant refund` and `refunds`: give units back that a lease cost for nothing, and see who did."""

from __future__ import annotations

import click

from leasehold.cli import output
from leasehold.cli.access import Access, as_json, with_access
from leasehold.core.units import Units
from leasehold.custodian import records
from leasehold.custodian.ledger.refunds import Refund


@click.command()
@click.argument("loan_name", metavar="LOAN")
@click.argument("consumer_name", metavar="CONSUMER")
@click.argument("units", type=click.IntRange(1))
@click.option(
    "--lease", required=True, help="The lease that cost them; see `usage` and `audit list`."
)
@click.option("--reason", required=True, help="Why; it goes into the audit log.")
@as_json
@with_access
def refund(
    access: Access,
    *,
    loan_name: str,
    consumer_name: str,
    units: int,
    lease: str,
    reason: str,
    as_json: bool,
) -> None:
    """Give CONSUMER back UNITS that a lease cost for nothing."""
    order = records.RefundOrder(loan_name, consumer_name, lease, Units(units), reason)
    done = access.post("/operator/refunds", order, Refund)
    if as_json:
        output.write_json(done)
        return
    output.write_fields(
        f"Refund {done.id}",
        {
            "consumer": f"{done.consumer} under {done.loan}",
            "lease": done.lease,
            "units": done.units,
            "of this lease so far": done.lease_total,
            f"by {done.operator} so far": done.operator_total,
            f"to {done.consumer} so far": done.consumer_total,
        },
    )


@click.command("refunds")
@click.option("--loan", "loan_name", help="Only of this loan.")
@click.option("--consumer", "consumer_name", help="Only to this consumer.")
@as_json
@with_access
def list_refunds(
    access: Access, *, loan_name: str | None, consumer_name: str | None, as_json: bool
) -> None:
    """Show what was given back, by whom and why, with running totals."""
    found = access.get("/operator/refunds", list[Refund], loan=loan_name, consumer=consumer_name)
    if as_json:
        output.write_json(found)
        return
    columns = (
        "refund", "time", "loan", "consumer", "lease", "units", "operator", "all by operator",
        "all to consumer", "reason",
    )  # fmt: skip
    rows = [
        (
            one.id,
            output.utc(one.at),
            one.loan,
            one.consumer,
            one.lease,
            one.units,
            one.operator,
            one.operator_total,
            one.consumer_total,
            one.reason,
        )
        for one in found
    ]
    output.write_rows("Refunds", columns, rows)
