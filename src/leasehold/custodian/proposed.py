"""What operators send and get about proposals: records shared by server and command line.

Spec: docs/spec/custodian-api.md, O-19 to O-21. Strict: an unknown field is refused. Refuses to know HTTP.
"""

from __future__ import annotations

import msgspec

from leasehold.core.units import Instant
from leasehold.custodian.ledger.hands import Proposal, Quorum, State
from leasehold.custodian.ledger.operators import Gate


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class HandOrder(_Record, frozen=True):
    """Approve exactly the proposal whose request has this SHA-256, in hex."""

    digest: str


class ProposalQuery(_Record, frozen=True):
    """`closed=true`: also those that can no longer be approved."""

    closed: bool = False


class ProposalView(_Record, frozen=True):
    """A proposal; `hands` are those that count now, `missing` how many more it takes now.

    `request` is the text that is hashed, an `Order`; it is left out of lists.
    """

    id: int
    digest: str
    kind: Gate
    act: str
    path: dict[str, str]
    proposer: str
    at: Instant
    expires: Instant
    state: State
    needed: int
    hands: tuple[str, ...]
    missing: int
    closed: Instant | None
    closed_by: str
    reason: str
    request: bytes = b""


def view_proposal(
    one: Proposal, quorum: Quorum, *, now: Instant, is_whole: bool = True
) -> ProposalView:
    """A proposal as operators see it, counted by the settings of now."""
    needed, hands = quorum.hands.needed(one.order.kind), quorum.counted(one.hands)
    return ProposalView(
        id=one.id,
        digest=one.digest.hex(),
        kind=one.order.kind,
        act=one.order.act,
        path=one.order.path,
        proposer=one.order.proposer,
        at=one.order.at,
        expires=one.expires,
        state=one.state_at(now),
        needed=needed,
        hands=hands,
        missing=max(0, needed - len(hands)),
        closed=one.closed,
        closed_by=one.closed_by,
        reason=one.reason,
        request=one.request if is_whole else b"",
    )
