"""`leasehold proposals`: see what waits for other hands, approve exactly what was seen, or say no."""

from __future__ import annotations

import json
from typing import Any

import click
import msgspec

from leasehold.cli import output
from leasehold.cli.access import Access, as_json, with_access
from leasehold.core.crypto import sha256
from leasehold.core.encoding import from_json, unb64
from leasehold.custodian.ledger.hands import Order
from leasehold.custodian.proposed import HandOrder, ProposalView
from leasehold.custodian.records import Why
from leasehold.errors import BadMessage, WrongProposal


@click.group()
def command() -> None:
    """What one operator proposed and others must approve."""


@command.command("list")
@click.option("--all", "closed", is_flag=True, help="Also those that were done or refused.")
@as_json
@with_access
def list_proposals(access: Access, *, closed: bool, as_json: bool) -> None:
    """Show proposals, newest first."""
    found = access.get("/operator/proposals", list[ProposalView], closed=closed)
    if as_json:
        output.write_json(found)
        return
    rows = [
        (
            one.id,
            one.state,
            one.kind,
            _act(one.act, one.path),
            one.proposer,
            f"{len(one.hands)} of {one.needed}",
            output.utc(one.expires),
        )
        for one in found
    ]
    columns = ("proposal", "state", "kind", "act", "proposed by", "hands", "until")
    output.write_rows("Proposals", columns, rows)


@command.command("show")
@click.argument("number", type=click.IntRange(1))
@as_json
@with_access
def show_proposal(access: Access, *, number: int, as_json: bool) -> None:
    """Show all that proposal NUMBER would do, and its digest, computed here from what is shown."""
    one = access.get(f"/operator/proposals/{number}", ProposalView)
    digest = sha256(one.request).hex()
    order = from_json(one.request, Order)
    if (digest, order.proposal) != (one.digest, number):
        raise WrongProposal(about=f"proposal {number}", got=one.digest, expected=digest)
    if as_json:
        output.write_json(one)
        return
    fields: dict[str, object] = {
        "proposal": str(number),
        "state": one.state,
        "kind": order.kind,
        "act": _act(order.act, order.path),
        "proposed by": f"{order.proposer}, {output.utc(order.at)}",
        "hands": f"{', '.join(one.hands) or 'none'}; {len(one.hands)} of {one.needed}",
        "until": output.utc(one.expires),
    }
    if one.closed is not None:
        fields["closed"] = f"{output.utc(one.closed)} by {one.closed_by}"
        fields["closed because"] = json.dumps(one.reason)
    fields["digest"] = digest
    body: dict[str, Any] = msgspec.json.decode(order.body, type=dict[str, Any])
    manifest = body.pop("manifest", None)
    # As JSON in ASCII: a proposer's words cannot pass for a line of this page.
    fields |= {name: json.dumps(value) for name, value in body.items()}
    output.write_fields(f"Proposal {number}", fields)
    if manifest is not None:
        click.echo(_manifest(manifest))


@command.command("approve")
@click.argument("number", type=click.IntRange(1))
@click.option("--digest", required=True, help="Of what you saw: `proposals show` computes it.")
@as_json
@with_access
def approve(access: Access, *, number: int, digest: str, as_json: bool) -> None:
    """Lay your hand on proposal NUMBER; the last hand that it takes does it."""
    path = f"/operator/proposals/{number}/approve"
    one = access.post(path, HandOrder(digest), ProposalView)
    if as_json:
        output.write_json(one)
    elif one.state == "done":
        click.echo(f"Proposal {number} is done: {_act(one.act, one.path)}.")
    else:
        click.echo(f"Approved; proposal {number} needs {one.missing} more.")


@command.command("reject")
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", required=True, help="Goes into the audit log.")
@as_json
@with_access
def reject(access: Access, *, number: int, reason: str, as_json: bool) -> None:
    """Say no to proposal NUMBER, or take back your own: one hand is enough."""
    one = access.post(f"/operator/proposals/{number}/reject", Why(reason), ProposalView)
    if as_json:
        output.write_json(one)
    else:
        click.echo(f"Proposal {number} is rejected.")


def _act(act: str, path: dict[str, str]) -> str:
    for name, value in path.items():
        act = act.replace(f"{{{name}}}", value)
    return act


def _manifest(encoded: object) -> str:
    """A signed manifest is text, without what would move a terminal's cursor. Raises BadMessage."""
    try:
        text = unb64(str(encoded), about="manifest").decode()
    except UnicodeDecodeError as cause:
        raise BadMessage(about="manifest", expected="text") from cause
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
