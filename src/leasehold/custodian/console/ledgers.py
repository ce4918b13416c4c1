"""The pages of what waits for a decision and of what was written down: requests, proposals, the audit log.

Spec: docs/spec/console.md, O-33 to O-35. Refuses to know HTTP and what the templates make of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from leasehold.core.crypto import sha256
from leasehold.core.encoding import from_json, unb64
from leasehold.custodian.console.line import Line
from leasehold.custodian.console.pages import Page
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.extensions import Request
from leasehold.custodian.ledger.hands import Order
from leasehold.custodian.proposed import ProposalView
from leasehold.custodian.records import AuditPage, GrantView, LoanView
from leasehold.custodian.tree import Plain
from leasehold.custodian.tree_records import WitnessView
from leasehold.errors import BadMessage, BadRequest, UnknownThing, WrongProposal

ENTRIES_SHOWN: Final = 100
ACTS: Final = {
    "POST /operator/loans": "lend a model",
    "POST /operator/loans/{name}/cap": "raise the cap of loan {name}",
    "PUT /operator/loans/{name}/manifest": "replace the manifest of loan {name}",
    "POST /operator/grants": "give a consumer a budget",
    "POST /operator/grants/change": "add to a consumer's budget",
    "POST /operator/refunds": "give back units of a lease",
    "POST /operator/requests/{id}/approve": "approve request {id}",
    "POST /operator/stops/{id}/lift": "lift stop {id}",
}
DETAIL_SHOWN: Final = (
    400  # characters of an entry that stand in the table; all of it is a click away
)


async def requests(line: Line) -> Page:
    """O-35: what consumers ask for, the open ones first."""
    found = await line.read("/operator/requests", list[Request])
    is_open = [one for one in found if one.status == "open"]
    decided = [one for one in found if one.status != "open"]
    return Page("requests.html", "Requests", {"open": is_open, "decided": decided})


async def request(line: Line, number: str) -> Page:
    """O-35: one request, beside the budgets that it would change."""
    found = await line.read("/operator/requests", list[Request])
    one = next((one for one in found if str(one.id) == number), None)
    if one is None:
        raise UnknownThing(about=f"request {number}")
    of = {"loan": one.loan, "consumer": one.consumer}
    (grant,) = await line.read("/operator/grants", list[GrantView], of)
    loan = await line.read("/operator/loans/{name}", LoanView, name=one.loan)
    values = {"request": one, "grant": grant, "loan": loan}
    return Page("request.html", f"Request {one.id}", values)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a proposal would do: `fields` are what is sent, as JSON; `manifest` its text, where it has one."""

    words: str
    act: str
    fields: dict[str, str]
    manifest: str


async def proposals(line: Line) -> Page:
    """O-33: those that wait, and the latest others."""
    found = await line.read("/operator/proposals", list[ProposalView], {"closed": "true"})
    rows = [(one, act_in_words(one.act, one.path)) for one in found]
    waiting = [(one, act) for one, act in rows if one.state == "pending"]
    closed = [(one, act) for one, act in rows if one.state != "pending"]
    return Page("proposals.html", "Proposals", {"waiting": waiting, "closed": closed})


async def proposal(line: Line, number: str) -> Page:
    """O-33: one proposal with all that it would do. Raises WrongProposal where the digest is another's."""
    one = await line.read("/operator/proposals/{id}", ProposalView, id=number)
    digest, order = sha256(one.request).hex(), from_json(one.request, Order)
    if digest != one.digest:
        raise WrongProposal(about=f"proposal {number}", got=one.digest, expected=digest)
    values = {
        "proposal": one,
        "wanted": _wanted(order),
        "has_agreed": line.operator.name in one.hands,
    }
    return Page("proposal.html", f"Proposal {one.id}", values)


def act_in_words(act: str, path: dict[str, str]) -> tuple[str, str]:
    """What an act would do, and its endpoint with the braces filled."""
    words, endpoint = ACTS.get(act, "an act of another release"), act
    for name, value in path.items():
        words, endpoint = (text.replace(f"{{{name}}}", value) for text in (words, endpoint))
    return words, endpoint


def _wanted(order: Order) -> Wanted:
    body: dict[str, Any] = msgspec.json.decode(order.body, type=dict[str, Any])
    encoded = body.pop("manifest", None)
    manifest = ""
    if encoded is not None:
        try:
            manifest = unb64(str(encoded), about="manifest").decode()
        except UnicodeDecodeError as cause:
            raise BadMessage(about="manifest", expected="text") from cause
    # As JSON in ASCII: a proposer's words cannot pass for anything else on the page.
    fields = {name: json.dumps(value) for name, value in body.items()}
    return Wanted(*act_in_words(order.act, order.path), fields, manifest)


# The audit log ---------------------------------------------------------------------------------------


async def audit(line: Line) -> Page:
    """O-34: the newest entries, or those before an index (`?before=N`)."""
    size = (await line.read("/operator/audit", AuditPage, {"count": "1"})).size
    end = _before(line.query.get("before"), size)
    start = max(0, end - ENTRIES_SHOWN)
    count = str(max(1, end - start))
    found = await line.read("/operator/audit", AuditPage, {"start": str(start), "count": count})
    note = await line.read("/log/checkpoint", Plain)
    values = {
        "size": size,
        "start": start,
        "end": end,
        "newer": min(size, end + ENTRIES_SHOWN),
        "entries": [_entry(one) for one in reversed(found.entries) if one.index < end],
        "note": note.body.decode(),
        "witnesses": await line.read("/log/witnesses", list[WitnessView]),
    }
    return Page("audit.html", "Audit", values)


def _before(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not text.isdecimal() or len(text) > len(str(size)):
        raise BadRequest(about="before", got=text, expected=f"an index of 0 to {size}")
    return min(int(text), size)


def _entry(entry: Entry) -> tuple[Entry, str, str]:
    """An entry, the start of what it says, and all of it where that is more."""
    text = json.dumps(entry.detail)
    if len(text) <= DETAIL_SHOWN:
        return entry, text, ""
    return entry, f"{text[:DETAIL_SHOWN]}…", json.dumps(entry.detail, indent=1)
